"""Reading: in an order that is a function of the step, and only what a clip needs."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LONG

from nextframe.clips import clip_length
from nextframe.conditions import actions_for_frames
from nextframe.config import ClipConfig, TrainConfig, WorldModelConfig
from nextframe.data.latents import LatentDataset, LatentEpisode, LatentIndex, Shard, write_index, write_shard
from nextframe.data.order import batch_indices
from nextframe.errors import UserError


def test_an_epoch_sees_everything_once() -> None:
    seen = [index for step in range(7) for index in batch_indices(seed=3, step=step, batch=4, count=14)]
    assert Counter(seen) == {index: 2 for index in range(14)}
    assert seen[:14] != seen[14:] and seen[:14] != sorted(seen[:14])


def test_the_batch_of_a_step_depends_on_nothing_else() -> None:
    assert batch_indices(1, 5, 4, 9) == batch_indices(1, 5, 4, 9)
    # Half the batch twice as often reads the same items in the same order: ranks and resumes may divide it.
    assert batch_indices(1, 5, 4, 9) == batch_indices(1, 10, 2, 9) + batch_indices(1, 11, 2, 9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    episodes = {"a": (torch.randn(9, 2, 4, 4), torch.arange(9)), "b": (torch.randn(5, 2, 4, 4), torch.arange(5))}
    write_shard(tmp_path / "s.safetensors", episodes)
    entries = tuple(LatentEpisode(name, "train", len(x), "s.safetensors", 30.0) for name, (x, _) in episodes.items())
    write_index(tmp_path, LatentIndex("0" * 64, (2, 4, 4), ("x",) * 9, 10.0, entries))
    torch.save(episodes["a"][0], tmp_path / "a.pt")
    return tmp_path


def test_a_clip_is_the_frames_it_says(folder: Path) -> None:
    dataset = LatentDataset(folder)
    stored = torch.load(folder / "a.pt", weights_only=True).to(torch.bfloat16)
    assert torch.equal(dataset.latents(dataset.index.episodes[0], 2, 3), stored[2:5])
    assert torch.equal(dataset.latents(dataset.index.episodes[0], 1, 3, interval=3), stored[[1, 4, 7]])
    assert dataset.actions(dataset.index.episodes[1]).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("keep", [0, 4, 60, 300])
def test_a_truncated_shard_is_named(folder: Path, keep: int) -> None:
    path = folder / "s.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"s\.safetensors is damaged"):
        Shard(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 1, "episodes": [3]}', '{"version": 9}'])
def test_a_damaged_index_is_named(folder: Path, text: str) -> None:
    (folder / "latents.json").write_text(text)
    with pytest.raises(UserError, match=r"latents\.json"):
        LatentDataset(folder)


def test_arrival_and_departure() -> None:
    taken = torch.tensor([[0, 1, 2]])
    assert actions_for_frames(LONG, taken).tolist() == [[3, 0, 1]]  # 3 is the null action
    departure = replace(LONG, action_of="departure")
    assert actions_for_frames(departure, taken).tolist() == [[0, 1, 2]]


def test_clip_lengths_grow_and_then_are_uniform() -> None:
    config = WorldModelConfig(clip=ClipConfig(300, min_frames=16, ramp=0.5), train=TrainConfig(steps=1000))
    random = np.random.default_rng(0)
    early = [clip_length(config, 100, random) for _ in range(300)]
    late = [clip_length(config, 900, random) for _ in range(3000)]
    assert min(early) == 16 and max(early) < 30
    assert min(late) < 20 and 295 < max(late) < 300 and abs(np.mean(late) - 157.5) < 5
