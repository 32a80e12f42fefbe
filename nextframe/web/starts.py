"""What a walk begins with: the first frames of an episode, or of a visitor's own picture or clip."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from nextframe.autoencoder import FRAMES_AT_ONCE
from nextframe.data.episodes import EpisodeDataset, EpisodeInfo
from nextframe.errors import UserError
from nextframe.forecast import held_out_episodes
from nextframe.pages.drawing import png_bytes
from nextframe.protocol import Protocol
from nextframe.runs import WorldModel
from nextframe.web.history import Action
from nextframe.web.messages import StartMessage
from nextframe.worlds.maze.explorer import move
from nextframe.worlds.maze.map import Pose, make_maze, poses_of
from nextframe.worlds.maze.settings import NOOP, MazeSettings, settings_of

MOST_STARTS = 100
MOST_UPLOADS = 32
HELD_OUT = ("demo", "test", "validation")
"""What the model has not seen, in the order in which it is offered; other splits where there is none of it."""


OnModel = Callable[[Callable[[], Tensor]], Tensor]
"""Has a short piece of work done where the model's work is done, and returns what it gives."""


class MazePlace:
    """The maze that footage was filmed in, to go on in with the real engine."""

    def __init__(self, seed: int, settings: MazeSettings) -> None:
        self.seed, self.settings = seed, settings
        self.maze = make_maze(seed, settings)

    def move(self, pose: Pose | None, action: Action) -> Pose | None:
        """Where an action leads; nobody's action leads nowhere."""
        if pose is None:
            return None
        return move(self.maze.grid, pose, action if isinstance(action, int) else NOOP)


@dataclass(frozen=True)
class Start:
    """video: uint8 [f, h, w, 3]. actions: those that led from each frame to the next, [f - 1] or [f - 1, a]; None where
    nobody knows. label: what it shows, for a model of labels. maze and poses [f]: of footage the engine can go on with.
    latents: the video as a model sees it.
    """

    name: str
    video: np.ndarray
    actions: np.ndarray | None = None
    label: int | None = None
    maze: MazePlace | None = None
    poses: Sequence[Pose] | None = None
    latents: Tensor | None = None

    def action_to(self, frame: int) -> Action:
        """The action that led to a frame."""
        if self.actions is None or frame == 0:
            return None
        action = self.actions[frame - 1]
        return int(action) if action.ndim == 0 else tuple(float(number) for number in action)

    def seen_by(self, world: WorldModel, on_model: OnModel) -> "Start":
        """With its latents. They are made block by block, so that frames of others may come between."""
        blocks = torch.tensor(self.video).split(FRAMES_AT_ONCE)
        return replace(self, latents=torch.cat([on_model(partial(world.encode, block)) for block in blocks]))


class Library:
    """The episodes of a dataset that a model can go on from, and what visitors bring. Of that, the newest is kept."""

    def __init__(self, world: WorldModel, dataset: EpisodeDataset | None) -> None:
        """Raises UserError when the footage is of another kind than the model's."""
        self.world = world
        self.dataset = dataset
        self.uploads: OrderedDict[str, np.ndarray] = OrderedDict()
        self.episodes: dict[str, EpisodeInfo] = {}
        if dataset is not None:
            infos = [info for split in HELD_OUT for info in dataset.episodes(split)] or dataset.episodes()
            if not infos:
                raise UserError(f"{dataset.folder} has no episodes: record some")
            asked = Protocol(context=1, frames=1, episodes=1, split=infos[0].split)
            held_out_episodes(dataset, world, asked)  # raises what is wrong with the footage
            self.episodes = {info.name: info for info in infos[:MOST_STARTS]}
        self.thumbnail = lru_cache(MOST_STARTS)(self._thumbnail)

    @property
    def real(self) -> bool:
        """Whether the engine can go on where the footage ends."""
        return self.dataset is not None and settings_of(self.dataset.info.source) is not None

    def start(self, name: str, context: int) -> Start:
        """The first `context` frames of an episode, or all it has. Raises UserError when there is none."""
        if self.dataset is None or name not in self.episodes:
            raise UserError(f"there is no episode {name!r}: choose one of the list")
        info = self.episodes[name]
        episode, config = self.dataset.read(info), self.world.config
        video = episode.video[:: config.clip.interval][:context]
        told = config.model.condition in ("action", "vector")  # then the interval is 1
        start = Start(name, video, episode.actions[: len(video) - 1] if told else None, self._label(info.label))
        settings, pose, seed = settings_of(self.dataset.info.source), episode.extras.get("pose"), info.meta.get("seed")
        if not told or settings is None or pose is None or type(seed) is not int:
            return start
        if pose.shape != (len(episode.video), 3) or not np.isfinite(pose).all():
            return start  # it is no place in a maze
        return replace(start, maze=MazePlace(seed, settings), poses=poses_of(pose[: len(video)]))

    def uploaded(self, name: str, label: int) -> Start:
        """Raises UserError when there is no such upload, or no longer."""
        if name not in self.uploads:
            raise UserError("this upload is not there any more: upload it again")
        return Start("upload", self.uploads[name], label=self._label(label))

    def keep(self, name: str, video: np.ndarray) -> None:
        self.uploads[name] = video
        while len(self.uploads) > MOST_UPLOADS:
            self.uploads.popitem(last=False)

    def _label(self, label: int | None) -> int | None:
        return (label or 0) if self.world.config.model.condition == "label" else None

    def _thumbnail(self, name: str) -> bytes:
        """png of the frame of an episode that a walk begins at. Raises UserError when there is none."""
        return png_bytes(self.start(name, StartMessage.context).video[-1])
