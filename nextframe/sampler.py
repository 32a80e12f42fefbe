"""Frames from a model: one after the other, each by following the flow from noise.

`Session` is the fast path: it keeps the past in a cache. `uncached_frame` is the plain one: it computes
everything anew at every step. Both give the same frames.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from nextframe.cache import KeyValueCache
from nextframe.config import SampleConfig, TransformerConfig
from nextframe.flow import CLEAN_TIME, COARSE_TIME, Velocity, euler
from nextframe.layout import COARSE, FINE, Layout, Segment, layout_of
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
        """`context`: scaled latents [b, f, c, h, w], f may be 0; `conditions`: int64 [b, f], one per context frame.

        `capacity` is the most frames the session will ever hold, context included.
        """
        self.model, self.sample = model.eval(), sample
        self.latents = context
        self.conditions = conditions
        self.seeds = seeds if seeds is not None else [sample.seed + index for index in range(len(context))]
        config = model.config
        self.guides = 2 if sample.guidance != 1 and config.condition != "none" else 1
        self.capacity = capacity
        weight = model.head.weight
        self.cache = KeyValueCache(
            config.layers,
            self.guides * len(context),
            config.heads,
            largest_stack(config, capacity),
            config.head_dim,
            cache_dtype(weight),
            weight.device,
        )

    @property
    def frames(self) -> int:
        return self.latents.shape[1]

    @torch.no_grad()
    def step(self, condition: Tensor | None = None) -> Tensor:
        """Generate the next frame, given its condition (int64 [b]); returns its latents [b, c, h, w]."""
        if self.frames >= self.capacity:
            raise ValueError(f"this session has room for {self.capacity} frames")
        config = self.model.config
        if config.condition != "none":
            if condition is None or self.conditions is None:
                raise ValueError(f"this model is conditioned on {config.condition}s: give one per frame")
            self.conditions = torch.cat([self.conditions, condition[:, None].to(self.conditions)], dim=1)
        shape = (config.latent_channels, config.latent_size, config.latent_size)
        noise = frame_noise(shape, self.seeds, self.frames).to(self.latents.device)
        velocity: Velocity = self._velocity
        if self.guides == 2:
            velocity = guided(velocity, self.sample.guidance)
        frame = euler(velocity, noise, self.sample.steps)
        self.latents = torch.cat([self.latents, frame[:, None]], dim=1)
        return frame

    def rewind(self, frames: int) -> None:
        """Forget all but the first `frames` frames; the next step goes on from there."""
        if not 0 <= frames <= self.frames:
            raise ValueError(f"cannot go back to frame {frames} of {self.frames}")
        self.latents = self.latents[:, :frames]
        if self.conditions is not None:
            self.conditions = self.conditions[:, :frames]
        self.cache.rewind(layout_of(self.model.config, frames))

    def _velocity(self, x: Tensor, s: float) -> Tensor:
        """Velocity of the new frame; whatever the stack lacks is pushed on the way."""
        missing = self._missing()
        current = layout_of(self.model.config, self.frames + 1, first=self.frames)
        layout = _append(missing, current.segments[0])
        frames = [frame for segment in missing.segments for frame in range(segment.start, segment.stop)]
        past = self.latents[:, frames].repeat(self.guides, 1, 1, 1, 1)
        tokens = self.model.tokens(torch.cat([past, x[:, None]], dim=1), layout)
        time = torch.tensor([[*layout_times(missing), 1000 * s]], device=x.device).expand(len(x), -1)
        condition = self._conditions([*frames, self.frames])
        velocity = self.model(tokens, layout, time, condition, self.cache)
        self.cache.push(missing.segments)
        return self.model.latents(velocity[:, -1:])[:, 0].float()

    def _missing(self) -> Layout:
        """What has to be pushed so that the stack holds the past of the next frame; pops what does not belong."""
        wanted = past_layout(self.model.config, self.frames)
        self.cache.rewind(wanted)
        return without(wanted, self.cache.layout)

    def _conditions(self, frames: list[int]) -> Tensor | None:
        if self.conditions is None:
            return None
        condition = self.conditions[:, frames]
        null = torch.full_like(condition, self.model.config.null_condition)
        return torch.cat([null, condition]) if self.guides == 2 else condition


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
    lengths = {frames, min(frames, config.window)}
    return max(layout_of(config, length).tokens for length in lengths)


def cache_dtype(weight: Tensor) -> torch.dtype:
    """Keys and values are kept in the precision that matrix products run in."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


@torch.no_grad()
def uncached_frame(
    model: Transformer, context: Tensor, conditions: Tensor | None, sample: SampleConfig, seeds: list[int]
) -> Tensor:
    """The reference: the next frame [b, c, h, w] after `context` [b, f, c, h, w], everything computed at every step.

    `conditions`: int64 [b, f + 1], the new frame's last.
    """
    config = model.config
    frames = context.shape[1] + 1
    layout = layout_of(config, frames)
    past = torch.tensor(layout_times(layout)[:-1], device=context.device)
    guides = 2 if sample.guidance != 1 and conditions is not None else 1
    if guides == 2 and conditions is not None:
        conditions = torch.cat([torch.full_like(conditions, config.null_condition), conditions])

    def velocity(x: Tensor, s: float) -> Tensor:
        clip = torch.cat([context.repeat(len(x) // len(context), 1, 1, 1, 1), x[:, None]], dim=1)
        time = torch.cat([past, past.new_tensor([1000 * s])]).expand(len(x), -1)
        output = model(model.tokens(clip, layout), layout, time, conditions)
        return model.latents(output[:, -1:])[:, 0].float()

    noise = frame_noise(context.shape[2:], seeds, frames - 1).to(context.device)
    return euler(guided(velocity, sample.guidance) if guides == 2 else velocity, noise, sample.steps)


def rollout(session: Session, conditions: Tensor | None, frames: int) -> Iterator[Tensor]:
    """Generate `frames` frames, one latent [b, c, h, w] after the other; `conditions`: int64 [b, frames]."""
    for index in range(frames):
        yield session.step(None if conditions is None else conditions[:, index])
