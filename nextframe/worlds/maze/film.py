"""A worker process that films mazes: `python -m nextframe.worlds.maze.film`, started by `worlds/record.py`."""

import tempfile
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from nextframe.data.episodes import DatasetInfo, Episode, EpisodeInfo, write_episode
from nextframe.data.production import Finished, Jobs, work
from nextframe.worlds.maze.engine import MazeCamera
from nextframe.worlds.maze.explorer import explore
from nextframe.worlds.maze.map import logged_poses, make_maze
from nextframe.worlds.maze.settings import MazeSettings

MAZES_PER_ENGINE = 200  # an engine starts in a third of a second; a maze takes 20 kB of its WAD


def film(seeds: list[int], settings: MazeSettings, folder: Path) -> Generator[Episode]:
    """One episode per seed, filmed with one engine that keeps its files in `folder`.

    extras: pose float32 [f, 3] is x, y in map units and the angle in degrees anticlockwise from east; grid uint8
    [2 cells + 1, 2 cells + 1] is 1 where one can walk.
    """
    mazes = [make_maze(seed, settings) for seed in seeds]
    with MazeCamera(mazes, settings, folder) as camera:
        for number, (seed, maze) in enumerate(zip(seeds, mazes, strict=True)):
            actions, poses = explore(seed, maze.grid, maze.start, settings)
            camera.enter(number)
            video = np.stack([camera.frame(pose) for pose in poses])
            extras = {"pose": logged_poses(poses), "grid": maze.grid.astype(np.uint8)}
            yield Episode(video, np.array(actions, np.int64), extras)


def film_jobs(
    folder: Path, dataset: DatasetInfo, shared: dict[str, Any], jobs: Jobs, scratch: Path
) -> Generator[EpisodeInfo | Finished]:
    """Write an episode per job, `MAZES_PER_ENGINE` with an engine."""
    settings, names = MazeSettings(**shared["settings"]), list(jobs)
    for first in range(0, len(names), MAZES_PER_ENGINE):
        group = names[first : first + MAZES_PER_ENGINE]
        seeds = [jobs[name]["seed"] for name in group]
        # Closed before an error is reported: the engine must not be ended in the middle of ending.
        with tempfile.TemporaryDirectory(dir=scratch) as own, closing(film(seeds, settings, Path(own))) as episodes:
            for name, seed, episode in zip(group, seeds, episodes, strict=True):
                yield write_episode(folder, dataset, name, shared["split"], episode, {"seed": seed})
                yield Finished(name)


if __name__ == "__main__":
    work(film_jobs)
