"""The parts of the network. Hidden states are a list with one [b, f, n, d] tensor per segment of the layout."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextframe.cache import KeyValueCache
from nextframe.rope import rotate
from nextframe.shapes import AttentionMask, FrameTimes, RotaryTable, Tokens

EPSILON = 1e-6
TIME_CHANNELS = 256


def sinusoid(time: FrameTimes) -> Tensor:
    """[..., 256] features of the network time: cosines first, frequencies 10000^(-i / 127), i = 0 .. 127."""
    half = TIME_CHANNELS // 2
    frequencies = torch.exp(
        -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=time.device) / (half - 1)
    )
    angles = time.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """MLP of the sinusoid of a frame's network time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(TIME_CHANNELS, width)
        self.project = nn.Linear(width, width)

    def forward(self, time: FrameTimes) -> Tensor:
        return self.project(F.silu(self.expand(sinusoid(time))))


class Modulation(nn.Module):
    """adaLN-Zero: what the condition vector of a frame does to all its tokens; nothing at the start of training."""

    def __init__(self, width: int, chunks: int) -> None:
        super().__init__()
        self.chunks = chunks
        self.linear = nn.Linear(width, chunks * width)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """`condition` [b, f, d], already through SiLU; returns `chunks` tensors [b, f, 1, d]."""
        return self.linear(condition)[:, :, None].chunk(self.chunks, dim=-1)


def normalised(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without weights of its own, then the frame's shift and scale."""
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON) * (1 + scale) + shift


class HeadNorm(nn.RMSNorm):
    """RMS norm of queries or keys, with the weight in their precision: torch's fused kernel wants that."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class AttentionLevel(nn.Module):
    """The projections of one level of tokens: each level has its own, the softmax is common.

    A level that only serves as memory in a block (the coarse one in the last block) has keys and values alone.
    """

    def __init__(self, width: int, heads: int, memory_only: bool) -> None:
        super().__init__()
        self.memory_only = memory_only
        self.heads = heads
        self.key_value = nn.Linear(width, 2 * width)
        self.key_norm = HeadNorm(width // heads, eps=EPSILON)
        if not memory_only:
            self.query = nn.Linear(width, width)
            self.query_norm = HeadNorm(width // heads, eps=EPSILON)
            self.output = nn.Linear(width, width)

    def split_heads(self, x: Tensor) -> Tensor:
        """[b, f, n, d] -> [b, k, f n, e]"""
        return x.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, x: Tokens) -> tuple[Tensor, Tensor]:
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return self.key_norm(self.split_heads(keys)), self.split_heads(values)

    def queries(self, x: Tokens) -> Tensor:
        return self.query_norm(self.split_heads(self.query(x)))


class Attention(nn.Module):
    """Frame-causal attention over all levels together, with q/k RMS norm and rotary positions."""

    def __init__(self, width: int, heads: int, coarse: bool, last: bool) -> None:
        super().__init__()
        levels = [AttentionLevel(width, heads, memory_only=False)]
        if coarse:
            levels.append(AttentionLevel(width, heads, memory_only=last))
        self.levels = nn.ModuleList(levels)

    def level(self, index: int) -> AttentionLevel:
        level = self.levels[index]
        assert isinstance(level, AttentionLevel)
        return level

    def forward(
        self,
        hidden: Sequence[Tokens],
        levels: Sequence[int],
        rotary: tuple[RotaryTable, RotaryTable],
        mask: AttentionMask | None,
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> list[Tokens | None]:
        """Returns the update of each segment; None for one that is memory only."""
        parts = [self.level(index) for index in levels]
        pairs = [part.keys_values(x) for part, x in zip(parts, hidden, strict=True)]
        keys = rotate(torch.cat([key for key, _ in pairs], dim=2), *rotary)
        values = torch.cat([value for _, value in pairs], dim=2)
        readers = [(part, x) for part, x in zip(parts, hidden, strict=True) if not part.memory_only]
        queries = torch.cat([part.queries(x) for part, x in readers], dim=2)
        # Memory-only segments are coarse and come first, so the queries are the last rows of every table.
        rows = queries.shape[2]
        queries = rotate(queries, rotary[0][-rows:], rotary[1][-rows:])
        if cache is not None:
            keys, values = cache.extend(layer, keys, values)
        if mask is not None:
            mask = mask[-rows:]
            mask = mask if mask.dtype == torch.bool else mask.to(queries.dtype)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        mixed = mixed.transpose(1, 2).flatten(2)
        sizes = [x.shape[1] * x.shape[2] for _, x in readers]
        read = iter(zip(readers, mixed.split(sizes, dim=1), strict=True))
        updates: list[Tokens | None] = []
        for part in parts:
            if part.memory_only:
                updates.append(None)
                continue
            (_, x), update = next(read)
            updates.append(part.output(update).unflatten(1, x.shape[1:3]))
        return updates


class Block(nn.Module):
    """x + gate * attention(norm(x)), then x + gate * MLP(norm(x)); MLP and modulation are shared by the levels."""

    def __init__(self, width: int, heads: int, coarse: bool, last: bool) -> None:
        super().__init__()
        self.attention_modulation = Modulation(width, 3)
        self.attention = Attention(width, heads, coarse, last)
        self.mlp_modulation = Modulation(width, 3)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(
        self,
        hidden: Sequence[Tokens],
        conditions: Sequence[Tensor],
        levels: Sequence[int],
        rotary: tuple[RotaryTable, RotaryTable],
        mask: AttentionMask | None,
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> list[Tokens]:
        """`conditions`: per segment [b, f, d], already through SiLU. Memory-only segments are not returned."""
        modulations = [self.attention_modulation(condition) for condition in conditions]
        inputs = [normalised(x, shift, scale) for x, (shift, scale, _) in zip(hidden, modulations, strict=True)]
        updates = self.attention(inputs, levels, rotary, mask, cache, layer)
        outputs = []
        for x, update, (_, _, gate), condition in zip(hidden, updates, modulations, conditions, strict=True):
            if update is not None:
                x = x + gate * update
                shift, scale, gate = self.mlp_modulation(condition)
                outputs.append(x + gate * self.mlp(normalised(x, shift, scale)))
        return outputs
