"""Before a run begins: what it will take is measured, what cannot fit is refused, what looks wrong is said."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import AUTOENCODER, LONG
from tiny import TOKENIZER, random_autoencoder, tiny_episodes, tiny_latents

from nextframe.config import ClipConfig, TokenizerConfig, TrainConfig, WorldModelConfig
from nextframe.data.latents import LatentDataset, LatentEpisode, write_shard
from nextframe.errors import UserError
from nextframe.footprint import (
    PREFETCHED,
    Demand,
    Footprint,
    _passes,
    _row_bytes,
    fits_in_earnest,
    lasting_bytes,
    measured,
    own_rows,
    seconds_a_step,
    weight_bytes,
)
from nextframe.learner import Learner
from nextframe.memory import available_memory
from nextframe.outlook import duration, largest_batch, proven, way_out
from nextframe.pieces import Position
from nextframe.recipes import (
    autoencoder_demand,
    autoencoder_task,
    estimate_preset,
    notes,
    train_preset,
    world_model_demand,
    world_model_task,
)
from nextframe.soundness import assumed, few_episodes, latents_off, note_data, other_data
from nextframe.worlds.maze.settings import ACTION_NAMES

TRAIN = TrainConfig(steps=2, batch=4, device="cpu", precision="float32", log_every=1)
WORLD = WorldModelConfig(model=LONG, clip=ClipConfig(frames=9, min_frames=4), train=TRAIN)
ROOM = 10**12


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    folder = tmp_path / "latents"
    tiny_latents(folder)
    random_autoencoder(folder, AUTOENCODER)
    return folder


def made(latents: Path, **train: int | bool) -> tuple[Learner, Demand]:
    config = replace(WORLD, train=replace(TRAIN, **train))  # pyright: ignore[reportArgumentType]
    data = LatentDataset(latents)
    return Learner(world_model_task(config, data), config.train), world_model_demand(config, data)


def test_memory_grows_with_the_rows_as_measured_on_two(latents: Path) -> None:
    learner, demand = made(latents)
    footprint = measured(learner, demand, ROOM)
    large = measured(*made(latents, batch=32), ROOM)
    again = Footprint(large.fixed, large.gradients, footprint.base, footprint.row, 0.0)
    assert large.needed(32) == pytest.approx(again.needed(32), rel=0.1)
    weights = sum(weight.numel() for weight in learner.network.parameters())
    assert footprint.gradients == 4 * weights and footprint.row > 0
    assert measured(*made(latents, recompute=True), ROOM).row < 0.7 * footprint.row


def test_memory_is_told_from_as_many_rows_as_it_takes(latents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few rows gradients are the most, when they are all there; of many, what the forward pass has kept."""
    learner, demand = made(latents, batch=64)
    gradients, tried = weight_bytes(learner), []

    def passes(learner: Learner, demand: Demand, rows: int) -> tuple[float, float]:
        tried.append(rows)
        return 0.01, max(1.2 * gradients + rows, 0.2 * gradients * rows)

    monkeypatch.setattr("nextframe.footprint._passes", passes)
    footprint = measured(learner, demand, ROOM)
    assert footprint.needed(64) == pytest.approx(footprint.fixed + 0.2 * 64 * gradients, rel=0.05)
    assert max(tried) < 64


@pytest.mark.parametrize("start", [0.0, 0.5, 1.0])
def test_memory_of_an_autoencoder_is_that_of_its_larger_phase(start: float, tmp_path: Path) -> None:
    """Of few rows gradients decide, of many what lies between the passes; without and with a discriminator."""
    data = tiny_episodes(tmp_path / "data", split="train")
    train = replace(TRAIN, steps=4, batch=32)
    config = TokenizerConfig(model=TOKENIZER, train=train, adversarial_weight=0.5, adversarial_start=start)
    config = replace(config, perceptual_weight=0.0)
    learner, demand = Learner(autoencoder_task(config, data), config.train), autoencoder_demand(config, data)
    footprint = measured(learner, demand, ROOM)
    for rows in (8, 32):
        really = footprint.fixed + _passes(learner, demand, rows)[1]
        assert footprint.needed(rows) == pytest.approx(really, rel=0.1)


def test_measuring_changes_nothing(latents: Path) -> None:
    learner, demand = made(latents)
    before = {name: x.clone() for name, x in learner.network.state_dict().items()}
    generator = torch.get_rng_state()
    measured(learner, demand, ROOM)
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(x, before[name]) for name, x in learner.network.state_dict().items())
    assert all(weight.grad is None for weight in learner.network.parameters())


def test_what_does_not_fit_is_refused_with_a_way_out(
    latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, demand = made(latents, batch=32)
    footprint = measured(learner, demand, ROOM)
    room = int(footprint.needed(9) + footprint.gradients)
    assert "--train.accumulate 4 " in way_out(learner, demand, footprint, room)
    assert footprint.most_rows(footprint.needed(9) + 1) == 9
    config = replace(WORLD, train=replace(TRAIN, batch=32))
    monkeypatch.setattr("nextframe.outlook.available", lambda device: room - 2 * footprint.gradients)
    with pytest.raises(UserError, match=r"needs about .*; cpu has .*: add --train\.accumulate 4 .*--insist"):
        train_preset(config, latents, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fits = replace(config, train=replace(config.train, accumulate=4))
    assert train_preset(fits, latents, tmp_path / "run").step == 2
    assert train_preset(config, latents, tmp_path / "insisted", insist=True).step == 2


def test_the_largest_batch_is_tried(latents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, demand = made(latents)
    differentiate = learner.differentiate

    def small(inputs: dict[str, torch.Tensor], micro_batches: int | None = None) -> torch.Tensor:
        if len(inputs["time"]) > 5:
            raise torch.OutOfMemoryError
        return differentiate(inputs, micro_batches)

    monkeypatch.setattr(learner, "differentiate", small)
    assert fits_in_earnest(learner, demand, 5)
    assert proven(learner, demand, 17) == 4


def test_an_estimate_writes_nothing(latents: Path, tmp_path: Path) -> None:
    lines = estimate_preset(replace(WORLD, train=replace(TRAIN, steps=100)), latents, tmp_path / "run")
    assert [line.split(":")[0] for line in lines] == ["memory", "largest batch in one part", "time"]
    assert int(lines[1].split()[-1]) >= 4 and "100 steps take" in lines[2]
    assert not (tmp_path / "run").exists()


def test_time_is_that_of_the_mean_step(latents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that counts what is computed: the estimate must be the mean over all steps, of whatever lengths."""
    learner, demand = made(latents, steps=1000)
    assert demand.flops_at is not None and learner.task.flops is not None
    assert [demand.flops_at(step) for step in range(5)] == [learner.task.flops(learner.inputs(s)) for s in range(5)]
    now = [0.0]
    monkeypatch.setattr("nextframe.footprint.time.perf_counter", lambda: now[0])
    differentiate = learner.differentiate

    def timed(inputs: dict[str, torch.Tensor], micro_batches: int | None = None) -> torch.Tensor:
        assert learner.task.flops is not None
        now[0] += learner.task.flops(inputs) / 1e9
        return differentiate(inputs, micro_batches)

    monkeypatch.setattr(learner, "differentiate", timed)
    true = sum(demand.flops_at(step) for step in range(1000)) / 1000 / 1e9
    assert seconds_a_step(learner, demand, Footprint(0, 0, 0, 1, 0.001), 0) == pytest.approx(true, rel=0.1)
    assert duration(replace(TRAIN, steps=2750), Position(0), 1.9) == "about 1.9 s a step: 2,750 steps take 1h27m"


def test_a_container_may_have_less_than_its_machine(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup"
    (tmp_path / "proc").mkdir()
    group.mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert available_memory(tmp_path) == 8000 * 1024
    for name, text in (("memory.max", "5000"), ("memory.current", "3000"), ("memory.stat", "inactive_file 1000\n")):
        (group / name).write_text(text)
    assert available_memory(tmp_path) == 3000
    (group / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) == 8000 * 1024


def test_tiny_data_are_named() -> None:
    episodes = [LatentEpisode(f"train_{number}", "train", 300, "", None) for number in range(1088)]
    maze = replace(WORLD, clip=ClipConfig(300, min_frames=16), train=replace(TRAIN, steps=2750, batch=16))
    assert not list(few_episodes(maze, episodes))
    assert "there are only 15 episodes to learn from, and 16 clips in a batch: expect" in next(
        few_episodes(maze, episodes[:15])
    )
    assert "shown about" in next(few_episodes(replace(maze, train=replace(maze.train, steps=10**6)), episodes))


def test_episodes_shorter_than_a_clip_are_counted(latents: Path, tmp_path: Path) -> None:
    longer = replace(WORLD, clip=ClipConfig(24, min_frames=8))
    said = "\n".join(notes(longer, None, LatentDataset(latents), tmp_path))
    assert "3 of 5 training episodes, 57 % of the frames, are shorter than a clip and not learnt from" in said
    assert "learnt from: --clip.frames 21 takes more of them" in said


def test_what_is_taken_for_granted_is_said(tmp_path: Path) -> None:
    index = tiny_latents(tmp_path).index
    plain = replace(WORLD, model=replace(WORLD.model, window=4), clip=ClipConfig(6, min_frames=3))
    assert not list(assumed(plain, index))
    (line,) = assumed(replace(plain, clip=ClipConfig(5, min_frames=3)), index)  # clips of 3 and 4 frames
    assert "no clip is longer than the window of 4 frames: the coarse level learns nothing" in line
    compass = replace(plain.model, condition="action", classes=3, turns=(0, 1, -1), headings=16, head_dim=24)
    (line,) = assumed(replace(plain, model=compass), index)
    assert "'b' turns by +22.5 degrees, 'c' turns by -22.5 degrees; if they do not" in line
    assert "train the preset footage" in line
    of_mazes = replace(plain.model, condition="action", classes=5, turns=(0, 0, 1, -1, 0), headings=16, head_dim=24)
    assert not list(assumed(replace(plain, model=of_mazes), replace(index, action_names=ACTION_NAMES)))


def test_latents_of_another_scale_are_named(tmp_path: Path) -> None:
    def lines(change: torch.Tensor) -> list[str]:
        data = tiny_latents(tmp_path)
        shard = {one.name: (data.latents(one, 0, one.frames).float() * change, data.actions(one)) for one in episodes}
        write_shard(tmp_path / "latents-00000.safetensors", shard)
        return list(latents_off(LatentDataset(tmp_path), episodes))

    episodes = tiny_latents(tmp_path).episodes("train")
    assert not lines(torch.ones(3, 1, 1))
    assert "standard deviation" in lines(torch.full((3, 1, 1), 5.0))[0]
    assert "channel 1" in lines(torch.tensor([1.0, 0.0, 1.0])[:, None, None])[0]
    assert "not finite" in lines(torch.tensor([1.0, torch.nan, 1.0])[:, None, None])[0]


def test_a_run_says_what_has_changed(latents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train_preset(WORLD, latents, run)
    assert "changed" not in capsys.readouterr().err
    train_preset(replace(WORLD, clean_context=0.4, train=replace(TRAIN, steps=3, batch=2)), latents, run)
    said = capsys.readouterr().err
    assert "changed since this run last went: clean_context 0.1 -> 0.4, train.steps 2 -> 3, train.batch 4 -> 2" in said
    assert "s a step" in said and "other data" not in said
    index = json.loads((latents / "latents.json").read_text())
    index["episodes"].pop()
    (latents / "latents.json").write_text(json.dumps(index))
    train_preset(replace(WORLD, train=replace(TRAIN, steps=4)), latents, run)
    assert "other data: 5 episodes -> 4 other ones" in capsys.readouterr().err


def test_what_lasts_is_what_a_learner_holds_and_a_copy_of_it(latents: Path) -> None:
    learner, demand = made(latents)
    learner.differentiate(learner.inputs(0))
    learner.update(1e-3, 0)
    held = sum(x.nbytes for part in learner.state().values() for x in part.values())
    batches = PREFETCHED * own_rows(demand) * _row_bytes(learner, demand)
    assert lasting_bytes(learner, demand) == pytest.approx(2 * held + batches, rel=0.01)


def test_a_step_that_is_timed_by_a_row_has_one_optimizer_step(latents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, demand = made(latents)
    now, differentiate = [0.0], learner.differentiate
    monkeypatch.setattr("nextframe.footprint.time.perf_counter", lambda: now[0])

    def one(inputs: dict[str, torch.Tensor], parts: int | None = None) -> torch.Tensor:
        now[0] += len(inputs["time"])
        return differentiate(inputs, parts)

    def moved(rate: float, step: int) -> torch.Tensor:
        now[0] += 10.0
        return torch.zeros(())

    monkeypatch.setattr(learner, "differentiate", one)
    monkeypatch.setattr(learner, "update", moved)
    found = seconds_a_step(learner, replace(demand, flops_at=None), Footprint(0, 0, 0, 1, 100.0), 0)
    assert found == 4 * 1 + 10  # a batch of 4, timed by one of its rows


def test_parts_divide_the_batch_and_leave_room_for_gradients(latents: Path) -> None:
    learner, demand = made(latents, batch=32)
    footprint = Footprint(0, 100, 0.0, 100.0, 0.0)
    assert "--train.accumulate 8 " in way_out(learner, demand, footprint, 850)  # 8 rows, but not with gradients
    assert "--train.accumulate 4 " in way_out(learner, demand, footprint, 1200)  # 11 rows: no third of a batch


def test_the_largest_batch_counts_windows(latents: Path) -> None:
    config, data = replace(WORLD, clip=replace(WORLD.clip, windows=2)), LatentDataset(latents)
    learner = Learner(world_model_task(config, data), config.train)
    assert largest_batch(learner, world_model_demand(config, data), Footprint(0, 0, 0.0, 1.0, 0.0), 5.0) == 10


def test_time_is_of_the_steps_that_are_left() -> None:
    assert duration(replace(TRAIN, steps=2750), Position(2000), 2.0) == "about 2 s a step: 750 steps take 25m00s"


def test_as_many_episodes_as_a_batch_has_clips_are_enough() -> None:
    episodes = [LatentEpisode(f"train_{number}", "train", 300, "", None) for number in range(16)]
    maze = replace(WORLD, clip=ClipConfig(300, min_frames=16), train=replace(TRAIN, steps=10, batch=16))
    assert not list(few_episodes(maze, episodes))


def test_other_episodes_of_the_same_number_are_other_data(tmp_path: Path) -> None:
    episodes = [LatentEpisode(f"train_{number}", "train", 30, "", None, source="a") for number in range(2)]
    note_data(tmp_path, episodes)
    assert other_data(tmp_path, episodes) == ""
    for changed in ({"source": "b"}, {"frames": 31}, {"name": "train_9"}):
        assert other_data(tmp_path, [episodes[0], replace(episodes[1], **changed)]) == "2 episodes -> 2 other ones"
