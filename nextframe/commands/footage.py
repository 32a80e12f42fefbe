"""Commands that make and look at footage. What needs torch or an engine is imported when it is called for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nextframe.errors import counted
from nextframe.hub import local_run
from nextframe.options import FLAT, choose, say_next
from nextframe.worlds.maze.settings import ACTION_NAMES, USUAL_MAZES, Difficulty, MazeSettings

if TYPE_CHECKING:
    from nextframe.data.episodes import EpisodeDataset
    from nextframe.data.latents import LatentIndex

Split = Literal["train", "validation", "test", "demo"]
GYM = "gym:"
WORLDS = {
    "maze": "random mazes in ViZDoom",
    "play": "a person's walk, in the browser: --world maze (if not given) or gym:ENV_ID",
    f"{GYM}ENV_ID": "any Gymnasium environment with rgb frames: gym:ALE/Pong-v5, gym:CartPole-v1, gym:MODULE:ENV_ID",
}


def record(arguments: list[str]) -> None:
    """Record footage of a world: nextframe record maze --episodes 200 --out DATA"""
    if arguments and arguments[0].startswith(GYM):
        _record_environment(arguments[0].removeprefix(GYM), arguments[1:])
    else:
        choose("world", arguments, WORLDS, "nextframe record", _record_world)


def _record_world(name: str, arguments: list[str]) -> None:
    tyro.cli({"maze": record_maze, "play": record_play}[name], args=arguments, prog=f"nextframe record {name}")


def record_maze(
    out: Path,
    episodes: int = 200,
    split: Split = "train",
    seed: int = 0,
    settings: Annotated[MazeSettings, FLAT] = USUAL_MAZES,
    workers: int = 0,
) -> None:
    """Record random mazes in ViZDoom: an exploring agent, its actions and poses. Goes on where it stopped.

    Args:
        out: Folder of episodes to make, or to add to.
        episodes: Episodes of this split to have in the end.
        split: Splits never share a maze.
        seed: Another seed, other mazes.
        settings: How they are made.
        workers: Engines at work at once; 0: one for each core.
    """
    from nextframe.worlds.maze.record import record_maze as run

    _recorded(run(out, episodes, split, seed, settings, workers))


def record_play(
    world: str = "maze",
    size: int = 64,
    difficulty: Difficulty | None = None,
    cells: int | None = None,
    fit: Literal["crop", "squeeze"] | None = None,
    fps: float | None = None,
    action_repeat: int | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    sessions: int = 16,
    browser: bool = True,
) -> None:
    """Walk in the real engine in the browser, and save the walk as an episode: nextframe record play

    Args:
        world: maze or gym:ENV_ID.
        size: Height and width of a frame.
        difficulty: Of a maze, as in record maze; calm if not given.
        cells: Junctions along one side of a maze; 3 if not given.
        fit: How an environment's picture is made square, as in record gym; crop if not given.
        fps: Frames per second of an environment; its own, divided by --action-repeat, if not given.
        action_repeat: Steps of an environment per frame; 1 if not given.
        host: Address to listen at. Any but this machine's own asks for the token that is printed.
        port: Port to listen at.
        sessions: Visitors at once; others are told to come later.
        browser: Open the browser.
    """
    from nextframe.commands.play import play_world

    chosen = {"size": size, "difficulty": difficulty, "cells": cells}
    chosen |= {"fit": fit, "fps": fps, "action_repeat": action_repeat}
    play_world(world, chosen, host, port, sessions, browser)


def _record_environment(environment: str, arguments: list[str]) -> None:
    from nextframe.worlds.gym.record import record_gym as run
    from nextframe.worlds.gym.settings import GymSettings

    usual = GymSettings(environment)

    def record_gym(
        out: Path,
        episodes: int = 200,
        split: Split = "train",
        seed: int = 0,
        settings: Annotated[GymSettings, FLAT] = usual,
        workers: int = 0,
    ) -> None:
        """Record a Gymnasium environment: frames, actions and rewards. Goes on where it stopped. See docs/footage.md.

        Args:
            out: Folder of episodes to make, or to add to.
            episodes: Episodes of this split to have in the end.
            split: Splits never share a seed.
            seed: Another seed, other episodes.
            settings: How they are made.
            workers: Environments at work at once; 0: one for each core.
        """
        _recorded(run(out, episodes, settings, split, seed, workers))

    tyro.cli(record_gym, args=arguments, prog=f"nextframe record {GYM}{environment}")


def _recorded(dataset: "EpisodeDataset") -> None:
    infos = dataset.episodes()
    print(f"{counted(len(infos), 'episode')}, {sum(info.frames for info in infos):,} frames in {dataset.folder}")
    say_next("look at them", "inspect", dataset.folder)


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
        device: auto (every GPU, or the processor), cpu, cuda:N, or several: cuda:0,cuda:1.
    """
    from nextframe.encode import encode as run

    index = run(local_run(autoencoder), data, out, device, mirrored)
    psnr = [episode.psnr for episode in index.episodes if episode.psnr is not None]
    like = f", decoded at {sum(psnr) / len(psnr):.1f} dB" if psnr else ""
    frames = sum(episode.frames for episode in index.episodes)
    print(f"{counted(len(index.episodes), 'episode')}, {frames:,} frames of latents{like}")
    say_training(index, out)


def say_training(index: "LatentIndex", latents: Path) -> None:
    """The command that learns from these latents: by the preset of mazes, with its compass, or of other footage."""
    from nextframe.clips import options_for
    from nextframe.presets import FOOTAGE, MAZE

    maze = index.action_names == ACTION_NAMES
    options = options_for(index, MAZE if maze else FOOTAGE)
    say_next("train on them", "train", "maze" if maze else "footage", "--data", latents, "--out", "RUN", *options)
