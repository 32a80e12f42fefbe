"""Another implementation of the same work, from a small file of the user's, to be timed in turns with ours."""

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from nextframe.architecture import TransformerConfig
from nextframe.errors import UserError


@dataclass(frozen=True)
class RivalWork:
    """What a rival is asked to do, beside the configuration of the model: the arguments of its `build`."""

    kind: str
    """train: one forward and backward pass a call; sample: the next frame of a rollout a call, transformer alone."""
    batch: int
    frames: int
    """Of a clip, or of our rollouts."""
    context: int
    """Frames a rollout goes on from; training: 0."""
    steps: int
    """Per frame; training: 0."""
    dtype: str
    """Of matrix products, by its name in torch."""
    device: str


@dataclass(frozen=True)
class Rival:
    """Another implementation, ready to do the same work."""

    name: str
    unit: Callable[[], object]
    """Does the work once."""

    @staticmethod
    def of(path: Path, work: RivalWork, config: TransformerConfig) -> "Rival":
        """Run the file, build what it has to offer, and let it warm up.

        Raises UserError when the file is missing or defines no `build`; what the file itself raises goes through.
        """
        if not path.is_file():
            raise UserError(f"--against {path} is not there: name a Python file (docs/speed.md)")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise UserError(f"--against {path} is no Python file: its name must end in .py (docs/speed.md)")
        module = importlib.util.module_from_spec(spec)
        # Our autocast must not reach into foreign code, which decides for itself.
        with torch.autocast(work_device(work), enabled=False):
            spec.loader.exec_module(module)
            build = getattr(module, "build", None)
            if not callable(build):
                raise UserError(f"--against {path} defines no function build(kind, config, ...): see docs/speed.md")
            unit: Any = build(config=asdict(config), **asdict(work))

        def alone() -> None:
            with torch.autocast(work_device(work), enabled=False):
                unit()

        for _ in range(2):
            alone()
        return Rival(path.stem, alone)


def work_device(work: RivalWork) -> str:
    """The kind of device, `cpu` or `cuda`."""
    return torch.device(work.device).type


def compared(rival: Rival | None, key: str, ours: list[float], theirs: list[float]) -> dict[str, Any] | None:
    """How many times as long the rival takes: by the medians, and the extremes of the pairs of turns."""
    if rival is None:
        return None
    pairs = [their / our for our, their in zip(ours, theirs, strict=True)]
    return {
        "name": rival.name,
        key: median(theirs),
        "ratio": median(theirs) / median(ours),
        "ratio_spread": [min(pairs), max(pairs)],
    }
