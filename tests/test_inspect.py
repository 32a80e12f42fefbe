"""`nextframe inspect`: counts, checksums, actions on time, a contact sheet."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import ACTIONS, SIZE, TURN, tiny_episode, tiny_episodes

from nextframe.data.episodes import DatasetInfo, Episode, EpisodeDataset, EpisodeInfo, write_episode
from nextframe.errors import UserError
from nextframe.inspect import inspect, summary
from nextframe.inspection import NumberUse, inspection_of, verdict

SAMPLES = Path(__file__).parent / "samples"


def test_what_a_data_set_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = tiny_episodes(tmp_path / "data", count=3, frames=40)
    found = inspect(dataset.folder)
    printed = capsys.readouterr().out
    assert found.splits == {"test": 3} and found.frames == (40, 40, 40) and not found.problems
    taken = np.concatenate([dataset.read(info).actions for info in dataset.episodes()])
    assert [use.count for use in found.actions] == np.bincount(taken, minlength=3).tolist()
    assert [round(use.shift) for use in found.actions] == [0, TURN, -TURN]
    assert "3 of 3 episodes are as recorded" in printed and "on time" in printed
    page = (dataset.folder / "inspect.html").read_text()
    assert page.count("data:video/mp4") == 3 and "turn left" in page


@pytest.mark.parametrize(("late", "said"), [(1, "one frame late"), (-1, "one frame early"), (2, "2 frames late")])
def test_actions_that_are_not_on_time(tmp_path: Path, capsys: pytest.CaptureFixture[str], late: int, said: str) -> None:
    found = inspect(tiny_episodes(tmp_path / "data", count=1, frames=60, late=late).folder)
    assert found.best_offset == late
    assert f"warning: the actions are {said}" in capsys.readouterr().out


def test_the_way_out_counts_rows_of_the_imported_file(tmp_path: Path) -> None:
    found = inspect(tiny_episodes(tmp_path / "data", count=1, frames=60, late=1).folder)
    assert "--offset" not in verdict(found)
    # Every fourth frame, and two rows had been left out before: one frame late is four rows more.
    assert verdict(replace(found, imported=(2, 4))).endswith("--offset 6")


@pytest.mark.parametrize("held", [1, 6])
def test_a_short_clip_whose_actions_go_with_nothing_is_no_reason_either(tmp_path: Path, held: int) -> None:
    """Keys that are held long explain much of a few frames, at some offset."""
    random, told = np.random.default_rng(0), []
    for number in range(20):
        dataset = EpisodeDataset.create(tmp_path / f"{held}-{number}", DatasetInfo(10.0, SIZE, ACTIONS, {}))
        actions = np.repeat(random.integers(0, 3, 48 // held), held)
        video = tiny_episode(100 + number, 48, 0).video  # the movement of other actions
        dataset.add("short", "test", Episode(video, actions), {})
        told.append(inspection_of(dataset, dataset.episodes(), [Episode(video, actions)]).best_offset)
    assert sum(offset is not None for offset in told) <= 3, told


def test_what_is_hardly_better_is_no_reason_to_shift_anything(tmp_path: Path) -> None:
    """Footage of worlds with a momentum goes a little better with the action before."""
    found = inspect(tiny_episodes(tmp_path / "data", count=1, frames=60).folder)
    alike = replace(found, explained={-2: 0.1, -1: 0.1276, 0: 0.1257, 1: 0.05, 2: 0.0}, imported=(0, 1))
    assert alike.best_offset == 0 and "on time" in verdict(alike) and "--offset" not in verdict(alike)
    held = replace(found, explained={-2: 0.6, -1: 0.68, 0: 0.77, 1: 0.89, 2: 0.78})
    assert held.best_offset == 1  # keys that are held long make neighbours alike, and yet one is best
    slow = replace(found, explained={-2: 0.3, -1: 0.6, 0: 0.4, 1: 0.1, 2: 0.0})
    assert slow.best_offset == -1 and "momentum" in verdict(slow)


@pytest.mark.parametrize("late", [0, 1])
def test_vectors_that_are_on_time_or_not(tmp_path: Path, late: int) -> None:
    """A turn as a number: the movement of the picture is linear in it."""
    dataset = EpisodeDataset.create(tmp_path / "data", DatasetInfo(10.0, SIZE, ("turn", "noise"), {}, "vector"))
    episode, random = tiny_episode(0, 60, late), np.random.default_rng(0)
    turn = np.array([0.0, 1.0, -1.0])[episode.actions]
    vectors = np.stack([turn, random.normal(size=60)], axis=1).astype(np.float32)
    dataset.add("test_0", "test", Episode(episode.video, vectors), {})
    dataset.save()
    assert inspect(dataset.folder).best_offset == late


def test_actions_that_do_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = EpisodeDataset.create(tmp_path / "data", DatasetInfo(10.0, SIZE, ACTIONS, {}))
    random = np.random.default_rng(0)
    video = random.integers(0, 256, (100, SIZE, SIZE, 3), dtype=np.uint8)
    dataset.add("noise", "test", Episode(video, random.integers(0, 3, 100)), {})
    dataset.save()
    assert inspect(dataset.folder).best_offset is None
    assert "cannot be told" in capsys.readouterr().out


def test_damaged_files_are_all_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = tiny_episodes(tmp_path / "data", count=3)
    (tmp_path / "data" / "test" / "test_0.npz").unlink()
    with (tmp_path / "data" / "test" / "test_2.mp4").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match="2 of 3 episodes are damaged"):
        inspect(dataset.folder, tmp_path / "out")
    printed = capsys.readouterr().out
    assert "test_0.npz cannot be read" in printed and "test_2.mp4 is not the file that was recorded" in printed
    assert "test_0.npz" in (tmp_path / "out" / "inspect.html").read_text()


def test_nothing_to_inspect(tmp_path: Path) -> None:
    EpisodeDataset.create(tmp_path / "data", DatasetInfo(10.0, SIZE, ACTIONS, {}))
    with pytest.raises(UserError, match="no episodes yet"):
        inspect(tmp_path / "data")


def test_footage_without_actions(tmp_path: Path) -> None:
    dataset = EpisodeDataset.create(tmp_path / "data", DatasetInfo(10.0, SIZE, (), {}))
    still = np.zeros((4, SIZE, SIZE, 3), np.uint8)
    dataset.register(
        write_episode(
            dataset.folder,
            replace(dataset.info, action_names=("noop",)),
            "a",
            "test",
            Episode(still, np.zeros(4, np.int64)),
            {},
        )
    )
    dataset.save()
    with pytest.raises(UserError, match="has actions 0 to 0, the dataset has none"):
        inspect(dataset.folder)
    (tmp_path / "data" / "test" / "a.npz").unlink()
    with pytest.raises(UserError, match="1 of 1 episodes are damaged"):
        inspect(dataset.folder)


def test_all_damaged(tmp_path: Path) -> None:
    dataset = tiny_episodes(tmp_path / "data", count=1)
    (tmp_path / "data" / "test" / "test_0.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="1 of 1 episodes are damaged"):
        inspect(dataset.folder)


@pytest.mark.parametrize("late", [0, 1])
def test_a_published_episode(tmp_path: Path, late: int) -> None:
    """DMLab as published: actions[t] leads from frame t to t + 1."""
    with np.load(SAMPLES / "dmlab_episode.npz") as arrays:
        episode = Episode(arrays["video"], np.roll(arrays["actions"], late))
    names = ("turn_left", "turn_right", "forward")
    dataset = EpisodeDataset.create(tmp_path / "data", DatasetInfo(15.0, 64, names, {"world": "dmlab"}))
    dataset.add("dmlab", "test", episode, {})
    dataset.save()
    found = inspect(dataset.folder)
    assert found.best_offset == late
    if not late:
        left, right, forward = found.actions
        assert left.shift > 5 and right.shift < -5 and abs(forward.shift) < 2 and forward.spread > 1


def test_vectors_and_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = DatasetInfo(10.0, SIZE, ("turn_rate", "speed"), {}, "vector", ("cat", "dog", "<owl>"))
    dataset = EpisodeDataset.create(tmp_path / "data", info)
    video = np.zeros((4, SIZE, SIZE, 3), np.uint8)
    for index, label in enumerate((1, 1, 2, None)):
        actions = np.array([[-1.5, 0], [0.25, 0], [0.5, 0], [0.75, index]], np.float32)
        dataset.add(f"test_{index}", "test", Episode(video, actions), {}, label)
    dataset.save()
    found = inspect(dataset.folder)
    assert found.labels == {"dog": 2, "<owl>": 1} and found.best_offset is None and not found.actions
    assert found.numbers == (NumberUse("turn_rate", -1.5, 0.0, 0.75), NumberUse("speed", 0.0, 0.375, 3.0))
    printed = capsys.readouterr().out
    assert "labels     2 of 3 classes: 2 dog, 1 <owl>, 1 without a label" in printed
    assert "turn_rate  minimum      -1.5  mean        +0  maximum     +0.75" in printed
    assert "no action goes clearly with the movement" in printed  # nothing moves
    assert "the same pictures: test_0, test_1, test_2, test_3" in printed
    page = (dataset.folder / "inspect.html").read_text()
    assert "turn rate" in page and "test_0 (dog, test, 4 frames)" in page and "<owl>" not in page


def test_many_classes_fit_on_a_line(tmp_path: Path) -> None:
    names = tuple(f"class_{number}" for number in range(12))
    dataset = EpisodeDataset.create(tmp_path, DatasetInfo(10.0, SIZE, ACTIONS, {}, label_names=names))
    labels = [number for number in range(10) for _ in range(10 - number)]
    infos = [EpisodeInfo(f"test_{index}", "test", 4, {}, {}, label=label) for index, label in enumerate(labels)]
    lines = list(summary(dataset, inspection_of(dataset, infos, [])))
    assert lines[2].endswith(
        "10 of 12 classes: " + ", ".join(f"{10 - n} class_{n}" for n in range(8)) + ", 3 of 2 others (1 to 2 each)"
    )


def test_vectors_in_damaged_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = EpisodeDataset.create(tmp_path, DatasetInfo(10.0, SIZE, ("turn",), {}, "vector"))
    dataset.add("a", "test", Episode(np.zeros((4, SIZE, SIZE, 3), np.uint8), np.zeros((4, 1))), {})
    dataset.save()
    (tmp_path / "test" / "a.npz").write_bytes(b"")
    with pytest.raises(UserError, match="1 of 1 episodes are damaged"):
        inspect(tmp_path)
    assert "actions, in 0 episodes:" in capsys.readouterr().out
