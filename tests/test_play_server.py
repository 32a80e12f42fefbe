"""The server, by its protocol: all of it, what it refuses, and that nobody disturbs anybody else."""

import gc
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import SIZE, eventually
from visiting import Client, Server, children, resident_bytes, serving, tiny_stage, with_steps
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from nextframe import session
from nextframe.data.video import mp4
from nextframe.errors import UserError
from nextframe.presets import PRETRAINED
from nextframe.web import conversation, serve
from nextframe.web.address import listen
from nextframe.web.messages import LONGEST
from nextframe.web.stages import ModelStage

FPS = 100.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tiny_stage(tmp_path_factory.mktemp("play"), FPS)) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.port) as client:
        yield client


def picture_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_what_there_is_to_play(server: Server) -> None:
    status, page = server.get("/")
    assert status == 200 and b"<html" in page
    for part in ("page.js", "style.css"):
        assert server.get(f"/{part}")[0] == 200
    world = json.loads(server.get("/api/world")[1])
    assert world["kind"] == "id" and world["size"] == SIZE and world["window"] == 4 and not world["real"]
    assert [action["name"] for action in world["actions"]][:3] == ["noop", "turn_left", "turn_right"]
    assert world["settings"] == {"steps": 2, "guidance": 1.0, "solver": "euler"}
    assert [start["name"] for start in world["starts"]] == ["test_0", "test_1", "test_2"]
    status, thumbnail = server.get(world["starts"][2]["thumbnail"])
    begun = server.visitors.stage.library.start("test_2", 1000).video  # pyright: ignore
    assert status == 200 and not np.array_equal(begun[0], begun[-1])
    np.testing.assert_array_equal(picture_of(thumbnail), begun[-1])  # where a walk begins
    for path in ("/api/thumbnail/none.png", "/nothing", "/..%2fserver.py", "/api/session/none/save?format=mp4"):
        status, body = server.get(path)
        assert status == 404, path
        assert "\n" not in json.loads(body).get("error", "")


@pytest.mark.parametrize(
    "command", [["play", "--model", str(PRETRAINED)], ["record", "play"]], ids=["play", "record play"]
)
def test_the_command_of_the_readme_serves_until_it_is_stopped(command: tuple[str, ...]) -> None:
    """In a process of its own, with the threads that a user has."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "nextframe", *command, "--no-browser", "--port", str(port)],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        assert line.startswith(f"playing at http://127.0.0.1:{port}/"), process.communicate(timeout=60)
        with urlopen(f"http://127.0.0.1:{port}/api/world", timeout=60) as answer:
            assert len(json.load(answer)["actions"]) == 5
    finally:
        process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said, said


def test_the_whole_protocol(server: Server, client: Client) -> None:
    client.say("start", episode="test_1", context=6, real=True)
    ready = client.line("ready")
    assert {**ready, "session": ""} == {
        "type": "ready",
        "session": "",
        "frame": 5,
        "context": 6,
        "branch": 0,
        "real": False,  # a panorama has no engine
    }
    session = ready["session"]
    assert client.frame().header["frame"] == 5
    shown = client.act(1, at=12.5)
    assert shown.pixels.shape == (SIZE, SIZE, 3)
    header = shown.header
    assert (header["frame"], header["action"], header["at"], header["psnr"]) == (6, 1, 12.5, None)
    assert header["transformer_ms"] > 0 and header["decode_ms"] > 0 and header["wait_ms"] >= 0
    client.say("repeat", action=2, frames=5)
    last = client.frame(11)
    assert last.header["action"] == 2 and last.header["at"] is None
    client.say("hold", action=0, on=True, at=3.0)
    assert client.frame(12).header["at"] == 3.0
    client.frame(15)
    client.say("hold", action=1, on=False)  # not what is held
    client.frame(20)
    client.say("hold", action=0, on=False)
    visitor = server.visitors.visitor(session)
    assert eventually(lambda: not visitor.waiting and not visitor.wants.running)
    client.say("ping", at=1)
    assert client.line("pong") == {"type": "pong", "at": 1.0}
    end = visitor.game.history.frame
    client.say("seek", frame=8)
    eighth = client.frame(8)
    state = client.line("state")
    assert (state["frame"], state["length"], state["branch"], state["running"]) == (8, end + 1, 0, False)
    assert state["window"] == 3 and state["coarse"] == 6 and state["queue"] == 0
    client.act(1, at=1.0)
    state = client.line("state")
    assert (state["branch"], state["length"], state["frame"]) == (1, 10, 9)
    assert state["branches"] == [{"id": 0, "from": 6, "length": end + 1}, {"id": 1, "from": 9, "length": 10}]
    client.say("branch", branch=0)
    assert (header := client.frame().header)["frame"] == end and header["branch"] == 0
    client.say("settings", steps=3, guidance=2, solver="adams")
    while client.line("state")["settings"] != {"steps": 3, "guidance": 2.0, "solver": "adams"}:
        pass
    client.act(0, at=2.0)
    client.say("seek", frame=1000)
    assert client.line("notice")["text"].startswith("this branch has no frame 1000: choose 0 to")
    client.say("branch", branch=2)
    assert client.line("notice")["text"] == "there is no branch 2: choose 0 to 1"
    client.say("hold", action=0, on=True)
    client.say("pause")
    status, png = server.get(f"/api/session/{session}/frame/8.png?branch=0&kind=dream")
    assert status == 200 and np.array_equal(picture_of(png), eighth.pixels)
    own, other = (server.get(f"/api/session/{session}/frame/9.png?branch={branch}")[1] for branch in (0, 1))
    assert not np.array_equal(picture_of(own), picture_of(other))
    assert server.get(f"/api/session/{session}/frame/10.png?branch=1")[0] == 404
    assert server.get(f"/api/session/{session}/frame/8.png?branch=0&kind=truth")[0] == 404
    assert server.get(f"/api/session/{session}/frame/3.png?branch=0&kind=truth")[0] == 200
    for form, begin in (("npz", b"PK"), ("episode", b"PK"), ("mp4", b"\0\0\0")):
        status, body = server.get(f"/api/session/{session}/save?format={form}")
        assert status == 200 and body.startswith(begin)
    assert server.get(f"/api/session/{session}/save?format=avi")[0] == 400
    assert eventually(lambda: not list(server.visitors.folder.iterdir()))  # what was made to be sent is gone


def test_a_hold_keeps_to_the_pace_of_the_footage(tmp_path: Path) -> None:
    with serving(tiny_stage(tmp_path, 10.0)) as server, Client(server.port) as client:
        client.start()
        client.act(0)
        client.say("hold", action=1, on=True)
        first = client.frame()
        began = time.monotonic()
        while client.frame().header["frame"] < first.header["frame"] + 8:
            pass
        assert time.monotonic() - began > 0.5  # without a pace it takes a tenth of a second
        assert 0 < client.line("state")["fps"] < 20


def test_a_tap_is_one_frame(tmp_path: Path) -> None:
    with serving(tiny_stage(tmp_path, 1.0)) as server, Client(server.port) as client:
        session = client.start()
        client.say("hold", action=1, on=True, at=1.0)
        client.say("hold", action=1, on=False, at=2.0)
        assert client.frame().header["at"] == 1.0
        time.sleep(1.5)  # the next would be due
        assert server.visitors.visitor(session).game.history.made == 1


def test_going_on_from_a_picture_and_a_clip(server: Server, client: Client) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (7, 90, 120, 3), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(colours[0]).save(png, "png")
    film = mp4(colours, 10.0, "libx264", "yuv420p", {})
    arrays = io.BytesIO()
    np.savez(arrays, video=colours)
    for content, frames in ((png.getvalue(), 1), (film, 7), (arrays.getvalue(), 7)):
        status, body = server.get("/api/upload", content, **{"Content-Type": "image/png"})
        assert status == 200, body
        client.say("start", upload=json.loads(body)["upload"])
        ready = client.line("ready")
        assert ready["context"] == frames and not ready["real"]
        assert client.frame().pixels.shape == (SIZE, SIZE, 3)
        assert client.act(2, at=1.0).header["frame"] == frames
    client.say("start", upload="never")
    assert client.ending() == (1008, "this upload is not there any more: upload it again")


def test_uploads_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(content: bytes) -> tuple[int, str]:
        status, body = server.get("/api/upload", content, **{"Content-Type": "image/gif"})
        return status, json.loads(body).get("error", "")

    monkeypatch.setattr("nextframe.web.server.MOST_BYTES", 2**20)
    assert refused(b"\0" * (2**20 + 1)) == (413, "the file is larger than 1 MiB: cut it")
    line = "the file cannot be read as a picture or video: use png, jpg, gif, mp4, webm or npz"
    assert refused(b"#EXTM3U\nfile:///etc/passwd\n") == (415, line)
    Path("private.mp4").write_bytes(mp4(np.zeros((3, 32, 32, 3), np.uint8), 10.0, "libx264", "yuv420p", {}))
    assert refused(b"ffconcat version 1.0\nfile 'private.mp4'\n") == (415, line)
    gif, noise = io.BytesIO(), np.random.default_rng(0)
    frames = [Image.fromarray(noise.integers(0, 256, (2, 2), dtype=np.uint8)) for _ in range(10_000)]
    frames[0].save(gif, "gif", save_all=True, append_images=frames[1:])
    assert gif.tell() < 2**20
    status, body = server.get("/api/upload", gif.getvalue())
    assert status == 200
    uploads = server.visitors.stage.library.uploads  # pyright: ignore
    assert len(uploads[json.loads(body)["upload"]]) == 300
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "png")
    assert bomb.tell() < 2**20
    assert refused(bomb.getvalue()) == (415, line)
    for number in range(40):
        server.visitors.stage.keep(f"{number}", np.zeros((1, SIZE, SIZE, 3), np.uint8))
    assert len(uploads) == 32


# What is wrong with a message -> what it is answered.
MALFORMED: list[tuple[Any, str]] = [
    (b"\x00\x01", "messages are text: send JSON"),
    ("{", "Invalid JSON: EOF"),
    ("[" * 4000, "Invalid JSON: recursion limit"),
    ('{"type": "act", "action": NaN}', "action: choose 0 to 2"),
    ("[]", "Input should be an object"),
    ({"action": 0}, "type: choose start, resume, act"),
    ({"type": "two\nlines"}, "type: choose start, resume, act"),
    ({"type": ["act"]}, "type: choose start"),
    ({"type": "act", "action": 5}, "action: choose 0 to 2"),
    ({"type": "act", "action": True}, "action: choose 0 to 2"),
    ({"type": "act", "action": 10**100}, "action: choose 0 to 2"),
    ('{"type": "act", "action": 0, "at": 1e999}', "act: at: Input should be less than"),
    ({"type": "hold", "action": 0}, "hold: on: Field required"),
    ({"type": "hold", "action": 0, "on": 1}, "hold: on: Input should be a valid boolean"),
    ({"type": "repeat", "action": 0, "frames": 10**9}, "repeat: frames: Input should be less than or equal to 1000"),
    ({"type": "repeat", "action": 0, "frames": 2.0}, "repeat: frames: Input should be a valid integer"),
    ({"type": "seek", "frame": -1}, "seek: frame: Input should be greater than or equal to 0"),
    ({"type": "settings", "steps": 10**6}, "settings: steps: Input should be less than or equal to 100"),
    ({"type": "settings", "guidance": "much"}, "settings: guidance: Input should be a valid number"),
    ({"type": "settings", "solver": "magic"}, "settings: solver: Input should be 'euler'"),
    ({"type": "start", "episode": "a", "upload": "b"}, "start: name an episode or an upload"),
    ({"type": "start", "episode": "../../x"}, "there is no episode '../../x'"),
    ({"type": "resume", "session": "never"}, "this walk is not kept any more: start a new one"),
    ("x" * (LONGEST + 1), f"a message has at most {LONGEST} bytes"),
    ("é" * (LONGEST // 2 + 1), f"a message has at most {LONGEST} bytes"),
]


@pytest.mark.parametrize(("message", "reason"), MALFORMED, ids=lambda part: str(part)[:24])
def test_a_malformed_message_ends_its_session_with_a_reason(server: Server, message: Any, reason: str) -> None:
    with Client(server.port) as client:
        client.start()
        client.socket.send(json.dumps(message) if isinstance(message, (dict, list)) else message)
        code, said = client.ending()
        assert code == 1008 and said.startswith(reason)
        assert client.heard[-1]["type"] == "error" and client.heard[-1]["text"].startswith(reason)


def test_one_speaks_after_one_has_come(server: Server) -> None:
    with Client(server.port) as client:
        client.say("act", action=0)
        assert client.ending() == (1008, "say start or resume first")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
KINDS = ["start", "resume", "act", "hold", "repeat", "seek", "branch", "settings", "pause", "ping", "nonsense"]
FIELDS = [
    "episode",
    "upload",
    "context",
    "real",
    "session",
    "action",
    "at",
    "on",
    "frames",
    "frame",
    "branch",
    "steps",
    "guidance",
    "solver",
]
PLAUSIBLE = st.sampled_from([0, 1, -1, 4, 2**70, 0.5, 1e300, True, "test_0", "euler", "", [0], {}, None])
SAID = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60),
    JSON.map(json.dumps),
    st.builds(
        lambda kind, rest: json.dumps({"type": kind, **rest}),
        st.sampled_from(KINDS),
        st.dictionaries(st.sampled_from(FIELDS), PLAUSIBLE | JSON, max_size=5),
    ),
)


def test_whatever_is_said_ends_at_most_the_session_of_who_says_it(server: Server, capsys: Any) -> None:
    with Client(server.port) as bystander:
        bystander.start()
        ends = []

        @settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(SAID, min_size=1, max_size=4))
        def fuzz(messages: list[str | bytes]) -> None:
            with Client(server.port) as client:
                client.start()
                try:
                    for message in messages:
                        client.socket.send(message)
                    client.say("ping", at=77)
                    while client.line("pong")["at"] != 77:
                        pass
                except Exception as error:
                    received = getattr(error, "rcvd", None)
                    assert received is not None and received.code == 1008 and received.reason, error
                    ends.append(received.reason)

        fuzz()
        assert len(set(ends)) > 5
        assert bystander.act(1, at=5.0).header["frame"] == 6
    assert "Traceback" not in capsys.readouterr().err


def test_who_says_too_much_is_stopped(server: Server) -> None:
    with Client(server.port) as client:
        client.start()
        with pytest.raises(Exception, match="1008"):
            for _ in range(2000):
                client.say("ping", at=0)
            while True:
                client.hear()


def test_strangers_pages_are_refused(server: Server) -> None:
    address = f"ws://127.0.0.1:{server.port}/play"
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://["}):
        with pytest.raises(InvalidStatus, match="403"):
            connect(address, additional_headers=headers)
        assert server.get("/api/upload", b"x", **headers)[0] == 403
    for name in ("evil.example", "["):  # a name that was made to lead here, and none
        assert server.get("/api/world", Host=name)[0] == 403
    with connect(address, additional_headers={"Origin": f"http://127.0.0.1:{server.port}"}):
        pass


def test_a_token_is_needed_where_there_is_one(tmp_path: Path) -> None:
    with serving(tiny_stage(tmp_path), token="secret") as server:
        for path in ("/", "/api/world", "/api/world?token=secre", "/api/world?token=%C3%A9"):
            assert server.get(path)[0] == 403
        assert server.get("/api/world?token=secret")[0] == 200
        address = f"ws://127.0.0.1:{server.port}/play"
        with pytest.raises(InvalidStatus, match="403"):
            connect(address)
        with connect(f"{address}?token=secret"):
            pass


@pytest.mark.parametrize(("host", "guarded"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_strangers_are_asked_for_the_token_that_is_printed(
    host: str, guarded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened, given = [], []

    async def started(sockets: list[socket.socket]) -> None:
        given[-1][-1]()  # ready

    monkeypatch.setattr(serve.webbrowser, "open", opened.append)
    monkeypatch.setattr(serve, "has_screen", lambda: True)
    monkeypatch.setattr(serve, "application", lambda *arguments: given.append(arguments))
    monkeypatch.setattr(serve, "server_of", lambda _: SimpleNamespace(serve=started))
    with listen("127.0.0.1", 0) as listener:
        serve.serve(tiny_stage(tmp_path), listener, host, sessions=1, browser=True)
    _, _, hosts, token, _ = given[0]
    assert capsys.readouterr().out == f"playing at {opened[0]} (Ctrl-C ends it)\n"
    if guarded:
        assert len(token) >= 32 and opened[0].endswith(f"/?token={token}")
    else:
        assert token is None and "127.0.0.1" in hosts and "token" not in opened[0]


@pytest.mark.parametrize(("host", "port"), [("a..b", 0), ("192.0.2.1", 0), ("127.0.0.1", 99999)])
def test_where_nobody_can_listen_is_one_line(host: str, port: int) -> None:
    with pytest.raises(UserError, match="choose others, --host, --port") as refused:
        listen(host, port)
    assert "\n" not in str(refused.value)


def test_only_so_many_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tiny_stage(tmp_path), sessions=1) as server, Client(server.port) as first:
        session = first.start()
        with Client(server.port) as second:
            second.say("start", episode="test_0", context=3)
            assert second.ending() == (1013, "all 1 sessions are taken: come back later")
        first.act(0)
        first.close()
        assert eventually(lambda: not server.visitors.present)
        with Client(server.port) as third:
            third.start()
            with Client(server.port) as again:
                again.say("resume", session=session)
                assert again.ending()[0] == 1013


def test_who_is_silent_for_long_gives_back_what_it_holds_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "IDLE_SECONDS", 1.0)
    with serving(tiny_stage(tmp_path), sessions=1) as server, Client(server.port) as client:
        visitor = server.visitors.visitor(client.start())
        client.act(1, at=1.0)
        assert visitor.game.source._walk is not None  # pyright: ignore
        assert eventually(lambda: visitor.resting)
        assert eventually(lambda: visitor.game.source._walk is None)  # pyright: ignore
        monkeypatch.setattr(conversation, "IDLE_SECONDS", 600.0)
        with Client(server.port) as other:
            other.start()
            client.say("act", action=1)
            assert "sessions are taken" in client.line("notice")["text"]
        assert eventually(lambda: not server.visitors.present)
        assert client.act(1, at=2.0).header["frame"] == 7


def test_a_dropped_connection_goes_on_where_it_was(server: Server) -> None:
    def end_of(drop: bool) -> np.ndarray:
        client = Client(server.port)
        session = client.start("test_2")
        for number in range(4):
            client.act(number % 3, at=float(number))
        if drop:
            client.drop()
            client = Client(server.port)
            client.say("resume", session=session)
            ready = client.line("ready")
            assert (ready["session"], ready["frame"], ready["context"]) == (session, 9, 6)
        frames = [client.act(number % 2, at=10.0 + number) for number in range(5)]
        client.close()
        return frames[-1].pixels.astype(int)

    assert np.abs(end_of(True) - end_of(False)).max() <= 1


def test_a_walk_that_goes_on_elsewhere_hears_its_old_window_no_more(server: Server) -> None:
    with Client(server.port) as old, Client(server.port) as new:
        session = old.start("test_2")
        new.say("resume", session=session)
        frame = new.line("ready")["frame"]
        old.say("act", action=1)
        assert old.ending() == (1008, "this walk goes on in another window")
        new.act(0, at=1.0)
        assert server.visitors.visitor(session).game.history.frame == frame + 1


def test_two_visitors_have_fair_turns(tmp_path: Path) -> None:
    stage = with_steps(tiny_stage(tmp_path, 1000.0), 20)
    with serving(stage) as server, Client(server.port) as greedy, Client(server.port) as other:
        sessions = [client.start() for client in (greedy, other)]
        for client in (greedy, other):
            client.say("repeat", action=1, frames=1000)
        greedy.say("settings", steps=21)
        readers = [threading.Thread(target=_read_on, args=[client], daemon=True) for client in (greedy, other)]
        for reader in readers:
            reader.start()
        made = lambda: [server.visitors.visitor(session).game.history.made for session in sessions]  # noqa: E731
        assert eventually(lambda: min(made()) > 0, 60)
        first = made()
        assert eventually(lambda: max(made()) - max(first) > 20, 60)
        counts = [now - then for now, then in zip(made(), first, strict=True)]
        assert max(counts) < 1.2 * min(counts) + 3


def test_visitors_who_are_ready_are_stepped_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, plain = [], session.step_together

    def counted(sessions: Any, conditions: Any) -> Any:
        sizes.append(len(sessions))
        return plain(sessions, conditions)

    monkeypatch.setattr("nextframe.runs.step_together", counted)
    monkeypatch.setattr("nextframe.web.dreams.GATHER_SECONDS", 1.0)
    stage = with_steps(tiny_stage(tmp_path, 1000.0), 10)
    with serving(stage) as server, Client(server.port) as one, Client(server.port) as two, Client(server.port) as late:
        names = [client.start() for client in (one, two, late)]
        for client in (one, two, late):
            client.say("repeat", action=1, frames=12)
        made = lambda: [server.visitors.visitor(name).game.history.made for name in names]  # noqa: E731
        assert eventually(lambda: made() == [12] * 3, 60)
        assert sizes.count(3) > 6, sizes


def _read_on(client: Client) -> None:
    try:
        while True:
            client.hear()
    except Exception:
        return


def test_who_does_not_read_waits_alone(tmp_path: Path) -> None:
    stage = tiny_stage(tmp_path, 1000.0)
    with serving(stage) as server, Client(server.port) as reader:
        little = socket.socket()
        little.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        little.connect(("127.0.0.1", server.port))
        slow = Client(server.port, sock=little, max_queue=1)
        name = slow.start()
        slow.say("repeat", action=1, frames=1000)
        made = lambda: server.visitors.visitor(name).game.history.made  # noqa: E731
        reader.start()

        def stuck() -> bool:
            before = made()
            time.sleep(0.5)
            return made() == before > 0

        assert eventually(stuck, 20)
        assert made() < 1000
        began = time.monotonic()
        for number in range(20):
            reader.act(number % 3, at=float(number))
        assert time.monotonic() - began < 10
        assert server.visitors.visitor(name).outbox is not None
        slow.drop()


def test_fifty_visits_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextframe.web.visitors.MOST_KEPT", 3)
    with serving(tiny_stage(tmp_path)) as server:

        def visit() -> None:
            with Client(server.port) as client:
                client.start()
                client.act(1)
                client.say("hold", action=1, on=True)
                client.frame()

        def counts() -> tuple[int, int, int, int]:
            return server.tasks(), threading.active_count(), len(children()), len(os.listdir("/proc/self/fd"))

        for _ in range(10):
            visit()
        assert eventually(lambda: not server.visitors.present)
        for job in [server.visitors.chores.submit(time.sleep, 0.3) for _ in range(4)]:
            job.result()  # all the threads there will be
        before = counts()
        gc.collect()
        memory = resident_bytes()
        for _ in range(50):
            visit()
        assert eventually(lambda: not server.visitors.present)
        assert eventually(lambda: all(now <= then for now, then in zip(counts(), before, strict=True))), (
            before,
            counts(),
        )
        assert len(server.visitors.by_name) == 3
        gc.collect()
        assert resident_bytes() - memory < 20 * 2**20
        folder = server.visitors.folder
        assert folder.exists()
    assert not folder.exists()


def test_a_bug_ends_the_session_that_met_it_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with Client(server.port) as other, Client(server.port) as client:
        other.start()
        visitor = server.visitors.visitor(client.start())
        monkeypatch.setattr(visitor.game.source, "walk_for", lambda *_: 1 / 0)
        client.say("act", action=0)
        assert client.ending() == (1011, "the server failed: ZeroDivisionError; see its terminal")
        assert other.act(0, at=1.0).header["frame"] == 6
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_frame_that_cannot_be_decoded_ends_the_session_and_is_there_when_it_is_resumed(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    stage = server.visitors.stage
    assert isinstance(stage, ModelStage)
    decode = type(stage.world).decode
    with Client(server.port) as client:
        session = client.start()
        expected = client.act(1, 1.0).pixels
        client.say("seek", frame=5)
        client.frame(5)
        with monkeypatch.context() as patched:
            patched.setattr(type(stage.world), "decode", lambda *_: 1 / 0)
            client.say("hold", action=1, on=True)
            assert client.ending() == (1011, "the server failed: ZeroDivisionError; see its terminal")
            with Client(server.port) as early:
                early.say("resume", session=session)
                assert early.ending()[0] == 1011
        assert type(stage.world).decode is decode
    assert eventually(lambda: not server.visitors.present)
    with Client(server.port) as again:
        again.say("resume", session=session)
        first = again.line("ready")["frame"]
        again.frame(first)
        again.say("seek", frame=6)
        assert np.array_equal(again.frame(6).pixels, expected)
    capsys.readouterr()
