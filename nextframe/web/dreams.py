"""The one thread that owns the model. Frames that several visitors wait for at the same time are made in one pass.

Their pixels are decoded in a thread beside it, while the next ones are made.
"""

import contextlib
import queue
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from nextframe.web.dreamer import Dreamer, Made
from nextframe.web.game import Game, step_games
from nextframe.web.history import Action

T = TypeVar("T")
IDLE_SECONDS = 0.02
"""Who holds a key asks sooner, and then what is to be read is read in one pass with the new frame."""
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
    future: Future[tuple[float, Made]]


class Dreams:
    """Jobs in the order in which they come. Close it: it is a thread. `begin`: what its threads do first."""

    def __init__(self, begin: Callable[[], None] | None) -> None:
        self._queue: queue.SimpleQueue[_Job | _Frame | None] = queue.SimpleQueue()
        self._closing, self._closed = threading.Lock(), False
        self._decoder = ThreadPoolExecutor(1, "decoder", begin)
        self._thread = threading.Thread(target=self._run, args=(begin,), name="dreams", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._put(_Job(work, future))
        return future

    def step(self, game: Game, action: Action) -> Future[tuple[float, Made]]:
        """When the frame was begun (`time.perf_counter`), and what it took; raises what `step_games` says."""
        future: Future[tuple[float, Made]] = Future()
        self._put(_Frame(game, action, future))
        return future

    def _put(self, job: _Job | _Frame) -> None:
        """From any thread. What comes after the end is cancelled."""
        with self._closing:
            if self._closed:
                job.future.cancel()
            else:
                self._queue.put(job)

    def close(self) -> None:
        """What is under way is waited for; what waits is cancelled."""
        with self._closing:
            self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                if (job := self._queue.get_nowait()) is not None:
                    job.future.cancel()
        self._queue.put(None)
        self._thread.join()
        self._decoder.shutdown()

    def _run(self, begin: Callable[[], None] | None) -> None:
        if begin is not None:
            begin()
        together, coming, unread = 1, list[Future[np.ndarray]](), list[Dreamer]()
        while (job := self._next(coming, unread)) is not None:
            if isinstance(job, _Job):
                _do(job)
                continue
            frames, after = self._gather(job, together)
            coming = _make(frames, self._decoder)
            together = len(frames) + self._queue.qsize()
            unread = [source for frame in frames if isinstance(source := frame.game.source, Dreamer)]
            if after is not None:
                _do(after)

    def _next(self, coming: list[Future[np.ndarray]], unread: list[Dreamer]) -> _Job | _Frame | None:
        """Where nobody asks for a while after the frames have come, the walks that were stepped last read ahead."""
        while unread:
            try:
                return self._queue.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                if all(frame.done() for frame in coming):
                    _read_ahead(unread.pop())
        return self._queue.get()

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


def _read_ahead(dreamer: Dreamer) -> None:
    try:
        dreamer.read_ahead()
    except Exception:  # the next step begins afresh; whoever asks for it hears of what is still wrong then
        traceback.print_exc()
        dreamer.rest()


def _do(job: _Job) -> None:
    if job.future.set_running_or_notify_cancel():
        try:
            job.future.set_result(job.work())
        except BaseException as error:  # whoever waits for it is to know
            job.future.set_exception(error)


def _make(frames: list[_Frame], beside: Executor) -> list[Future[np.ndarray]]:
    """Make them; returns their pixels, which may be on their way."""
    frames = [frame for frame in frames if frame.future.set_running_or_notify_cancel()]
    started = time.perf_counter()
    results = step_games([(frame.game, frame.action) for frame in frames], beside)
    for frame, result in zip(frames, results, strict=True):
        if isinstance(result, Exception):
            frame.future.set_exception(result)
        else:
            frame.future.set_result((started, result))
    return [result.frame for result in results if isinstance(result, Made)]
