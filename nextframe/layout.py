"""The layout: one row per token (frame, row, column, level), in the order in which the network sees them.

A layout is a run of segments, each a range of frames at one level. It is a plain value, so that tables made from it
(rotary angles, masks) can be made once and kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nextframe.architecture import TransformerConfig

FINE, COARSE = 0, 1


@dataclass(frozen=True)
class Segment:
    """Frames [start, stop) at one level, `side` x `side` tokens each, `stride` grid positions apart."""

    level: int
    start: int
    stop: int
    side: int
    stride: int

    @property
    def frames(self) -> int:
        return self.stop - self.start

    @property
    def tokens_per_frame(self) -> int:
        return self.side * self.side

    @property
    def tokens(self) -> int:
        return self.frames * self.tokens_per_frame

    def positions(self) -> Tensor:
        """int64 [n, 3]: frame, row and column of every token. Rows and columns count fine tokens."""
        grid = torch.arange(self.side, device="cpu") * self.stride
        return torch.cartesian_prod(torch.arange(self.start, self.stop, device="cpu"), grid, grid)


@dataclass(frozen=True)
class Layout:
    """What a pass of the network sees: runs of neighbouring frames of one level, in the order of their tokens.

    In a long model the newest frames are fine, in many tokens each, and those before them coarse, in few: the paper's
    long short-term context (section 3.3).
    """

    segments: tuple[Segment, ...] = ()
    windows: int = 1
    """How many of the last segments are windows: each sees itself and what is older than it in the segments before the
    windows, and nothing of the other windows."""

    @cached_property
    def tokens(self) -> int:
        return sum(segment.tokens for segment in self.segments)

    @cached_property
    def frames(self) -> int:
        return sum(segment.frames for segment in self.segments)

    def of_clip(self, x: Tensor) -> Tensor:
        """[b, frames of a clip, ...] -> [b, frames, ...]: what stands at each place; where windows overlap, some stand
        twice."""
        return torch.cat([x[:, :0], *(x[:, segment.start : segment.stop] for segment in self.segments)], dim=1)

    def token_frames(self, device: torch.device | str = "cpu") -> Tensor:
        """int64 [n]: the frame of every token. Made on the device, so that nothing waits for a copy."""
        parts = [
            torch.arange(segment.start, segment.stop, device=device).repeat_interleave(segment.tokens_per_frame)
            for segment in self.segments
        ]
        return torch.cat([torch.empty(0, dtype=torch.int64, device=device), *parts])


def continued(layout: Layout, segments: Sequence[Segment]) -> Layout:
    """A layout and more segments; neighbours of one level that follow each other become one."""
    joined: list[Segment] = []
    for segment in (*layout.segments, *segments):
        last = joined[-1] if joined else None
        if last and last.level == segment.level and last.stop == segment.start:
            joined[-1] = replace(last, stop=segment.stop)
        elif segment.frames:
            joined.append(segment)
    return Layout(tuple(joined))


def newest_apart(layout: Layout, frames: int) -> Layout:
    """The same rows, with the newest `frames` frames of the last segment in a segment of their own."""
    *rest, last = layout.segments
    if frames >= last.frames:
        return layout
    split = last.stop - frames
    older = replace(last, stop=split)
    return Layout((*rest, older, replace(last, start=split)))


def segment(config: TransformerConfig, level: int, start: int, stop: int) -> Segment:
    """Frames [start, stop) at the resolution this model gives to the level."""
    patch = config.patch if level == FINE else config.coarse_patch
    if patch is None:
        raise ValueError("this is a short model: it has no coarse level (coarse_patch is None)")
    return Segment(level, start, stop, config.latent_size // patch, patch // config.patch)


def layout_of(config: TransformerConfig, frames: int, first: int = 0) -> Layout:
    """Frames [first, frames): in a long model the newest `window` are fine and all older ones coarse.

    Fine and coarse are the paper's short-term and long-term context. A short model has one level. Frames beyond the
    `memory` of the model are left out.
    """
    first = max(first, forgotten(config, frames))
    split = max(first, _in_steps(frames - config.window, config.slide)) if config.coarse_patch is not None else first
    parts = (segment(config, COARSE, first, split),) if split > first else ()
    return Layout((*parts, segment(config, FINE, split, frames)))


def past_layout(config: TransformerConfig, frames: int) -> Layout:
    """How the `frames` clean frames before a new one are seen by it: its own layout without itself."""
    return without_last(layout_of(config, frames + 1))


def without_last(layout: Layout) -> Layout:
    """A layout without its last frame, if it has any."""
    if not layout.segments:
        return layout
    *segments, last = layout.segments
    if last.frames > 1:
        segments.append(replace(last, stop=last.stop - 1))
    return Layout(tuple(segments))


def seen_next(config: TransformerConfig, frames: int) -> tuple[int, int]:
    """How many of `frames` frames the next one sees fine, and how many before those coarse."""
    segments = past_layout(config, frames).segments
    counts = {level: sum(part.frames for part in segments if part.level == level) for level in (FINE, COARSE)}
    return counts[FINE], counts[COARSE]


def without(wanted: Layout, present: Layout) -> Layout:
    """What follows in `wanted` after `present`, which it begins with."""
    rest = []
    for index, part in enumerate(wanted.segments):
        start = present.segments[index].stop if index < len(present.segments) else part.start
        if start < part.stop:
            rest.append(replace(part, start=start))
    return Layout(tuple(rest))


def largest_stack(config: TransformerConfig, frames: int) -> int:
    """Tokens of the largest stack, new frame included, that a session of `frames` frames needs."""
    return max((layout_of(config, length).tokens for length in range(1, frames + 1)), default=0)


def shared_past(config: TransformerConfig, lengths: Sequence[int]) -> Layout:
    """A clip of a long model with several windows, one at the end of its first `lengths[k]` frames, for each k.

    The coarse frames are there once, for the window that ends last. What comes before a window is a part of them, from
    the first on, and coarse frames see none that come later: so each window is what `layout_of` makes of its length.
    """
    alone = [layout_of(config, length) for length in lengths]
    *past, _ = alone[lengths.index(max(lengths))].segments
    return Layout((*past, *(layout.segments[-1] for layout in alone)), len(alone))


def forgotten(config: TransformerConfig, frames: int) -> int:
    """How many of `frames` frames, the oldest, are no longer seen.

    They are forgotten in blocks: without its oldest frame all the rest has to be read anew, and that is not to happen
    at every frame. With a memory of one window, every new frame pushes out the oldest (sliding window).
    """
    if config.memory is None or frames <= config.memory:
        return 0
    return _in_steps(frames - config.memory, max(1, (config.memory - config.window) // 4))


def _in_steps(count: int, step: int) -> int:
    """`count`, rounded up to a multiple of `step`."""
    return -(-count // step) * step
