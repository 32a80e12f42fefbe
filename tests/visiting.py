"""A server of a tiny model, in a thread, and a client that speaks its protocol."""

import asyncio
import json
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
from tiny import tiny_episodes, tiny_run
from websockets.sync.client import ClientConnection, connect

from nextframe.runs import load
from nextframe.web.address import LOOPBACK, listen
from nextframe.web.dreamer import Made
from nextframe.web.game import Game, step_games
from nextframe.web.history import Action
from nextframe.web.serve import server_of
from nextframe.web.server import application
from nextframe.web.stages import ModelStage
from nextframe.web.starts import Library
from nextframe.web.visitors import Stage, Visitors


def tiny_stage(folder: Path, fps: float | None = None) -> ModelStage:
    """A random model and three episodes of ten frames."""
    world, dataset = load(tiny_run(folder / "run")), tiny_episodes(folder / "data")
    stage = ModelStage("tiny", world, Library(world, dataset), world.config.sample)
    stage.info = replace(stage.info, fps=fps or stage.info.fps)
    return stage


def stepped(game: Game, action: Action) -> tuple[np.ndarray, Made]:
    """The frame that `action` leads to, uint8 [h, w, 3], and what it took; raises what the step raised."""
    made = step_games([(game, action)])[0]
    if isinstance(made, Exception):
        raise made
    return made.frame.result(), made


@dataclass
class Frame:
    header: dict[str, Any]
    pixels: np.ndarray


class Client:
    """One visitor."""

    def __init__(self, port: int, **options: Any) -> None:
        address = f"ws://127.0.0.1:{port}/play"
        self._stack = ExitStack()
        self.socket: ClientConnection = self._stack.enter_context(
            connect(address, max_size=None, compression=None, **options)
        )
        self.heard: list[dict[str, Any]] = []

    def say(self, kind: str, **rest: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **rest}))

    def hear(self, timeout: float = 20) -> dict[str, Any] | Frame:
        said = self.socket.recv(timeout=timeout)
        if isinstance(said, str):
            self.heard.append(json.loads(said))
            return self.heard[-1]
        (length,) = struct.unpack(">I", said[:4])
        header = json.loads(said[4 : 4 + length])
        pixels = np.frombuffer(said[4 + length :], np.uint8)
        return Frame(header, pixels.reshape(header["height"], header["width"], 3))

    def line(self, kind: str) -> dict[str, Any]:
        """The next one of a type."""
        while True:
            said = self.hear()
            if isinstance(said, dict) and said["type"] == kind:
                return said

    def frame(self, number: int | None = None, kind: str = "dream") -> Frame:
        while True:
            said = self.hear()
            if isinstance(said, Frame) and said.header["kind"] == kind and number in (None, said.header["frame"]):
                return said

    def start(self, episode: str = "test_0", context: int = 6, real: bool = False) -> str:
        """The name of the new session."""
        self.say("start", episode=episode, context=context, real=real)
        ready = self.line("ready")
        self.frame(ready["frame"])
        return ready["session"]

    def act(self, action: Any, at: float = 0.0) -> Frame:
        self.say("act", action=action, at=at)
        while (frame := self.frame()).header["at"] != at:
            pass
        return frame

    def close(self) -> None:
        self._stack.close()

    def drop(self) -> None:
        """Go without a word."""
        self.socket.socket.close()

    def ending(self) -> tuple[int, str]:
        """Hear until the server closes: code and reason."""
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                self.hear()
        except ConnectionClosed as closed:
            assert closed.rcvd is not None
            return closed.rcvd.code, closed.rcvd.reason

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class Server:
    """Its visitors are `visitors`; it serves until the `with` ends."""

    def __init__(self, stage: Stage, sessions: int = 16, token: str | None = None) -> None:
        self._listener = listen("127.0.0.1", 0)
        self.port: int = self._listener.getsockname()[1]
        started = threading.Event()
        self.app = application(stage, sessions, LOOPBACK if token is None else None, token, started.set)
        self._server = server_of(self.app)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert started.wait(20)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._listener])

    @property
    def visitors(self) -> Visitors:
        return self.app.state.visitors

    def tasks(self) -> int:
        """Tasks in the server's loop, this question not counted."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(10)

    def get(self, path: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Status and body of a request; a POST if there is `data`."""
        asked = Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        try:
            with urlopen(asked, timeout=60) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()
        except (URLError, ConnectionError):  # it was not let in
            return 0, b""

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._listener.close()


@contextmanager
def serving(stage: Stage, **options: Any) -> Iterator[Server]:
    server = Server(stage, **options)
    try:
        yield server
    finally:
        server.close()


def with_steps(stage: ModelStage, steps: int) -> ModelStage:
    """A slower one."""
    stage.sample = replace(stage.sample, steps=steps)
    return stage


def children() -> set[int]:
    """Processes that this one has started, and that are there."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
