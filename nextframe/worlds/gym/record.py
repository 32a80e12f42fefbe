"""Recording an environment: what it is asked before, and what is said after."""

from dataclasses import asdict
from pathlib import Path

from nextframe.data.episodes import DatasetInfo, EpisodeDataset
from nextframe.errors import UserError
from nextframe.worlds.gym.policy import find_policy
from nextframe.worlds.gym.settings import RANDOM, GymSettings
from nextframe.worlds.gym.world import GymWorld
from nextframe.worlds.record import SEEDS, SPLITS, episode_jobs, record_episodes

FILM = "nextframe.worlds.gym.film"
WORLD_SEEDS = 2**31 // len(SPLITS)


def world_seed(split: str, seed: int) -> int:
    """What an environment is reset with, given `episode_seed`: many take no seed of more than 31 bits.

    No two splits share one, nor two episodes of one recording.
    """
    return SPLITS.index(split) * WORLD_SEEDS + seed % (SEEDS * SEEDS) % WORLD_SEEDS


def record_gym(
    out: Path, episodes: int, settings: GymSettings, split: str = "train", seed: int = 0, workers: int = 0
) -> EpisodeDataset:
    """Record episodes of an environment into the dataset folder `out`, and go on where an earlier call stopped.

    episodes: how many of this split there shall be; those whose files are there already are kept, those that end too
        early (`settings.least_frames`) are kept out and not made up for.
    seed: another one gives other episodes; one dataset has one seed.
    workers: processes, 0 for one per core.
    Raises UserError when the environment or the policy cannot be had, all episodes are too short, `out` is something
    else, a setting is wrong or the disk is full.
    """
    jobs = {
        name: {**job, "world_seed": world_seed(split, job["seed"])}
        for name, job in episode_jobs(episodes, split, seed).items()
    }
    if settings.policy != RANDOM:
        find_policy(settings.policy)
    with GymWorld(settings, Path()) as world:  # never reset, so it starts no engine and leaves no files
        fps, actions = world.fps, world.actions
    source = {"world": "gym", **asdict(settings), "fps": fps, "seed": seed}
    info = DatasetInfo(fps, settings.size, actions.names, source, actions.kind)
    dataset, short = record_episodes(out, info, FILM, asdict(settings), jobs, split, workers)
    kept = dataset.episodes(split)
    if short:
        line = f"{len(short)} of {episodes} episodes ended before frame {settings.least_frames} and are kept out"
        way_out = "choose a smaller --least-frames, or a policy that lasts longer"
        if not kept:
            raise UserError(f"{line}: {way_out}")
        print(f"{line} ({next(iter(short))} after {next(iter(short.values()))}); {way_out}")
    different = len({dataset.digest(episode) for episode in kept})
    if different < len(kept):
        print(f"only {different} of {len(kept)} episodes differ: neither environment nor policy makes much of a seed")
    return dataset
