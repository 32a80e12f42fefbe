"""Where a server listens, and whether a browser can be opened on it. Needs nothing but Python."""

import errno
import os
import socket
import sys
from urllib.parse import urlsplit

from nextframe.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SEND_BUFFER = 2**17
"""Bytes a socket may hold that a slow client has not read: with the system's millions, it would see the past."""


def listen(host: str, port: int) -> socket.socket:
    """Raises UserError when the port is taken, or the host is none of this machine's."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listener.bind((host, port))
        listener.listen(64)
        return listener
    except (OSError, OverflowError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise UserError(f"port {port} is taken: stop what listens there, or choose another with --port") from None
        raise UserError(f"cannot listen at {host}, port {port} ({error}): choose others, --host, --port") from None


def names_one_of(hosts: tuple[str, ...], host: str) -> bool:
    """Whether a Host header names one of these: a name of somebody else's that leads here (DNS rebinding) would make
    their page one of ours."""
    try:
        return urlsplit(f"//{host}").hostname in hosts
    except ValueError:
        return False


def has_screen() -> bool:
    """Whether a browser would have somewhere to appear; some would take over the terminal instead."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
