"""A worker process that films an environment: `python -m nextframe.worlds.gym.film`, started by `gym/record.py`."""

import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from nextframe.data.episodes import DatasetInfo, Episode, EpisodeInfo, write_episode
from nextframe.data.production import Finished, Jobs, work
from nextframe.worlds.gym.policy import make_policy
from nextframe.worlds.gym.settings import GymSettings
from nextframe.worlds.gym.world import GymWorld

OF_POLICY = 1  # beside an episode's seed: the policy must not throw the same dice as the environment


def film(settings: GymSettings, seed: int, world_seed: int, folder: Path) -> Episode:
    """An episode, from an environment of its own: many keep something over a reset, and an episode must not depend on
    those before it, which another worker may have filmed.

    Every action recorded was taken. The last one led to a frame that is not recorded: an environment that has ended
    need not have one. extras: rewards float32 [f] and terminated bool [f], of the action taken at each frame.
    """
    generator = np.random.default_rng([seed, OF_POLICY])
    video, actions, rewards, terminated = [], [], [], []
    with GymWorld(settings, folder) as world:
        policy = make_policy(settings.policy, settings.hold)
        frame, ended = world.reset(world_seed), False
        while not ended and len(video) < settings.frames:
            action = policy(world, generator)
            video.append(frame)
            actions.append(action)
            frame, ended = world.step(action)
            rewards.append(world.reward)
            terminated.append(bool(world.terminated))
        numbers = np.array(actions, np.int64 if world.actions.kind == "id" else np.float32)
    extras = {"rewards": np.array(rewards, np.float32), "terminated": np.array(terminated)}
    return Episode(np.stack(video), numbers, extras)


def film_jobs(
    folder: Path, dataset: DatasetInfo, shared: dict[str, Any], jobs: Jobs, scratch: Path
) -> Generator[EpisodeInfo | Finished]:
    """Write an episode per job, unless it is too short."""
    settings = GymSettings(**shared["settings"])
    for name, job in jobs.items():
        with tempfile.TemporaryDirectory(dir=scratch) as own:
            episode = film(settings, job["seed"], job["world_seed"], Path(own))
        frames, refused = len(episode.video), ""
        if frames < settings.least_frames:
            refused = f"{frames} frames"
        else:
            meta = {"seed": job["seed"], "reward": float(episode.extras["rewards"].sum())}
            yield write_episode(folder, dataset, name, shared["split"], episode, meta)
        yield Finished(name, refused)


if __name__ == "__main__":
    work(film_jobs)
