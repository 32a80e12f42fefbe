"""`nextframe watch`: a page of what runs have logged, made anew whenever it is asked for."""

import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nextframe.errors import UserError
from nextframe.pages.watch import watch_page
from nextframe.web.address import LOOPBACK, has_screen, names_one_of

REQUEST_SECONDS = 10.0
"""Who asks for nothing for so long holds no thread."""
ANSWER_SECONDS = 60.0


class Page(BaseHTTPRequestHandler):
    """Answers for a `Watch`."""

    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        assert isinstance(self.server, Watch)
        host, origin = self.headers.get("host", ""), self.headers.get("origin")
        if not names_one_of(LOOPBACK, host) or (origin is not None and origin.partition("//")[2] != host):
            self.send_error(403, "open the address that was printed")
        elif self.path != "/":
            self.send_error(404)
        else:
            try:
                with self.server.drawing:
                    status, content = 200, watch_page(self.server.runs, refreshed=True)
            except UserError as error:
                status, content = 503, str(error)
            self.answer(status, content)

    def answer(self, status: int, content: str) -> None:
        self.connection.settimeout(ANSWER_SECONDS)
        body = content.encode(errors="replace")  # a run may have a name that is no text
        self.send_response(status)
        self.send_header("content-type", "text/html; charset=utf-8" if status == 200 else "text/plain; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The terminal is not told of every look."""


class Watch(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, runs: Sequence[Path], listener: socket.socket) -> None:
        super().__init__(listener.getsockname()[:2], Page, bind_and_activate=False)
        self.socket.close()
        self.socket, self.runs = listener, runs
        self.drawing = threading.Lock()  # matplotlib draws in one thread at a time

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has left in the middle of a page is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serve_watch(runs: Sequence[Path], listener: socket.socket, browser: bool) -> None:
    """Until it is interrupted; then KeyboardInterrupt, as everywhere."""
    address = f"http://{LOOPBACK[0]}:{listener.getsockname()[1]}/"
    print(f"watching at {address} (Ctrl-C ends it)", flush=True)
    if browser and has_screen():
        webbrowser.open(address)
    Watch(runs, listener).serve_forever()
