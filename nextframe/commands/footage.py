"""Commands that make and look at footage. What needs torch or an engine is imported when it is called for."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from nextframe.errors import counted
from nextframe.hub import local_run
from nextframe.options import choose, say_next

if TYPE_CHECKING:
    from nextframe.data.episodes import EpisodeDataset
    from nextframe.data.latents import LatentIndex

GYM = "gym:"
WORLDS = {
    "maze": "random mazes in ViZDoom",
    "play": "a person's walk, in the browser: --world maze (if not given) or gym:ENV_ID",
    f"{GYM}ENV_ID": "any Gymnasium environment with rgb frames: gym:ALE/Pong-v5, gym:CartPole-v1, gym:MODULE:ENV_ID",
}


def record(arguments: list[str]) -> None:
    """Record footage of a world: nextframe record maze --episodes 200 --out DATA"""
    if arguments and arguments[0].startswith(GYM):
        _record_world(arguments[0], arguments[1:])
    else:
        choose("world", arguments, WORLDS, "nextframe record", _record_world)


def _record_world(name: str, arguments: list[str]) -> None:
    recorders = {"maze": record_maze, "play": record_play}
    recorder = recorders.get(name) or partial(record_gym, name.removeprefix(GYM))
    tyro.cli(recorder, args=arguments, prog=f"nextframe record {name}")


def record_maze(
    out: Path,
    episodes: int = 200,
    split: Literal["train", "validation", "test", "demo"] = "train",
    seed: int = 0,
    difficulty: Literal["calm", "plain", "rich"] = "calm",
    cells: int = 3,
    frames: int = 300,
    size: int = 64,
    linger: float = 0.0,
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
        linger: Probability, before each turn, step or goal, that the explorer first looks around: views come back soon.
        workers: Engines at work at once; 0: one for each core.
    """
    from nextframe.worlds.maze.settings import MazeSettings
    from nextframe.worlds.record import record_maze as run

    _recorded(run(out, episodes, split, seed, MazeSettings(difficulty, cells, frames, size, linger=linger), workers))


def record_play(
    world: str = "maze",
    size: int = 64,
    difficulty: Literal["calm", "plain", "rich"] | None = None,
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


def record_gym(
    environment: str,
    out: Path,
    episodes: int = 200,
    split: Literal["train", "validation", "test", "demo"] = "train",
    seed: int = 0,
    frames: int = 300,
    least_frames: int = 16,
    size: int = 64,
    fit: Literal["crop", "squeeze"] = "crop",
    fps: float | None = None,
    action_repeat: int = 1,
    policy: str = "random",
    hold: float = 8.0,
    workers: int = 0,
) -> None:
    """Record a Gymnasium environment: its frames, actions and rewards. Goes on where it stopped. See docs/footage.md.

    Args:
        environment: ID of the environment; MODULE:ENV_ID imports MODULE first, here or installed.
        out: Folder of episodes to make, or to add to.
        episodes: Episodes of this split to have in the end.
        split: Splits never share a seed.
        seed: Another seed, other episodes.
        frames: Frames per episode, at most; one that the environment ends is shorter.
        least_frames: Shorter episodes are kept out.
        size: Height and width of a frame in pixels.
        fit: crop keeps the middle square of the picture; squeeze keeps all of it, as Atari games need.
        fps: Frames per second of the video; if not given, the environment's, divided by --action-repeat.
        action_repeat: Steps of the environment per frame, all with the same action.
        policy: random, or MODULE:FUNCTION, which is given (observation, info, generator) and returns an action.
        hold: Frames that the random policy keeps to an action, on average.
        workers: Environments at work at once; 0: one for each core.
    """
    from nextframe.worlds.gym.record import record_gym as run
    from nextframe.worlds.gym.settings import GymSettings

    settings = GymSettings(environment, frames, least_frames, size, fit, fps, action_repeat, policy, hold)
    _recorded(run(out, episodes, settings, split, seed, workers))


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
    from nextframe.worlds.maze.settings import ACTION_NAMES

    maze = index.action_names == ACTION_NAMES
    options = options_for(index, MAZE if maze else FOOTAGE)
    say_next("train on them", "train", "maze" if maze else "footage", "--data", latents, "--out", "RUN", *options)
