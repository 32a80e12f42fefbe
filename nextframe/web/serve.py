"""`nextframe play`: the browser, and a server that takes all it has started with it when it goes."""

import asyncio
import secrets
import socket
import webbrowser
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from nextframe.web.address import LOOPBACK, has_screen
from nextframe.web.messages import LONGEST
from nextframe.web.server import application
from nextframe.web.visitors import Stage

CLOSING_SECONDS = 3
MOST_CONNECTIONS = 256
"""Well below the files a process may have open: without one to spare, nobody could be let in, or told why."""
FIRST_REQUEST_SECONDS = 10.0
"""Who says nothing for so long holds no connection."""
TAKING_SECONDS = 60.0
"""Who takes nothing of an answer for so long is given up."""


def serve(stage: Stage, listener: socket.socket, host: str, sessions: int, browser: bool) -> None:
    """Until it is interrupted; then KeyboardInterrupt, as everywhere."""
    # Whoever can reach this machine could play, and upload; so strangers need what is printed here.
    token = None if host in LOOPBACK else secrets.token_urlsafe(24)
    everywhere = host in ("0.0.0.0", "::")  # is no address to go to
    shown = socket.gethostname() if everywhere else f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")

    def ready() -> None:
        print(f"playing at {address} (Ctrl-C ends it)", flush=True)
        if browser and has_screen():
            webbrowser.open(address)

    app = application(stage, sessions, LOOPBACK if token is None else None, token, ready)
    asyncio.run(server_of(app).serve(sockets=[listener]))


def server_of(app: FastAPI) -> uvicorn.Server:
    """What serves the application, in `serve(sockets=...)`."""
    return _Server(
        uvicorn.Config(
            app,
            http=_Connection,
            ws="websockets-sansio",  # it waits where a client does not read
            ws_max_size=16 * LONGEST,  # what is longer than LONGEST is refused with a reason; this, without
            ws_per_message_deflate=False,  # frames are noise to it, and time
            timeout_graceful_shutdown=CLOSING_SECONDS,
            log_level="warning",
        )
    )


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ctrl-C once more while it is closing changes nothing: what was started with it is being ended."""
        if not self.should_exit:
            super().handle_exit(sig, frame)


class _Connection(H11Protocol):
    """One of a limited number, and not for those who neither ask for anything nor take what they asked for. They need
    no token for being here.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._stalled = self._silent = self.loop.call_later(FIRST_REQUEST_SECONDS, self._give_up)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()

    def on_response_complete(self) -> None:
        """From here on it is a connection without a request again, however many bytes of one may come."""
        self._silent.cancel()
        # The end of an answer may still be on its way.
        patience = TAKING_SECONDS if self.transport.get_write_buffer_size() else FIRST_REQUEST_SECONDS
        self._silent = self.loop.call_later(patience, self._give_up)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(TAKING_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._silent.cancel()
        self._stalled.cancel()

    def _give_up(self) -> None:
        answered = self.cycle is None or self.cycle.response_complete
        # A WebSocket is another protocol on the same transport.
        if answered and self.transport.get_protocol() is self:
            self.transport.abort()
