"""What is played: a model that dreams on from footage, with the engine beside it where it has one."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from nextframe.config import SampleConfig
from nextframe.data.episodes import ActionKind, DatasetInfo
from nextframe.devices import thread_start
from nextframe.errors import UserError
from nextframe.flow import SOLVERS
from nextframe.layers import VectorEmbedding
from nextframe.layout import seen_next
from nextframe.metadata import Metadata
from nextframe.runs import WorldModel
from nextframe.sampler import at_sampling
from nextframe.transformer import Transformer, parameters_of
from nextframe.web.dreamer import Dreamer
from nextframe.web.game import Game
from nextframe.web.messages import Actions, StartMessage
from nextframe.web.reality import Reality
from nextframe.web.starts import HELD_OUT, Library, OnModel

USUAL_FPS = 10.0


def ranges_of(model: Transformer) -> list[tuple[float, float]]:
    """From where to where the numbers of a vector go: as in the footage, but for the rarest."""
    if model.config.condition != "vector":
        return []
    assert isinstance(model.condition, VectorEmbedding)
    return list(zip(model.condition.low.tolist(), model.condition.high.tolist(), strict=True))


class ModelStage:
    """A model, and episodes to go on from."""

    def __init__(self, name: str, world: WorldModel, library: Library, sample: SampleConfig, real: bool = True) -> None:
        """`real`: whether the engine may run beside."""
        config = world.config.model
        self.name, self.world, self.library = name, world, library
        # Beyond the length it has learnt, a model sees the newest frames alone: it has never seen more.
        memory = sample.memory or world.config.most_seen
        self.sample = replace(sample, memory=memory)
        self.real = real and library.real
        known = world.metadata
        if library.dataset is not None:
            known = Metadata.of(library.dataset.info, config.condition)
        self.window = config.window if config.coarse_patch is not None else memory
        self._sees = at_sampling(config, self.sample, 1)
        given = known.action_names
        # A model may have room for more actions than its footage has, and has never learnt what those do.
        classes = min(config.classes, len(given)) if given else config.classes
        count = {"action": classes, "vector": config.action_size}.get(config.condition, 0)
        kinds: dict[str, ActionKind] = {"action": "id", "vector": "vector"}
        self.actions = Actions(kinds.get(config.condition, config.condition), count)
        names = tuple(given[place] if place < len(given) else f"action {place}" for place in range(count))
        labels = config.classes if config.condition == "label" else 0
        self.labels = list(known.label_names) or [f"class {place}" for place in range(labels)]
        self.begin_thread = thread_start(world.device)
        fps, size = (known.fps or USUAL_FPS) / world.config.clip.interval, world.autoencoder.config.frame_size
        source, kind = {"world": "dream", "model": world.sha256}, kinds.get(config.condition, "none")
        self.info = DatasetInfo(fps, size, names, source, kind, known.label_names)

    def facts(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "parameters": parameters_of(self.world.transformer),
            "ranges": ranges_of(self.world.transformer),
            "labels": self.labels,
            "settings": {
                "steps": self.sample.steps,
                "guidance": self.sample.guidance,
                "solver": self.sample.solver,
            },
            "solvers": list(SOLVERS),
            "guidable": self.actions.kind != "none" and self.world.config.condition_dropout > 0,
            "real": self.real,
            "window": self.window,
            "starts": [
                {
                    "name": info.name,
                    "thumbnail": f"/api/thumbnail/{quote(info.name, safe='')}.png",
                    "frames": info.frames,
                    "held_out": info.split in HELD_OUT,
                }
                for info in self.library.episodes.values()
            ],
        }

    def memory(self, frames: int) -> tuple[int, int]:
        return seen_next(self._sees, frames)

    def thumbnail(self, name: str) -> bytes:
        return self.library.thumbnail(name)

    def keep(self, upload: str, video: np.ndarray) -> None:
        self.library.keep(upload, video)

    def begin(self, message: StartMessage, folder: Path, on_model: OnModel) -> Game:
        if message.upload is not None:
            if self.labels and message.label >= len(self.labels):
                raise UserError(f"there is no label {message.label}: choose 0 to {len(self.labels) - 1}")
            start = self.library.uploaded(message.upload, message.label)
        else:
            start = self.library.start(message.episode or "", message.context)
        dreamer = Dreamer(self.world, self.sample, start.label)
        return Game(dreamer, start.seen_by(self.world, on_model), folder)

    def beside(self, game: Game) -> Reality | None:
        maze = game.start.maze
        if not self.real or maze is None:
            return None
        return Reality({"world": "maze", "seed": maze.seed, "settings": asdict(maze.settings)})
