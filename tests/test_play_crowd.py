"""Those who stall, crowd or fill a server of `nextframe play`: what they hold is bounded, and others go on."""

import errno
import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
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


def asked(server: Server, request: str) -> socket.socket:
    """A connection over which this has been said."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.sendall(f"{request}Host: 127.0.0.1:{server.port}\r\n".encode())
    return connection


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_who_asks_for_nothing_holds_no_connection(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "FIRST_REQUEST_SECONDS", 0.3)
    with Client(server.port) as client:
        client.start()
        silent = [socket.create_connection(("127.0.0.1", server.port)), asked(server, "GET / HTTP/1.1\r\n")]
        assert all(map(is_closed, silent))
        assert client.act(1, at=1.0).header["frame"] == 6  # who has asked for a WebSocket keeps it


def test_there_are_so_many_connections_and_no_more(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "MOST_CONNECTIONS", 3)
    with Client(server.port) as client:
        client.start()
        others = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        assert is_closed(socket.create_connection(("127.0.0.1", server.port)))
        assert client.act(1, at=1.0).header["frame"] == 6
        for connection in others:
            connection.close()
        assert eventually(lambda: server.get("/api/world")[0] == 200)


def large(*_: object) -> IO[bytes]:
    """More than lies on the way to one who reads nothing."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the server closes it
    file.truncate(50_000_000)
    return file


def test_who_does_not_take_a_saved_walk_is_given_up(server: Server, walk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, save = [], module.save
    monkeypatch.setattr(module, "save", lambda *arguments: saved.append(large()) or saved[-1])
    server.app.state.sending._value = 2
    monkeypatch.setattr(module, "DOWNLOAD_SECONDS", 2.0)
    stalled = [asked(server, f"GET {walk} HTTP/1.1\r\n") for _ in range(2)]
    for connection in stalled:
        connection.sendall(b"\r\n")
    assert eventually(lambda: len(saved) == 2)
    status, said = server.get(walk)
    assert (status, json.loads(said)["error"]) == (
        503,
        f"{module.DOWNLOADS_AT_ONCE} walks are being saved already: try again",
    )
    assert eventually(lambda: all(file.closed for file in saved))
    monkeypatch.setattr(module, "save", save)
    assert server.get(walk)[0] == 200
    for connection in stalled:
        connection.close()


def test_what_nobody_waits_for_any_more_is_not_saved(
    server: Server, walk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[object] = []
    monkeypatch.setattr(module, "save", lambda *_: saved.append(1) or large())
    server.app.state.heavy._value = 0  # others are at work
    for _ in range(3):
        connection = asked(server, f"GET {walk} HTTP/1.1\r\n")
        connection.sendall(b"\r\n")
        time.sleep(0.1)
        connection.close()
    time.sleep(0.3)
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


def test_a_long_history_is_told_quickly() -> None:
    steps = [history.Step(None, place) for place in range(20_000)]
    branch = history.Branch(0, None, 0, steps[:200])
    for number in range(1, 100):
        branch = history.Branch(number, branch, branch.length - 1, steps[200 * number : 200 * number + 200])
    began = time.monotonic()
    path = branch.path(branch.length)
    assert time.monotonic() - began < 0.05
    assert path == [branch.step(frame) for frame in range(branch.length)]


def test_a_second_ctrl_c_changes_nothing() -> None:
    server = serve.server_of(FastAPI())
    for _ in range(3):
        server.handle_exit(signal.SIGINT, None)
    assert server.should_exit and not server.force_exit
