"""What a run tells of itself: `metrics.jsonl`, a line every few steps, and the boards that draw it elsewhere."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from nextframe import ranks
from nextframe.checkpoint import CONFIG
from nextframe.config import TrainConfig
from nextframe.configfile import read_config
from nextframe.devices import matrix_rate, peak_memory
from nextframe.errors import UserError
from nextframe.files import described, write_atomically, writing
from nextframe.objective import Inputs
from nextframe.pieces import Position

Record = dict[str, float]
"""A line of the log: figures by name, `step` always among them."""
Examination = Callable[[dict[str, Tensor], int], Record]
"""Looks at what a run can do, given its averaged weights, whole and on the CPU, and the step: returns figures, and may
leave files in the run."""
METRICS = "metrics.jsonl"
WANDB_ID = "wandb-id"
GROUPS = {
    "weights": ("gradient_norm", "weight_norm", "average_distance", "learning_rate", "skipped"),
    "speed": ("seconds_per_step", "samples_per_second", "tflops", "machine_share", "data_wait", "memory_gib"),
    "clock": ("step", "seconds", "examine_seconds"),
}
"""How boards sort the figures; all others are losses."""


class Meter:
    """How fast steps are, what they wait for, and how much of the machine they use."""

    def __init__(
        self, flops: Callable[[Inputs], int] | None, samples: int, device: torch.device, precision: torch.dtype
    ) -> None:
        """`flops` of a step, where they can be counted; `samples`: of a batch. Both of all processes together."""
        self._flops = flops if ranks.rank() == 0 else None
        self._samples, self._device = samples, device
        self._rate = 0.0 if self._flops is None else ranks.world_size() * _rate_of(device, precision)
        self._waited, self._done = 0.0, 0

    def next(self, batches: Iterator[Inputs]) -> Inputs:
        """The next of the batches; the time until it is there counts as waiting."""
        started = time.monotonic()
        inputs = next(batches)
        self._waited += time.monotonic() - started
        self._done += 0 if self._flops is None else self._flops(inputs)
        return inputs

    def figures(self, position: Position, before: Position) -> Record:
        """What was measured since this was asked last, at the position `before`."""
        steps, seconds = position.step - before.step, max(position.seconds - before.seconds, 1e-9)
        record = {
            "seconds": position.seconds,
            "seconds_per_step": seconds / steps,
            "samples_per_second": self._samples * steps / seconds,
            "data_wait": self._waited / seconds,
            "memory_gib": peak_memory(self._device) / 2**30,
        }
        if self._flops is not None:
            tflops = self._done / seconds / 1e12
            record |= {"tflops": tflops, "machine_share": tflops / self._rate}
        self._waited, self._done = 0.0, 0
        return record


@cache
def _rate_of(device: torch.device, precision: torch.dtype) -> float:
    """Measured once in a process: it takes a second."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        rate = matrix_rate(device, precision)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # its matrices are no part of what training takes
    return rate


@contextmanager
def metrics_log(run: Path, step: int, config: TrainConfig) -> Iterator[Callable[[Record], None]]:
    """Append to `metrics.jsonl`, to TensorBoard's events where that is installed, and to wandb if it is asked for.

    What a run that was killed logged after its last checkpoint, `step`, is dropped: those steps are taken again. What
    is not a number is left out: JSON could not hold it. Of several processes the first keeps the log.
    """
    if ranks.rank() != 0:
        yield lambda record: None
        return
    path = run / METRICS
    with writing(path):
        run.mkdir(parents=True, exist_ok=True)
    if path.exists():
        kept = [line for line in _lines(path) if (record := _record(line)) and record["step"] <= step]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
    with _tensorboard(run, step) as draw, _wandb(run, config) as send:

        def log(record: Record) -> None:
            record = {name: value for name, value in record.items() if math.isfinite(value)}
            with writing(path), path.open("a") as file:  # opened each time: on a full disk closing fails too
                file.write(json.dumps(record) + "\n")
            tagged = {_tag(name): value for name, value in record.items() if name != "step"}
            draw(tagged, int(record["step"]))
            send(tagged, int(record["step"]))

        yield log


def read_log(run: Path) -> list[Record]:
    """The records of a run by step, those of one step together; none where it has only begun. Raises UserError for
    what is no run."""
    path = run / METRICS
    try:
        begun = (run / CONFIG).exists() and not path.exists()
        records = [] if begun else _records(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read, {run} {described(run)}: name a run that has been trained") from error
    by_step: dict[float, Record] = {}
    for record in records:
        by_step[record["step"]] = {**by_step.get(record["step"], {}), **record}
    return [by_step[step] for step in sorted(by_step)]


def newest_with(figure: str, run: Path) -> Record:
    """The newest record that has a figure; empty where there is none."""
    records = _records(run / METRICS) if (run / METRICS).exists() else []
    return next((record for record in reversed(records) if figure in record), {})


def _records(path: Path) -> list[Record]:
    """Those of a log; a line that was cut short counts for nothing."""
    return [record for line in _lines(path) if (record := _record(line))]


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()


LARGEST_STEP = 2**53
"""Beyond it a number is no count any more."""


def _record(line: str) -> Record | None:
    """The figures of a line of the log that are numbers; None of one that a kill cut short."""
    try:
        record = {name: float(value) for name, value in json.loads(line).items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    record = {name: value for name, value in record.items() if math.isfinite(value)}
    return record if abs(record.get("step", math.inf)) < LARGEST_STEP else None


def _tag(name: str) -> str:
    group = next((group for group, names in GROUPS.items() if name in names), "loss")
    return f"{group}/{name}"


Draw = Callable[[Record, int], None]
"""Is given figures by tag, and the step."""


def _nowhere(record: Record, step: int) -> None:
    """A board that is not there."""


@contextmanager
def _tensorboard(run: Path, step: int) -> Iterator[Draw]:
    """Its writer keeps what is newest to itself, so it is closed however the run ends."""
    if find_spec("tensorboard") is None:
        yield _nowhere
        return
    from torch.utils.tensorboard import SummaryWriter

    folder = run / "tensorboard"
    with writing(folder):
        board = SummaryWriter(str(folder), purge_step=step + 1)

    def draw(record: Record, step: int) -> None:
        with writing(folder):
            for tag, value in record.items():
                board.add_scalar(tag, value, step)

    try:
        yield draw
    finally:
        with writing(folder):
            board.close()


def check_wandb(config: TrainConfig) -> None:
    """Raises UserError when wandb is asked for and missing."""
    if config.wandb is not None:
        _wandb_module()


def _wandb_module() -> Any:
    try:
        return import_module("wandb")
    except ImportError:
        raise UserError("--train.wandb needs wandb, which is missing: pip install 'nextframe[wandb]'") from None


@contextmanager
def _wandb(run: Path, config: TrainConfig) -> Iterator[Draw]:
    """A run at wandb; gone on with, it is the same one there. What ends with an error is marked as such."""
    if config.wandb is None:
        yield _nowhere
        return
    wandb, kept = _wandb_module(), run / WANDB_ID
    if not kept.exists():
        write_atomically(kept, uuid4().hex[:12].encode())
    # Of a task of somebody's own there is no more than this.
    whole = read_config(run / CONFIG) if (run / CONFIG).exists() else config
    settings = {"project": config.wandb, "name": run.name, "config": asdict(whole), "dir": str(run)}
    try:
        board = wandb.init(**settings, id=kept.read_text(), resume="allow")
    except wandb.Error as error:
        raise UserError(f"wandb cannot begin ({error}): wandb login, or set WANDB_MODE=offline") from error
    failed = True
    try:
        yield lambda record, step: board.log(record, step=step)
        failed = False
    finally:
        board.finish(exit_code=int(failed))
