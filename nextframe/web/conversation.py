"""One socket, from its first message to its last."""

import asyncio
import contextlib
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import WebSocket, WebSocketDisconnect

from nextframe.errors import UserError
from nextframe.web.messages import MalformedError, Ping, Resume, StartMessage, parsed
from nextframe.web.outbox import Outbox
from nextframe.web.visitor import Visitor
from nextframe.web.visitors import FullError, Visitors

T = TypeVar("T")
NORMAL, POLICY_VIOLATION, BUG, TRY_AGAIN_LATER = 1000, 1008, 1011, 1013
MESSAGES_PER_SECOND = 200
IDLE_SECONDS = 600.0
CLOSING_SECONDS = 3.0
"""For the last words to a client that may not be reading."""
MOST_REASON = 123  # bytes, as RFC 6455 has it


class Rate:
    """So many messages a second, and as many at once. Raises MalformedError for one more."""

    def __init__(self, per_second: int) -> None:
        self._per_second, self._left, self._counted = per_second, float(per_second), time.monotonic()

    def count(self) -> None:
        now = time.monotonic()
        self._left = min(self._per_second, self._left + (now - self._counted) * self._per_second) - 1
        self._counted = now
        if self._left < 0:
            raise MalformedError(f"more than {self._per_second} messages a second")


async def converse(socket: WebSocket, visitors: Visitors) -> None:
    """Hear a client, and answer it, until it goes or says what it may not."""
    await socket.accept()
    outbox = Outbox()
    talk = _Conversation(socket, visitors, outbox)
    sender = asyncio.create_task(_deliver(socket, outbox, talk.fail))
    code, reason = NORMAL, ""
    try:
        await talk.hear()
    except (MalformedError, UserError) as error:
        code, reason = POLICY_VIOLATION, str(error)
    except FullError as error:
        code, reason = TRY_AGAIN_LATER, str(error)
    except WebSocketDisconnect:
        code = 0
    except Exception as error:
        code, reason = BUG, _report(error)
    except asyncio.CancelledError:
        if talk.broken is None:
            raise
        code, reason = BUG, _report(talk.broken)
    finally:
        if talk.visitor is not None:
            await visitors.leave(talk.visitor, outbox)
        if code:
            await _say_goodbye(socket, outbox, code, reason)
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)


class _Conversation:
    def __init__(self, socket: WebSocket, visitors: Visitors, outbox: Outbox) -> None:
        self.socket, self.visitors, self.outbox = socket, visitors, outbox
        self.visitor: Visitor | None = None
        self.broken: Exception | None = None
        self._hearing: asyncio.Task[None] | None = None
        self.rate = Rate(MESSAGES_PER_SECOND)

    async def hear(self) -> None:
        """Until the client goes. Raises for what it may not say, and is cancelled when its visitor is `broken`."""
        self._hearing = asyncio.current_task()
        spoken = time.monotonic()
        while True:
            try:
                said = await asyncio.wait_for(self.socket.receive(), max(0.0, spoken + IDLE_SECONDS - time.monotonic()))
            except TimeoutError:
                spoken = time.monotonic()
                if self.visitor is None:
                    raise MalformedError("nothing was said for a long time") from None
                if self.visitor.outbox is not self.outbox:
                    raise UserError("this walk goes on in another window") from None
                await self.visitor.rest()
                continue
            if said["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(said.get("code", NORMAL))
            self.rate.count()
            text = said.get("text")
            message = parsed(text if text is not None else said.get("bytes", b""), self.visitors.stage.actions)
            if isinstance(message, Ping):
                self.outbox.line(type="pong", at=message.at)
                continue
            spoken = time.monotonic()
            if isinstance(message, (StartMessage, Resume)):
                await self._arrive(message)
            elif self.visitor is None:
                raise MalformedError("say start or resume first")
            elif self.visitor.outbox is not self.outbox:
                raise UserError("this walk goes on in another window")
            elif self.visitors.wake(self.visitor):
                self.visitor.hear(message)
            else:
                self.outbox.line(type="notice", text=f"all {self.visitors.most} sessions are taken: try again later")

    async def _arrive(self, message: StartMessage | Resume) -> None:
        if self.visitor is not None:
            await self.visitors.leave(self.visitor, self.outbox)
            self.visitor = None
        if isinstance(message, Resume):
            self.visitor = await self.visitors.resume(message.session, self.outbox, self.fail)
        else:
            self.visitor = await self.visitors.begin(message, self.outbox, self.fail)

    def fail(self, error: Exception) -> None:
        """A bug ends the conversation that met it, and no other."""
        if self.broken is None and self._hearing is not None:
            self.broken = error
            self._hearing.cancel()


def _report(error: Exception) -> str:
    """The whole for who runs the server, and a line for the client; a full disk is no bug."""
    if isinstance(error, UserError):
        return str(error)
    print("".join(traceback.format_exception(error)), file=sys.stderr)
    return f"the server failed: {type(error).__name__}; see its terminal"


class _GoneError(Exception):
    """The client has."""


def _sent(send: Callable[[T], Awaitable[None]]) -> Callable[[T], Awaitable[None]]:
    async def sending(what: T) -> None:
        try:
            await send(what)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise _GoneError from error

    return sending


async def _deliver(socket: WebSocket, outbox: Outbox, failed: Callable[[Exception], None]) -> None:
    try:
        await outbox.deliver(_sent(socket.send_text), _sent(socket.send_bytes))
    except _GoneError:
        pass  # whoever hears the client learns of it too, and is the one to act on it
    except Exception as error:
        failed(error)


async def _say_goodbye(socket: WebSocket, outbox: Outbox, code: int, reason: str) -> None:
    outbox.line(type="error", text=reason)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSING_SECONDS):
            await outbox.sent()
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(CLOSING_SECONDS):
            await socket.close(code, reason.encode()[:MOST_REASON].decode(errors="ignore"))
