"""The one thread that owns the model. Frames that several visitors wait for at the same time are made in one pass."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from nextframe.web.dreamer import Made
from nextframe.web.game import Game, step_games
from nextframe.web.history import Action

T = TypeVar("T")
GATHER_SECONDS = 0.005
"""How long those who were there last time are waited for: a visitor asks again as soon as a frame has come."""


@dataclass(frozen=True)
class _Job:
    work: Callable[[], Any]
    future: Future[Any]


@dataclass(frozen=True)
class _Frame:
    game: Game
    action: Action
    future: Future[tuple[float, np.ndarray, Made]]


class Dreams:
    """Jobs in the order in which they come. Close it: it is a thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Job | _Frame | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="dreams", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._queue.put(_Job(work, future))
        return future

    def step(self, game: Game, action: Action) -> Future[tuple[float, np.ndarray, Made]]:
        """When the frame was begun (`time.perf_counter`), and what `Game.step` returns, or raises."""
        future: Future[tuple[float, np.ndarray, Made]] = Future()
        self._queue.put(_Frame(game, action, future))
        return future

    def close(self) -> None:
        """What is under way is waited for; what waits is cancelled."""
        while not self._queue.empty():
            if (job := self._queue.get()) is not None:
                job.future.cancel()
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        together = 1
        while (job := self._queue.get()) is not None:
            if isinstance(job, _Job):
                _do(job)
                continue
            frames, after = self._gather(job, together)
            _make(frames)
            together = len(frames) + self._queue.qsize()
            if after is not None:
                _do(after)

    def _gather(self, first: _Frame, together: int) -> tuple[list[_Frame], _Job | None]:
        """Frames to make in one pass, and a job that came between them."""
        frames, until = [first], time.monotonic() + GATHER_SECONDS
        while len(frames) < together or not self._queue.empty():
            try:
                job = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                self._queue.put(None)
                break
            if isinstance(job, _Job):
                return frames, job
            frames.append(job)
        return frames, None


def _do(job: _Job) -> None:
    if job.future.set_running_or_notify_cancel():
        try:
            job.future.set_result(job.work())
        except BaseException as error:  # whoever waits for it is to know
            job.future.set_exception(error)


def _make(frames: list[_Frame]) -> None:
    frames = [frame for frame in frames if frame.future.set_running_or_notify_cancel()]
    started = time.perf_counter()
    results = step_games([(frame.game, frame.action) for frame in frames])
    for frame, result in zip(frames, results, strict=True):
        if isinstance(result, Exception):
            frame.future.set_exception(result)
        else:
            frame.future.set_result((started, *result))
