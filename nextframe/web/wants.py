"""What a visitor wants next: one slot for each kind of wish, and the newest is the one that counts."""

import asyncio
import time
from dataclasses import dataclass

from nextframe.web.history import Action
from nextframe.web.messages import Act, Change, Enter, Hold, Message, Pause, Repeat, Seek

Wish = Seek | Enter | Change | Act


@dataclass
class _Stream:
    """Frame after frame under one action; `left`: how many, or None until it is let go."""

    action: Action
    left: int | None


class Wants:
    """Wishes come in by `hear`; `next` gives them out, streamed frames no faster than `fps`."""

    def __init__(self, fps: float) -> None:
        self._seconds = 1 / fps
        self._due = 0.0
        self._place: Seek | Enter | None = None
        self._change: Change | None = None
        self._act: Act | None = None
        self._stream: _Stream | None = None
        self._heard = asyncio.Event()

    @property
    def running(self) -> bool:
        """Whether frames are to come without another wish."""
        return self._stream is not None

    def stop(self) -> None:
        self._act = self._stream = None

    def hear(self, message: Message) -> None:
        if isinstance(message, Change):
            old = self._change or Change()
            pick = {name: value if value is not None else getattr(old, name) for name, value in vars(message).items()}
            self._change = Change(**pick)
        elif isinstance(message, (Seek, Enter)):
            self.stop()
            self._place = message
        elif isinstance(message, Pause):
            self.stop()
        elif isinstance(message, Act):
            self._act = message
        elif isinstance(message, Repeat):
            self._stream = _Stream(message.action, message.frames)
        elif isinstance(message, Hold) and message.on:
            # The first frame is owed even if the key is let go before its turn comes.
            self._act, self._stream = Act(message.action, message.at), _Stream(message.action, None)
        elif isinstance(message, Hold) and self._stream is not None and self._stream.action == message.action:
            self._stream = None
        self._heard.set()

    async def next(self) -> Wish:
        while True:
            self._heard.clear()
            if (wish := self._take()) is not None:
                return wish
            wait = None if self._stream is None else max(0.0, self._due - time.monotonic())
            try:
                await asyncio.wait_for(self._heard.wait(), wait)
            except TimeoutError:
                continue

    def _take(self) -> Wish | None:
        now = time.monotonic()
        wish: Wish | None = None
        if self._place is not None:
            wish, self._place = self._place, None
        elif self._change is not None:
            wish, self._change = self._change, None
        elif self._act is not None:
            wish, self._act = self._act, None
            self._due = now + self._seconds
        elif self._stream is not None and now >= self._due:
            stream = self._stream
            wish = Act(stream.action)
            if stream.left is not None:
                stream.left -= 1
                if not stream.left:
                    self._stream = None
            # In step with the clock, but what was missed is not made up for.
            self._due = (self._due if now - self._due < self._seconds else now) + self._seconds
        return wish
