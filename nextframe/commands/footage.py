"""Commands that make and look at footage. What needs torch or an engine is imported when it is called for."""

from pathlib import Path
from typing import Literal

import tyro

from nextframe.hub import local_run
from nextframe.options import choose


def record(arguments: list[str]) -> None:
    """Record footage of a world: nextframe record maze --episodes 200 --out DATA"""
    choose("world", arguments, {"maze": _record_maze}, "nextframe record", {"maze": "random mazes in ViZDoom"})


def record_maze(
    out: Path,
    episodes: int = 200,
    split: Literal["train", "validation", "test", "demo"] = "train",
    seed: int = 0,
    difficulty: Literal["calm", "plain", "rich"] = "calm",
    cells: int = 3,
    frames: int = 300,
    size: int = 64,
    workers: int = 0,
) -> None:
    """Record random mazes in ViZDoom: an exploring agent, its actions and poses. Goes on where it stopped.

    Args:
        out: Folder of episodes to make, or to add to.
        episodes: Episodes of this split to have in the end.
        split: Splits never share a maze.
        seed: Another seed, other mazes.
        difficulty: calm has large patterns in soft colours; plain and rich have more and finer ones.
        cells: Junctions along one side of the maze.
        frames: Frames per episode.
        size: Height and width of a frame in pixels: 64, 128 or 256.
        workers: Engines at work at once; 0: one for each core.
    """
    from nextframe.worlds.maze.settings import MazeSettings
    from nextframe.worlds.record import record_maze as run

    run(out, episodes, split, seed, MazeSettings(difficulty, cells, frames, size), workers)


def _record_maze(arguments: list[str]) -> None:
    tyro.cli(record_maze, args=arguments, prog="nextframe record maze")


def inspect(data: tyro.conf.Positional[Path], out: Path | None = None) -> None:
    """Numbers, checks and a contact sheet of a folder of episodes.

    Args:
        data: Folder of episodes.
        out: Folder for the contact sheet; DATA if not given.
    """
    from nextframe.inspect import inspect as run

    run(data, out)


def encode(autoencoder: Path, data: Path, out: Path, mirrored: bool = False, device: str = "auto") -> None:
    """Turn footage into latents, once, to train a world model on. Goes on where it stopped.

    Args:
        autoencoder: Run of an autoencoder.
        data: Folder of episodes.
        out: Folder of latents to make, or to add to.
        mirrored: Encode every frame mirrored left to right too, to train with --clip.mirror.
        device: auto, cpu, cuda or cuda:N.
    """
    from nextframe.encode import encode as run

    run(local_run(autoencoder), data, out, device, mirrored)
