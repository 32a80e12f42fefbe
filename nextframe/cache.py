"""The KV cache (the paper's multi-level one, for long models): a stack of rotated keys and values.

Attention writes above the top and reads all that is below; only the session moves the top (`push`, `rewind`). Keys
are stored rotated by their absolute position, so they stay right wherever the stack is cut.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nextframe.architecture import TransformerConfig
from nextframe.layout import Layout, Segment, continued
from nextframe.shapes import Heads


class KeyValueCache:
    """Keys and values of past frames for all layers: [layers, 2, b, k, capacity, e], allocated once."""

    def __init__(
        self, config: TransformerConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.layers, 2, batch, config.heads, capacity, config.head_dim)
        # Zeros, because a frame of fixed shape (`graphs.py`) also reads, and hides, what nobody has written.
        self._buffer = torch.zeros(shape, dtype=dtype, device=device)
        self._layout = Layout()

    @property
    def layout(self) -> Layout:
        """What lies on the stack, bottom first."""
        return self._layout

    @property
    def capacity(self) -> int:
        """Tokens there is room for, those of the frame being generated included."""
        return self._buffer.shape[-2]

    @property
    def dtype(self) -> torch.dtype:
        return self._buffer.dtype

    def grow(self, capacity: int) -> None:
        """Make room for so many tokens; what lies on the stack stays."""
        if capacity > self.capacity:
            layers, both, batch, heads, _, head_dim = self._buffer.shape
            larger = self._buffer.new_zeros(layers, both, batch, heads, capacity, head_dim)
            top = self._layout.tokens
            larger[..., :top, :] = self._buffer[..., :top, :]
            self._buffer = larger

    def extend(self, layer: int, keys: Heads, values: Heads) -> tuple[Heads, Heads]:
        """Write above the top, without moving it; returns the stack and what was written, [b, k, top + n, e]."""
        top, new_top = self.layout.tokens, self.layout.tokens + keys.shape[2]
        if new_top > self.capacity:
            raise ValueError(f"the cache has room for {self.capacity} tokens, not for {new_top}")
        stack = self._buffer[layer, :, :, :, :new_top]
        stack[0, :, :, top:] = keys
        stack[1, :, :, top:] = values
        return stack[0], stack[1]

    def fixed(self, keys: int, places: Tensor) -> "FixedPart":
        """Its first `keys` places, to be read whole and written at `places`."""
        return FixedPart(self._buffer[..., :keys, :], places)

    def push(self, segments: tuple[Segment, ...]) -> None:
        """Move the top over what was last written: the caller says what that is."""
        self._layout = continued(self._layout, segments)

    def rewind(self, wanted: Layout) -> None:
        """Pop to the longest part, from the bottom, that `wanted` begins with."""
        kept: list[Segment] = []
        for have, want in zip(self._layout.segments, wanted.segments, strict=False):
            same_kind = (have.level, have.start, have.side) == (want.level, want.start, want.side)
            stop = min(have.stop, want.stop)
            if not same_kind or stop <= have.start:
                break
            kept.append(replace(have, stop=stop))
            if have.stop != want.stop:
                break
        self._layout = Layout(tuple(kept))


@dataclass(frozen=True)
class FixedPart:
    """So many places of a cache: where is written is data (int64 [n]), and all are read, whatever they hold.

    So the same computation serves stacks of any height up to that; what is not to be seen, a mask has to hide.
    """

    buffer: Tensor
    places: Tensor

    def extend(self, layer: int, keys: Heads, values: Heads) -> tuple[Heads, Heads]:
        """Write keys and values at the places; returns all there are, [b, k, keys, e] each."""
        stack = self.buffer[layer]
        for part, new in zip(stack, (keys, values), strict=True):
            part.index_copy_(2, self.places, new.to(part.dtype))
        return stack[0], stack[1]
