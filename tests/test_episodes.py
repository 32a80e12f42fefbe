"""Episodes on disk: what is read is what was written, and whatever is wrong is one line that names the file."""

import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from tiny import tiny_episodes

from nextframe.data.episodes import DatasetInfo, Episode, EpisodeDataset, EpisodeInfo
from nextframe.errors import UserError
from nextframe.files import TEMPORARY, sole_writer, sweep

INFO = DatasetInfo(fps=17.5, size=16, action_names=("noop", "forward"), source={"world": "test", "levels": [1, 2]})
FRAMES = 20


def noise_episode(seed: int = 0) -> Episode:
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 256, (FRAMES, 16, 16, 3), dtype=np.uint8)
    return Episode(video, rng.integers(0, 2, FRAMES), {"pose": rng.random((FRAMES, 3), np.float32)})


@pytest.fixture
def dataset(tmp_path: Path) -> EpisodeDataset:
    dataset = EpisodeDataset.create(tmp_path / "data", INFO)
    dataset.add("b", "train", noise_episode(1), {"seed": 1})
    dataset.add("a", "train", noise_episode(0), {"seed": 0})
    dataset.add("c", "test", noise_episode(2), {"seed": 2})
    dataset.save()
    return dataset


def edit_index(dataset: EpisodeDataset, **changes: Any) -> None:
    path = dataset.folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_episode(dataset: EpisodeDataset, **changes: Any) -> EpisodeInfo:
    entries = json.loads((dataset.folder / "dataset.json").read_text())["episodes"]
    edit_index(dataset, episodes=[{**entries[0], **changes}, *entries[1:]])
    return EpisodeDataset.open(dataset.folder).episodes()[0]


def test_round_trip_is_exact(dataset: EpisodeDataset) -> None:
    opened = EpisodeDataset.open(dataset.folder)
    assert opened.info == DatasetInfo(17.5, 16, ("noop", "forward"), {"world": "test", "levels": [1, 2]})
    assert [info.name for info in opened.episodes()] == ["a", "b", "c"]
    assert [info.name for info in opened.episodes("train")] == ["a", "b"]
    for seed, info in enumerate(opened.episodes()):
        opened.verify(info)
        episode, expected = opened.read(info), noise_episode(seed)
        assert info.meta == {"seed": seed} and info.frames == FRAMES
        np.testing.assert_array_equal(episode.video, expected.video)
        np.testing.assert_array_equal(episode.actions, expected.actions)
        np.testing.assert_array_equal(episode.extras["pose"], expected.extras["pose"])
        assert episode.video.dtype == np.uint8 and episode.actions.dtype == np.int64
        assert list(episode.extras) == ["pose"]


def test_the_same_episode_is_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        dataset = EpisodeDataset.create(folder, INFO)
        dataset.add("a", "train", noise_episode(), {})
        dataset.save()
    for path in ("dataset.json", "train/a.mp4", "train/a.npz"):
        assert (folders[0] / path).read_bytes() == (folders[1] / path).read_bytes()


def test_reads_the_published_layout(dataset: EpisodeDataset) -> None:
    episode = noise_episode()
    np.savez(dataset.folder / "episode.npz", video=episode.video, actions=episode.actions)
    both = EpisodeInfo("d", "test", FRAMES, {"video": "episode.npz"}, {})
    read = dataset.read(both)
    np.testing.assert_array_equal(read.video, episode.video)
    np.testing.assert_array_equal(read.actions, episode.actions)
    assert read.extras == {}


def test_create_goes_on_with_the_same_settings_only(dataset: EpisodeDataset) -> None:
    assert len(EpisodeDataset.create(dataset.folder, INFO).episodes()) == 3
    other = DatasetInfo(17.5, 32, INFO.action_names, {**INFO.source, "world": "elsewhere"})
    with pytest.raises(UserError, match=r"\(world test, now elsewhere, size 16, now 32\)"):
        EpisodeDataset.create(dataset.folder, other)


def test_create_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="is not a dataset: choose a new folder"):
        EpisodeDataset.create(tmp_path, INFO)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_create_goes_on_after_a_kill_in_its_first_moment(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY}123-dataset.json").touch()
    assert not EpisodeDataset.create(tmp_path, INFO).episodes()


def test_a_folder_without_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path} is not a dataset: it holds nothing that nextframe has made"):
        EpisodeDataset.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"version": 1}', b'{"version": 1, "fps": "fast"}'])
def test_a_damaged_index_is_named(dataset: EpisodeDataset, content: bytes) -> None:
    (dataset.folder / "dataset.json").write_bytes(content)
    with pytest.raises(UserError, match=r"dataset\.json (cannot be read|is damaged)"):
        EpisodeDataset.open(dataset.folder)


@pytest.mark.parametrize("change", [{"frames": "20"}, {"frames": 0}, {"files": []}, {"files": {"video": 3}}, {"x": 1}])
def test_a_damaged_entry_is_named(dataset: EpisodeDataset, change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"dataset\.json is damaged"):
        edit_episode(dataset, **change)


def test_a_foreign_version_is_refused(dataset: EpisodeDataset) -> None:
    edit_index(dataset, version=7)
    with pytest.raises(UserError, match="has version 7, this nextframe reads 1"):
        EpisodeDataset.open(dataset.folder)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../outside.npz", "train/../../outside.npz", "link.npz", "\n", "a\0", "a" * 1001]
)
def test_paths_do_not_leave_the_folder(dataset: EpisodeDataset, path: str) -> None:
    (dataset.folder / "link.npz").symlink_to("/etc/passwd")
    info = edit_episode(dataset, files={"video": path, "data": path})
    for use in (dataset.read, dataset.verify):
        with pytest.raises(UserError, match=r"outside its folder|can be no path") as raised:
            use(info)
        assert len(str(raised.value).splitlines()) == 1


def break_missing(path: Path) -> None:
    path.unlink()


def break_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def break_empty(path: Path) -> None:
    path.write_bytes(b"")


def break_text(path: Path) -> None:
    path.write_bytes(b"#EXTM3U\n/etc/passwd\n" * 100)


@pytest.mark.parametrize("damage", [break_missing, break_half, break_empty, break_text])
@pytest.mark.parametrize("role", ["video", "data"])
def test_a_damaged_file_is_named(dataset: EpisodeDataset, role: str, damage: Any) -> None:
    info = dataset.episodes()[0]
    damage(dataset.folder / info.files[role])
    for use in (dataset.read, dataset.verify):
        with pytest.raises(UserError, match=info.files[role]):
            use(info)


def test_whatever_the_bytes_a_reader_gets_an_episode_or_a_line(dataset: EpisodeDataset) -> None:
    info = dataset.episodes()[0]
    rng = np.random.default_rng(0)
    for path in (dataset.folder / file for file in info.files.values()):
        whole = path.read_bytes()
        for _ in range(300):
            damaged = bytearray(whole)
            for place in rng.integers(0, len(damaged), rng.integers(1, 9)):
                damaged[place] = rng.integers(0, 256)
            path.write_bytes(damaged)
            with suppress(UserError):
                dataset.read(info)
        path.write_bytes(whole)


def test_pickles_are_not_opened(dataset: EpisodeDataset) -> None:
    info = dataset.episodes()[0]
    np.savez(dataset.folder / info.files["data"], actions=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"a\.npz cannot be read"):
        dataset.read(info)


def test_contents_must_be_what_the_index_says(dataset: EpisodeDataset) -> None:
    for frames in (FRAMES - 1, FRAMES + 1):
        with pytest.raises(UserError, match=rf"a\.mp4 has .* frames, the index says {frames}"):
            dataset.read(edit_episode(dataset, frames=frames))
    info = edit_episode(dataset, frames=FRAMES)
    edit_index(dataset, size=32)
    with pytest.raises(UserError, match=r"a\.mp4 cannot be decoded \(frames are 16 x 16, not 32 x 32\)"):
        EpisodeDataset.open(dataset.folder).read(info)
    edit_index(dataset, size=16, action_names=["noop"])
    with pytest.raises(UserError, match=r"a\.npz has actions 0 to 1, the dataset has noop"):
        EpisodeDataset.open(dataset.folder).read(info)
    np.savez(dataset.folder / "train/a.npz", actions=np.zeros(3, np.int64))
    with pytest.raises(UserError, match=r"a\.npz has actions of shape \(3,\)"):
        dataset.read(info)
    np.savez(dataset.folder / "train/a.npz", poses=np.zeros(3, np.int64))
    with pytest.raises(UserError, match=r"a\.npz has no array `actions`"):
        dataset.read(info)


def test_a_full_disk_leaves_nothing_half_written(dataset: EpisodeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(path for path in dataset.folder.rglob("*"))
    index = (dataset.folder / "dataset.json").read_bytes()
    calls = 0

    def full_at_the_second_file(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            fail()

    def fail(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_at_the_second_file)
    with pytest.raises(UserError, match=r"d\.npz cannot be written \(No space left on device\): free some space"):
        dataset.add("d", "train", noise_episode(3), {})
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"dataset\.json cannot be written"):
        dataset.save()
    assert sorted(path for path in dataset.folder.rglob("*")) == before
    assert (dataset.folder / "dataset.json").read_bytes() == index


def test_an_episode_is_there_with_all_its_files(dataset: EpisodeDataset) -> None:
    info = dataset.episodes()[0]
    assert dataset.is_there(info)
    (dataset.folder / info.files["data"]).unlink()
    assert not dataset.is_there(info)


def test_digests_tell_footage_apart(dataset: EpisodeDataset) -> None:
    digests = [dataset.digest(info) for info in dataset.episodes()]
    assert len(set(digests)) == 3 and digests == [dataset.digest(info) for info in dataset.episodes()]
    unknown = [dataset.digest(edit_episode(dataset, sha256={})) for _ in range(2)]
    assert unknown == [digests[0]] * 2  # read from the files


def test_what_was_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    left, others = tmp_path / f"{TEMPORARY}123-d.mp4", [tmp_path / ".partial-1", tmp_path / "below" / f"{TEMPORARY}1"]
    others[1].parent.mkdir()
    for path in (left, *others):
        path.touch()
    sweep(tmp_path)
    assert not left.exists() and all(path.exists() for path in others)
    sweep(tmp_path / "nowhere")


def test_writers_exclude_each_other(dataset: EpisodeDataset) -> None:
    busy = pytest.raises(UserError, match="another process is writing")
    with sole_writer(dataset.folder), busy, sole_writer(dataset.folder):
        pass
    with sole_writer(dataset.folder):
        pass


def test_a_list_that_another_has_written_is_not_overwritten(dataset: EpisodeDataset) -> None:
    other = EpisodeDataset.open(dataset.folder)
    other.add("d", "train", noise_episode(3), {})
    other.save()
    dataset.add("e", "train", noise_episode(4), {})
    with pytest.raises(UserError, match="was written by another meanwhile"):
        dataset.save()
    assert [info.name for info in EpisodeDataset.open(dataset.folder).episodes("train")] == ["a", "b", "d"]


@pytest.mark.parametrize("done", [True, False])
def test_who_is_interrupted_while_saving_saves_again(
    done: bool, dataset: EpisodeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come when the list is just written: it is then no other's."""

    def interrupted(old: Path, new: Path, replace: Callable[..., None] = os.replace) -> None:
        if done:
            replace(old, new)
        raise KeyboardInterrupt

    dataset.add("d", "train", noise_episode(3), {})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", interrupted)
        dataset.save()
    assert len(EpisodeDataset.open(dataset.folder).episodes("train")) == 2 + done
    dataset.save()
    assert len(EpisodeDataset.open(dataset.folder).episodes("train")) == 3


def test_nothing_is_written_that_could_not_be_read(dataset: EpisodeDataset) -> None:
    for wrong in ({"fps": 0.0}, {"fps": float("nan")}, {"size": 0}):
        with pytest.raises(ValueError, match="above 0"):
            replace(INFO, **wrong)
    nothing = Episode(np.zeros((0, 16, 16, 3), np.uint8), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="has no frames"):
        dataset.add("d", "train", nothing, {})


def test_a_folder_that_leads_elsewhere_is_not_written_to(dataset: EpisodeDataset, tmp_path: Path) -> None:
    """What is read is refused where it lies outside, so what is written is too; and what lies there is left alone."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "d.mp4").write_text("precious")
    (dataset.folder / "validation").symlink_to(elsewhere)
    with pytest.raises(UserError, match="validation leads out of its folder: make it a folder, or use another --out"):
        dataset.add("d", "validation", noise_episode(), {})
    assert (elsewhere / "d.mp4").read_text() == "precious" and len(list(elsewhere.iterdir())) == 1


def test_an_episode_larger_than_memory_should_be_is_refused(
    dataset: EpisodeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextframe.data.arrays.MOST_BYTES", FRAMES * 16 * 16 * 3 - 1)
    with pytest.raises(UserError, match="MiB of memory, the most is 0: divide it"):
        dataset.read(dataset.episodes()[0])
    with pytest.raises(UserError, match="MiB of memory, the most is 0: divide it"):
        dataset.add("d", "train", noise_episode(), {})


@pytest.mark.parametrize("name", ["\x1b[2J", "\ud800", "two\u2028lines", "\x7f"])
def test_names_that_cannot_be_printed_are_damage(dataset: EpisodeDataset, name: str) -> None:
    for change in ({"action_names": ["noop", name]}, {"label_names": [name]}):
        with pytest.raises(ValueError, match="is no name"):
            replace(INFO, **{key: tuple(names) for key, names in change.items()})
        edit_index(dataset, **change)
        with pytest.raises(UserError, match="is damaged"):
            EpisodeDataset.open(dataset.folder)


def test_episodes_that_do_not_fit_are_refused(dataset: EpisodeDataset) -> None:
    episode = noise_episode()
    with pytest.raises(ValueError, match="video of d"):
        dataset.add("d", "train", Episode(episode.video[:, :8], episode.actions), {})
    with pytest.raises(ValueError, match="actions of shape"):
        dataset.add("d", "train", Episode(episode.video, episode.actions[:-1]), {})
    with pytest.raises(ValueError, match="not usable as file names"):
        dataset.add("../d", "train", episode, {})
    with pytest.raises(UserError, match="has actions 2 to 3, the dataset has noop, forward"):
        dataset.add("d", "train", Episode(episode.video, episode.actions + 2), {})


VECTORS = replace(INFO, action_names=("turn", "speed", "jump"), action_kind="vector", label_names=("cat", "dog"))


def vector_episode(seed: int = 0) -> Episode:
    vectors = np.random.default_rng(seed).normal(size=(FRAMES, 3)).astype(np.float32)
    return replace(noise_episode(seed), actions=vectors)


@pytest.fixture
def vectors(tmp_path: Path) -> EpisodeDataset:
    dataset = EpisodeDataset.create(tmp_path / "vectors", VECTORS)
    dataset.add("a", "train", vector_episode(0), {}, label=1)
    dataset.add("b", "train", vector_episode(1), {})
    dataset.save()
    return dataset


def test_vectors_and_labels_come_back(vectors: EpisodeDataset) -> None:
    opened = EpisodeDataset.open(vectors.folder)
    assert opened.info == VECTORS and [info.label for info in opened.episodes()] == [1, None]
    for seed, info in enumerate(opened.episodes()):
        actions = opened.read(info).actions
        assert actions.dtype == np.float32
        np.testing.assert_array_equal(actions, vector_episode(seed).actions)
    assert len(EpisodeDataset.create(vectors.folder, VECTORS).episodes()) == 2
    with pytest.raises(UserError, match=r"\(label_names \['cat', 'dog'\], now \['cat'\]\)"):
        EpisodeDataset.create(vectors.folder, replace(VECTORS, label_names=("cat",)))


def test_keys_that_are_held_are_a_vector_too(vectors: EpisodeDataset) -> None:
    keys = np.random.default_rng(0).integers(0, 2, (FRAMES, 3)).astype(bool)
    read = vectors.read(vectors.add("keys", "train", replace(noise_episode(), actions=keys), {}))
    assert read.actions.dtype == np.float32 and (read.actions == keys).all()
    assert VECTORS.action_texts(np.array([[0.5, -1, 12.25]])) == ["0.5 -1 12"]
    assert INFO.action_texts(np.array([1, 0])) == ["forward", "noop"]


def test_a_dataset_from_before_there_were_labels_opens(dataset: EpisodeDataset) -> None:
    path = dataset.folder / "dataset.json"
    content = json.loads(path.read_text())
    for key in ("action_kind", "label_names"):
        del content[key]
    for entry in content["episodes"]:
        del entry["label"]
    path.write_text(json.dumps(content))
    opened = EpisodeDataset.open(dataset.folder)
    assert opened.info == INFO and opened.episodes() == dataset.episodes()
    assert [info.label for info in opened.episodes()] == [None] * 3
    assert len(EpisodeDataset.create(dataset.folder, INFO).episodes()) == 3


@pytest.mark.parametrize("label", [2, -1, True, "dog", 1.0])
def test_a_label_that_is_none_is_damage(vectors: EpisodeDataset, label: Any) -> None:
    with pytest.raises(UserError, match=r"dataset\.json is damaged .*label"):
        edit_episode(vectors, label=label)


@pytest.mark.parametrize("change", [{"action_kind": "both"}, {"action_names": []}, {"label_names": "cat"}])
def test_damaged_kinds_and_names_are_named(vectors: EpisodeDataset, change: dict[str, Any]) -> None:
    edit_index(vectors, **change)
    with pytest.raises(UserError, match=r"dataset\.json is damaged"):
        EpisodeDataset.open(vectors.folder)


def test_labels_the_dataset_has_not_are_refused(dataset: EpisodeDataset, vectors: EpisodeDataset) -> None:
    for label in (2, -1):
        with pytest.raises(UserError, match=rf"d has label {label}, the dataset has cat, dog"):
            vectors.add("d", "train", vector_episode(), {}, label)
    with pytest.raises(UserError, match="d has label 0, the dataset has none"):
        dataset.add("d", "train", noise_episode(), {}, 0)
    assert not (vectors.folder / "train/d.mp4").exists()


def test_vectors_that_do_not_fit_are_refused(vectors: EpisodeDataset) -> None:
    episode, info = vector_episode(), vectors.episodes()[0]
    cases = {
        r"actions of shape \(20, 2\), not \(20, 3\)": episode.actions[:, :2],
        r"actions of shape \(20,\), not \(20, 3\)": noise_episode().actions,
        r"actions that are not finite, first at frame 7: give turn, speed, jump": np.where(
            np.arange(FRAMES)[:, None] < 7, episode.actions, np.nan
        ),
        r"actions that are not finite, first at frame 0": np.full((FRAMES, 3), 1e300),
        r"actions of type <U1: give numbers": np.full((FRAMES, 3), "w"),
    }
    for message, actions in cases.items():
        with pytest.raises((ValueError, UserError), match=f"d has .*{message}"):
            vectors.add("d", "train", replace(episode, actions=actions), {})
        np.savez(vectors.folder / info.files["data"], actions=actions)
        with pytest.raises(UserError, match=rf"a\.npz has {message}"):
            vectors.read(info)


def test_ids_that_are_not_whole_are_refused(dataset: EpisodeDataset) -> None:
    info = dataset.episodes()[0]
    for actions in (np.full(FRAMES, 0.5), np.full(FRAMES, "forward")):
        with pytest.raises(UserError, match=r"d has actions of type .*: give integers"):
            dataset.add("d", "train", replace(noise_episode(), actions=actions), {})
        np.savez(dataset.folder / info.files["data"], actions=actions)
        with pytest.raises(UserError, match=r"a\.npz has actions of type .*: give integers"):
            dataset.read(info)


def test_what_is_taken_away_is_off_the_list_too(tmp_path: Path) -> None:
    dataset = tiny_episodes(tmp_path / "data", count=2)
    gone, stays = dataset.episodes()
    dataset.remove([gone])
    assert EpisodeDataset.open(dataset.folder).episodes() == [stays]
    assert not dataset.is_there(gone) and dataset.is_there(stays)
