"""Environments as worlds: frames and actions go together, every kind of action, and recording can be stopped anyhow."""

import os
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording import Recorder, tree

from nextframe.cli import run_command
from nextframe.data.episodes import EpisodeDataset
from nextframe.data.video import fitted
from nextframe.errors import UserError
from nextframe.worlds.gym.film import film
from nextframe.worlds.gym.record import record_gym, world_seed
from nextframe.worlds.gym.settings import GymSettings
from nextframe.worlds.gym.world import GymWorld
from nextframe.worlds.record import SPLITS, episode_seed

LITTLE = '''
import enum, gymnasium, numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import register

ACTIONS = {
    "Line": spaces.Discrete(3, start=-1),
    "Named": spaces.Discrete(2),
    "Keys": spaces.MultiBinary(3),
    "Dials": spaces.MultiDiscrete([2, 3]),
    "Arms": spaces.Box(np.float64([-1, -0.1]), np.float64([0.1, 0.1]), dtype=np.float64),
    "Free": spaces.Box(np.float32(-3e38), np.float32(3e38), (1,)),
    "Both": spaces.Dict({"keys": spaces.MultiBinary(2), "turn": spaces.Box(-2, 2, ()), "way": spaces.Discrete(2)}),
    "Words": spaces.Text(5),
    "Crowd": spaces.MultiBinary(1000),
}

class Named(enum.IntEnum):
    Stay = 0
    Go = 1

class Little(gymnasium.Env):
    """A wide grey picture between black margins: as bright as the place on the line is far."""
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space = spaces.Dict({"where": spaces.Discrete(256), "eye": spaces.Box(0, 255, (32, 64, 3), np.uint8)})
    resets = 0
    actions = Named  # as MiniGrid has it

    def __init__(self, space, view="render", render_mode=None):
        if view != "render" and render_mode:
            raise ValueError("no rgb_array")
        self.action_space, self.view, self.render_mode = ACTIONS[space], view, render_mode

    def picture(self):
        picture = np.zeros((32, 64, 3), np.uint8)
        picture[:, 16:48] = self.place
        return picture

    def observation(self):
        return {"where": self.place, **({"eye": self.picture()} if self.view == "observe" else {})}

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(100, 140)) + 50 * self.resets  # remembers that it was reset before
        self.lifetime = int(self.np_random.integers(5, 40))
        self.resets += 1
        return self.observation(), {"lifetime": self.lifetime}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.place += int(action) if isinstance(self.action_space, spaces.Discrete) else 1
        self.lifetime -= 1
        if self.view == "rotten":
            raise KeyError("a bug")
        return self.observation(), self.place, self.lifetime == 0, False, {"lifetime": self.lifetime}

    def render(self):
        return self.picture() if self.view in ("render", "rotten") else None

for space in ACTIONS:
    register(f"Little/{space}-v0", Little, kwargs={"space": space})
register("Little/Seen-v0", Little, kwargs={"space": "Line", "view": "observe"})
register("Little/Rotten-v0", Little, kwargs={"space": "Line", "view": "rotten"})
register("Little/Blind-v0", Little, kwargs={"space": "Line", "view": "none"})
'''
POLICIES = """
def right(observation, info, generator):
    assert 0 <= observation["where"] < 256 and info["lifetime"] > 0
    return 1

class Alternating:
    def __init__(self):
        self.action = 1
    def __call__(self, observation, info, generator):
        self.action = -self.action
        return self.action

def broken(observation, info, generator):
    return observation["nowhere"]

def far(observation, info, generator):
    return 7
"""
EPISODES = 8
LINE = GymSettings("little_worlds:Little/Line-v0", frames=20, least_frames=10)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with environments and policies of the user's own."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "little_worlds.py").write_text(LITTLE)
    (folder / "little_policies.py").write_text(POLICIES)
    return folder


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(scope="module")
def recorded(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        record_gym(folder, EPISODES, LINE, workers=2)
    return folder


def little(name: str, **settings: Any) -> GymSettings:
    return GymSettings(f"little_worlds:Little/{name}-v0", **{"frames": 12, "least_frames": 1, **settings})


# Recording


def test_actions_lead_from_frame_to_frame(recorded: Path) -> None:
    dataset = EpisodeDataset.open(recorded)
    assert dataset.info.action_names == ("-1", "0", "1") and dataset.info.fps == 20
    assert dataset.info.source["environment"] == "little_worlds:Little/Line-v0"
    lengths = [info.frames for info in dataset.episodes()]
    assert 10 <= min(lengths) < max(lengths) == 20
    for info in dataset.episodes():
        dataset.verify(info)
        episode = dataset.read(info)
        places = episode.video[:, 32, 32, 0].astype(int)
        assert (episode.video[:, :, 2:-2] == places[:, None, None, None]).all()  # cropped: no margins
        assert 100 <= places[0] < 140  # an environment of its own, never reset before
        after = places + episode.actions - 1
        np.testing.assert_array_equal(after[:-1], places[1:])
        rewards, terminated = episode.extras["rewards"], episode.extras["terminated"]
        assert rewards.dtype == np.float32 and info.meta["reward"] == rewards.sum()
        np.testing.assert_array_equal(rewards, after)
        assert not terminated[:-1].any() and terminated[-1] == (info.frames < 20 or terminated[-1])
    together = np.concatenate([dataset.read(info).actions for info in dataset.episodes()])
    assert 0.03 < (together[1:] != together[:-1]).mean() < 0.3  # kept for 8 frames, and a third of new ones are equal
    assert set(together) == {0, 1, 2}


def test_short_episodes_are_kept_out_and_said(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_gym(tmp_path / "all", EPISODES, little("Line", frames=20), workers=1)
    everything = {info.name: info.frames for info in EpisodeDataset.open(tmp_path / "all").episodes()}
    long = {name for name, frames in everything.items() if frames >= 10}
    assert long == {info.name for info in EpisodeDataset.open(recorded).episodes()} and 0 < len(long) < EPISODES
    capsys.readouterr()
    record_gym(recorded, EPISODES, LINE, workers=1)
    said = capsys.readouterr().out
    assert f"{EPISODES - len(long)} of {EPISODES} episodes ended before frame 10 and are kept out" in said
    with pytest.raises(UserError, match=r"2 of 2 episodes ended before frame 100 .* choose a smaller --least-frames"):
        record_gym(tmp_path / "none", 2, little("Line", frames=100, least_frames=100), workers=1)


def test_recording_goes_on_to_the_same_bytes(recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    record_gym(out, 5, LINE, workers=1)
    first = next((out / "train").glob("*.mp4"))
    written = first.stat().st_mtime_ns
    sorted((out / "train").glob("*.npz"))[-1].unlink()
    record_gym(out, EPISODES, LINE, workers=1)
    assert first.stat().st_mtime_ns == written and tree(out) == tree(recorded)
    with pytest.raises(UserError, match=r"hold 8\.0, now 2\.0"):
        record_gym(out, EPISODES, GymSettings(LINE.environment, 20, 10, hold=2.0))


def test_no_split_shares_a_seed() -> None:
    seeds = [[world_seed(split, episode_seed(split, seed, index)) for index in (0, 1, 10**6 - 1)]
             for split in SPLITS for seed in (0, 1, 10**6 - 1)]  # fmt: skip
    together = [seed for group in seeds for seed in group]
    assert len(set(together)) == len(together) and min(together) >= 0 and max(together) < 2**31
    parts = [[seed for group in seeds[first : first + 3] for seed in group] for first in range(0, 12, 3)]
    assert all(max(before) // 2**29 < min(after) // 2**29 for before, after in pairwise(parts))


def test_a_policy_of_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    episodes = record_gym(tmp_path / "right", 2, little("Line", policy="little_policies:right"), workers=1)
    assert all((episodes.read(info).actions == 2).all() for info in episodes.episodes())
    episodes = record_gym(tmp_path / "turns", 2, little("Line", policy="little_policies:Alternating"), workers=1)
    assert [list(episodes.read(info).actions[:3]) for info in episodes.episodes()] == [[0, 2, 0]] * 2
    capsys.readouterr()
    for name, says in (
        ("little_policies:broken", r"failed \(little_policies.py, line 14: KeyError: 'nowhere'\)"),
        ("little_policies:far", r"gave no action of the environment's \(7 is not in Discrete\(3, start=-1\)\)"),
        ("little_policies:left", "has no 'left'"),
        ("elsewhere:right", "no module 'elsewhere' in "),
        ("right", "choose random, or write MODULE:FUNCTION"),
    ):
        with pytest.raises(UserError, match=says):  # in one folder: it holds nothing that settings must agree with
            record_gym(tmp_path / "not", 1, little("Line", policy=name), workers=1)


def test_episodes_that_are_all_the_same_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (Path.cwd() / "sleepy.py").write_text(
        LITTLE.replace("integers(100, 140)", "integers(100, 101)").replace("integers(5, 40)", "integers(8, 9)")
        .replace("Little/", "Sleepy/")
    )  # fmt: skip
    settings = GymSettings("sleepy:Sleepy/Line-v0", least_frames=1, policy="little_policies:right")
    record_gym(tmp_path / "data", 3, settings, workers=1)
    assert "only 1 of 3 episodes differ" in capsys.readouterr().out


# Worlds and their actions


def test_a_world_is_stepped_one_action_at_a_time(tmp_path: Path) -> None:
    with GymWorld(little("Line", action_repeat=3, size=16, fit="squeeze"), tmp_path) as world:
        first = world.reset(5)
        assert first.shape == (16, 16, 3) and first.dtype == np.uint8 and world.fps == pytest.approx(20 / 3)
        assert not first[:, :3].any() and not first[:, -3:].any()  # squeezed: the margins are there
        frame, ended = world.step(2)
        assert int(frame[8, 8, 0]) - int(first[8, 8, 0]) == 3 and not ended
        assert world.reward == 3 * int(first[8, 8, 0]) + 6  # of all three steps
        while not ended:
            _, ended = world.step(1)
        assert world.terminated and world.info["lifetime"] == 0
        world.reset(5)
        assert not world.terminated


@pytest.mark.parametrize(
    ("name", "kind", "names"),
    [
        ("Line", "id", ("-1", "0", "1")),
        ("Named", "id", ("stay", "go")),
        ("Keys", "vector", ("[0]", "[1]", "[2]")),
        ("Dials", "vector", ("[0]=0", "[0]=1", "[1]=0", "[1]=1", "[1]=2")),
        ("Arms", "vector", ("[0]", "[1]")),
        ("Free", "vector", ("[0]",)),
        ("Both", "vector", ("keys[0]", "keys[1]", "turn[]", "way=0", "way=1")),
    ],
)
def test_kinds_of_actions(name: str, kind: str, names: tuple[str, ...], tmp_path: Path) -> None:
    with GymWorld(little(name), tmp_path) as world:
        actions = world.actions
        assert (actions.kind, actions.names) == (kind, names)
        assert len(actions.ranges()) == (0 if kind == "id" else len(names))
        assert all(-10 < low < high < 10 for low, high in actions.ranges())
        samples = [actions.sample(np.random.default_rng(seed)) for seed in range(50)]
        np.testing.assert_array_equal(samples[7], actions.sample(np.random.default_rng(7)))
        assert len({np.asarray(sample).tobytes() for sample in samples}) >= 2
        assert abs(np.asarray(samples)).max() < 10  # also where the environment sets no bounds
        for sample in samples:
            given = actions.given(sample)
            assert actions.space.contains(given)
            np.testing.assert_allclose(actions.taken(given), sample, atol=1e-7)
        world.reset(1)
        world.step(samples[0])
        if name == "Arms":
            assert actions.space.contains(
                actions.given(np.array([0.1, 0.1], np.float32))
            )  # in float32 that is beyond 0.1
        if name == "Keys":
            with pytest.raises(ValueError, match="not whole numbers"):
                actions.taken([0.2, 0.9, 0.5])


def test_vectors_are_recorded(tmp_path: Path) -> None:
    dataset = record_gym(tmp_path / "data", 2, little("Both"), workers=1)
    assert dataset.info.action_kind == "vector"
    actions = dataset.read(dataset.episodes()[0]).actions
    assert actions.shape[1] == 5 and actions.dtype == np.float32
    assert (actions[:, 3] + actions[:, 4] == 1).all()


def test_frames_without_a_renderer(tmp_path: Path) -> None:
    with GymWorld(little("Seen"), tmp_path) as seen, GymWorld(little("Line"), tmp_path) as rendered:
        np.testing.assert_array_equal(seen.reset(3), rendered.reset(3))
    with GymWorld(little("Blind"), tmp_path) as blind, pytest.raises(UserError, match="renders no rgb frames"):
        blind.reset(3)


def test_an_environment_that_fails_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"gym:.*Rotten-v0 failed \(little_worlds.py, line \d+: KeyError: 'a bug'\): mend"
    ):
        record_gym(tmp_path / "out", 1, GymSettings("little_worlds:Little/Rotten-v0", frames=4, least_frames=1))
    with GymWorld(GymSettings("little_worlds:Little/Line-v0"), tmp_path) as world:
        world.reset(0)
        with pytest.raises(ValueError, match="there is no action 99: choose 0 to"):
            world.step(99)


def test_pixels_are_averaged() -> None:
    board = np.indices((120, 90)).sum(0) % 2 * np.uint8(255)
    frame = fitted(np.repeat(board[..., None], 3, axis=2).astype(np.uint8), 45, "crop")
    assert abs(frame.astype(int) - 127).max() < 3
    stripe = np.zeros((210, 160, 3), np.uint8)
    stripe[:30] = 255
    assert fitted(stripe, 64, "crop")[0, 0, 0] > 200 and not fitted(stripe, 64, "crop")[4:].any()
    squeezed = fitted(stripe, 64, "squeeze")
    assert (squeezed[:8] == 255).all() and not squeezed[11:].any()


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ("CartPol-v1", "did you mean 'CartPole-v1'"),
        ("MyMaze-v0", "there is no environment 'MyMaze-v0': if a package registers it"),
        ("ALE/Pog-v5", "did you mean 'ALE/Pong-v5'"),
        ("VizdoomBasic", "did you mean 'VizdoomBasic-v1'"),
        ("Zork", "if a package registers it, write gym:PACKAGE:Zork"),
        ("nowhere:Zork-v0", "no module 'nowhere' in "),
        ("little_worlds:Little/Lime-v0", "did you mean 'Little/Line-v0'"),
        ("little_worlds:Little/Words-v0", "actions are Text"),
        ("little_worlds:Little/Crowd-v0", "actions are 1000 numbers"),
    ],
)
def test_environments_that_cannot_be(environment: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        run_command(["record", f"gym:{environment}", "--out", str(tmp_path / "data")])
    assert not (tmp_path / "data").exists()


def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium

    monkeypatch.setattr(
        "gymnasium.registry",
        {key: spec for key, spec in gymnasium.registry.items() if not key.startswith(("ALE/", "Mini"))},
    )
    for name in ("ale_py", "minigrid"):
        monkeypatch.setitem(sys.modules, name, None)
    for environment, package in (("ALE/Pong-v5", "'nextframe\\[gym\\]'"), ("MiniGrid-Empty-5x5-v0", "minigrid")):
        with pytest.raises(UserError, match=f"pip install {package}"):
            record_gym(tmp_path / "data", 1, GymSettings(environment))
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(UserError, match=r"not installed: pip install 'nextframe\[gym\]'"):
        record_gym(tmp_path / "data", 1, LINE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 8}, "size is 8: choose 16"),
        ({"fit": "stretch"}, "fit 'stretch' is unknown: choose crop or squeeze"),
        ({"frames": 4}, "choose 1 <= least-frames <= frames"),
        ({"fps": 0.0}, "fps is 0.0"),
        ({"action_repeat": 0}, "action-repeat is 0"),
        ({"hold": 0.5}, "hold is 0.5"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GymSettings("CartPole-v1", **settings)


# Those of others


def test_atari(tmp_path: Path) -> None:
    command = f"record gym:ALE/Pong-v5 --out {tmp_path}/data --episodes 2 --frames 24 --fit squeeze --workers 1"
    run_command(command.split())
    dataset = EpisodeDataset.open(tmp_path / "data")
    assert dataset.info.action_names == ("noop", "fire", "right", "left", "rightfire", "leftfire")
    videos = [dataset.read(info).video for info in dataset.episodes()]
    assert videos[0].shape == (24, 64, 64, 3) and (videos[0] != videos[1]).any()
    assert (videos[0][:-1] != videos[0][1:]).any()
    settings = GymSettings("ALE/Pong-v5", frames=24, fit="squeeze")
    np.testing.assert_array_equal(film(settings, 1, 1, tmp_path).video, videos[1])  # whoever films it, and after what


SCENARIO = "VizdoomHealthGathering-MultiBinary-v1"
OPTIONS = f"gym:{SCENARIO} --episodes 3 --frames 20 --action-repeat 4 --workers 1"


def test_vizdoom_names_its_buttons(tmp_path: Path) -> None:
    with GymWorld(GymSettings("VizdoomBasic-v1"), tmp_path) as world:
        assert world.actions.names == ("noop", "attack", "move_right", "move_left")
    with GymWorld(GymSettings("VizdoomDeathmatch-v1"), tmp_path) as world:  # keys of which one is down, and deltas
        assert world.actions.names[0] == "noop" and world.actions.names[-1] == "move_left_right_delta"
        assert world.actions.kind == "vector" and len(world.actions.names) == 21


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_vizdoom_recorded_and_killed(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, OPTIONS)
    recorder.wait_for_an_episode_and_an_engine()
    recorder.process.kill()
    recorder.process.communicate()
    recorder.assert_nothing_is_left()
    assert len(EpisodeDataset.open(recorder.out).episodes()) < 3
    run_command(f"record {OPTIONS} --out {recorder.out}".split())
    dataset = EpisodeDataset.open(recorder.out)
    assert dataset.info.action_names == ("turn_left", "turn_right", "move_forward") and dataset.info.fps == 35 / 4
    infos = dataset.episodes()
    assert len(infos) == 3 and not any(dataset.verify(info) for info in infos)
    again = film(GymSettings(SCENARIO, frames=20, action_repeat=4), 0, 0, tmp_path)
    episode = dataset.read(infos[0])
    assert episode.actions.shape == (20, 3)
    np.testing.assert_array_equal(episode.video, again.video)
    np.testing.assert_array_equal(episode.actions, again.actions)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_a_worker_that_is_killed_takes_its_engine_along(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, OPTIONS)
    recorder.wait_for_an_episode_and_an_engine()
    os.kill(recorder.processes("gym.film")[0], signal.SIGKILL)
    _, errors = recorder.process.communicate()
    assert recorder.process.returncode == 2 and "a worker ended early" in errors
    recorder.assert_nothing_is_left()
