"""Recording mazes."""

from dataclasses import asdict
from pathlib import Path

from nextframe.data.episodes import DatasetInfo, EpisodeDataset
from nextframe.worlds.maze.settings import ACTION_NAMES, FRAMES_PER_SECOND, USUAL_MAZES, MazeSettings, source_of
from nextframe.worlds.record import episode_jobs, record_episodes
from nextframe.worlds.vizdoom import load_vizdoom

FILM = "nextframe.worlds.maze.film"


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
    jobs = episode_jobs(episodes, split, seed)
    source = {**source_of(settings), "seed": seed}
    info = DatasetInfo(FRAMES_PER_SECOND, settings.size, ACTION_NAMES, source)
    dataset, _ = record_episodes(out, info, FILM, asdict(settings), jobs, split, workers)
    return dataset
