"""The real engine beside the dream, and alone; the command, from the line that says where to Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TOKENIZER, eventually, tiny_episodes, tiny_run
from visiting import Client, children, serving, stepped, tiny_stage

from nextframe.cli import run_command
from nextframe.data.episodes import EpisodeDataset
from nextframe.doctor import OPTIONAL
from nextframe.errors import UserError
from nextframe.runs import load
from nextframe.web.engine import EngineStage, EnvironmentWalk, world_settings
from nextframe.web.game import Game
from nextframe.web.reality import Reality
from nextframe.web.stages import ModelStage
from nextframe.web.starts import Library, Start
from nextframe.worlds.maze.map import poses_of
from nextframe.worlds.maze.record import record_maze
from nextframe.worlds.maze.settings import MazeSettings

SIZE = 64
CONTEXT = 8
FRAMES = 24


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return record_maze(tmp_path_factory.mktemp("maze") / "data", 1, "demo", 0, MazeSettings(frames=FRAMES), 1)


def maze_stage(folder: Path, footage: EpisodeDataset, monkeypatch: pytest.MonkeyPatch) -> ModelStage:
    """A random model of frames of 64 pixels, as small as the others."""
    large = replace(
        TOKENIZER,
        frame_size=SIZE,
        encoder_channels=(8,) * 5,
        encoder_layers=(0, 1, 1, 1, 1),
        decoder_channels=(8,) * 5,
        decoder_layers=(0, 1, 1, 1, 1),
    )
    monkeypatch.setattr("tiny.TOKENIZER", large)
    world = load(tiny_run(folder / "run"))
    return ModelStage("tiny", world, Library(world, footage), world.config.sample)


def test_the_engine_shows_what_was_recorded(
    tmp_path: Path, footage: EpisodeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the recorded actions; and another branch is another way in the same maze."""
    episode = footage.read(footage.episodes()[0])
    stage, before = maze_stage(tmp_path, footage, monkeypatch), children()
    stage.info = replace(stage.info, fps=1000.0)
    with serving(stage) as server, Client(server.port) as client:
        assert json.loads(server.get("/api/world")[1])["real"]
        client.say("start", episode="demo_000000", context=CONTEXT, real=True)
        ready = client.line("ready")
        assert ready["real"]
        for frame in range(CONTEXT, FRAMES):
            client.act(int(episode.actions[frame - 1]), at=float(frame))
            truth = client.frame(frame, "truth")
            assert np.array_equal(truth.pixels, episode.video[frame])
            assert 0 < truth.header["psnr"] < 40 and truth.header["action"] == episode.actions[frame - 1]
        visitor = server.visitors.visitor(ready["session"])
        engines = children() - before
        assert engines
        # What is saved has the poses of the truth; so it could be gone on from beside the engine.
        status, content = server.get(f"/api/session/{ready['session']}/save?format=episode")
        assert status == 200
        with zipfile.ZipFile(BytesIO(content)) as archive:
            archive.extractall(tmp_path / "saved")
        saved = EpisodeDataset.open(tmp_path / "saved")
        walk = saved.read(saved.episodes()[0])
        assert np.array_equal(walk.extras["pose"], episode.extras["pose"])
        assert np.array_equal(walk.actions[:-1], episode.actions[:-1])
        client.say("seek", frame=CONTEXT - 3)
        assert np.array_equal(client.frame(CONTEXT - 3, "truth").pixels, episode.video[CONTEXT - 3])
        client.act(int(episode.actions[CONTEXT - 3]), at=100.0)
        assert np.array_equal(client.frame(CONTEXT - 2, "truth").pixels, episode.video[CONTEXT - 2])
        assert visitor.game.history.branch.number == 1
        assert server.get(f"/api/session/{ready['session']}/frame/{CONTEXT - 2}.png?branch=0&kind=truth")[0] == 200
        # An engine that dies is done without.
        os.kill(visitor.reality._process.pid, signal.SIGKILL)  # pyright: ignore
        client.act(0, at=101.0)
        assert client.act(0, at=102.0).header["frame"] == CONTEXT
        assert [said["text"][:20] for said in client.heard if said["type"] == "notice"] == ["the engine has ended"]
        client.close()
        assert eventually(lambda: not server.visitors.present)
        assert eventually(lambda: children() <= before)


def test_a_person_records_a_walk_in_the_maze(tmp_path: Path) -> None:
    before = children()
    with serving(EngineStage(world_settings("maze", size=SIZE))) as server, Client(server.port) as client:
        world = json.loads(server.get("/api/world")[1])
        assert world["parameters"] == 0 and world["starts"][0]["name"] == "new"
        assert server.get(world["starts"][0]["thumbnail"])[0] == 200
        assert server.get("/api/upload", b"GIF")[0] == 415
        session = client.start("new", 1)
        shown = [client.act(action, at=float(action * 10 + 1)) for action in (1, 2, 1, 3, 4)]
        client.say("settings", steps=2)
        assert "no sampling settings" in client.line("notice")["text"]
        content = server.get(f"/api/session/{session}/save?format=episode")[1]
    assert eventually(lambda: children() <= before)
    with zipfile.ZipFile(BytesIO(content)) as archive:
        archive.extractall(tmp_path / "data")
    dataset = EpisodeDataset.open(tmp_path / "data")
    episode = dataset.read(dataset.episodes()[0])
    assert episode.actions.tolist() == [1, 2, 1, 3, 4, 0]
    assert np.array_equal(episode.video[-1], shown[-1].pixels)
    assert poses_of(episode.extras["pose"])[0] != poses_of(episode.extras["pose"])[-1]


def test_an_environment_goes_back_by_being_played_again(tmp_path: Path) -> None:
    with serving(EngineStage(world_settings("gym:CartPole-v1", size=SIZE))) as server, Client(server.port) as client:
        session = client.start("new", 1)
        frames = [client.act(number % 2, at=float(number + 1)).pixels for number in range(6)]
        client.say("seek", frame=3)
        client.frame(3)
        again = [client.act(number % 2, at=float(number + 50)).pixels for number in range(3, 6)]
        assert all(map(np.array_equal, again, frames[3:]))
        assert server.visitors.visitor(session).game.history.branch.number == 1
        client.say("repeat", action=1, frames=100)
        assert "the episode has ended" in client.line("notice")["text"]
        client.say("act", action=1)
        assert "the episode has ended" in client.line("notice")["text"]
        last = server.visitors.visitor(session).game.history.branch.length - 1
        for frame in (last - 1, last):  # going back and forth does not make it go on
            client.say("seek", frame=frame)
            client.frame(frame)
        client.say("act", action=1)
        assert "the episode has ended" in client.line("notice")["text"]


class Failing(Reality):
    """Counts from where it was reset; it fails when it is told to, and then has forgotten where it was."""

    def __init__(self) -> None:
        super().__init__({})
        self.count: int | None = None
        self.fails = False

    def ask(self, question: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        if self.fails:
            self.count, self.fails = None, False
            raise UserError("the engine has ended")
        if "reset" in question:
            self.count = 0
        assert self.count is not None  # nobody steps what was not reset
        self.count += len(question.get("replay", [])) + ("step" in question)
        return {"ended": False}, np.full((2, 2, 3), self.count, np.uint8)


def test_an_environment_that_died_is_played_again(tmp_path: Path) -> None:
    reality = Failing()
    walk = EnvironmentWalk(reality, 0)
    game = Game(walk, Start("new", walk.first()[1][None]), tmp_path)
    for _ in range(2):
        stepped(game, 1)
    reality.fails = True
    with pytest.raises(UserError, match="has ended"):
        stepped(game, 1)
    stepped(game, 1)
    assert game.shown().max() == reality.count == 3


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_ends_all(tmp_path: Path, footage: EpisodeDataset, number: signal.Signals) -> None:
    """With an engine at work and a client that streams."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nextframe", "record", "play", "--no-browser", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
    assert found
    with Client(int(found[1])) as client:
        client.start("new", 1)
        client.say("hold", action=1, on=True)
        client.frame(3)
        engines = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        started = {int(pid) for task in engines.parents[1].iterdir() for pid in (task / "children").read_text().split()}
        assert started
        began = time.monotonic()
        process.send_signal(number)
        assert client.ending()[0] == 1012  # the server goes
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and errors.strip().splitlines()[-1] == "stopped"
    assert time.monotonic() - began < 20
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("record play --world mars", "--world 'mars' is unknown: choose maze or gym:ENV_ID"),
        ("record play --size 60", "maze size is 60"),
        ("record play --world gym:Nothing-v0", "Nothing"),
        ("--model run --data none", "none is not a dataset"),
        ("--model run --data data --steps 0", "sampling: steps is 0"),
        ("--model run --data data --memory 1", "sampling: memory is 1"),
        ("--model run --data small", "frames of 64 pixels, the model takes 32"),
        ("--model run --data data --sessions 0", "choose 1 or more"),
        ("--model run --host 203.0.113.9", "cannot listen at 203.0.113.9"),
        ("--model run --port 99999", "choose others, --host, --port"),
    ],
)
def test_what_a_user_can_put_right(words: str, message: str, footage: EpisodeDataset) -> None:
    tiny_run(Path("run"))
    tiny_episodes(Path("data"))
    Path("small").symlink_to(footage.folder)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        verb = [] if words.startswith("record") else ["play"]
        run_command([*verb, *words.split(), *([] if "--port" in words else ["--port", "0"]), "--no-browser"])
    assert "\n" not in str(caught.value)


def test_a_person_records_with_the_settings_of_the_recorder() -> None:
    squeezed = EngineStage(world_settings("gym:CartPole-v1", size=32, fit="squeeze", fps=None, action_repeat=2))
    assert squeezed.info.source["fit"] == "squeeze" and squeezed.info.fps == 25
    maze = EngineStage(world_settings("maze", size=64, difficulty="rich", cells=2, fit=None))
    assert (maze.info.source["difficulty"], maze.info.source["cells"]) == ("rich", 2)
    with pytest.raises(UserError, match="--world maze has no use for --action-repeat --fit: leave it out"):
        run_command(["record", "play", "--fit", "squeeze", "--action-repeat", "4", "--port", "0", "--no-browser"])


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    message = "port [0-9]+ is taken: .* choose another with --port"
    with serving(tiny_stage(tmp_path)) as server, pytest.raises(UserError, match=message):
        run_command(f"record play --port {server.port} --no-browser".split())


def test_without_the_extra_there_is_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nextframe.web.serve", "nextframe.web.server"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"playing needs uvicorn, .*pip install 'nextframe\[play\]'"):
        run_command(["record", "play"])
    assert OPTIONAL["uvicorn"][1] == "play"
