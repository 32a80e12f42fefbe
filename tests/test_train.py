"""One loop for both networks; a run that was stopped goes on as if it had not been."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import AUTOENCODER, LONG, random_transformer
from tiny import kept, noise_footage, random_autoencoder, tiny_latents

from nextframe.autoencoder import Autoencoder
from nextframe.checkpoint import AUTOENCODER as AUTOENCODER_FOLDER
from nextframe.checkpoint import CONFIG, WEIGHTS, write_weights
from nextframe.config import ClipConfig, OptimizerConfig, TokenizerConfig, TrainConfig, WorldModelConfig
from nextframe.errors import UserError
from nextframe.files import sole_writer
from nextframe.journal import read_log
from nextframe.learner import Learner, Task, accumulate_gradients
from nextframe.objective import Clips, FrameFlowMatching
from nextframe.pieces import Position, newest_checkpoint
from nextframe.recipes import train_preset
from nextframe.train import fraction_done, learning_rate, looked_at, prefetched, train
from nextframe.transformer import Transformer

HERE = Path(__file__).parent
TRAIN = TrainConfig(
    steps=20,
    batch=4,
    device="cpu",
    precision="float32",
    log_every=1,
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=5, decay=0.5),
)
WORLD = WorldModelConfig(model=LONG, clip=ClipConfig(frames=9, min_frames=4, ramp=0.5), train=TRAIN)
TOKENIZER = TokenizerConfig(model=AUTOENCODER, latent_noise=0.1, train=TRAIN)


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    folder = tmp_path / "latents"
    tiny_latents(folder)
    random_autoencoder(folder, AUTOENCODER)
    return folder


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    return noise_footage(tmp_path / "footage", "train", "train", "train")


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["world model", "world model by muon", "autoencoder"])
def test_stopped_and_resumed_is_the_same_to_the_bit(
    kind: str, latents: Path, footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = (TOKENIZER, footage) if kind == "autoencoder" else (WORLD, latents)
    if kind == "world model by muon":
        config = replace(config, train=replace(TRAIN, optimizer=replace(TRAIN.optimizer, algorithm="muon")))
    train_preset(config, data, tmp_path / "straight")
    stop_after(10, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_preset(config, data, tmp_path / "stopped")
    monkeypatch.undo()
    assert len(losses(tmp_path / "stopped")) == 10
    position = train_preset(config, data, tmp_path / "stopped")
    assert position.step == 20
    assert losses(tmp_path / "straight") == losses(tmp_path / "stopped")
    states = [kept(tmp_path / run / "checkpoints" / "00000020") for run in ("straight", "stopped")]
    for part in ("weights", "average", "optimizer"):
        straight, resumed = (getattr(state, part) for state in states)
        assert straight.keys() == resumed.keys()
        assert all(torch.equal(straight[key], resumed[key]) for key in straight), part


def test_a_run_is_trained_by_one_at_a_time(latents: Path, tmp_path: Path) -> None:
    with sole_writer(tmp_path / "run"), pytest.raises(UserError, match="another process is writing"):
        train_preset(WORLD, latents, tmp_path / "run")
    with pytest.raises(UserError, match="no latents"):
        train_preset(WORLD, tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of step `steps`."""
    calls, update = [], Learner.update

    def interrupted(self: Learner, rate: float, step: int) -> torch.Tensor:
        calls.append(1)
        if len(calls) == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, rate, step)

    monkeypatch.setattr(Learner, "update", interrupted)


def test_killed_and_resumed_is_the_same_to_the_bit(latents: Path, tmp_path: Path) -> None:
    """SIGKILL, which nothing can catch: the steps since the last checkpoint are taken again."""
    # In processes of their own, which know nothing of conftest: checking shapes takes longer than training does.
    script = "import sys, ranks_target; ranks_target.to_be_killed(*sys.argv[1:])"
    run, straight = tmp_path / "killed", tmp_path / "straight"
    command = [sys.executable, "-c", script, str(latents)]
    process = subprocess.Popen([*command, str(run), "0.002"])
    deadline = time.monotonic() + 120
    while not list((run / "checkpoints").glob("[0-9]*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = newest_checkpoint(run)
    assert state is not None and 0 < state.position.step < 100
    for folder in (run, straight):
        subprocess.run([*command, str(folder), "10"], check=True)
    assert losses(run) == losses(straight)


def test_training_learns(latents: Path, tmp_path: Path) -> None:
    config = replace(WORLD, train=replace(TRAIN, steps=60), condition_dropout=0.0)
    train_preset(config, latents, tmp_path / "run")
    curve = losses(tmp_path / "run")
    assert np.mean(curve[-10:]) < 0.9 * np.mean(curve[:5])


def test_accumulation_changes_nothing() -> None:
    torch.manual_seed(0)
    network = Transformer(LONG)
    torch.nn.init.normal_(network.head.weight)
    objective = FrameFlowMatching(WORLD)
    clips = Clips(torch.randn(4, 6, 3, 4, 4), torch.randint(0, 3, (4, 6)))
    inputs = objective.prepare(clips, torch.Generator().manual_seed(0))
    gradients = []
    for parts in (1, 2, 4):
        accumulate_gradients(objective.score, network, inputs, parts, torch.device("cpu"))
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[2], atol=1e-6, rtol=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    network = Transformer(LONG)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    objective = FrameFlowMatching(WORLD)
    clips = Clips(torch.randn(2, 6, 3, 4, 4), torch.randint(0, 3, (2, 6)))
    objective.score(network, objective.prepare(clips, torch.Generator().manual_seed(0))).loss.backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_rate_warms_up_holds_and_falls() -> None:
    rates = [learning_rate(TRAIN, Position(step)) for step in range(20)]
    assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert rates[5:11] == pytest.approx([0.01] * 6)
    assert rates[15] == pytest.approx(0.005)
    assert rates[19] == pytest.approx(0.001)


def test_minutes_end_a_run(latents: Path, tmp_path: Path) -> None:
    config = replace(WORLD, clip=replace(WORLD.clip, ramp=0.0), train=replace(TRAIN, steps=10**9, minutes=1 / 60))
    position = train_preset(config, latents, tmp_path / "run")
    assert 1 <= position.seconds < 20


def test_a_step_without_room_is_one_line(latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Learner, inputs: object) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("nextframe.recipes.foresee", lambda *_: None)
    monkeypatch.setattr(Learner, "differentiate", full)
    with pytest.raises(UserError, match=r"cpu has no room for a step: add --train\.accumulate 2"):
        train_preset(WORLD, latents, tmp_path / "run", insist=True)


def test_actions_between_frames_are_not_left_out(latents: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not told the actions between .*: set --clip\.interval 1"):
        train_preset(replace(WORLD, clip=replace(WORLD.clip, interval=2)), latents, tmp_path / "run")


def test_a_broken_loss_stops_the_run_with_a_word(latents: Path, tmp_path: Path) -> None:
    # A rate of infinity makes the weights nan at once; the losses of the next steps tell.
    broken = replace(
        TRAIN, most_skipped=5, optimizer=replace(TRAIN.optimizer, learning_rate=float("inf"), warmup_steps=0)
    )
    with pytest.raises(UserError, match="not a number for 5 steps in a row, up to step 6"):
        train_preset(replace(WORLD, train=broken), latents, tmp_path / "run")
    assert newest_checkpoint(tmp_path / "run") is None
    assert read_log(tmp_path / "run")[-1]["skipped"] == 1  # the curve says how it ended


def test_a_broken_weight_is_never_saved(latents: Path, tmp_path: Path) -> None:
    """The loss of the step that breaks the weights is still a number: the weights themselves are looked at."""
    broken = replace(TRAIN, steps=1, optimizer=replace(TRAIN.optimizer, learning_rate=float("inf"), warmup_steps=0))
    with pytest.raises(UserError, match="a weight is not finite at step 1"):
        train_preset(replace(WORLD, train=broken), latents, tmp_path / "run")
    assert newest_checkpoint(tmp_path / "run") is None


def test_a_run_has_one_trainer_from_python_too(tmp_path: Path) -> None:
    clips = Clips(torch.randn(2, 6, 3, 4, 4), torch.randint(0, 3, (2, 6)))
    network = Transformer(LONG)
    objective = FrameFlowMatching(WorldModelConfig(model=LONG))
    learner = Learner(Task(network, objective, lambda step: clips, product=network), replace(TRAIN, steps=1))
    with sole_writer(tmp_path / "run"), pytest.raises(UserError, match="another process is writing"):
        train(learner, tmp_path / "run")
    assert train(learner, tmp_path / "run").step == 1


def test_a_finished_run_is_left_as_it_is(latents: Path, tmp_path: Path) -> None:
    config = replace(WORLD, train=replace(TRAIN, steps=2))
    train_preset(config, latents, tmp_path / "run")
    kept = ["*.safetensors", CONFIG]  # what it says it was trained with, too
    before = {path: path.stat().st_mtime_ns for name in kept for path in (tmp_path / "run").rglob(name)}
    assert train_preset(replace(config, clean_context=0.3), latents, tmp_path / "run").step == 2
    assert before == {path: path.stat().st_mtime_ns for name in kept for path in (tmp_path / "run").rglob(name)}


def test_latents_of_another_autoencoder_are_refused(latents: Path, tmp_path: Path) -> None:
    train_preset(replace(WORLD, train=replace(TRAIN, steps=1)), latents, tmp_path / "run")
    write_weights(latents / AUTOENCODER_FOLDER / WEIGHTS, Autoencoder(AUTOENCODER).state_dict())
    with pytest.raises(UserError, match="latents of another autoencoder"):
        train_preset(WORLD, latents, tmp_path / "run")


def test_nothing_is_left_of_a_run_that_cannot_begin(latents: Path, tmp_path: Path) -> None:
    for wrong in (replace(TRAIN, device="cuda:9"), replace(TRAIN, device="abacus")):
        with pytest.raises(UserError, match="device"):
            train_preset(replace(WORLD, train=wrong), latents, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_model_is_refused(latents: Path, tmp_path: Path) -> None:
    train_preset(replace(WORLD, train=replace(TRAIN, steps=2)), latents, tmp_path / "run")
    other = replace(WORLD, model=replace(LONG, layers=3))
    with pytest.raises(UserError, match="another model"):
        train_preset(other, latents, tmp_path / "run")


def test_too_short_footage_is_refused(latents: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no training episode has the 25 frames.*set --clip.frames 21, or"):
        train_preset(replace(WORLD, clip=ClipConfig(frames=26, min_frames=4)), latents, tmp_path / "run")
    just = replace(WORLD, clip=ClipConfig(frames=25, min_frames=4), train=replace(TRAIN, steps=2))
    train_preset(just, latents, tmp_path / "run")  # clips have fewer than 25 frames, the longest episode 24


def test_a_run_is_not_made_among_what_it_learns_from(latents: Path) -> None:
    before = sorted(latents.iterdir())
    with pytest.raises(UserError, match="choose another --out"):
        train_preset(WORLD, latents, latents)
    assert sorted(latents.iterdir()) == before


def test_latents_of_another_shape_are_refused(latents: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set --model"):
        train_preset(replace(WORLD, model=replace(LONG, latent_channels=5)), latents, tmp_path / "run")


def test_a_checkpoint_that_is_all_there_is_and_damaged_is_named(latents: Path, tmp_path: Path) -> None:
    config = replace(WORLD, train=replace(TRAIN, steps=2))
    train_preset(config, latents, tmp_path / "run")
    (file,) = (tmp_path / "run" / "checkpoints" / "00000002").glob("*-00002-of-00003.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=rf"{file.name} is damaged, and there is no whole one before"):
        train_preset(config, latents, tmp_path / "run")


def test_what_makes_batches_has_one_thread_of_a_processor_that_trains() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with prefetched(lambda step: torch.get_num_threads(), 0, torch.device("cpu")) as stream:
            assert [next(stream), next(stream)] == [1, 1]
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


def test_the_newest_two_checkpoints_are_kept(latents: Path, tmp_path: Path) -> None:
    often = replace(TRAIN, steps=4, checkpoint_minutes=0.0)
    train_preset(replace(WORLD, train=often), latents, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["00000003", "00000004"]


def test_a_run_with_minutes_also_ends_by_its_steps() -> None:
    config = replace(TRAIN, minutes=10.0)  # 20 steps
    assert fraction_done(config, Position(20, 60.0)) == 1 == fraction_done(config, Position(1, 600.0))
    assert fraction_done(config, Position(10, 60.0)) == 0.5


def test_only_steps_in_a_row_count_as_such() -> None:
    clips = Clips(torch.randn(2, 6, 3, 4, 4), torch.randint(0, 3, (2, 6)))
    network = random_transformer(LONG)
    learner = Learner(Task(network, FrameFlowMatching(WORLD), lambda step: clips, network), TRAIN)
    seen = []
    for step, broken in enumerate((True, True, False, True)):
        inputs = learner.inputs(step)
        if broken:
            inputs["target"][0, 0] = float("inf")
        learner.differentiate(inputs)
        learner.update(1e-3, step)
        seen.append(learner.figures(1)[1])
    assert seen == [1, 2, 0, 1]


def test_parts_of_other_sizes_count_by_their_rows() -> None:
    network, objective = random_transformer(LONG), FrameFlowMatching(WORLD)
    clips = Clips(torch.randn(5, 6, 3, 4, 4), torch.randint(0, 3, (5, 6)))
    inputs, found = objective.prepare(clips, torch.Generator().manual_seed(0)), []
    for parts in (1, 2):
        loss = accumulate_gradients(objective.score, network, inputs, parts, torch.device("cpu")).loss.item()
        assert network.head.weight.grad is not None
        found.append((loss, network.head.weight.grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=1e-4)


def test_an_average_is_short_at_first_and_moves_once_a_step() -> None:
    clips = Clips(torch.randn(2, 6, 3, 4, 4), torch.randint(0, 3, (2, 6)))
    network = random_transformer(LONG)
    learner = Learner(Task(network, FrameFlowMatching(WORLD), lambda step: clips, network), TRAIN)
    expected = network.head.weight.detach().clone()
    for step in range(3):
        learner.differentiate(learner.inputs(step))
        learner.update(1e-2, step)
        decay = min(TRAIN.optimizer.ema_decay, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network.head.weight.detach()
    torch.testing.assert_close(learner.averaged()["head.weight"], expected)


def test_checkpoints_are_so_many_minutes_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clips = Clips(torch.randn(2, 6, 3, 4, 4), torch.randint(0, 3, (2, 6)))
    clock, saved = SimpleNamespace(now=0.0, monotonic=lambda: clock.now), []
    monkeypatch.setattr("nextframe.train.time", clock)
    monkeypatch.setattr("nextframe.train.save", lambda saver, learner, position: saved.append(position.step))
    update = Learner.update

    def slow(self: Learner, rate: float, step: int) -> torch.Tensor:
        clock.now += 30.0
        return update(self, rate, step)

    monkeypatch.setattr(Learner, "update", slow)
    network = random_transformer(LONG)
    config = replace(TRAIN, steps=10, checkpoint_minutes=1.0)
    train(Learner(Task(network, FrameFlowMatching(WORLD), lambda step: clips, network), config), tmp_path)
    assert saved == [3, 6, 9, 10]


def test_a_run_that_is_trained_on_is_looked_at_again_when_it_is_done(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "examine_seconds": 1.0}\n')
    assert looked_at(tmp_path, 4) and not looked_at(tmp_path, 6)
