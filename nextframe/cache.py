"""The cache: a stack of rotated keys and values.

Attention writes above the top and reads all that is below; only the sampler moves the top (`push`, `rewind`). Keys
are stored rotated by their absolute position, so they stay right wherever the stack is cut.
"""

import torch

from nextframe.layout import Layout, Segment
from nextframe.shapes import Heads, HeadTokens


class KeyValueCache:
    """Keys and values of past frames for all layers: [layers, 2, b, k, capacity, e], allocated once."""

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._memory = torch.empty(layers, 2, batch, heads, capacity, head_dim, dtype=dtype, device=device)
        self._layout = Layout()

    @property
    def layout(self) -> Layout:
        """What lies on the stack, bottom first."""
        return self._layout

    @property
    def capacity(self) -> int:
        """Tokens there is room for, those of the frame being generated included."""
        return self._memory.shape[-2]

    def grow(self, capacity: int) -> None:
        """Make room for so many tokens; what lies on the stack stays."""
        if capacity > self.capacity:
            layers, both, batch, heads, _, head_dim = self._memory.shape
            larger = self._memory.new_empty(layers, both, batch, heads, capacity, head_dim)
            top = self._layout.tokens
            larger[..., :top, :] = self._memory[..., :top, :]
            self._memory = larger

    def extend(self, layer: int, keys: HeadTokens, values: HeadTokens) -> tuple[Heads, Heads]:
        """Write above the top, without moving it; returns the stack and what was written, [b, k, top + n, e]."""
        top, new_top = self.layout.tokens, self.layout.tokens + keys.shape[1]
        if new_top > self.capacity:
            raise ValueError(f"the cache has room for {self.capacity} tokens, not for {new_top}")
        stack = self._memory[layer, :, :, :, :new_top]
        stack[0, :, :, top:] = keys.transpose(1, 2)
        stack[1, :, :, top:] = values.transpose(1, 2)
        return stack[0], stack[1]

    def push(self, segments: tuple[Segment, ...]) -> None:
        """Move the top over what was last written: the caller says what that is."""
        self._layout = Layout(_joined(self._layout.segments + segments))

    def rewind(self, wanted: Layout) -> None:
        """Pop to the longest part, from the bottom, that `wanted` begins with."""
        kept: list[Segment] = []
        for have, want in zip(self._layout.segments, wanted.segments, strict=False):
            same_kind = (have.level, have.start, have.side) == (want.level, want.start, want.side)
            stop = min(have.stop, want.stop)
            if not same_kind or stop <= have.start:
                break
            kept.append(Segment(have.level, have.start, stop, have.side, have.stride))
            if have.stop != want.stop:
                break
        self._layout = Layout(tuple(kept))


def _joined(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Neighbouring segments of one level that follow each other become one."""
    joined: list[Segment] = []
    for segment in segments:
        last = joined[-1] if joined else None
        if last and last.level == segment.level and last.stop == segment.start:
            joined[-1] = Segment(last.level, last.start, segment.stop, last.side, last.stride)
        elif segment.frames:
            joined.append(segment)
    return tuple(joined)
