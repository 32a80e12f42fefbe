"""Those who stall, crowd or fill a server of `nextframe play`: what they hold is bounded, and others go on."""

import errno
import json
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest
import torch
from fastapi import FastAPI
from tiny import eventually
from visiting import Client, Server, serving, tiny_stage

from nextframe.errors import UserError
from nextframe.web import history, serve
from nextframe.web import server as module
from nextframe.web.messages import StartMessage


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tiny_stage(tmp_path)) as server:
        yield server


@pytest.fixture
def walk(server: Server) -> Iterator[str]:
    """The path of a walk that can be saved."""
    with Client(server.port) as client:
        name = client.start()
        client.act(1, at=1.0)
        yield f"/api/session/{name}/save?format=npz"


def connected(server: Server) -> socket.socket:
    """One that takes little at a time."""
    connection = socket.socket()
    connection.settimeout(20)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    return connection


def asked(server: Server, request: str) -> socket.socket:
    """A connection over which this has been said, all but the empty line at its end."""
    connection = connected(server)
    connection.sendall(f"{request}Host: 127.0.0.1:{server.port}\r\n".encode())
    return connection


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_who_asks_for_nothing_holds_no_connection(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "FIRST_REQUEST_SECONDS", 0.5)
    with Client(server.port) as client:
        client.start()
        silent = [connected(server), asked(server, "GET / HTTP/1.1\r\n"), asked(server, "GET /style.css HTTP/1.1\r\n")]
        silent[2].sendall(b"\r\nG")  # a whole request, and the first byte of another
        while silent[2].recv(2**16):
            pass
        assert all(map(is_closed, silent[:2]))
        assert client.act(1, at=1.0).header["frame"] == 6  # who has asked for a WebSocket keeps it


def test_there_are_so_many_connections_and_no_more(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "MOST_CONNECTIONS", 3)
    with Client(server.port) as client:
        client.start()
        others = [connected(server) for _ in range(2)]
        assert is_closed(connected(server))
        assert client.act(1, at=1.0).header["frame"] == 6
        for connection in others:
            connection.close()
        assert eventually(lambda: server.get("/api/world")[0] == 200)


def file_of(size: int) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the server closes it
    file.truncate(size)
    return file


@pytest.mark.parametrize("size", [50_000_000, module.PART], ids=["in the middle", "at its last part"])
def test_who_does_not_take_a_saved_walk_is_given_up(
    server: Server, walk: str, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    saved, save = [], module.save
    monkeypatch.setattr(module, "save", lambda *_: saved.append(file_of(size)) or saved[-1])
    server.app.state.sending._value = 2
    monkeypatch.setattr(serve, "TAKING_SECONDS", 2.0)
    stalled = [asked(server, f"GET {walk} HTTP/1.1\r\n") for _ in range(2)]
    for connection in stalled:
        connection.sendall(b"\r\n")
    assert eventually(lambda: len(saved) == 2)
    status, said = server.get(walk)
    assert status == 503 and "walks are being saved already: try again" in json.loads(said)["error"]
    assert eventually(lambda: all(file.closed for file in saved))
    monkeypatch.setattr(module, "save", save)
    assert server.get(walk)[0] == 200
    for connection in stalled:
        connection.close()


def test_what_nobody_waits_for_any_more_is_not_saved(
    server: Server, walk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[object] = []
    monkeypatch.setattr(module, "save", lambda *_: saved.append(1) or file_of(1))
    server.app.state.heavy._value = 0  # others are at work
    waiting = [asked(server, f"GET {walk} HTTP/1.1\r\n") for _ in range(3)]
    for connection in waiting:
        connection.sendall(b"\r\n")
    assert eventually(lambda: len(server.app.state.heavy._waiters or ()) == 3)
    for connection in waiting:
        connection.close()
    assert eventually(lambda: len(server._server.server_state.connections) == 1)  # that of the walk
    for _ in range(2):
        server.loop.call_soon_threadsafe(server.app.state.heavy.release)
    assert eventually(lambda: server.app.state.sending._value == module.DOWNLOADS_AT_ONCE)
    assert not saved


def test_slow_uploads_end_and_others_are_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPLOAD_GRACE_SECONDS", 1.5)
    slow = [asked(server, "POST /api/upload HTTP/1.1\r\nContent-Length: 1000\r\n") for _ in range(4)]
    for connection in slow:
        connection.sendall(b"\r\nab")
    assert eventually(lambda: server.app.state.receiving.locked())
    status, said = server.get("/api/upload", b"abc")
    assert (status, json.loads(said)["error"]) == (503, "4 files are on their way already: try again")
    assert b" 408 " in slow[0].recv(100)
    assert eventually(lambda: server.get("/api/upload", b"abc")[0] == 415)  # it is no picture
    for connection in slow:
        connection.close()


def test_beginning_many_walks_loses_no_other_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextframe.web.visitors.MOST_KEPT", 3)
    with serving(tiny_stage(tmp_path)) as server:
        with Client(server.port) as client:
            name = client.start()
            client.act(1, at=1.0)
        with Client(server.port) as client:
            for _ in range(8):
                client.start()
        with Client(server.port) as client:
            client.say("resume", session=name)
            assert client.line("ready")["frame"] == 6


def test_those_who_arrive_keep_nobody_else_waiting(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(server.port) as client, ExitStack() as arrived:
        name, begin, go_on = client.start(), server.visitors.stage.begin, threading.Event()
        monkeypatch.setattr(server.visitors.stage, "begin", lambda *asked: go_on.wait(20) and begin(*asked))
        others = [arrived.enter_context(Client(server.port)) for _ in range(6)]
        for other in others:
            other.say("start", episode="test_0", context=5)
        assert server.get(f"/api/session/{name}/frame/0.png?branch=0")[0] == 200
        assert client.act(1, at=1.0).header["frame"] == 6
        go_on.set()
        assert all(other.line("ready")["frame"] == 4 for other in others)


def test_a_walk_begins_without_keeping_the_model_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that owns the model is asked for a few frames at a time."""
    monkeypatch.setattr("nextframe.web.starts.FRAMES_AT_ONCE", 2)
    stage, work = tiny_stage(tmp_path), []

    def on_model(piece: Callable[[], torch.Tensor]) -> torch.Tensor:
        work.append(latents := piece())
        return latents

    game = stage.begin(StartMessage("test_0", context=5), tmp_path, on_model)
    assert [len(latents) for latents in work] == [2, 2, 1]
    path = game.history.path()
    assert torch.equal(torch.stack([step.latents for step in path]), torch.cat(work))
    game.close()


def test_one_who_comes_while_it_closes_is_let_go(tmp_path: Path) -> None:
    """A job that is asked for after the end is cancelled; nobody waits for it."""
    with serving(tiny_stage(tmp_path)) as server:
        visitors = server.visitors
    assert visitors.dreams.submit(lambda: 1).cancelled()
    assert visitors.dreams.step(None, 0).cancelled()  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="the server is closing"):
        visitors.stage.begin(StartMessage("test_0", context=5), tmp_path, visitors._on_model)


def test_a_full_disk_is_a_line(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Client(server.port) as client:
        client.start()
        monkeypatch.setattr(history.os, "pwrite", full)
        client.say("act", action=1)
        code, said = client.ending()
        assert code == 1011 and "cannot be written (No space left on device)" in said
    with Client(server.port) as client:
        client.say("start", episode="test_0")
        assert "No space left on device" in client.ending()[1]
    monkeypatch.undo()
    assert "Traceback" not in capfd.readouterr().err


def test_a_long_history_is_told_without_a_look_through_all_parents_for_each_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = [history.Step(None, place) for place in range(2000)]
    branch = history.Branch(0, None, 0, steps[:20])
    for number in range(1, 100):
        branch = history.Branch(number, branch, branch.length - 1, steps[20 * number : 20 * number + 20])
    expected = [branch.step(frame) for frame in range(branch.length)]
    monkeypatch.setattr(history.Branch, "step", None)
    assert branch.path(branch.length) == expected


def test_a_second_ctrl_c_changes_nothing() -> None:
    server = serve.server_of(FastAPI())
    for _ in range(3):
        server.handle_exit(signal.SIGINT, None)
    assert server.should_exit and not server.force_exit
