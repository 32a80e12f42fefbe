"""The demo: the shipped model, or the whole loop from nothing, on mazes nobody has seen; and a report.

Every stage is a verb that a user can call alone, and every verb goes on where it stopped; so does the demo.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from nextframe.checkpoint import CONFIG
from nextframe.config import Protocol, TokenizerConfig, WorldModelConfig
from nextframe.configfile import read_config
from nextframe.encode import encode
from nextframe.errors import UserError
from nextframe.evaluate import evaluate
from nextframe.parallel import resolve_device
from nextframe.presets import AUTOENCODER_MAZE, MAZE
from nextframe.progress import clock
from nextframe.recipes import train_preset
from nextframe.report import write_report
from nextframe.train import fraction_done
from nextframe.worlds.record import record_maze

PRETRAINED = Path(__file__).parent / "pretrained" / "maze"
PROTOCOL = Protocol(context=144, frames=156, episodes=8, split="demo")
SEED = 0


@dataclass
class Stages:
    """Wall-clock seconds of each stage, for the report."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started


def demo_default(out: Path, episodes: int, device: str) -> None:
    """Record fresh mazes, predict them with the shipped model, write OUT/report.html."""
    if not (PRETRAINED / CONFIG).exists():
        raise UserError(f"the default model is missing ({PRETRAINED}): install nextframe again, or use demo --train")
    _demo(out, PRETRAINED, episodes, device, Stages())
