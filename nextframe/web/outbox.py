"""What goes to a client: a few lines, and one picture. A newer picture takes the place of one that is not sent yet."""

import asyncio
import contextlib
import json
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

MOST_LINES = 64
STATE_SECONDS = 0.2
"""Between two states while frames stream."""


def picture(header: dict[str, Any], frame: np.ndarray) -> bytes:
    """The length of the header, the header, and the pixels, row by row."""
    words = json.dumps({**header, "height": frame.shape[0], "width": frame.shape[1]}).encode()
    return struct.pack(">I", len(words)) + words + np.ascontiguousarray(frame).tobytes()


class Outbox:
    """`deliver` sends what the others leave here; it waits where the client does not read, and nobody else does."""

    def __init__(self) -> None:
        self._lines: deque[dict[str, Any]] = deque(maxlen=MOST_LINES)
        self._pictures: list[bytes] = []
        self._state: Callable[[], dict[str, Any]] | None = None
        self._state_due = 0.0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def line(self, **said: Any) -> None:
        self._lines.append(said)
        self._rouse()

    def show(self, *pictures: bytes) -> None:
        """In place of those that are not sent yet."""
        self._pictures = list(pictures)
        self._rouse()

    def add(self, picture: bytes) -> None:
        """After those that are not sent yet: the truth that belongs to them."""
        self._pictures.append(picture)
        self._rouse()

    def state(self, state: Callable[[], dict[str, Any]], soon: bool = False) -> None:
        """Something has changed: say how things are, now, or with `soon` as often as is good while frames stream."""
        self._state = state
        if not soon:
            self._state_due = 0.0
        self._rouse()

    async def sent(self) -> None:
        """Until all is sent."""
        await self._idle.wait()

    async def deliver(self, text: Callable[[str], Awaitable[None]], data: Callable[[bytes], Awaitable[None]]) -> None:
        """Send for ever."""
        while True:
            timeout = None if self._state is None else max(0.0, self._state_due - time.monotonic())
            if not self._lines and not self._pictures and timeout != 0:
                self._idle.set()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), timeout)
                self._idle.clear()
            self._wake.clear()
            while self._lines:
                await text(json.dumps(self._lines.popleft()))
            if self._pictures:
                await data(self._pictures.pop(0))
            if self._state is not None and time.monotonic() >= self._state_due:
                state, self._state = self._state, None
                self._state_due = time.monotonic() + STATE_SECONDS
                await text(json.dumps(state()))

    def _rouse(self) -> None:
        self._idle.clear()
        self._wake.set()
