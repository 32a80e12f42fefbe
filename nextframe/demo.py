"""The demo: the shipped model, or the whole loop from nothing, on mazes nobody has seen; and a report.

Every stage is a verb that can be called alone, and goes on where it stopped; so does the demo.
"""

import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from nextframe.checkpoint import CONFIG
from nextframe.config import TrainConfig
from nextframe.devices import resolve_device
from nextframe.encode import encode
from nextframe.errors import UserError, reason_of
from nextframe.evaluate import evaluate
from nextframe.files import read_json, refuse_taken, write_json
from nextframe.options import program
from nextframe.pages.report import write_report
from nextframe.presets import AUTOENCODER_MAZE, MAZE, PRETRAINED, PROTOCOLS
from nextframe.progress import clock
from nextframe.protocol import Protocol
from nextframe.recipes import train_preset
from nextframe.worlds.maze.record import record_maze

N = TypeVar("N")
PROTOCOL = PROTOCOLS["demo"]
SHARES = {"autoencoder": 0.30, "encode": 0.10, "world": 0.43}
"""Of the time `demo --train` has; what is left over is for recording, predicting and the report."""
ENCODED_PER_SECOND = {"cpu": 1.8, "cuda": 40.0}
"""Episodes of 300 frames, measured on two cores; on a GPU reading the footage is what takes the time."""
FEWEST_EPISODES = 16
LONG_BUDGET = 3600.0
"""Seconds. With less, on a CPU, there is no time for the preset's clips: up to 64 frames are learnt and asked for."""
SHORT_PROTOCOL = Protocol(context=32, frames=32, episodes=8, split="demo")


class StageTimes:
    """Seconds each stage took until it was finished, over all calls: kept in a file beside what they made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spent = _note(path, {}, _stages)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        stage = self._spent.setdefault(name, {"seconds": 0.0, "finished": 0})
        started = time.monotonic()
        finished_before = stage["finished"]
        try:
            yield
            stage["finished"] = 1
        finally:
            if not finished_before:
                stage["seconds"] += time.monotonic() - started
                write_json(self._path, self._spent)

    @property
    def seconds(self) -> dict[str, float]:
        return {name: stage["seconds"] for name, stage in self._spent.items()}


def _note(path: Path, new: N, checked: Callable[[Any], N]) -> N:
    """What is noted in a file, or `new` where it is not there. Raises UserError when it is damaged."""
    try:
        return checked(read_json(path))
    except FileNotFoundError:
        return new
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is damaged ({reason_of(error)}): delete it, and run the demo again") from error


def _stages(noted: Any) -> dict[str, dict[str, float]]:
    return {name: {key: float(stage[key]) for key in ("seconds", "finished")} for name, stage in noted.items()}


def demo(out: Path, episodes: int, device: str) -> Path:
    """Record mazes that are new to the shipped model, predict them, and write OUT/report.html."""
    if not (PRETRAINED / CONFIG).exists():
        raise UserError(f"the default model is missing ({PRETRAINED}): install nextframe again, or use demo --train")
    _check(episodes)
    refuse_taken(out, "a demo")
    resolve_device(device)  # better missing now than after the mazes are recorded
    return show(out, PRETRAINED, replace(PROTOCOL, episodes=episodes), device, {})


def _check(episodes: int) -> None:
    if episodes < 1:
        raise UserError(f"--episodes is {episodes}: it must be at least 1")


def demo_train(out: Path, seconds: float, episodes: int, device: str) -> Path:
    """The whole loop in about `seconds`: record, train an autoencoder, encode, train a world model, predict, report."""
    if seconds < 30:
        raise UserError(f"--budget {clock(seconds)} is too short for the whole loop: give it at least 30s, better 10m")
    _check(episodes)
    refuse_taken(out, "a demo")
    same_budget(out, seconds)
    episodes = min(episodes, max(2, int(seconds / 60)))  # predicting has to fit into the budget too
    target, stages = resolve_device(device).type, StageTimes(out / "stages.json")
    count = max(FEWEST_EPISODES, int(seconds * SHARES["encode"] * ENCODED_PER_SECOND[target]))
    footage, latents, autoencoder, world = (
        out / name for name in ("training-footage", "latents", "autoencoder", "world")
    )
    with stages("record"):
        record_maze(footage, count)
    with stages("train the autoencoder"):
        train_preset(
            replace(AUTOENCODER_MAZE, train=within(AUTOENCODER_MAZE.train, seconds * SHARES["autoencoder"], device)),
            footage,
            autoencoder,
        )
    with stages("encode"):
        encode(autoencoder, footage, latents, device)
    short = target == "cpu" and seconds < LONG_BUDGET
    protocol = SHORT_PROTOCOL if short else PROTOCOL
    with stages("train the world model"):
        train = within(MAZE.train, seconds * SHARES["world"], device)
        clip = replace(MAZE.clip, frames=protocol.context + protocol.frames) if short else MAZE.clip
        train_preset(replace(MAZE, clip=clip, train=train), latents, world)
    return show(
        out, world, replace(protocol, episodes=episodes), device, {"Autoencoder": autoencoder, "World model": world}
    )


def within(train: TrainConfig, seconds: float, device: str) -> TrainConfig:
    """The same training, for so many seconds instead of steps."""
    optimizer = replace(train.optimizer, warmup_steps=30)
    return replace(
        train, minutes=seconds / 60, steps=10**6, device=device, log_every=5, examine_minutes=None, optimizer=optimizer
    )


def same_budget(out: Path, seconds: float) -> None:
    """A run that was begun with another budget has its stages shared out differently: refuse to mix them."""
    path = out / "budget.json"
    if (before := _note(path, seconds, float)) != seconds:
        raise UserError(f"{out} was begun with --budget {before:.0f}s: use that, or another --out")
    write_json(path, seconds)


def show(out: Path, model: Path, protocol: Protocol, device: str, runs: dict[str, Path]) -> Path:
    """Predict fresh mazes with `model` and write the report."""
    footage, stages = out / "footage", StageTimes(out / "stages.json")
    with stages("record fresh mazes"):
        record_maze(footage, protocol.episodes, "demo")
    with stages("predict"):
        results = evaluate(protocol, model, footage, out, device)
    commands = what_next(out, model, protocol)
    told = stages.seconds  # but for the report, which cannot know what it will take
    with stages("write the report"):
        report = write_report(out / "report.html", results, out, footage, runs, told, commands)
    lead = results.scores["model"]["psnr"]
    print(f"{clock(sum(stages.seconds.values()))} in all, {lead.early.mean:.1f} dB over the first frames: see {report}")
    print(f"walk in it: {commands[0][1]}")
    return report


def what_next(out: Path, model: Path, protocol: Protocol) -> list[tuple[str, str]]:
    """Commands to type after the demo."""
    here = program()
    model, data = (Path(os.path.relpath(path)) for path in (model, out / "footage"))
    given = f"--model {shlex.quote(str(model))} --data {shlex.quote(str(data))}"
    asked = f"--context {protocol.context} --frames {protocol.frames} --episodes {protocol.episodes}"
    dream = f"{here} sample {given} --split demo {asked} --steps 25 --out runs/sample"
    score = f"{here} evaluate maze --model {shlex.quote(str(model))} --data data/maze --out runs/evaluation"
    return [
        ("Walk in it, in the browser", f"{here} play {given}"),
        ("Look at the footage", f"{here} inspect {shlex.quote(str(data))}"),
        ("Dream with more steps a frame", dream),
        ("Record mazes of your own to score it on", f"{here} record maze --episodes 64 --split test --out data/maze"),
        ("And others, to learn to read actions off pictures from", f"{here} record maze --episodes 24 --out data/maze"),
        ("Score it on them", score),
        ("Train everything yourself, in an hour", f"{here} demo --train --budget 1h --out runs/mine"),
    ]
