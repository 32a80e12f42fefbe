"""All visitors of a server: who is there, who has left and may come back, and the threads that work for them."""

import asyncio
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from nextframe.data.episodes import DatasetInfo
from nextframe.errors import UserError
from nextframe.web.dreams import Dreams
from nextframe.web.game import Game
from nextframe.web.messages import Actions, StartMessage
from nextframe.web.outbox import Outbox
from nextframe.web.reality import Reality
from nextframe.web.starts import OnModel
from nextframe.web.visitor import Visitor

MOST_KEPT = 64
"""Walks whose visitors have left."""
KEPT_BYTES = 4 * 2**30
"""Of their films, on disk."""
CHORES = 4
ARRIVALS = 2
"""Walks that begin at once. They wait for the model, and so have threads of their own: no chore waits for it."""


class FullError(Exception):
    """One line: there is no session free."""


class Stage(Protocol):
    """What is played: a model, or an engine alone."""

    actions: Actions
    info: DatasetInfo
    """Of a dataset of such walks."""
    begin_thread: Callable[[], None] | None
    """What a thread that makes frames does first."""

    def facts(self) -> dict[str, Any]:
        """What GET /api/world says, beside what follows from `info` and `actions`."""
        ...

    def memory(self, frames: int) -> tuple[int, int]:
        """Of a walk of so many frames, how many its next frame sees fine, and how many before those coarse."""
        ...

    def thumbnail(self, name: str) -> bytes:
        """png of a start. Raises UserError when there is none."""
        ...

    def begin(self, message: StartMessage, folder: Path, on_model: OnModel) -> Game:
        """A walk; called in any thread. `on_model`: has a short piece of work done where frames are made. Raises
        UserError.
        """
        ...

    def beside(self, game: Game) -> Reality | None:
        """The engine for the same actions, where there is one."""
        ...

    def keep(self, upload: str, video: np.ndarray) -> None:
        """Something a visitor may begin with. Raises UserError where nobody may."""
        ...


class Visitors:
    """Made in the loop that serves. Close it: it has threads, and files."""

    def __init__(self, stage: Stage, most: int) -> None:
        self.stage = stage
        self.most = most
        self.by_name: OrderedDict[str, Visitor] = OrderedDict()
        self.folder = Path(tempfile.mkdtemp(prefix="nextframe-play-"))
        # One thread owns the model; a visitor has one job in its queue.
        self.dreams = Dreams(stage.begin_thread)
        self.chores = ThreadPoolExecutor(CHORES, "chores")
        self._arrivals = ThreadPoolExecutor(ARRIVALS, "arrivals")
        self._arriving = 0

    @property
    def present(self) -> int:
        """Sessions that are taken; who has said nothing for long does not need one."""
        taken = sum(visitor.outbox is not None and not visitor.resting for visitor in self.by_name.values())
        return taken + self._arriving

    def wake(self, visitor: Visitor) -> bool:
        """Whether a visitor who says something has a session, or is given one again."""
        if visitor.resting and self.present < self.most:
            visitor.resting = False
        return not visitor.resting

    async def begin(self, message: StartMessage, outbox: Outbox, failed: Callable[[Exception], None]) -> Visitor:
        """A new visitor. Raises FullError, and UserError for a start there is not."""
        self._check_sessions()
        self._arriving += 1
        try:
            arriving = self._arrivals.submit(self.stage.begin, message, self.folder, self._on_model)
            game = await asyncio.wrap_future(arriving)
        finally:
            self._arriving -= 1
        visitor = Visitor(game, self.stage.info.fps, self.stage.memory, self.dreams, self.chores)
        visitor.queue = lambda: self._waiting(visitor)
        if message.real:
            visitor.reality = self.stage.beside(game)
        self.by_name[visitor.name] = visitor
        visitor.attach(outbox, failed)
        return visitor

    async def resume(self, name: str, outbox: Outbox, failed: Callable[[Exception], None]) -> Visitor:
        """A visitor who has been here. Raises FullError, and UserError where the walk is not kept any more."""
        visitor = self.visitor(name)
        async with visitor.door:
            self.visitor(name)  # it may have been given up while we waited
            if visitor.outbox is None or visitor.resting:
                self._check_sessions()
            if visitor.outbox is not None:  # on another socket, which is dead or will be
                await visitor.detach()
            visitor.attach(outbox, failed)
        return visitor

    def visitor(self, name: str) -> Visitor:
        """Raises UserError when there is none of that name."""
        if name not in self.by_name:
            raise UserError("this walk is not kept any more: start a new one")
        return self.by_name[name]

    async def leave(self, visitor: Visitor, outbox: Outbox) -> None:
        """The client with this outbox has gone; the walk is kept for a while."""
        async with visitor.door:
            if visitor.outbox is not outbox:
                return  # it has come back on another socket
            self.by_name.move_to_end(visitor.name)
            await visitor.detach()
        away = [one for one in self.by_name.values() if one.outbox is None and not one.door.locked()]
        used = sum(map(_bytes, away))
        while away and (len(away) > MOST_KEPT or used > KEPT_BYTES):
            # First those in which nothing was made: to begin many walks is to lose no other's.
            oldest = next((one for one in away if not one.game.history.made), away[0])
            away.remove(oldest)
            used -= _bytes(oldest)
            del self.by_name[oldest.name]
            oldest.game.close()

    async def close(self) -> None:
        """End everything."""
        await asyncio.gather(*(visitor.detach() for visitor in self.by_name.values()), return_exceptions=True)
        self.dreams.close()
        for pool in (self._arrivals, self.chores):
            pool.shutdown(cancel_futures=True)
        for visitor in self.by_name.values():
            visitor.game.close()
        self.by_name.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _on_model(self, work: Callable[[], Tensor]) -> Tensor:
        try:
            return self.dreams.submit(work).result()
        except CancelledError:
            raise UserError("the server is closing: come back later") from None

    def _check_sessions(self) -> None:
        sockets = sum(visitor.outbox is not None for visitor in self.by_name.values())
        if self.present >= self.most or sockets >= self.most + MOST_KEPT:  # also those who say nothing any more
            raise FullError(f"all {self.most} sessions are taken: come back later")

    def _waiting(self, visitor: Visitor) -> int:
        return sum(other.waiting for other in self.by_name.values() if other is not visitor)


def _bytes(visitor: Visitor) -> int:
    film = visitor.game.film
    return (film.frames + visitor.game.truth_film.frames) * film.size**2 * 3
