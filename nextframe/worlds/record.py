"""Recording worlds: which episodes there shall be, each from its own seed."""

from pathlib import Path
from typing import Any

from nextframe.data.episodes import DatasetInfo, EpisodeDataset
from nextframe.data.production import Jobs, filling, produce
from nextframe.errors import UserError
from nextframe.files import sweep
from nextframe.worlds.vizdoom import clear_after_kill

SPLITS = ("train", "validation", "test", "demo")
SEEDS = 10**6  # recordings per split, and episodes per recording


def episode_seed(split: str, seed: int, index: int) -> int:
    """The seed of an episode. No two splits share one, so a held-out maze is never a training maze."""
    if split not in SPLITS:
        raise UserError(f"split {split!r} is unknown: choose {', '.join(SPLITS)}")
    if not 0 <= seed < SEEDS:
        raise UserError(f"seed is {seed}: choose 0 to {SEEDS - 1}")
    return (SPLITS.index(split) * SEEDS + seed) * SEEDS + index


def episode_jobs(episodes: int, split: str, seed: int) -> Jobs:
    """A job with a seed for each episode of a split, by its name. Raises UserError for numbers that cannot be."""
    if not 0 < episodes <= SEEDS:
        raise UserError(f"episodes is {episodes}: choose 1 to {SEEDS}")
    return {f"{split}_{index:06d}": {"seed": episode_seed(split, seed, index)} for index in range(episodes)}


def record_episodes(
    out: Path,
    info: DatasetInfo,
    film: str,
    settings: dict[str, Any],
    jobs: Jobs,
    split: str,
    workers: int,
) -> tuple[EpisodeDataset, dict[str, str]]:
    """Have those of `jobs` done by the worker module `film` whose episodes the dataset folder `out` lacks.

    The rest is as in `production.produce`. Returns the dataset, and why jobs were refused, by name.
    """
    with filling(out, info) as dataset:
        for folder in (dataset.folder, *(dataset.folder / name for name in SPLITS)):
            sweep(folder)  # only now: `create` has refused what is no dataset
        there = {info.name for info in dataset.episodes(split) if dataset.is_there(info)}
        left = {name: job for name, job in jobs.items() if name not in there}
        done = len(jobs) - len(left)
        shared = {"split": split, "settings": settings}
        refused = produce(f"record {split}", dataset, film, shared, left, done, workers, clear_after_kill)
    return dataset, refused
