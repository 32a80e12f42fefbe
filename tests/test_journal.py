"""What a run tells of itself while it goes on, and that telling changes nothing."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import AUTOENCODER as TOKENIZER
from conftest import LONG, random_transformer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_train import TRAIN, stop_after
from tiny import newest, noise_footage, random_autoencoder

from nextframe.config import ClipConfig, SampleConfig, TokenizerConfig, TrainConfig, WorldModelConfig
from nextframe.data.latents import LatentEpisode, LatentIndex, write_index, write_shard
from nextframe.data.video import video_facts
from nextframe.errors import UserError
from nextframe.flops import training_flops
from nextframe.held_out import held_out_split, watched_clips
from nextframe.journal import Meter, Record, metrics_log, newest_with, read_log
from nextframe.learner import Learner, Task
from nextframe.objective import LENGTHS, NOISE_BINS, Clips, FrameFlowMatching, by_noise_level
from nextframe.pieces import Position
from nextframe.recipes import train_preset

STEPS = replace(TRAIN, steps=6)
WORLD = WorldModelConfig(LONG, ClipConfig(frames=9, min_frames=4), train=STEPS, sample=SampleConfig(steps=2))


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    """Random latents: three episodes to learn from and two that are held out."""
    folder, shard, episodes = tmp_path / "latents", {}, []
    for number, split in enumerate(["train"] * 3 + ["test"] * 2):
        shard[name := f"{split}_{number}"] = (torch.randn(12, 3, 4, 4) + 1, torch.randint(0, 3, (12,)))
        episodes.append(LatentEpisode(name, split, 12, "latents-00000.safetensors", 30.0))
    write_shard(folder / "latents-00000.safetensors", shard)
    write_index(folder, LatentIndex("0" * 64, (3, 4, 4), ("a", "b", "c"), 10.0, tuple(episodes)))
    random_autoencoder(folder, TOKENIZER)
    return folder


def of(run: Path, name: str) -> list[float]:
    return [record[name] for record in read_log(run) if name in record]


@pytest.mark.parametrize("kind", ["world model", "autoencoder"])
def test_examination_leaves_training_as_it_is(kind: str, latents: Path, tmp_path: Path) -> None:
    """To the bit: losses, weights, and the state of the generator everybody shares."""
    config, data = (
        (WORLD, latents)
        if kind == "world model"
        else (footage_config(), noise_footage(tmp_path / "footage", "train", "train", "validation", "validation"))
    )
    runs, states = [tmp_path / "without", tmp_path / "with"], []
    for run, minutes in zip(runs, (None, 0.0), strict=True):
        train_preset(replace(config, train=replace(config.train, examine_minutes=minutes)), data, run)
        states.append(torch.get_rng_state())
    assert of(runs[0], "loss") == of(runs[1], "loss") and len(of(runs[0], "loss")) == STEPS.steps
    assert torch.equal(*states)
    assert not of(runs[0], "held_out_loss") and len(of(runs[1], "held_out_loss")) == STEPS.steps
    checkpoints = [newest(run) for run in runs]
    assert checkpoints[0] is not None and checkpoints[1] is not None
    for name, weight in checkpoints[0].weights.items():
        assert torch.equal(weight, checkpoints[1].weights[name]), name
    # The newest clips, three or as many as there are.
    found = sorted((runs[1] / "samples").glob("00000006-*.mp4"))
    assert len(found) == (3 if kind == "world model" else 2) and not (runs[0] / "samples").exists()


def footage_config() -> TokenizerConfig:
    return TokenizerConfig(model=TOKENIZER, latent_noise=0.1, train=STEPS)


def test_the_held_out_loss_is_always_of_the_same_and_falls(latents: Path, tmp_path: Path) -> None:
    """Only by what was learnt: with a rate of 0 it stays, whatever the training draws."""
    still = replace(STEPS, steps=2, examine_minutes=0.0, optimizer=replace(TRAIN.optimizer, learning_rate=0.0))
    train_preset(replace(WORLD, train=still), latents, tmp_path / "still")
    first, second = of(tmp_path / "still", "held_out_loss")
    assert first == second
    learning = replace(TRAIN, steps=40, optimizer=replace(TRAIN.optimizer, ema_decay=0.5))
    train_preset(replace(WORLD, train=learning), latents, tmp_path / "learning")
    assert of(tmp_path / "learning", "held_out_loss")[-1] < 0.95 * first


def test_without_held_out_episodes_it_says_so_once(
    latents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = json.loads((latents / "latents.json").read_text())
    index["episodes"] = [entry for entry in index["episodes"] if entry["split"] == "train"]
    (latents / "latents.json").write_text(json.dumps(index))
    train_preset(WORLD, latents, tmp_path / "run")
    assert capsys.readouterr().err.count("there will be no held-out loss and no samples") == 1
    assert not of(tmp_path / "run", "held_out_loss")


def test_loss_by_level_is_what_each_frame_alone_would_say() -> None:
    network, objective = random_transformer(LONG), FrameFlowMatching(replace(WORLD, clean_context=0.4))
    clips = Clips(torch.randn(4, 9, 3, 4, 4), torch.randint(0, 3, (4, 9)), (9, 6))
    inputs = objective.prepare(clips, torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss, parts = objective.score(network, inputs)
        sums, counts, by_hand = np.zeros(NOISE_BINS), np.zeros(NOISE_BINS), 0.0
        layout = objective.layout(inputs[LENGTHS][0].tolist())
        velocity = network.latents(
            network(network.tokens(inputs["input"], layout), layout, inputs["time"], inputs["condition"])
        )
        for row, frame in np.ndindex(*inputs["target"].shape[:2]):
            if inputs["weight"][row, frame] > 0:
                error = (velocity[row, frame] - inputs["target"][row, frame]).square().mean().item()
                time = inputs["time"][row, frame - inputs["target"].shape[1]].item()
                place = next(number for number in range(NOISE_BINS) if time <= 200 * (number + 1))
                sums[place] += error
                counts[place] += 1
                by_hand += error * inputs["weight"][row, frame].item() / 4
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    assert parts[:, 0].tolist() == pytest.approx(sums.tolist(), rel=1e-5) and parts[:, 1].tolist() == counts.tolist()
    assert counts.sum() < inputs["weight"].numel() and (counts > 0).sum() >= 3
    assert objective.terms[0] == "loss_at_0.1" and objective.terms[-1] == "loss_at_0.9"


def test_a_line_is_the_mean_of_its_steps(latents: Path, tmp_path: Path) -> None:
    """Also by noise level, where steps have different numbers of frames, and where batches are cut into parts."""
    train_preset(WORLD, latents, tmp_path / "each")
    for name, changes in (("few", {}), ("parts", {"accumulate": 2})):
        changed = replace(STEPS, log_every=3, **changes)
        train_preset(replace(WORLD, train=changed), latents, tmp_path / name)
        assert of(tmp_path / name, "step") == [3, 6]
        each = [record["loss"] for record in read_log(tmp_path / "each")]
        assert of(tmp_path / name, "loss") == pytest.approx([np.mean(each[:3]), np.mean(each[3:])], rel=1e-5)


def test_drift_is_that_of_the_saved_weights(latents: Path, tmp_path: Path) -> None:
    train_preset(WORLD, latents, tmp_path / "run")
    state = newest(tmp_path / "run")
    assert state is not None
    weights, average = (
        torch.cat([part[name].flatten() for name in state.weights]) for part in (state.weights, state.average)
    )
    last = read_log(tmp_path / "run")[-1]
    assert last["weight_norm"] == pytest.approx(weights.norm().item(), rel=1e-5)
    assert last["average_distance"] == pytest.approx(((weights - average).norm() / weights.norm()).item(), rel=1e-4)


def test_arithmetic_is_that_of_the_clips(latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextframe.journal._rate_of", lambda device, precision: 2.0)
    config = replace(WORLD, clip=ClipConfig(frames=9))
    train_preset(config, latents, tmp_path / "run")
    for record in read_log(tmp_path / "run"):
        flops = training_flops(LONG, STEPS.batch, [9])
        assert record["tflops"] * record["seconds_per_step"] == pytest.approx(flops / 1e12)
        assert record["machine_share"] == record["tflops"] / 2
        assert 0 <= record["data_wait"] <= 1 and record["memory_gib"] > 0.01
        assert record["samples_per_second"] == pytest.approx(STEPS.batch / record["seconds_per_step"])


def test_examining_is_no_training_time(latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nextframe.train

    def slow(*arguments: Any) -> Record:
        return {"step": arguments[2], "held_out_loss": 1.0, "examine_seconds": 1000.0}

    monkeypatch.setattr(nextframe.train, "examined", slow)
    position = train_preset(replace(WORLD, train=replace(STEPS, examine_minutes=0.0)), latents, tmp_path / "run")
    assert position.seconds < -1000  # all that was said to be spent looking is taken off


def test_a_run_killed_while_it_was_looked_at_in_the_end_is_looked_at_again(
    latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nextframe.train

    def killed(*arguments: Any) -> Record:
        raise KeyboardInterrupt

    config, run = replace(WORLD, train=replace(STEPS, examine_minutes=10.0)), tmp_path / "run"
    monkeypatch.setattr(nextframe.train, "examined", killed)
    with pytest.raises(KeyboardInterrupt):
        train_preset(config, latents, run)
    assert not of(run, "held_out_loss")
    monkeypatch.undo()
    train_preset(config, latents, run)
    made = {path.name: path.stat().st_mtime_ns for path in (run / "samples").iterdir()}
    assert len(of(run, "held_out_loss")) == 1 and len(made) == 3
    train_preset(config, latents, run)  # once is enough
    assert made == {path.name: path.stat().st_mtime_ns for path in (run / "samples").iterdir()}


def test_a_resumed_run_has_one_log(latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    stop_after(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_preset(WORLD, latents, run)
    monkeypatch.undo()
    with (run / "metrics.jsonl").open(
        "a"
    ) as file:  # what was killed after its last checkpoint, in the middle of a line
        file.write('{"step": 4, "loss": 9.0}\n{"step": 5, "lo')
    assert of(run, "step") == [1, 2, 3, 4]
    train_preset(WORLD, latents, run)
    assert of(run, "step") == [1, 2, 3, 4, 5, 6] and 9.0 not in of(run, "loss")
    assert of(run, "seconds") == sorted(of(run, "seconds"))


def test_a_stop_loses_no_step_of_the_log(latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(WORLD, train=replace(STEPS, log_every=4))
    stop_after(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_preset(config, latents, tmp_path / "stopped")
    monkeypatch.undo()
    train_preset(config, latents, tmp_path / "stopped")
    assert of(tmp_path / "stopped", "step") == [3, 4, 6]
    train_preset(config, latents, tmp_path / "whole")
    early, four = of(tmp_path / "stopped", "loss")[:2]
    assert of(tmp_path / "whole", "loss")[0] == pytest.approx((3 * early + four) / 4, rel=1e-5)


def test_a_log_whose_only_line_was_cut(latents: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "lo')
    assert newest_with("seconds_per_step", run) == {} == newest_with("seconds_per_step", tmp_path)
    train_preset(WORLD, latents, run)
    assert of(run, "step") == [1, 2, 3, 4, 5, 6]


class Wandb(SimpleNamespace):
    """Stands for the package: notes what it is given."""

    Error = RuntimeError

    def __init__(self) -> None:
        super().__init__(begun=[], logged=[], finished=[])

    def init(self, **settings: Any) -> "Wandb":
        self.begun.append(settings)
        return self

    def log(self, record: Record, step: int) -> None:
        self.logged.append((step, record))

    def finish(self, exit_code: int) -> None:
        self.finished.append(exit_code)


def test_wandb_is_given_one_run(latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run = tmp_path / "run"
    for steps in (2, 4):
        asked = replace(WORLD, train=replace(STEPS, steps=steps, wandb="mazes", examine_minutes=None))
        train_preset(asked, latents, run)
    first, second = fake.begun
    assert first["project"] == "mazes" and first["name"] == "run" and first["resume"] == "allow"
    assert first["id"] == second["id"] and fake.finished == [0, 0] and first["config"]["train"]["batch"] == STEPS.batch
    assert first["config"]["model"]["layers"] == WORLD.model.layers
    assert [step for step, _ in fake.logged] == [1, 2, 3, 4]
    assert [record["loss/loss"] for _, record in fake.logged] == of(run, "loss")
    assert {"loss/loss_at_0.5", "weights/gradient_norm", "speed/data_wait"} <= set(fake.logged[0][1])


def test_boards_have_all_of_a_run_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(ZeroDivisionError), metrics_log(tmp_path / "run", 0, replace(STEPS, wandb="mazes")) as log:
        log({"step": 1, "loss": 0.5})
        raise ZeroDivisionError
    assert fake.begun[0]["config"]["wandb"] == "mazes"  # of a task of somebody's own there is no config.yaml
    assert fake.finished == [1] and fake.logged == [(1, {"loss/loss": 0.5})]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("loss/loss")] == [0.5]


def test_missing_wandb_is_said_before_anything(latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'nextframe\[wandb\]'"):
        train_preset(replace(WORLD, train=replace(STEPS, wandb="mazes")), latents, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_step_reads_what_is_told(latents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that reads a number waits for the device."""
    network, config = random_transformer(LONG), replace(WORLD, train=STEPS)
    clips = Clips(torch.randn(4, 6, 3, 4, 4), torch.randint(0, 3, (4, 6)))
    learner = Learner(Task(network, FrameFlowMatching(config), lambda step: clips, network), STEPS)
    inputs = learner.inputs(0)
    allowed = inputs[LENGTHS]
    plain = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: plain(x) if x.dtype == allowed.dtype else 1 / 0)
    monkeypatch.setattr(torch.Tensor, "item", lambda x: 1 / 0)
    learner.differentiate(inputs)
    learner.update(1e-3, 0)
    monkeypatch.undo()
    assert learner.figures(1)[0]["loss"] > 0


def test_clips_to_watch_are_no_longer_than_those_of_training() -> None:
    for frames, window, attention, expected in ((300, 16, "frame-causal", (48, 32)), (16, 16, "frame-causal", (16, 8))):
        model = replace(LONG, window=window, attention=attention)
        watched, context = watched_clips(replace(WORLD, model=model, clip=ClipConfig(frames=frames)))
        assert (watched.clip.frames, context) == expected
    full = replace(LONG, attention="full", coarse_patch=None)
    dit = WorldModelConfig(full, ClipConfig(frames=16), clean_context=0.0, train=TrainConfig())
    assert watched_clips(dit)[1] == 0


def test_a_level_between_two_bins_is_of_the_lower() -> None:
    levels = torch.tensor([[1.0, 200.0, 201.0, 1000.0]]) / 1000
    found = by_noise_level(torch.ones(1, 4), levels, torch.ones(1, 4, dtype=torch.bool))
    assert found[:, 1].tolist() == [2, 1, 0, 0, 1]


def test_the_held_out_loss_is_of_the_longest_clips_from_the_first_step_on(latents: Path, tmp_path: Path) -> None:
    still = replace(STEPS, steps=1, examine_minutes=0.0, optimizer=replace(TRAIN.optimizer, learning_rate=0.0))
    for ramp in (0.0, 1.0):
        config = replace(WORLD, train=still, clip=replace(WORLD.clip, ramp=ramp))
        train_preset(config, latents, tmp_path / f"{ramp:g}")
    assert of(tmp_path / "0", "held_out_loss") == of(tmp_path / "1", "held_out_loss")


def test_what_is_said_of_one_step_is_one_record(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "loss": 1.0}\n{"step": 4, "held_out_loss": 2.0}\n')
    assert read_log(tmp_path) == [{"step": 4, "loss": 1.0, "held_out_loss": 2.0}]


def test_a_board_keeps_the_step_that_was_saved(tmp_path: Path) -> None:
    for saved, logged in ((0, (1, 2, 3)), (2, (3, 4))):
        with metrics_log(tmp_path / "run", saved, STEPS) as log:
            for step in logged:
                log({"step": step, "loss": float(step)})
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss/loss")] == [1, 2, 3, 4]


def test_validation_comes_before_test() -> None:
    assert held_out_split(["train", "test", "validation"]) == "validation"
    assert held_out_split(["train", "test"]) == "test" and held_out_split(["train"]) is None


def test_clips_run_as_fast_as_their_frames_are_apart(latents: Path, tmp_path: Path) -> None:
    model = replace(LONG, condition="none", classes=0)
    train = replace(STEPS, steps=1, examine_minutes=0.0)
    config = replace(WORLD, model=model, clip=ClipConfig(frames=6, interval=2), train=train, condition_dropout=0.0)
    train_preset(config, latents, tmp_path / "run")
    assert {video_facts(path).fps for path in (tmp_path / "run/samples").iterdir()} == {5}


def test_a_meter_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("nextframe.journal.time", clock)

    def batches() -> Any:
        while True:
            clock.now += 3.0
            yield {}

    meter, stream = Meter(None, 4, torch.device("cpu"), torch.float32), batches()
    for step in range(2):
        meter.next(stream)
        figures = meter.figures(Position(step + 1, 10.0 * (step + 1)), Position(step, 10.0 * step))
        assert figures["data_wait"] == pytest.approx(0.3) and figures["samples_per_second"] == pytest.approx(0.4)


@pytest.mark.parametrize("frames", [9, 41, 300])
def test_clips_that_are_watched_are_no_longer_than_those_of_training(frames: int) -> None:
    config = replace(WORLD, clip=ClipConfig(frames=frames, min_frames=4))
    assert watched_clips(config)[0].clip.span <= config.clip.span
