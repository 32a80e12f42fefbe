"""One visitor: a game, what is wanted of it, the engine beside it, and the loop that brings these together."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from nextframe.errors import UserError
from nextframe.web.dreamer import Dreamer, Made
from nextframe.web.dreams import Dreams
from nextframe.web.game import Game
from nextframe.web.history import Action, Step
from nextframe.web.messages import Act, Change, Enter, Message, Seek
from nextframe.web.outbox import Outbox, picture
from nextframe.web.reality import Reality
from nextframe.web.wants import Wants

T = TypeVar("T")
MEASURED_SECONDS = 2.0
"""Of the frames that the rate is taken from."""


@dataclass(frozen=True)
class _Here:
    """A place in a walk."""

    frame: int
    branch: int
    step: Step
    length: int
    branches: list[dict[str, int]]
    context: int


class Visitor:
    """Lives as long as its walk is kept, whether a client is there (`outbox`) or not.

    dreams: where frames are made. chores: for engines and files. A visitor has one job with `dreams` at a time, and
    those wait in a queue: so the visitors take turns, or are served together.
    """

    def __init__(
        self, game: Game, fps: float, memory: Callable[[int], tuple[int, int]], dreams: Dreams, chores: Executor
    ) -> None:
        self.name = secrets.token_urlsafe(12)
        self.game = game
        self.fps = fps
        self.memory = memory
        self.dreams, self.chores = dreams, chores
        self.reality: Reality | None = None
        self.outbox: Outbox | None = None
        self.door = asyncio.Lock()  # one comes or goes at a time
        self.wants = Wants(fps)
        self.waiting = False
        self.resting = False
        self.queue: Callable[[], int] = lambda: 0
        self._shown: deque[float] = deque(maxlen=256)
        self._job: Future[Any] | None = None
        self._loop: asyncio.Task[None] | None = None
        self._showing: asyncio.Task[None] | None = None
        self._place = self._here()

    def attach(self, outbox: Outbox, failed: Callable[[Exception], None]) -> None:
        """A client is there. `failed` hears of what should not have happened."""
        shown = self.game.shown()  # before anything is said
        self.outbox, self.wants, self.resting, self._failed = outbox, Wants(self.fps), False, failed
        history = self.game.history
        place = {"frame": history.frame, "context": history.shown, "branch": history.branch.number}
        outbox.line(type="ready", session=self.name, **place, real=self.reality is not None)
        self._show(shown, self._here(), {"kind": "dream"})
        self._tell_curve()
        outbox.state(self.state)
        self._loop = asyncio.create_task(self._play())
        if self.reality is not None:
            self.chores.submit(self.reality.start)

    async def detach(self) -> None:
        """The client has gone. What is under way is waited for; what can be made again is given back."""
        loop, self._loop, self.outbox = self._loop, None, None
        if loop is not None:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
        await self._settled()
        await self._give_back()

    async def rest(self) -> None:
        """The client has been silent for long: give back what can be made again when it says something."""
        if self.wants.running or self.waiting:
            return
        self.resting = True
        await self._give_back()

    async def _give_back(self) -> None:
        await asyncio.wrap_future(self.chores.submit(self.game.source.rest))
        if self.reality is not None:
            await asyncio.wrap_future(self.chores.submit(self.reality.close))

    def hear(self, message: Message) -> None:
        self.wants.hear(message)
        if self.outbox is not None:
            self.outbox.state(self.state, soon=self.wants.running)

    def state(self) -> dict[str, Any]:
        # Of what is shown: the walk itself may be a frame further, which is being decoded.
        place, source = self._place, self.game.source
        sample = source.sample if isinstance(source, Dreamer) else None
        fine, coarse = self.memory(place.frame + 1)
        told = None if sample is None else {"steps": sample.steps, "guidance": sample.guidance, "solver": sample.solver}
        return {
            "type": "state",
            "frame": place.frame,
            "length": place.length,
            "branch": place.branch,
            "branches": place.branches,
            "context": place.context,
            "real": self.reality is not None,
            "window": fine,
            "coarse": coarse,
            "fps": self._rate(),
            "queue": self.queue(),
            "settings": told,
            "running": self.wants.running,
        }

    async def _play(self) -> None:
        try:
            while True:
                wish = await self.wants.next()
                try:
                    await self._grant(wish)
                except UserError as error:
                    self.wants.stop()
                    self._say(str(error))
        except Exception as error:  # ends this visitor's conversation, and no other
            self._failed(error)

    async def _grant(self, wish: Seek | Enter | Change | Act) -> None:
        assert self.outbox is not None
        if not isinstance(wish, Act):
            await self._all_shown()
        if isinstance(wish, Change):
            self.game.change(wish.steps, wish.guidance, wish.solver)
            self.outbox.state(self.state)
        elif isinstance(wish, Act):
            await self._step(wish.action, wish.at)
        else:
            shown = self.game.seek(wish.frame) if isinstance(wish, Seek) else self.game.enter(wish.branch)
            self._show(shown, here := self._here(), {"kind": "dream"})
            if (truth := self.game.truth(here.step)) is not None and self.reality is not None:
                self._show(truth, here, {"kind": "truth"}, beside=True)
            if isinstance(wish, Enter):
                self._tell_curve()
            self.outbox.state(self.state)

    async def _step(self, action: Action, at: float | None) -> None:
        assert self.outbox is not None
        await self.outbox.sent()  # who does not read does not walk on
        truth = self._ask_engine(action)
        asked = time.perf_counter()
        self.waiting = True
        try:
            started, made = await self._known(self.dreams.step(self.game, action))
        finally:
            self.waiting = False
        times = {"transformer_ms": made.transformer_ms, "wait_ms": 1000 * (started - asked)}
        here = self._here()
        await self._all_shown()
        # While it is decoded and shown, the next frame is made.
        self._showing = asyncio.create_task(self._show_or_fail(made, here, times, at, truth))
        if made.end is not None or not self.wants.running:
            await self._all_shown()

    async def _show_or_fail(self, *arguments: Any) -> None:
        try:
            await self._show_made(*arguments)
        except Exception as error:  # nobody may be waiting for it
            self._failed(error)

    async def _show_made(
        self,
        made: Made,
        here: _Here,
        times: dict[str, float],
        at: float | None,
        truth: "asyncio.Future[np.ndarray] | None",
    ) -> None:
        """A frame that the model has made, as soon as it is decoded, and the truth beside it."""
        began = time.perf_counter()
        frame = await asyncio.shield(asyncio.wrap_future(made.frame))
        times["decode_ms"] = 1000 * (time.perf_counter() - began)
        self._shown.append(time.monotonic())
        header = {"kind": "dream", "at": at, **{name: round(ms, 2) for name, ms in times.items()}}
        if truth is not None and truth.done():
            self._note(here.step, truth)
        self._show(frame, here, header)
        if truth is not None:
            if not truth.done():
                await asyncio.wait([truth])
                self._note(here.step, truth)
            if (seen := self.game.truth(here.step)) is not None:
                self._show(seen, here, {"kind": "truth", "at": at}, beside=True)
        if made.end is not None:
            self.wants.stop()
            self._say(made.end)
        if self.outbox is not None:
            self.outbox.state(self.state, soon=self.wants.running)

    async def _all_shown(self) -> None:
        """Until the newest frame is on its way to the client."""
        if (showing := self._showing) is not None:
            await asyncio.shield(showing)
            self._showing = None

    def _ask_engine(self, action: Action) -> "asyncio.Future[np.ndarray] | None":
        """The frame that the same action leads to in the engine, from where the walk stands there."""
        maze, reality, pose = self.game.start.maze, self.reality, self.game.history.current().pose
        if maze is None or reality is None or pose is None:
            return None
        there = maze.move(pose, action)
        return asyncio.wrap_future(self.chores.submit(lambda: reality.ask({"pose": there})[1]))

    def _note(self, step: Step, truth: "asyncio.Future[np.ndarray]") -> None:
        """Keep the engine's frame; an engine that has failed is done without."""
        error = truth.exception()
        if error is None:
            self.game.note_truth(step, truth.result())
        elif isinstance(error, UserError):
            if (lost := self.reality) is not None:
                self.chores.submit(lost.close)
            self.reality = None
            self._say(str(error))
        else:
            raise error

    def _here(self) -> _Here:
        history = self.game.history
        branch = history.branch
        return _Here(history.frame, branch.number, history.current(), branch.length, history.outline(), history.shown)

    def _show(self, frame: np.ndarray, here: _Here, header: dict[str, Any], beside: bool = False) -> None:
        if not beside:
            self._place = here
        if self.outbox is None:
            return
        none = {"at": None, "transformer_ms": None, "decode_ms": None, "wait_ms": None}
        place = {"frame": here.frame, "branch": here.branch, "action": here.step.action, "psnr": here.step.psnr}
        (self.outbox.add if beside else self.outbox.show)(picture({**none, **header, **place}, frame))

    def _tell_curve(self) -> None:
        """How near every frame of the branch was to its truth, where that is known."""
        assert self.outbox is not None
        branch = self.game.history.branch
        steps = branch.path(branch.length)
        known = [[frame, step.psnr] for frame, step in enumerate(steps) if step.psnr is not None]
        self.outbox.line(type="curve", branch=branch.number, psnr=known)

    def _say(self, text: str) -> None:
        if self.outbox is not None:
            self.outbox.line(type="notice", text=text)
            self.outbox.state(self.state)

    def _rate(self) -> float:
        """Frames per second, lately."""
        now = time.monotonic()
        while self._shown and now - self._shown[0] > MEASURED_SECONDS:
            self._shown.popleft()
        if len(self._shown) < 2:
            return 0.0
        return round((len(self._shown) - 1) / max(self._shown[-1] - self._shown[0], 1e-6), 1)

    async def _known(self, job: Future[T]) -> T:
        """The result of a job, which is known of until it is done: a thread cannot be stopped in the middle."""
        self._job = job
        return await asyncio.shield(asyncio.wrap_future(job))

    async def _settled(self) -> None:
        job, self._job = self._job, None
        self.waiting = False
        if job is not None and not job.cancel():
            await asyncio.gather(asyncio.wrap_future(job), return_exceptions=True)
        showing, self._showing = self._showing, None
        if showing is not None:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
        # Until the newest frame is decoded: `attach` reads it, and must not wait for it in the loop.
        await asyncio.gather(asyncio.wrap_future(self.chores.submit(self.game.shown)), return_exceptions=True)
