"""How time and memory are measured: the device is waited for, two rivals take turns."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from nextframe.devices import peak_memory, timed
from nextframe.progress import progress

GIB = 2**30


class Lap(NamedTuple):
    """Seconds of one repetition."""

    core: float
    """Of the part that arithmetic is counted for: forward and backward, or the transformer alone."""
    whole: float
    """Of everything: the training step, or the frame from the action to its pixels."""


def in_turns(
    laps: Iterator[Lap], rival: Callable[[], object] | None, least: int, seconds: float, device: torch.device
) -> tuple[list[Lap], list[float]]:
    """Take laps until there are `least` of them and `seconds` have passed; after each, the rival has its turn.

    Returns the laps, and the seconds of each of the rival's turns. A noisy machine is noisy for both.
    """
    taken: list[Lap] = []
    rival_seconds: list[float] = []
    started = time.perf_counter()
    shown = 0.0
    with progress("measuring", 1.0) as advance:
        while shown < 1:
            taken.append(next(laps))
            if rival is not None:
                rival_seconds.append(timed(device, rival)[1])
            by_time = (time.perf_counter() - started) / seconds if seconds else 1.0
            done = min(1.0, len(taken) / least, by_time)
            advance(done - shown)
            shown = done
    return taken, rival_seconds


def percentile_95(seconds: list[float]) -> float:
    """The smallest value that at least 95 % of all are not above; of fewer than 20 that is the largest."""
    return float(np.quantile(seconds, 0.95, method="inverted_cdf"))


class PeakMemory:
    """The most memory held at once since this was made: of a GPU all tensors, of a process how much it has grown."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._before = peak_memory(torch.device("cpu"))

    def gib(self) -> dict[str, float]:
        """One number; its name says what it counts."""
        if self._device.type == "cuda":
            return {"peak_cuda_allocated_gib": torch.cuda.max_memory_allocated(self._device) / GIB}
        return {"peak_resident_growth_gib": (peak_memory(torch.device("cpu")) - self._before) / GIB}
