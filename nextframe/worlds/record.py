"""Recording mazes: which episodes there shall be, each from its own seed."""

from dataclasses import asdict
from pathlib import Path

from nextframe.data.episodes import DatasetInfo, EpisodeDataset
from nextframe.data.production import Jobs, produce
from nextframe.errors import UserError
from nextframe.files import sole_writer, sweep
from nextframe.worlds.maze.engine import clear_after_kill, load_vizdoom
from nextframe.worlds.maze.settings import ACTION_NAMES, FRAMES_PER_SECOND, REVISION, MazeSettings

SPLITS = ("train", "validation", "test", "demo")
SEEDS = 10**6  # recordings per split, and episodes per recording
FILM = "nextframe.worlds.maze.film"


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
    if not 0 < episodes <= SEEDS:
        raise UserError(f"episodes is {episodes}: choose 1 to {SEEDS}")
    seeds = {f"{split}_{index:06d}": episode_seed(split, seed, index) for index in range(episodes)}
    source = {"world": "maze", "revision": REVISION, "seed": seed, **asdict(settings)}
    with sole_writer(Path(out)):
        dataset = EpisodeDataset.create(out, DatasetInfo(FRAMES_PER_SECOND, settings.size, ACTION_NAMES, source))
        for folder in (dataset.folder, *(dataset.folder / name for name in SPLITS)):
            sweep(folder)  # only now: `create` has refused what is no dataset
        there = {info.name for info in dataset.episodes(split) if dataset.is_there(info)}
        jobs: Jobs = {name: {"seed": seed} for name, seed in seeds.items() if name not in there}
        shared = {"split": split, "settings": asdict(settings)}
        done = episodes - len(jobs)
        produce(f"record {split}", dataset, FILM, shared, jobs, done, workers, clear_after_kill)
    return dataset
