"""Mazes: a frame depends on maze and pose only, actions lead where they say, and recording can be stopped anyhow."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from recording import Recorder, tree

from nextframe.conditions import actions_for_frames, headings_of
from nextframe.config import WorldModelConfig
from nextframe.data.episodes import EpisodeDataset
from nextframe.errors import UserError
from nextframe.files import TEMPORARY
from nextframe.presets import PRESETS
from nextframe.worlds.maze.engine import MazeCamera
from nextframe.worlds.maze.explorer import explore, move
from nextframe.worlds.maze.map import Maze, cell_centre, free_cells, make_maze
from nextframe.worlds.maze.record import record_maze
from nextframe.worlds.maze.settings import (
    BACKWARD,
    CELL,
    CLEARANCE,
    FORWARD,
    HEADINGS,
    NOOP,
    STEP,
    TURN_LEFT,
    TURN_RIGHT,
    MazeSettings,
    settings_of,
    source_of,
)
from nextframe.worlds.record import SPLITS, episode_seed
from nextframe.worlds.vizdoom import INSTANCE, launcher

SETTINGS = MazeSettings(frames=240)
"""Long enough that a recorder of EPISODES is still at work when it is killed."""
EPISODES = 12
OPTIONS = f"maze --episodes {EPISODES} --frames {SETTINGS.frames} --workers 2"


# The maze and its explorer, without an engine


@pytest.mark.parametrize("difficulty", ["calm", "plain", "rich"])
def test_a_maze_is_a_function_of_its_seed(difficulty: str) -> None:
    settings = MazeSettings(difficulty=difficulty)  # pyright: ignore[reportArgumentType]
    one, again, other = (make_maze(seed, settings) for seed in (5, 5, 6))
    assert one.text == again.text and one.start == again.start
    np.testing.assert_array_equal(one.look.colours, again.look.colours)
    assert one.text != other.text and (one.look.colours != other.look.colours).any()


def test_every_place_can_be_reached() -> None:
    for seed in range(50):
        grid = make_maze(seed, SETTINGS).grid
        reached, edge = set(), [free_cells(grid)[0]]
        while edge:
            row, column = edge.pop()
            reached.add((row, column))
            near = [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
            edge += [cell for cell in near if grid[cell] and cell not in reached]
        assert reached == set(free_cells(grid))
        assert not grid[[0, -1]].any() and not grid[:, [0, -1]].any()


def test_actions_lead_where_they_say() -> None:
    grid = np.zeros((7, 7), bool)
    grid[1, 1:4] = True
    start = (*cell_centre((1, 1)), 0)
    pose = start
    for _ in range(CELL // STEP):
        pose = move(grid, pose, FORWARD)
    assert pose == (*cell_centre((1, 2)), 0)
    for _ in range(HEADINGS // 4):
        pose = move(grid, pose, TURN_LEFT)
    assert pose == (*cell_centre((1, 2)), HEADINGS // 4)
    for _ in range(HEADINGS // 4):
        pose = move(grid, pose, TURN_RIGHT)
    assert move(grid, pose, NOOP) == pose
    for _ in range(3 * CELL // STEP):
        pose = move(grid, pose, BACKWARD)
    assert pose == start  # the wall stopped it


def test_the_explorer_walks_and_comes_back() -> None:
    settings = MazeSettings()
    actions = np.zeros(5, int)
    seen_before = places = 0
    for seed in range(20):
        maze = make_maze(seed, settings)
        taken, poses = explore(seed, maze.grid, maze.start, settings)
        assert (taken, poses) == explore(seed, maze.grid, maze.start, settings)
        assert len(taken) == len(poses) == settings.frames and poses[0] == maze.start
        assert all(move(maze.grid, poses[t], taken[t]) == poses[t + 1] for t in range(settings.frames - 1))
        for x, y, _ in poses:
            corners = [(x + right, y + up) for right in (-CLEARANCE, CLEARANCE) for up in (-CLEARANCE, CLEARANCE)]
            assert all(maze.grid[up // CELL, right // CELL] for right, up in corners)
        actions += np.bincount(taken, minlength=5)
        seen_before += sum(poses[t] in poses[: t - 16] for t in range(144, settings.frames))
        places += len({(x // CELL, y // CELL) for x, y, _ in poses})
    shares = actions / actions.sum()
    assert shares[NOOP] < 0.05 and shares[FORWARD] > 0.25 and shares[BACKWARD] > 0.02
    assert abs(shares[TURN_LEFT] - shares[TURN_RIGHT]) < 0.15
    assert seen_before / (20 * 156) > 0.1 and places / 20 > 8


def test_who_lingers_sees_again_what_was_just_left() -> None:
    seen_again, places = {}, {}
    for linger in (0.0, 0.2):
        settings = MazeSettings(linger=linger)
        walks = []
        for seed in range(20):
            maze = make_maze(seed, settings)
            walks.append(explore(seed, maze.grid, maze.start, settings)[1])
        # Not in the last 7 frames, but in the 24 before them.
        seen_again[linger] = sum(
            walk[t] in walk[t - 32 : t - 8] and walk[t] not in walk[t - 8 : t] for walk in walks for t in range(32, 300)
        )
        places[linger] = sum(len({(x // CELL, y // CELL) for x, y, _ in walk}) for walk in walks) / len(walks)
    assert seen_again[0.2] > 1.8 * seen_again[0.0] and places[0.2] > 8


def test_footage_says_how_it_was_made() -> None:
    for settings in (MazeSettings(), MazeSettings(cells=5, linger=0.2)):
        assert settings_of(json.loads(json.dumps(source_of(settings)))) == settings
    assert "linger" not in source_of(MazeSettings())  # so that footage which does not say it can be added to
    source = source_of(MazeSettings())
    for other in ({"world": "imported"}, {**source, "revision": 1}, {**source, "cells": 99}, {**source, "size": "big"}):
        assert settings_of(other) is None
    for linger in (-0.1, 1.0):
        with pytest.raises(UserError, match="linger"):
            MazeSettings(linger=linger)


def test_no_split_shares_a_seed() -> None:
    ranges = sorted((episode_seed(split, 0, 0), episode_seed(split, 10**6 - 1, 10**6 - 1)) for split in SPLITS)
    assert all(last < first for (_, last), (first, _) in pairwise(ranges))
    assert len({episode_seed("train", seed, index) for seed in range(3) for index in (0, 1, 10**6 - 1)}) == 9


def test_the_compass_of_the_preset_points_where_the_maze_says() -> None:
    preset, maze = PRESETS["maze"], make_maze(3, SETTINGS)
    assert isinstance(preset, WorldModelConfig) and preset.model.headings == HEADINGS
    actions, poses = explore(3, maze.grid, maze.start, replace(SETTINGS, frames=200))
    turned = headings_of(preset.model, actions_for_frames(preset.model, torch.tensor(actions)))
    assert turned is not None
    assert ((turned + poses[0][2]) % HEADINGS).tolist() == [heading for _, _, heading in poses]


# The engine


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Maze], MazeCamera]]:
    mazes = [make_maze(seed, SETTINGS) for seed in range(3)]
    with MazeCamera(mazes, SETTINGS, tmp_path_factory.mktemp("engine")) as camera:
        yield mazes, camera


def test_a_frame_is_a_function_of_maze_and_pose(filmed: tuple[list[Maze], MazeCamera], tmp_path: Path) -> None:
    mazes, camera = filmed
    _, poses = explore(1, mazes[1].grid, mazes[1].start, replace(SETTINGS, frames=200))
    camera.enter(1)
    frames = {}
    for pose in poses:
        frame = camera.frame(pose)
        assert frame.shape == (64, 64, 3) and frame.dtype == np.uint8
        np.testing.assert_array_equal(frame, frames.setdefault(pose, frame))
    assert len({frame.tobytes() for frame in frames.values()}) > 0.8 * len(frames)
    with MazeCamera(mazes[1:], SETTINGS, tmp_path) as fresh:
        fresh.enter(1)
        fresh.enter(0)
        for pose in sorted(frames):
            np.testing.assert_array_equal(fresh.frame(pose), frames[pose])


def test_the_picture_moves_the_other_way_when_turning(filmed: tuple[list[Maze], MazeCamera]) -> None:
    mazes, camera = filmed
    camera.enter(0)
    x, y, _ = mazes[0].start

    def shift(before: np.ndarray, after: np.ndarray) -> int:
        rows = before.mean(axis=(0, 2)), after.mean(axis=(0, 2))
        return min(range(-16, 17), key=lambda s: abs(rows[0][16:-16] - rows[1][16 + s : 48 + s]).sum())

    views = [camera.frame((x, y, heading)) for heading in range(HEADINGS)]
    left = [shift(views[heading - 1], views[heading]) for heading in range(HEADINGS)]
    assert np.median(left) > 3
    right = [shift(views[heading], views[heading - 1]) for heading in range(HEADINGS)]
    assert np.median(right) < -3


def test_mazes_look_different(filmed: tuple[list[Maze], MazeCamera]) -> None:
    mazes, camera = filmed
    views = []
    for number, maze in enumerate(mazes):
        camera.enter(number)
        views.append(camera.frame(maze.start).astype(float))
    assert all(abs(a - b).mean() > 10 for a, b in pairwise(views))


@pytest.mark.parametrize("size", [128, 256])
def test_larger_frames(size: int, tmp_path: Path) -> None:
    settings = replace(SETTINGS, size=size, difficulty="rich")
    maze = make_maze(3, settings)
    with MazeCamera([maze], settings, tmp_path) as camera:
        camera.enter(0)
        assert camera.frame(maze.start).shape == (size, size, 3)


# Recording


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "data"
    record_maze(folder, EPISODES, settings=SETTINGS, workers=2)
    return folder


def test_recorded_episodes(undisturbed: Path) -> None:
    dataset = EpisodeDataset.open(undisturbed)
    assert dataset.info.action_names == ("noop", "forward", "turn_left", "turn_right", "backward")
    assert dataset.info.source["difficulty"] == "calm"
    assert [info.meta["seed"] for info in dataset.episodes("train")] == list(range(EPISODES))
    for info in dataset.episodes():
        dataset.verify(info)
        episode = dataset.read(info)
        assert episode.video.shape == (SETTINGS.frames, 64, 64, 3)
        assert episode.extras["pose"].shape == (SETTINGS.frames, 3) and episode.extras["pose"].dtype == np.float32
        np.testing.assert_array_equal(episode.extras["grid"], make_maze(info.meta["seed"], SETTINGS).grid)


def test_recording_goes_on_where_it_stopped(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    record_maze(out, 2, settings=SETTINGS, workers=1)
    first = (out / "train/train_000000.mp4").stat().st_mtime_ns
    (out / "train/train_000001.npz").unlink()
    (out / "train" / f"{TEMPORARY}123-train_000001.npz").touch()
    record_maze(out, EPISODES, settings=SETTINGS, workers=3)
    assert (out / "train/train_000000.mp4").stat().st_mtime_ns == first
    assert tree(out) == tree(undisturbed)
    with pytest.raises(UserError, match="seed 0, now 1"):
        record_maze(out, EPISODES, seed=1, settings=SETTINGS)
    assert len(record_maze(out, 1, split="test", settings=SETTINGS).episodes()) == EPISODES + 1


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    precious = [tmp_path / "thesis.tex", tmp_path / f"{TEMPORARY}1-page.html", tmp_path / ".partial-download"]
    for path in precious:
        path.touch()
    with pytest.raises(UserError, match="is not a dataset: choose a new folder"):
        record_maze(tmp_path, 1, settings=SETTINGS)
    assert sorted(tmp_path.iterdir()) == sorted(precious)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_recorder_that_is_killed_leaves_nothing_and_can_go_on(
    number: signal.Signals, undisturbed: Path, tmp_path: Path
) -> None:
    recorder = Recorder(tmp_path, OPTIONS)
    recorder.wait_for_an_episode_and_an_engine()
    recorder.process.send_signal(number)
    recorder.process.communicate()
    assert recorder.process.returncode in (-number, 130)
    recorder.assert_nothing_is_left()
    assert 0 < len(EpisodeDataset.create(recorder.out, EpisodeDataset.open(undisturbed).info).episodes()) < EPISODES
    record_maze(recorder.out, EPISODES, settings=SETTINGS, workers=2)
    assert tree(recorder.out) == tree(undisturbed)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_a_worker_that_is_killed_is_reported(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, OPTIONS)
    recorder.wait_for_an_episode_and_an_engine()
    os.kill(recorder.processes("maze.film")[0], signal.SIGKILL)
    _, errors = recorder.process.communicate()
    assert recorder.process.returncode == 2 and "a worker ended early" in errors
    recorder.assert_nothing_is_left()


def test_a_worker_names_the_file_it_cannot_write(tmp_path: Path) -> None:
    record_maze(tmp_path, 1, split="test", settings=SETTINGS)
    (tmp_path / "train").touch()  # where a folder has to be
    with pytest.raises(UserError, match=r"train_000000\.mp4 cannot be written"):
        record_maze(tmp_path, 2, settings=SETTINGS, workers=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 65}, "maze size is 65"),
        ({"cells": 1}, "maze cells is 1"),
        ({"difficulty": "hard"}, "'hard' is unknown"),
    ],
)
def test_settings_that_cannot_be(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MazeSettings(**settings)


def test_arguments_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="split 'dev' is unknown: choose train"):
        record_maze(tmp_path / "data", 1, split="dev")
    with pytest.raises(UserError, match="episodes is 0"):
        record_maze(tmp_path / "data", 0)
    with pytest.raises(UserError, match="seed is -1"):
        record_maze(tmp_path / "data", 1, seed=-1)
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(UserError, match="pip install vizdoom"):
        record_maze(tmp_path / "data", 1)
    assert not (tmp_path / "data").exists()


def test_the_path_to_python_may_have_a_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "a b" / "python"))
    script = launcher(Path("/bin/echo"), tmp_path)
    said = subprocess.run([script, "+viz_instance_id", "x"], capture_output=True, text=True, check=True)
    assert said.stdout == "+viz_instance_id x\n" and (tmp_path / INSTANCE).read_text() == "x"
