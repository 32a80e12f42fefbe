"""What makes the frames of a walk: here the model. It follows a history wherever that goes."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nextframe.config import SampleConfig
from nextframe.devices import synchronise
from nextframe.runs import Walk, WorldModel, imagine_together
from nextframe.sampler import at_sampling
from nextframe.web.history import Action, Branch, History, Step

BLOCK = 512
"""Frames that room is made for at once."""


@dataclass(frozen=True)
class Made:
    """A new frame, uint8 [h, w, 3], and what it took. `end`: why there can be none after it.

    The model's next frame does not wait for the pixels of this one, only for its latents: `frame` may be on its way.
    """

    frame: Future[np.ndarray]
    again: Callable[[], np.ndarray]
    """Gives the frame too, should that fail."""
    latents: Any = None
    transformer_ms: float = 0.0
    end: str | None = None


class FrameSource(Protocol):
    """Where frames come from that are made one by one; a `Dreamer`'s are made for many walks in one pass."""

    def step(self, history: History, action: Action) -> Made:
        """The frame that `action`, at the frame where `history` stands, leads to."""
        ...

    def rest(self) -> None:
        """Give back what can be made again from the history."""
        ...


class Dreamer:
    """A model that dreams one visitor's walk. Only the thread that owns the model may make frames with it.

    Who gives its session up (`rest`, `change`) knows that none is being made.

    It holds a cached session over some branch. Where the history has gone elsewhere, the session is rewound to what
    both have in common, or, where the history goes on without it, made anew from the latents that were kept.
    """

    def __init__(self, world: WorldModel, sample: SampleConfig, label: int | None) -> None:
        self.world = world
        self.sample = sample
        self.label = label
        self._walk: Walk | None = None
        self._branch: Branch | None = None

    def change(self, **settings: Any) -> None:
        """Other steps, guidance or solver from the next frame on, where not None. UserError for impossible ones."""
        changed = self.sample.overridden(**settings)
        at_sampling(self.world.config.model, changed, 1)
        if changed != self.sample:
            self.sample = changed
            self.rest()

    def rest(self) -> None:
        self._walk = self._branch = None

    def walk_for(self, history: History) -> Walk:
        """The session, which is about to make a frame after those up to where the history stands."""
        walk = self._at(history)
        if walk.frames >= walk.most_frames:
            walk.grow(walk.frames + BLOCK)
        self._branch = None  # until the history has taken the frame in, see `took`
        return walk

    def took(self, history: History) -> None:
        """The history has appended the frame that the walk made."""
        self._branch = history.branch

    def read_ahead(self) -> None:
        """Make the next frame sooner, while nobody asks for it."""
        if (walk := self._walk) is not None:
            walk.read_ahead()

    def _at(self, history: History) -> Walk:
        """The session, having seen the frames up to where the history stands."""
        frames, walk, branch = history.frame + 1, self._walk, self._branch
        if (
            walk is not None
            and branch is not None
            and frames <= walk.frames
            and branch.step(history.frame) is history.current()  # a step has one past: all before it is the same too
        ):
            if frames < walk.frames:
                walk.rewind(frames)
            return walk
        path = history.path()
        latents = torch.stack([step.latents for step in path])
        self._walk = self.world.walk_on(latents, self._actions(path), self.sample, frames + BLOCK, self.label)
        return self._walk

    def _actions(self, path: Sequence[Step]) -> Tensor | None:
        """Those that led to each frame but the first; the null action where nobody knows."""
        config = self.world.config.model
        if config.condition not in ("action", "vector"):
            return None
        if config.condition == "action":
            ids = [config.classes if step.action is None else step.action for step in path[1:]]
            return torch.tensor(ids, dtype=torch.int64)
        nothing = (math.nan,) * config.action_size
        vectors = [nothing if step.action is None else step.action for step in path[1:]]
        return torch.tensor(vectors, dtype=torch.float32).reshape(len(path) - 1, config.action_size)


def dream(asked: Sequence[tuple[Dreamer, History, Action]], beside: Executor | None) -> list[Made]:
    """The next frame of each of several walks, in one world.

    Walks whose settings agree are stepped in one pass, wherever they are.
    `beside`: where frames are decoded, so that nobody waits for it; None: here.
    """
    if not asked:
        return []
    started, world = time.perf_counter(), asked[0][0].world
    walks = [dreamer.walk_for(history) for dreamer, history, _ in asked]
    latents = imagine_together(walks, [0 if action is None else action for _, _, action in asked])
    synchronise(world.device)
    took = 1000 * (time.perf_counter() - started)
    together = torch.stack(latents)

    frames = finished(_decoded(world, together)) if beside is None else beside.submit(_decoded, world, together)
    made = []
    for place, own in enumerate(latents):
        own = own.clone()  # the session's own tensor holds the whole walk
        again = partial(_decoded_alone, world, own)
        made.append(Made(_one_of(frames, place), again, own, transformer_ms=took))
    return made


def _decoded(world: WorldModel, latents: Tensor) -> np.ndarray:
    with world.at_work():
        return world.decode(latents).numpy()


def _decoded_alone(world: WorldModel, latents: Tensor) -> np.ndarray:
    return _decoded(world, latents[None])[0]


def at_once(frame: np.ndarray, end: str | None = None) -> Made:
    """A frame that nobody has to wait for."""
    return Made(finished(frame), lambda: frame, end=end)


def finished(frame: np.ndarray) -> Future[np.ndarray]:
    """What nobody has to wait for."""
    future: Future[np.ndarray] = Future()
    future.set_result(frame)
    return future


def _one_of(frames: Future[np.ndarray], place: int) -> Future[np.ndarray]:
    one: Future[np.ndarray] = Future()

    def hand_on(frames: Future[np.ndarray]) -> None:
        if (error := frames.exception()) is not None:
            one.set_exception(error)
        else:
            one.set_result(frames.result()[place])

    frames.add_done_callback(hand_on)
    return one
