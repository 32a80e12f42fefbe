"""Recording in parallel: workers write episodes, this process lists them, and nothing is lost or left behind."""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from nextframe.data.episodes import DatasetInfo, EpisodeDataset, parse_episode_info
from nextframe.errors import UserError
from nextframe.files import sole_writer, sweep
from nextframe.progress import Advance, progress
from nextframe.worlds.maze.engine import clear_after_kill, load_vizdoom
from nextframe.worlds.maze.settings import ACTION_NAMES, FRAMES_PER_SECOND, REVISION, MazeSettings

SPLITS = ("train", "validation", "test", "demo")
SEEDS = 10**6  # recordings per split, and episodes per recording
SAVE_EVERY_SECONDS = 2.0
PATIENCE_SECONDS = 5.0


def episode_seed(split: str, seed: int, index: int) -> int:
    """The seed of an episode. No two splits share one, so a held-out maze is never a training maze."""
    if split not in SPLITS:
        raise UserError(f"split {split!r} is unknown: choose {', '.join(SPLITS)}")
    if not 0 <= seed < SEEDS:
        raise UserError(f"seed is {seed}: choose 0 to {SEEDS - 1}")
    return (SPLITS.index(split) * SEEDS + seed) * SEEDS + index


USUAL_MAZES = MazeSettings()


def record_maze(
    out: Path,
    episodes: int,
    split: str = "train",
    seed: int = 0,
    settings: MazeSettings = USUAL_MAZES,
    workers: int = 0,
) -> EpisodeDataset:
    """Record episodes of ViZDoom mazes into the dataset folder `out`, and go on where an earlier call stopped.

    episodes: how many of this split there shall be; those whose files are there already are kept.
    seed: another one gives other mazes; one dataset has one seed.
    workers: processes, 0 for one per core.
    Raises UserError when ViZDoom is not installed, `out` is something else, a setting is wrong or the disk is full.
    """
    load_vizdoom()
    if workers < 0:
        raise UserError(f"workers is {workers}: choose a number of processes, or 0 for one per core")
    if not 0 < episodes <= SEEDS:
        raise UserError(f"episodes is {episodes}: choose 1 to {SEEDS}")
    seeds = {f"{split}_{index:06d}": episode_seed(split, seed, index) for index in range(episodes)}
    source = {"world": "maze", "revision": REVISION, "seed": seed, **asdict(settings)}
    with sole_writer(Path(out)):
        dataset = EpisodeDataset.create(out, DatasetInfo(FRAMES_PER_SECOND, settings.size, ACTION_NAMES, source))
        for folder in (dataset.folder, *(dataset.folder / name for name in SPLITS)):
            sweep(folder)  # only now: `create` has refused what is no dataset
        missing = _missing(dataset, split, list(seeds))
        count = min(workers or os.cpu_count() or 1, len(missing))
        job = {"parent": os.getpid(), "folder": str(out), "split": split}
        job |= {"dataset": asdict(dataset.info), "settings": asdict(settings)}
        shares = [missing[worker::count] for worker in range(count)]
        jobs = [{**job, "names": names, "seeds": [seeds[name] for name in names]} for names in shares]
        with progress(f"record {split}", episodes, episodes - len(missing)) as advance, _workers(jobs) as results:
            _collect(dataset, results, advance)
    if left := _missing(dataset, split, missing):
        raise UserError(f"a worker ended early, {len(left)} episodes are missing: see above, and run it again to go on")
    return dataset


def _missing(dataset: EpisodeDataset, split: str, names: list[str]) -> list[str]:
    """Which of these episodes are not listed, or have lost a file."""
    there = {info.name for info in dataset.episodes(split) if dataset.is_there(info)}
    return [name for name in names if name not in there]


def _collect(dataset: EpisodeDataset, results: IO[str], advance: Advance) -> None:
    """List each episode as its worker reports it, until all workers have ended."""
    saved = -math.inf
    try:
        for line in results:
            entry = json.loads(line)
            if "error" in entry:
                raise UserError(entry["error"])
            dataset.register(parse_episode_info(entry))
            advance()
            if time.monotonic() - saved > SAVE_EVERY_SECONDS:
                dataset.save()
                saved = time.monotonic()
    finally:
        dataset.save()


@contextmanager
def _workers(jobs: list[dict[str, Any]]) -> Iterator[IO[str]]:
    """Run a film worker per job, and yield the lines they print. On leaving, those that still run are ended."""
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    workers: list[tuple[subprocess.Popen[bytes], Path]] = []
    read_end, write_end = os.pipe()  # shared: a line is shorter than what a pipe takes at once, so lines never mix
    results = os.fdopen(read_end)
    try:
        for job in jobs:
            scratch = Path(tempfile.mkdtemp(prefix="nextframe-"))
            (scratch / "job.json").write_text(json.dumps(job))
            # -P: modules are not looked for in the working directory.
            command = [sys.executable, "-P", "-m", "nextframe.worlds.maze.film", str(scratch)]
            # A session of its own, so that Ctrl-C reaches the recorder only, which then ends the workers.
            process = subprocess.Popen(command, stdout=write_end, env=environment, start_new_session=True)
            workers.append((process, scratch))
        os.close(write_end)
        yield results
    finally:
        for process, _ in workers:
            process.terminate()
        for process, scratch in workers:
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if scratch.exists():  # the worker was killed
                clear_after_kill(scratch)
                shutil.rmtree(scratch)
        results.close()
