"""Frames from a model: one after the other, each by following the flow from noise.

`Session` is the fast path: it keeps the past in a cache. `uncached_frame` is the plain one: it computes
everything anew at every step. Both give the same frames. `sample_clip` is how a Video DiT samples.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nextframe.cache import KeyValueCache
from nextframe.config import SampleConfig, TransformerConfig
from nextframe.flow import CLEAN_TIME, COARSE_TIME, SOLVERS, Velocity, evaluated_levels
from nextframe.layout import COARSE, FINE, Layout, Segment, layout_of
from nextframe.shapes import Modulations
from nextframe.transformer import Transformer


def guided(velocity: Velocity, guidance: float) -> Velocity:
    """v_null + guidance (v_condition - v_null), for a velocity of batches [null; condition]."""

    def combined(x: Tensor, s: float) -> Tensor:
        null, condition = velocity(torch.cat([x, x]), s).chunk(2)
        return null + guidance * (condition - null)

    return combined


def frame_noise(shape: tuple[int, ...], seeds: list[int], frame: int) -> Tensor:
    """Starting noise of one frame [b, *shape]: each sample has its own seed, so the batch changes nothing."""
    generator = torch.Generator()
    draws = []
    for seed in seeds:
        generator.manual_seed((seed * 1_000_003 + frame) & 0x7FFF_FFFF_FFFF_FFFF)
        draws.append(torch.randn(shape, generator=generator))
    return torch.stack(draws)


def at_sampling(config: TransformerConfig, sample: SampleConfig, frames: int) -> TransformerConfig:
    """How a model sees when it samples up to `frames` frames: as it was trained, or extrapolating (section 4.3).

    Raises ValueError for a memory shorter than the model's window.
    """
    changes: dict[str, Any] = {}
    if sample.memory is not None:
        changes["memory"] = sample.memory
    if sample.slide > 1:
        changes["slide"] = sample.slide
    if sample.riflex:
        changes["riflex_frames"] = frames
    if sample.temporal_decay:
        changes["temporal_decay"] = sample.temporal_decay
    return replace(config, **changes)


def layout_times(layout: Layout) -> list[float]:
    """The network time of every frame of a layout of clean frames."""
    return [
        COARSE_TIME if segment.level == COARSE else CLEAN_TIME
        for segment in layout.segments
        for _ in range(segment.frames)
    ]


class Session:
    """Frames generated so far, and the cache of them.

    The stack of the cache is, bottom first, the coarse frames and the clean frames of the window. For each new frame
    the sampler works out what the stack should be, pops to where it agrees, and pushes the rest in the pass that makes
    the first step of the new frame. So the window's first frames cost one frame each, and once it slides, every frame
    costs one pass over the window; nothing else has to know when it slides.
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
        `capacity`: the most frames the session will ever hold, context included.
        """
        config = at_sampling(model.config, sample, capacity)
        if config.attention == "full":
            raise ValueError("a Video DiT has no next frame: sample a whole clip")
        self.model, self.sample, self.capacity = model.eval().with_config(config), sample, capacity
        self.frames = context.shape[1]
        self._latents = _room_for(context, capacity)
        self._conditions = None if conditions is None else _room_for(conditions, capacity)
        self.seeds = seeds if seeds is not None else [sample.seed + index for index in range(len(context))]
        self.branches = guidance_branches(config, sample)
        weight = model.head.weight
        self.cache = KeyValueCache(
            config.layers,
            len(self.branches) * len(context),
            config.heads,
            largest_stack(config, capacity),
            config.head_dim,
            cache_dtype(weight),
            weight.device,
        )

    @property
    def latents(self) -> Tensor:
        """All frames so far, [b, f, c, h, w]."""
        return self._latents[:, : self.frames]

    def amend(self, condition: Tensor) -> None:
        """Tell later frames that the newest one was under `condition` ([b] or [b, a]), which was not known in time."""
        if self._conditions is None or not self.frames:
            raise ValueError("there is no condition to amend")
        self._conditions[:, self.frames - 1] = condition
        self.cache.rewind(past_layout(self.model.config, self.frames - 1))

    @torch.no_grad()
    def step(self, condition: Tensor | None = None) -> Tensor:
        """Generate the next frame, given its condition (int64 [b] or float32 [b, a]); returns its latents [b, c, h, w].

        Raises ValueError when the session is full, or the condition is missing.
        """
        if self.frames >= self.capacity:
            raise ValueError(f"this session has room for {self.capacity} frames")
        config, sample = self.model.config, self.sample
        if config.condition != "none":
            if condition is None or self._conditions is None:
                raise ValueError(f"this model is conditioned on {config.condition}s: give one per frame")
            self._conditions[:, self.frames] = condition
        shape = (config.latent_channels, config.latent_size, config.latent_size)
        noise = frame_noise(shape, self.seeds, self.frames).to(self._latents.device)
        velocity = self._velocity()
        if len(self.branches) == 2:
            velocity = guided(velocity, sample.guidance)
        frame = SOLVERS[sample.solver](velocity, noise, sample.steps)
        self._latents[:, self.frames] = frame
        self.frames += 1
        return frame

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

    def _velocity(self) -> Velocity:
        """Velocity of the new frame; its first evaluation also reads whatever of the past the stack lacks."""
        model, config = self.model, self.model.config
        wanted = past_layout(config, self.frames)
        self.cache.rewind(wanted)
        missing = without(wanted, self.cache.layout)
        past = [frame for segment in missing.segments for frame in range(segment.start, segment.stop)]
        levels = sorted(set(evaluated_levels(self.sample.solver, self.sample.steps)), reverse=True)
        modulations = self._modulations(missing, past, levels)
        new = layout_of(config, self.frames + 1, first=self.frames)

        def velocity(x: Tensor, s: float) -> Tensor:
            nonlocal missing
            column = len(past) + levels.index(s)
            x = x[:, None]
            if missing.segments:
                # The past and the new frame in one pass; what is read stays on the stack. The first level is the
                # highest, so its column follows those of the past.
                layout = _append(missing, new.segments[0])
                latents = torch.cat([self._latents[:, past].repeat(len(self.branches), 1, 1, 1, 1), x], dim=1)
                parts = [part[:, : column + 1] for part in modulations]
                out = model.velocity(model.tokens(latents, layout), layout, parts, self.cache, asked=1)
                self.cache.push(missing.segments)
                missing = Layout()
            else:
                own = [part[:, column : column + 1] for part in modulations]
                out = model.velocity(model.tokens(x, new), new, own, self.cache)
            return model.latents(out)[:, 0].float()

        return velocity

    def _modulations(self, missing: Layout, past: list[int], levels: list[float]) -> Modulations:
        """Of the frames that are to be read and of the new frame at every level, all in one go."""
        device, branches = self._latents.device, len(self.branches)
        time = torch.tensor([*layout_times(missing), *(1000 * s for s in levels)], device=device)
        condition = None
        if self._conditions is not None:
            told = self._conditions[:, [*past, *[self.frames] * len(levels)]]
            condition = _branches(self.model.config, self.sample, told)
        return self.model.modulations(time.expand(branches * len(self._latents), -1), condition)


def guidance_branches(config: TransformerConfig, sample: SampleConfig) -> tuple[bool, ...]:
    """Whether the condition is given, in each of the networks that guidance needs: without it, with it, or both."""
    if config.condition == "none" or sample.guidance == 1:
        return (True,)
    return (False,) if sample.guidance == 0 else (False, True)


def _room_for(start: Tensor, capacity: int) -> Tensor:
    """[b, f, ...] -> [b, capacity, ...], which begins with `start`; allocated once."""
    room = start.new_empty(len(start), capacity, *start.shape[2:])
    room[:, : start.shape[1]] = start
    return room


def past_layout(config: TransformerConfig, frames: int) -> Layout:
    """How the `frames` clean frames before a new one are seen by it: its own layout without itself."""
    segments = list(layout_of(config, frames + 1).segments)
    last = segments.pop()
    if last.frames > 1:
        segments.append(Segment(last.level, last.start, last.stop - 1, last.side, last.stride))
    return Layout(tuple(segments))


def without(wanted: Layout, present: Layout) -> Layout:
    """What follows in `wanted` after `present`, which it begins with."""
    rest = []
    for index, segment in enumerate(wanted.segments):
        start = present.segments[index].stop if index < len(present.segments) else segment.start
        if start < segment.stop:
            rest.append(Segment(segment.level, start, segment.stop, segment.side, segment.stride))
    return Layout(tuple(rest))


def _append(layout: Layout, frame: Segment) -> Layout:
    """A layout and one more fine frame, in one segment with the fine frames before it."""
    if layout.segments and layout.segments[-1].level == FINE:
        *rest, last = layout.segments
        return Layout((*rest, Segment(FINE, last.start, frame.stop, frame.side, frame.stride)))
    return Layout((*layout.segments, frame))


def largest_stack(config: TransformerConfig, frames: int) -> int:
    """Tokens of the largest stack, new frame included, that a session of `frames` frames needs."""
    return max((layout_of(config, length).tokens for length in range(1, frames + 1)), default=0)


def cache_dtype(weight: Tensor) -> torch.dtype:
    """Keys and values are kept in the precision that matrix products run in."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


@torch.no_grad()
def uncached_frame(
    model: Transformer, context: Tensor, conditions: Tensor | None, sample: SampleConfig, seeds: list[int]
) -> Tensor:
    """The reference: the next frame [b, c, h, w] after `context` [b, f, c, h, w], everything computed at every step.

    `conditions`: int64 [b, f + 1] or float32 [b, f + 1, a], the new frame's last. Whoever extrapolates gives a
    model of the configuration `at_sampling`.
    """
    config = model.config
    frames = context.shape[1] + 1
    layout = layout_of(config, frames)
    context = context[:, frames - layout.frames :]
    past = torch.tensor(layout_times(layout)[:-1], device=context.device)

    def velocity(x: Tensor, s: float) -> Tensor:
        clip = torch.cat([context.repeat(len(x) // len(context), 1, 1, 1, 1), x[:, None]], dim=1)
        time = torch.cat([past, past.new_tensor([1000 * s])]).expand(len(x), -1)
        output = model(model.tokens(clip, layout), layout, time, told)
        return model.latents(output[:, -1:])[:, 0].float()

    told = None if conditions is None else _branches(config, sample, conditions[:, frames - layout.frames :])
    guides = len(guidance_branches(config, sample))
    noise = frame_noise(context.shape[2:], seeds, frames - 1).to(context.device)
    return SOLVERS[sample.solver](guided(velocity, sample.guidance) if guides == 2 else velocity, noise, sample.steps)


@torch.no_grad()
def sample_clip(
    model: Transformer, batch: int, frames: int, conditions: Tensor | None, sample: SampleConfig, seeds: list[int]
) -> Tensor:
    """A clip of a Video DiT, from nothing: all frames denoised together, at one time. Latents [b, frames, c, h, w].

    `conditions`: one per frame, as in `Session`.
    """
    config = model.config
    layout = layout_of(config, frames)
    shape = (config.latent_channels, config.latent_size, config.latent_size)
    device = model.head.weight.device
    noise = torch.stack([frame_noise(shape, seeds, frame) for frame in range(frames)], dim=1).to(device)
    told = None if conditions is None else _branches(config, sample, conditions.to(device))

    def velocity(x: Tensor, s: float) -> Tensor:
        time = torch.full(x.shape[:2], 1000 * s, device=device)
        return model.latents(model(model.tokens(x, layout), layout, time, told)).float()

    guides = len(guidance_branches(config, sample))
    return SOLVERS[sample.solver](guided(velocity, sample.guidance) if guides == 2 else velocity, noise, sample.steps)


def _branches(config: TransformerConfig, sample: SampleConfig, conditions: Tensor) -> Tensor:
    """The conditions of all branches of guidance, one after the other along the batch."""
    null = torch.full_like(conditions, config.null_condition)
    return torch.cat([conditions if given else null for given in guidance_branches(config, sample)])


def rollout(session: Session, conditions: Tensor | None, frames: int) -> Iterator[Tensor]:
    """Generate `frames` frames, one latent [b, c, h, w] after the other; `conditions`: one each, as in `Session`."""
    for index in range(frames):
        yield session.step(None if conditions is None else conditions[:, index])
