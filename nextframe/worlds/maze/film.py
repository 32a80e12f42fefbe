"""A worker process that films mazes: `python -m nextframe.worlds.maze.film`, started by `worlds/record.py`.

It is given a folder with `job.json`, and prints one JSON line per episode it has written. It ends its engine and
removes that folder when it is told to end (SIGTERM), and is told so by the kernel when the recorder is no more.
"""

import ctypes
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import IO, Any

import numpy as np

from nextframe.data.episodes import DatasetInfo, Episode, write_episode
from nextframe.errors import UserError
from nextframe.worlds.maze.engine import MazeCamera
from nextframe.worlds.maze.explorer import explore
from nextframe.worlds.maze.map import make_maze
from nextframe.worlds.maze.settings import HEADINGS, MazeSettings

MAZES_PER_ENGINE = 200  # an engine starts in a third of a second; a maze takes 20 kB of its WAD
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def film(seeds: list[int], settings: MazeSettings, folder: Path) -> Generator[Episode]:
    """One episode per seed, filmed with one engine that keeps its files in `folder`.

    extras: pose float32 [f, 3] is x, y in map units and the angle in degrees anticlockwise from east; grid uint8
    [2 cells + 1, 2 cells + 1] is 1 where one can walk.
    """
    mazes = [make_maze(seed, settings) for seed in seeds]
    with MazeCamera(mazes, settings, folder) as camera:
        for number, (seed, maze) in enumerate(zip(seeds, mazes, strict=True)):
            actions, poses = explore(seed, maze.grid, maze.start, settings.frames, settings.revisit)
            camera.enter(number)
            video = np.stack([camera.frame(pose) for pose in poses])
            angles = np.array(poses, np.float32) * np.array([1, 1, 360 / HEADINGS], np.float32)
            yield Episode(video, np.array(actions, np.int64), {"pose": angles, "grid": maze.grid.astype(np.uint8)})


def main() -> None:
    """Film the episodes of the job in the folder that is the first argument."""
    # The engine writes to standard output as well: keep the pipe to the recorder for this process alone.
    results = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, _end)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    scratch = Path(sys.argv[1])
    try:
        job = json.loads((scratch / "job.json").read_bytes())
        if os.getppid() != job["parent"]:
            sys.exit("the recorder that started this worker has ended")
        _work(job, scratch, results)
    except UserError as error:
        print(json.dumps({"error": str(error)}), file=results)
    finally:
        shutil.rmtree(scratch)


def _work(job: dict[str, Any], scratch: Path, results: IO[str]) -> None:
    """Write the job's episodes, `MAZES_PER_ENGINE` at a time, and report each."""
    settings, dataset = MazeSettings(**job["settings"]), DatasetInfo(**job["dataset"])
    for first in range(0, len(job["seeds"]), MAZES_PER_ENGINE):
        seeds = job["seeds"][first : first + MAZES_PER_ENGINE]
        names = job["names"][first : first + MAZES_PER_ENGINE]
        # Closed before an error is reported: the engine must not be ended in the middle of ending.
        with (
            tempfile.TemporaryDirectory(dir=scratch) as folder,
            closing(film(seeds, settings, Path(folder))) as episodes,
        ):
            for name, seed, episode in zip(names, seeds, episodes, strict=True):
                info = write_episode(Path(job["folder"]), dataset, name, job["split"], episode, {"seed": seed})
                print(json.dumps(asdict(info)), file=results)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
