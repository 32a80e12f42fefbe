"""Frames from a model, the fast way: the past lies in a cache, and several sessions can be stepped in one pass."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from nextframe.attention import concatenated
from nextframe.cache import KeyValueCache
from nextframe.conditions import headings_of
from nextframe.config import SampleConfig
from nextframe.flow import Velocity, noise_levels
from nextframe.graphs import FrameGraphs
from nextframe.layout import COARSE, Layout, continued, largest_stack, layout_of, past_layout, without, without_last
from nextframe.progress import Advance, silent
from nextframe.sampler import (
    at_sampling,
    for_all_branches,
    frame_noise,
    guidance_branches,
    integrated,
    layout_times,
    sample_clip,
)
from nextframe.shapes import Modulations
from nextframe.transformer import Rows, Transformer


class Session:
    """Frames generated so far, and the cache of them.

    The stack of the cache is, bottom first, the coarse frames and the clean frames of the window. For each new frame
    the session works out what the stack should be, pops to where it agrees, and pushes the rest in the pass that makes
    the first step of the new frame. So a frame costs one clean frame, and where the window has slid, which it does by
    `slide` frames at a time, a pass over the window; nothing else has to know when it slides.
    """

    def __init__(
        self,
        model: Transformer,
        context: Tensor,
        conditions: Tensor | None,
        capacity: int,
        sample: SampleConfig,
        seeds: list[int] | None = None,
    ) -> None:
        """`context`: scaled latents [b, f, c, h, w], f may be 0.

        `conditions`: what each context frame is conditioned on, ids (int64 [b, f]) or vectors (float32 [b, f, a]).
        `capacity`: the most frames the session will ever hold, context included. The network goes into evaluation mode.
        """
        config = at_sampling(model.config, sample, capacity)
        if config.attention == "full":
            raise ValueError("a Video DiT has no next frame: sample a whole clip")
        if config.condition != "none" and conditions is None:
            raise ValueError(f"conditioned on {config.condition}s: give those of the context, [b, 0] if it is empty")
        if conditions is not None and conditions.shape[:2] != context.shape[:2]:
            counts = "{} x {} frames, not {} x {}".format(*context.shape[:2], *conditions.shape[:2])
            raise ValueError(f"there is to be a condition for each frame of the context: {counts}")
        self.model, self.sample, self.capacity = model.eval().with_config(config), sample, capacity
        self.frames = context.shape[1]
        self._latents = _room_for(context.float(), capacity)  # on disk they are bfloat16
        self._conditions = None if conditions is None else _room_for(conditions, capacity)
        self.seeds = seeds if seeds is not None else [sample.seed + index for index in range(len(context))]
        self.branches = guidance_branches(config, sample)
        weight = model.head.weight
        rows, room = len(self.branches) * len(context), largest_stack(config, capacity)
        self.cache = KeyValueCache(config, rows, room, cache_dtype(weight), weight.device)
        self.graphs = FrameGraphs(self.model, sample, self.cache)

    @property
    def latents(self) -> Tensor:
        """All frames so far, [b, f, c, h, w]."""
        return self._latents[:, : self.frames]

    def amend(self, condition: Tensor) -> None:
        """Tell later frames that the newest one was under `condition` ([b] or [b, a]), which was not known in time."""
        if self._conditions is None or not self.frames:
            raise ValueError("there is no condition to amend")
        self._conditions[:, self.frames - 1] = to_device(condition, self._conditions.device)
        # All else that the next frame sees may stay, of what was read ahead too.
        self.cache.rewind(without_last(past_layout(self.model.config, self.frames)))

    def step(self, condition: Tensor | None = None) -> Tensor:
        """Generate the next frame, given its condition (int64 [b] or float32 [b, a]); returns its latents [b, c, h, w].

        Raises ValueError when the session is full, or the condition is missing.
        """
        return step_together([self], [condition])[0]

    @property
    def kind(self) -> Hashable:
        """Sessions of one kind can be stepped together."""
        return id(self.model.head.weight), self.model.config, replace(self.sample, seed=0)

    @torch.no_grad()
    def read_ahead(self) -> None:
        """Read what the next step would read of the past: that need not wait for its condition."""
        reading = _Reading(self)
        layout = reading.missing
        if not layout.segments or layout.segments[-1].level == COARSE:  # only fine frames can be asked for anything
            return
        latents = self.latents_at(layout)
        (modulations,) = _modulations(self.model, [reading], [])
        rows = [Rows(reading.rows, layout, self.cache, self.headings_at(layout))]
        self.model.velocity(self.model.tokens(latents, layout), rows, modulations, output_frames=1)
        self.cache.push(layout.segments)

    def rewind(self, frames: int) -> None:
        """Forget all but the first `frames` frames; the next step goes on from there."""
        if not 0 <= frames <= self.frames:
            raise ValueError(f"cannot go back to frame {frames} of {self.frames}")
        self.frames = frames
        self.cache.rewind(layout_of(self.model.config, frames))

    def grow(self, capacity: int) -> None:
        """Make room for so many frames, context included; what there is stays, and so do the frames to come.

        Raises ValueError with RIFLEx, which bends time by the length that was said at first.
        """
        if self.sample.riflex:
            raise ValueError("with RIFLEx a session cannot grow: give it its whole capacity")
        if capacity > self.capacity:
            self.capacity = capacity
            self._latents = _room_for(self.latents, capacity)
            if self._conditions is not None:
                self._conditions = _room_for(self._conditions[:, : self.frames], capacity)
            self.cache.grow(largest_stack(self.model.config, capacity))
            self.graphs.forget()

    def begin(self, condition: Tensor | None) -> Tensor:
        """Note what the next frame is told; returns the noise it is made of. Raises ValueError as `step` does."""
        if self.frames >= self.capacity:
            raise ValueError(
                f"this session has room for {self.capacity} frames: make more with `grow`, or give more `most_frames`"
            )
        config = self.model.config
        if config.condition != "none":
            if condition is None:
                raise ValueError(f"this model is conditioned on {config.condition}s: give one per frame")
            assert self._conditions is not None
            self._conditions[:, self.frames] = to_device(condition, self._conditions.device)
        return to_device(frame_noise(config.latent_shape, self.seeds, self.frames), self._latents.device)

    def take(self, frame: Tensor) -> None:
        """The next frame is made."""
        self._latents[:, self.frames] = frame
        self.frames += 1

    def latents_at(self, layout: Layout) -> Tensor:
        """[branches * b, frames of the layout, c, h, w], one branch of guidance after the other."""
        return layout.of_clip(self._latents).repeat(len(self.branches), 1, 1, 1, 1)

    def conditions_at(self, layout: Layout, repeats: int) -> Tensor | None:
        """[branches * b, frames of the layout + repeats (, a)]: theirs, and `repeats` times that of the next frame."""
        if self._conditions is None:
            return None
        newest = self._conditions[:, self.frames : self.frames + 1]
        conditions = torch.cat([layout.of_clip(self._conditions), *[newest] * repeats], dim=1)
        return for_all_branches(self.model.config, self.sample, conditions)

    def headings_at(self, layout: Layout) -> Tensor | None:
        """int64 [branches * b, frames of the layout], which way they face; None for a model without a compass."""
        if self._conditions is None:
            return None
        headings = headings_of(self.model.config, self._conditions[:, : layout.segments[-1].stop])
        return None if headings is None else layout.of_clip(headings).repeat(len(self.branches), 1)


@torch.no_grad()
def step_together(sessions: Sequence[Session], conditions: Sequence[Tensor | None]) -> list[Tensor]:
    """The next frame of each of several sessions: what `Session.step` gives, with all of them in one pass a step.

    They may hold any frames. Raises ValueError where `step` does, and for sessions that are not of one `kind`.
    """
    first = sessions[0]
    if any(session.kind != first.kind for session in sessions):
        raise ValueError("only sessions of one model and equal settings can be stepped together")
    noise = [session.begin(condition) for session, condition in zip(sessions, conditions, strict=True)]
    alone = len(sessions) == 1
    made = [_replayed(first, noise[0])] if alone and first.graphs.replays else _passed(sessions, noise)
    for session, frame in zip(sessions, made, strict=True):
        session.take(frame)
    return made


def _passed(sessions: Sequence[Session], noise: Sequence[Tensor]) -> list[Tensor]:
    """The next frame of each session, all in one pass a step."""
    first = sessions[0]
    frames = integrated(_velocity(sessions), concatenated(noise, dim=0), first.sample, len(first.branches))
    return list(frames.split([len(own) for own in noise]))


def _replayed(session: Session, noise: Tensor) -> Tensor:
    """The next frame of one session, as a computation that a GPU has recorded."""
    reading = _Reading(session)
    layout, conditions = reading.with_new, session.conditions_at(reading.missing, 1)
    rows = Rows(reading.rows, layout, headings=reading.headings)
    rotary = session.model.rotary([rows], noise.device)
    frame = session.graphs.frame(layout, session.latents_at(reading.missing), noise, conditions, rotary)
    session.cache.push(reading.missing.segments)
    return frame


class _Reading:
    """What a session's cache lacks of what its new frame is to see."""

    def __init__(self, session: Session) -> None:
        self.session, config = session, session.model.config
        wanted = past_layout(config, session.frames)
        session.cache.rewind(wanted)
        self.new = layout_of(config, session.frames + 1, first=session.frames)
        self.missing = without(wanted, session.cache.layout)
        self.read = self.missing.frames
        self.rows = len(session.branches) * len(session.seeds)

    @cached_property
    def headings(self) -> Tensor | None:
        """Of `with_new`, once for all steps of the frame."""
        return self.session.headings_at(self.with_new)

    @property
    def with_new(self) -> Layout:
        """What is to be read and the new frame, in one segment with the fine frames before it."""
        return continued(self.missing, self.new.segments)

    @property
    def shape(self) -> tuple[tuple[int, int], ...]:
        return tuple((segment.level, segment.frames) for segment in self.missing.segments)

    def times_and_conditions(self, levels: list[float]) -> tuple[Tensor, Tensor | None]:
        """Times and conditions of the frames that are read and of the new frame at every noise level, row after row."""
        times = torch.tensor([*layout_times(self.missing), *(1000 * s for s in levels)])
        conditions = self.session.conditions_at(self.missing, len(levels))
        return times.expand(self.rows, -1).flatten(), None if conditions is None else conditions.flatten(0, 1)


def _velocity(sessions: Sequence[Session]) -> Velocity:
    """Velocity of the new frames; its first evaluation also reads whatever of the past the caches lack."""
    model, sample, branches = sessions[0].model, sessions[0].sample, len(sessions[0].branches)
    readings = [_Reading(session) for session in sessions]
    levels = noise_levels(sample.solver, sample.steps)
    modulations = _modulations(model, readings, levels)
    sizes = [len(session.seeds) for session in sessions]

    def velocity(x: Tensor, s: float) -> Tensor:
        parts = x.unflatten(0, (branches, -1)).split(sizes, dim=1)
        answers = list(parts)
        for places in alike([reading.shape for reading in readings]):  # as much to read: one pass
            group = [(readings[place], modulations[place], parts[place].flatten(0, 1)) for place in places]
            found = _evaluate(model, group, levels.index(s))
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer.unflatten(0, (branches, -1))
        return concatenated(answers, dim=1).flatten(0, 1)

    return velocity


def alike(keys: Sequence[Hashable]) -> list[list[int]]:
    """The places of each key: what can be computed in one pass."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def _evaluate(model: Transformer, group: list[tuple[_Reading, Modulations, Tensor]], number: int) -> tuple[Tensor, ...]:
    """Velocities [rows, c, h, w] of new frames of the same shape at noise level `number`, the highest of which is 0, in
    one pass with what their caches lack."""
    latents, rows, parts = [], [], []
    for reading, modulation, x in group:
        # The past and the new frame in one pass; what is read stays on the stack. The highest
        # noise level is the first: its column follows those of the past.
        column = reading.read + number
        first = 0 if reading.missing.segments else column
        layout = reading.with_new
        latents.append(torch.cat([reading.session.latents_at(reading.missing), x[:, None]], dim=1))
        headings = None if reading.headings is None else reading.headings[:, -layout.frames :]
        rows.append(Rows(len(x), layout, reading.session.cache, headings))
        parts.append([part[:, first : column + 1] for part in modulation])
    together = [concatenated(several, dim=0) for several in zip(*parts, strict=True)]
    out = model.velocity(model.tokens(concatenated(latents, dim=0), rows[0].layout), rows, together, output_frames=1)
    for reading, _, _ in group:
        reading.session.cache.push(reading.missing.segments)
        reading.missing = Layout()
    return model.latents(out)[:, 0].float().split([one.count for one in rows])


def _modulations(model: Transformer, readings: list[_Reading], levels: list[float]) -> list[Modulations]:
    """Of the frames that are to be read and of the new frames at every noise level, all in one go."""
    both = [reading.times_and_conditions(levels) for reading in readings]
    conditions = [condition for _, condition in both if condition is not None]
    times = to_device(concatenated([time for time, _ in both], dim=0), model.head.weight.device)
    parts = model.modulations(times[None], concatenated(conditions, dim=0)[None] if conditions else None)
    split = [part[0].split([len(time) for time, _ in both]) for part in parts]
    return [[part[place].unflatten(0, (reading.rows, -1)) for part in split] for place, reading in enumerate(readings)]


def rollout(session: Session, conditions: Tensor | None, frames: int) -> Iterator[Tensor]:
    """Generate `frames` frames, one latent [b, c, h, w] after the other; `conditions`: one each, as in `Session`."""
    for index in range(frames):
        yield session.step(None if conditions is None else conditions[:, index])


def predicted(
    model: Transformer,
    context: Tensor,
    conditions: Tensor | None,
    frames: int,
    sample: SampleConfig,
    seeds: list[int],
    advance: Advance = silent,
) -> Tensor:
    """The `frames` frames that follow a context (scaled latents [b, f, c, h, w], f may be 0): [b, frames, c, h, w].

    `conditions`: of the frames of the context and then of those to come, as in `Session`. A Video DiT makes a clip from
    nothing: its f is 0. `advance` is told of every frame.
    """
    device = model.head.weight.device
    context, conditions = context.to(device), None if conditions is None else conditions.to(device)
    if model.config.attention == "full":
        made = sample_clip(model, len(context), frames, conditions, sample, seeds)
        advance(len(context) * frames)
        return made
    seen = context.shape[1]
    past, future = (None, None) if conditions is None else (conditions[:, :seen], conditions[:, seen:])
    session = Session(model, context, past, seen + frames, sample, seeds)
    for _ in rollout(session, future, frames):
        advance(len(context))
    return session.latents[:, seen:]


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x` on a device. From memory that is not pinned a copy would wait for all that a GPU still has to do."""
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def _room_for(start: Tensor, capacity: int) -> Tensor:
    """[b, f, ...] -> [b, capacity, ...], which begins with `start`; allocated once. ValueError if it does not fit."""
    if start.shape[1] > capacity:
        cannot = f"a session of {capacity} frames cannot go on from {start.shape[1]}"
        raise ValueError(f"{cannot}: give it room (`most_frames`), or fewer frames")
    room = start.new_empty(len(start), capacity, *start.shape[2:])
    room[:, : start.shape[1]] = start
    return room


def cache_dtype(weight: Tensor) -> torch.dtype:
    """Keys and values are kept in the precision that matrix products run in."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
