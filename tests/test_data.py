"""Reading: in an order that is a function of the step, and only what a clip needs."""

import errno
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COMPASS, LONG
from safetensors.torch import save_file

from nextframe.clip_starts import length_range
from nextframe.conditions import actions_for_frames, headings_of
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


def test_a_flipped_bit_is_named_each_time_and_other_episodes_are_read(folder: Path) -> None:
    path = folder / "s.safetensors"
    content = bytearray(path.read_bytes())
    dataset = LatentDataset(folder)
    first, other = dataset.index.episodes
    last = dataset.latents(first, 8, 1)[0].view(torch.uint8).numpy().tobytes()
    content[content.index(last) + 1] ^= 1
    path.write_bytes(content)
    damaged = LatentDataset(folder)
    for _ in range(2):
        with pytest.raises(UserError, match=r"s\.safetensors is damaged \(checksum of a\.latents\)"):
            damaged.latents(first, 0, 2)
    assert torch.equal(damaged.actions(first), dataset.actions(first))
    assert torch.equal(damaged.latents(other, 0, 5), dataset.latents(other, 0, 5))


def test_a_shard_that_may_not_be_read_is_not_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError, match=r"s\.safetensors cannot be read \(Permission denied\)"):
        Shard(folder / "s.safetensors")


def test_a_shard_of_before_there_were_sums_is_read(tmp_path: Path) -> None:
    save_file({"a.actions": torch.arange(3)}, tmp_path / "s.safetensors")
    assert Shard(tmp_path / "s.safetensors").read("a.actions", 1, 3).tolist() == [1, 2]


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


def test_a_compass_turns_with_the_actions() -> None:
    told = torch.tensor([[3, 1, 1, 0, 3, 1, 1, 2, 2], [3, 2, 2, 0, 3, 1, 1, 1, 0]])  # 3: nobody knows
    headings = headings_of(COMPASS, told)
    assert headings is not None
    assert headings.tolist() == [[0, 1, 2, 2, 2, 3, 0, 3, 2], [0, 3, 2, 2, 2, 3, 0, 1, 1]]
    assert headings_of(LONG, told) is None and headings_of(COMPASS, None) is None


@pytest.mark.parametrize("leading", [(), (2,), (2, 5)])
def test_arrival_and_departure_of_vectors(leading: tuple[int, ...]) -> None:
    config = replace(LONG, condition="vector", classes=0, action_size=3)
    taken = torch.randn(*leading, 4, 3)
    arrived = actions_for_frames(config, taken)
    assert arrived.shape == taken.shape and arrived.dtype == torch.float32
    assert arrived[..., 0, :].isnan().all() and math.isnan(config.null_condition)
    assert torch.equal(arrived[..., 1:, :], taken[..., :-1, :])
    assert actions_for_frames(replace(config, action_of="departure"), taken) is taken


def test_vectors_and_mirrored_latents_are_what_was_written(tmp_path: Path) -> None:
    latents, actions = torch.randn(6, 2, 4, 4), torch.randn(6, 3)
    write_shard(tmp_path / "s.safetensors", {"a": (latents, actions)}, {"a": latents.flip(-1)})
    entries = (LatentEpisode("a", "train", 6, "s.safetensors", 30.0, label=1),)
    index = LatentIndex("0" * 64, (2, 4, 4), ("x", "y", "z"), 10.0, entries, {}, "vector", ("cat", "dog"), True)
    write_index(tmp_path, index)
    dataset = LatentDataset(tmp_path)
    assert dataset.index == index
    (episode,) = dataset.episodes("train")
    assert torch.equal(dataset.actions(episode), actions)
    stored = latents.to(torch.bfloat16)
    assert torch.equal(dataset.latents(episode, 1, 3, interval=2), stored[[1, 3, 5]])
    assert torch.equal(dataset.latents(episode, 1, 3, interval=2, mirrored=True), stored.flip(-1)[[1, 3, 5]])


def edit_index(folder: Path, **changes: object) -> None:
    path = folder / "latents.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_index_from_before_there_were_labels_opens(folder: Path) -> None:
    path, before = folder / "latents.json", LatentDataset(folder).index
    content = json.loads(path.read_text())
    for key in ("action_kind", "label_names", "mirrored"):
        del content[key]
    for entry in content["episodes"]:
        del entry["label"]
    path.write_text(json.dumps(content))
    assert LatentDataset(folder).index == before
    assert before.action_kind == "id" and not before.label_names and not before.mirrored


@pytest.mark.parametrize(
    "changes", [{"action_kind": "both"}, {"action_kind": 3}, {"mirrored": "no"}, {"label_names": 3}, {"label": 0}]
)
def test_a_damaged_kind_or_label_is_named(folder: Path, changes: dict[str, object]) -> None:
    entries = json.loads((folder / "latents.json").read_text())["episodes"]
    if "label" in changes:  # there are no classes
        changes = {"episodes": [{**entries[0], **changes}]}
    edit_index(folder, **changes)
    with pytest.raises(UserError, match=r"latents\.json is damaged"):
        LatentDataset(folder)


@pytest.mark.parametrize("name", ["a" * 5000, "a\nb", "a\u2028b", "../a", "", 3])
def test_a_name_that_is_none_is_told_in_a_line(folder: Path, name: object) -> None:
    entries = json.loads((folder / "latents.json").read_text())["episodes"]
    edit_index(folder, episodes=[{**entry, "name": name} for entry in entries])
    with pytest.raises(UserError, match=r"latents\.json is damaged \(name") as raised:
        LatentDataset(folder)
    assert len(str(raised.value)) < 500 and "\n" not in str(raised.value)


@pytest.mark.parametrize("label", [True, "cat", 1.0, 2, -1])
def test_a_label_that_is_none_is_damage(folder: Path, label: object) -> None:
    entries = json.loads((folder / "latents.json").read_text())["episodes"]
    edit_index(folder, label_names=["cat", "dog"], episodes=[{**entry, "label": label} for entry in entries])
    with pytest.raises(UserError, match=r"latents\.json is damaged \(label"):
        LatentDataset(folder)


def test_a_shard_of_another_kind_is_named(folder: Path) -> None:
    edit_index(folder, action_kind="vector")
    dataset = LatentDataset(folder)
    with pytest.raises(UserError, match=r"s\.safetensors holds a\.actions as torch\.int64 \[9\], unlike"):
        dataset.actions(dataset.index.episodes[0])
    with pytest.raises(UserError, match=r"s\.safetensors holds less of a\.mirrored"):
        dataset.latents(dataset.index.episodes[0], 0, 2, mirrored=True)
    path = folder / "s.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"I64"', b'"U64"'))
    with pytest.raises(UserError, match=r"s\.safetensors holds a\.actions as 'U64'"):
        LatentDataset(folder).actions(dataset.index.episodes[0])


def test_how_large_the_numbers_of_vectors_are(tmp_path: Path) -> None:
    """But for the rarest; a key that is hardly pressed, with some noise before; always the same, however large."""
    columns = [torch.linspace(-50, 50, 200), torch.zeros(200), torch.zeros(200), torch.full((200,), 3.0)]
    vectors = torch.stack([*columns, torch.full((200,), 1.7e9)], dim=1)
    vectors[0, 0], vectors[7, 1] = 1e6, -1.0
    vectors[20:26, 2], vectors[30:32, 2] = 1e-3, 1.0
    write_shard(tmp_path / "s.safetensors", {"a": (torch.zeros(200, 1, 2, 2), vectors)})
    entry = LatentEpisode("a", "train", 200, "s.safetensors", 30.0)
    write_index(tmp_path, LatentIndex("0" * 64, (1, 2, 2), tuple("abcde"), 10.0, (entry,), action_kind="vector"))
    low, high = LatentDataset(tmp_path).action_range()
    assert low[:4].tolist() == pytest.approx([-48.5, -1, 0, 2], abs=0.6)
    assert high[:4].tolist() == pytest.approx([49.5, 0, 1, 4], abs=0.6)
    assert low[4] < 1.7e9 < high[4]


def test_a_few_shards_tell_how_large_numbers_are(tmp_path: Path) -> None:
    entries = []
    for number in range(40):
        name = f"s{number}.safetensors"
        write_shard(tmp_path / name, {f"e{number}": (torch.zeros(4, 1, 2, 2), torch.full((4, 1), float(number)))})
        entries.append(LatentEpisode(f"e{number}", "train", 4, name, 30.0))
    write_index(tmp_path, LatentIndex("0" * 64, (1, 2, 2), ("a",), 10.0, tuple(entries), action_kind="vector"))
    data = LatentDataset(tmp_path)
    low, high = data.action_range()
    assert low < 2 and high > 34 and len(data._shards) == 8


def test_clip_lengths_grow_and_then_are_uniform() -> None:
    config = WorldModelConfig(clip=ClipConfig(300, min_frames=16, ramp=0.5), train=TrainConfig(steps=1000))
    random = np.random.default_rng(0)
    early = random.integers(*length_range(config, 100), 300)
    late = random.integers(*length_range(config, 900), 3000)
    assert min(early) == 16 and max(early) < 30
    assert min(late) < 20 and 295 < max(late) < 300 and abs(np.mean(late) - 157.5) < 5
