"""What a training step will take of a device: its memory and its time, measured on pieces of real steps.

Weights, gradients, averages and the optimizer's state are counted. What lies between forward and backward pass is
measured, on the longest clips there will be, in batches of a few rows. It grows evenly with the rows, once there are so
many that gradients, which come when most of it has gone, are a small part.
"""

import math
import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nextframe import ranks
from nextframe.devices import should_compile, timed
from nextframe.learner import Learner
from nextframe.memory import available_memory
from nextframe.objective import Inputs

PREFETCHED = 3
"""Batches that are in the machine's memory at once: one in use, one ready, and what the next is made of."""
SMALL_PART = 1 / 3
"""Of the memory of a pass: gradients that are no more decide nothing of it."""
TRIED_SECONDS = 5.0
"""A pass that will take longer is not tried to learn how memory grows."""
COMPILED_ROWS = 3
"""What is compiled has code of its own for one row, and for two, which it takes for a cosine and a sine."""
TIMED_SECONDS = 10.0
"""For which steps are timed, at least."""
TIMED_STEPS = 8
"""Different ones, at most."""
COUNTED_STEPS = 200
"""Of those that are left, whose arithmetic is counted."""


@dataclass(frozen=True)
class Demand:
    """What a run asks of a machine, beside its network."""

    rows: int
    """Of a batch, of all processes together."""
    hardest: Callable[[int], Sequence[Any]]
    """Batches of so many rows, without meaning, as large as any of the run: one of each kind that it has."""
    kept: int = 0
    """Bytes of data that come to be kept in the machine's memory."""
    flops_at: Callable[[int], int] | None = None
    """The arithmetic of a step, where it can be counted."""


@dataclass(frozen=True)
class Footprint:
    """The memory of a device that training takes, in bytes; of parts of a batch with so many rows in this process."""

    fixed: int
    """Weights, their average, the optimizer's state; on a processor also data."""
    gradients: int
    base: float
    """What a forward and a backward pass add, whatever the number of rows; infinite where they did not fit."""
    row: float
    """And for each row."""
    seconds: float
    """A forward and a backward pass of one row of the longest clips."""

    def needed(self, rows: int) -> float:
        """At once, at most. When nothing is computed, gradients may be there, and a copy of the weights to examine."""
        return self.fixed + max(self.base + self.row * rows, 2 * self.gradients)

    def most_rows(self, available: float) -> int:
        """With which no more than this is needed."""
        room = available - self.fixed
        if room < max(self.base + self.row, 2 * self.gradients):
            return 0
        return int((room - self.base) / self.row)


def weight_bytes(learner: Learner) -> int:
    """Bytes of weights and buffers, of the process's own piece where each keeps a piece."""
    own = ranks.world_size() if learner.config.shard else 1
    return sum(x.numel() * x.element_size() for x in learner.network.state_dict().values()) // own


def lasting_bytes(learner: Learner, demand: Demand) -> int:
    """Bytes that are taken for as long as training goes on: weights, average, two moments (Muon: one of a matrix).

    On a processor the copy of these that a checkpoint is written from, and data, too.
    """
    taken = 4 * weight_bytes(learner)
    if learner.device.type == "cpu":
        taken += taken + demand.kept // local_ranks() + PREFETCHED * own_rows(demand) * _row_bytes(learner, demand)
    return taken


def bytes_already_taken(learner: Learner) -> int:
    """Bytes of `lasting_bytes` that a learner holds before its first step: weights and average."""
    return 2 * weight_bytes(learner)


def own_rows(demand: Demand) -> int:
    """Rows of a batch in this process: clips, or frames."""
    return -(-demand.rows // ranks.world_size())


def part_rows(learner: Learner, demand: Demand) -> int:
    """Of them, those computed at once."""
    return -(-own_rows(demand) // learner.config.accumulate)


def local_ranks() -> int:
    """Processes that share this machine's memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if ranks.launched() else 1


def available(device: torch.device) -> int:
    """Bytes that this process may still take on a device."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return available_memory() // local_ranks()


def measured(learner: Learner, demand: Demand, room: float) -> Footprint:
    """Try batches of a few rows; nothing of the learner is changed. `room`: bytes not to go beyond knowingly."""
    fixed, gradients, rows = lasting_bytes(learner, demand), weight_bytes(learner), part_rows(learner, demand)
    compiled = should_compile(learner.config.compile, learner.device)
    few = min(rows, COMPILED_ROWS if compiled else 1)
    seconds, first = _passes(learner, demand, few)
    more = min(rows, 2 * few)
    if more == few or fixed + 2 * first > room:
        return Footprint(fixed, gradients, math.inf if math.isinf(first) else 0.0, first / few, seconds / few)
    # Once more: the first time also made what stays (tables, a GPU's workspaces), which the rows do not cost.
    _, first = _passes(learner, demand, few)
    while True:
        if compiled:
            _passes(learner, demand, more)  # in case it is compiled anew: that is not its time
        seconds, second = _passes(learner, demand, more)
        if math.isinf(second):
            return Footprint(fixed, gradients, math.inf, first / few, seconds / few)
        slope = max(1.0, (second - first) / (more - few))
        enough = gradients < SMALL_PART * second or 2 * seconds > TRIED_SECONDS or fixed + 2 * second > room
        if more == rows or enough:
            return Footprint(fixed, gradients, second - slope * more, slope, seconds / more)
        few, first, more = more, second, min(rows, 2 * more)


def _passes(learner: Learner, demand: Demand, rows: int) -> tuple[float, float]:
    """Seconds, and bytes at once, of forward and backward passes over a part of so many rows; inf if too many.

    The most of all processes, so that all of them decide alike what to try next.
    """
    # With the second of several parts there are the gradients of the first.
    micro_batches, most = min(2, learner.config.accumulate), (0.0, 0.0)
    for inputs in examples(learner, demand, micro_batches * rows):
        try:
            with _watched(learner.device) as peak:
                _, seconds = timed(learner.device, partial(learner.differentiate, inputs, micro_batches))
                found = (seconds / micro_batches, float(peak()))
        except torch.OutOfMemoryError:
            found = (0.0, math.inf)
        finally:
            learner.forget()
        most = (max(most[0], found[0]), max(most[1], found[1]))
    seconds, held = ranks.largest(*most)
    return seconds, held


def examples(learner: Learner, demand: Demand, rows: int) -> list[Inputs]:
    """The inputs of batches as large as any, one of each kind."""
    prepare = learner.task.objective.prepare
    return [prepare(batch, torch.Generator().manual_seed(0)) for batch in demand.hardest(rows)]


def _row_bytes(learner: Learner, demand: Demand) -> int:
    return max(sum(x.numel() * x.element_size() for x in inputs.values()) for inputs in examples(learner, demand, 1))


def fits_in_earnest(learner: Learner, demand: Demand, rows: int) -> bool:
    """Whether a batch of so many rows, as large as any, can be computed at once; nothing is changed by it."""
    return math.isfinite(_passes(learner, demand, rows)[1])


def seconds_a_step(learner: Learner, demand: Demand, footprint: Footprint, first: int) -> float:
    """Of the steps from `first` on, in the mean. The optimizer has seen them: this learner is not to be trained after.

    Steps that would take too long are timed by some of their rows.
    """
    left = max(1, learner.config.steps - first)
    rows = own_rows(demand)
    compiled = should_compile(learner.config.compile, learner.device)
    least = COMPILED_ROWS if compiled else 1
    tried = min(rows, max(least, int(TIMED_SECONDS / max(footprint.seconds, 1e-9))))
    spent, flops, begun = [], [], time.perf_counter()
    # Before the first that counts there is a warm-up, and before that one in which it is compiled.
    for number in range(-2 if compiled else -1, TIMED_STEPS):
        step = first + int(left * (number + 0.5) / TIMED_STEPS) if number >= 0 else first
        inputs = {name: x[:tried] for name, x in learner.inputs(step).items()}
        parts = min(tried, learner.config.accumulate)
        _, passes = timed(learner.device, partial(learner.differentiate, inputs, parts))
        _, updating = timed(learner.device, partial(learner.update, 0.0, step))
        seconds = passes * rows / tried + updating
        # All processes must take the same steps, and each has a clock of its own.
        seconds, so_far = ranks.largest(seconds, time.perf_counter() - begun)
        if number == -2:
            begun = time.perf_counter()
        elif number >= 0 or seconds > TIMED_SECONDS:
            spent.append(seconds)
            flops.append(demand.flops_at(step) if demand.flops_at else 1)
        if spent and so_far > TIMED_SECONDS:
            break
    if demand.flops_at is None:
        return mean(spent)
    others = range(first, first + left, -(-left // COUNTED_STEPS))
    return sum(spent) / sum(flops) * mean(demand.flops_at(step) for step in others)


@contextmanager
def _watched(device: torch.device) -> Iterator[Callable[[], int]]:
    """Yield a question for the end: how many bytes were held at once, at most, beyond what is there now?"""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        try:
            yield lambda: torch.cuda.max_memory_allocated(device) - before
        finally:
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.empty_cache()
        return
    # What is compiled hides its tensors; uncompiled it takes as much, or more.
    with torch.compiler.set_stance("force_eager"), _Allocations() as allocations:
        yield lambda: allocations.most


class _Allocations(TorchDispatchMode):
    """Adds up the tensors that operators make, for as long as somebody holds them; a processor does not count them."""

    def __init__(self) -> None:
        super().__init__()
        self._now, self.most = 0, 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):  # what nobody here has made was there before
                self._known.add(tensor.untyped_storage())
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known.add(storage)
                weakref.finalize(storage, self._freed, storage.nbytes())
                self._now += storage.nbytes()
                self.most = max(self.most, self._now)
        return made

    def _freed(self, size: int) -> None:
        self._now -= size
