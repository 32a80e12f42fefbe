"""The engine itself as what is played, without a model: for a person to walk in it, and to keep the walk as footage."""

import secrets
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from nextframe.data.episodes import DatasetInfo
from nextframe.errors import UserError
from nextframe.pages.drawing import png_bytes
from nextframe.web.dreamer import Made, at_once
from nextframe.web.game import Game
from nextframe.web.history import Action, Branch, History
from nextframe.web.messages import Actions, StartMessage
from nextframe.web.reality import Reality
from nextframe.web.starts import MazePlace, OnModel, Start
from nextframe.worlds.gym.record import world_seed
from nextframe.worlds.gym.settings import GymSettings
from nextframe.worlds.maze.settings import ACTION_NAMES, FRAMES_PER_SECOND, MazeSettings, source_of
from nextframe.worlds.record import SEEDS, episode_seed
from nextframe.worlds.vizdoom import load_vizdoom

BY_HAND = SEEDS - 1
"""The seed, as of `record --seed`, of worlds that people walk in: of the training split, and in no other recording."""
NEW = "new"
REPLAYED_AT_ONCE = 200
"""Actions, of which the engine is sure to be through before it is taken for dead."""


class MazeWalk:
    """Frames of a maze: a function of the pose, so one may go anywhere in a history."""

    def __init__(self, reality: Reality, place: MazePlace) -> None:
        self.reality, self.place = reality, place

    def step(self, history: History, action: Action) -> Made:
        pose = self.place.move(history.current().pose, action)
        return at_once(self.reality.ask({"pose": pose})[1])

    def rest(self) -> None:
        self.reality.close()


class EnvironmentWalk:
    """Frames of an environment, which only goes forward: what lies further back is played again from the start."""

    def __init__(self, reality: Reality, seed: int) -> None:
        self.reality, self.seed = reality, seed
        self._at: tuple[Branch, int] | None = None

    def step(self, history: History, action: Action) -> Made:
        at, self._at = self._at, None  # where nobody knows, until the engine has answered
        if at != (history.branch, history.frame):
            before = [step.action for step in history.path()[1:]]
            self.reality.ask({"reset": self.seed})
            for start in range(0, len(before), REPLAYED_AT_ONCE):
                self.reality.ask({"replay": before[start : start + REPLAYED_AT_ONCE]})
        at_end = history.frame == history.branch.length - 1
        header, frame = self.reality.ask({"step": action})
        # In the middle of a branch, the history makes a new one of it: then it is played again, once.
        if at_end:
            self._at = (history.branch, history.frame + 1)
        return at_once(frame, end="the episode has ended: go back, or begin another" if header["ended"] else None)

    def first(self) -> tuple[dict[str, Any], np.ndarray]:
        """What the environment says of itself, and its first frame."""
        return self.reality.ask({"reset": self.seed})

    def rest(self) -> None:
        self._at = None
        self.reality.close()


def world_settings(world: str, **chosen: Any) -> MazeSettings | GymSettings:
    """Of `maze` or `gym:ENV_ID`, with what was chosen; None: as usual. Raises UserError for what it does not have."""
    given = {name: value for name, value in chosen.items() if value is not None}
    kind = MazeSettings if world == "maze" else GymSettings if world.startswith("gym:") else None
    if kind is None:
        raise UserError(f"--world {world!r} is unknown: choose maze or gym:ENV_ID")
    if unused := given.keys() - {field.name for field in fields(kind)}:
        words = " ".join(f"--{name.replace('_', '-')}" for name in sorted(unused))
        raise UserError(f"--world {world} has no use for {words}: leave it out")
    return MazeSettings(**given) if kind is MazeSettings else GymSettings(world.removeprefix("gym:"), **given)


class EngineStage:
    """A world as it is recorded, for people. Raises UserError when it cannot be had."""

    def __init__(self, settings: MazeSettings | GymSettings) -> None:
        self.settings = settings
        self._thumbnail: bytes | None = None
        self.begin_thread: Callable[[], None] | None = None
        if isinstance(settings, MazeSettings):
            self.name = "maze"
            source = {**source_of(settings), "seed": BY_HAND}
            self.info = DatasetInfo(FRAMES_PER_SECOND, settings.size, ACTION_NAMES, source)
            self._ranges: list[tuple[float, float]] = []
            load_vizdoom()  # raises if there is none
        else:
            self.name = f"gym:{settings.environment}"
            walk = _new_environment(settings)
            header, _ = walk.first()
            source = {"world": "gym", **asdict(settings), "policy": "by hand", "fps": header["fps"], "seed": BY_HAND}
            self.info = DatasetInfo(header["fps"], settings.size, tuple(header["names"]), source, header["kind"])
            self._ranges = header["ranges"]
            walk.rest()
        self.actions = Actions(self.info.action_kind, len(self.info.action_names))

    def facts(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "parameters": 0,
            "ranges": self._ranges,
            "labels": [],
            "settings": None,
            "solvers": [],
            "guidable": False,
            "real": False,
            "window": 1,
            "starts": [{"name": NEW, "thumbnail": f"/api/thumbnail/{NEW}.png", "frames": 1}],
        }

    def memory(self, frames: int) -> tuple[int, int]:
        return min(frames, 1), 0

    def thumbnail(self, name: str) -> bytes:
        if name != NEW:
            raise UserError(f"there is no start {name!r}: choose {NEW}")
        if self._thumbnail is None:
            walk, start = self._new_walk()
            self._thumbnail = png_bytes(start.video[0])
            walk.rest()
        return self._thumbnail

    def keep(self, upload: str, video: np.ndarray) -> None:
        raise UserError("the engine begins nowhere but in its own world: play a --model to go on from a picture")

    def beside(self, game: Game) -> Reality | None:
        return None

    def begin(self, message: StartMessage, folder: Path, on_model: OnModel) -> Game:
        if message.episode != NEW:
            raise UserError(f"there is no start {message.episode!r}: choose {NEW}")
        return Game(*self._new_walk(), folder)

    def _new_walk(self) -> tuple[MazeWalk | EnvironmentWalk, Start]:
        if isinstance(self.settings, MazeSettings):
            return _new_maze(self.settings)
        walk = _new_environment(self.settings)
        return walk, Start(NEW, walk.first()[1][None])


def _new_maze(settings: MazeSettings) -> tuple[MazeWalk, Start]:
    seed = _new_seed()
    place = MazePlace(seed, settings)
    reality = Reality({"world": "maze", "seed": seed, "settings": asdict(settings)})
    pose = place.maze.start
    video = reality.ask({"pose": pose})[1][None]
    return MazeWalk(reality, place), Start(NEW, video, np.zeros(0, np.int64), maze=place, poses=[pose])


def _new_environment(settings: GymSettings) -> EnvironmentWalk:
    seed = world_seed("train", _new_seed())
    return EnvironmentWalk(Reality({"world": "gym", "settings": asdict(settings)}), seed)


def _new_seed() -> int:
    return episode_seed("train", BY_HAND, secrets.randbelow(SEEDS))
