"""The parts of the network. Hidden states are a list with one [b, f, n, d] tensor per segment of the layout."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextframe.attention import AttentionKernel, attend, concatenated
from nextframe.cache import FixedPart, KeyValueCache
from nextframe.mask import View
from nextframe.rope import rotate
from nextframe.shapes import FrameTimes, Heads, HeadTokens, RotaryTable, Tokens

EPSILON = 1e-6
TIME_CHANNELS = 256
FARTHEST = 10.0
"""Largest magnitude of a number of an action, where its range is -1 to 1; what lies beyond is clamped."""


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


class VectorEmbedding(nn.Module):
    """MLP of an action that is a vector of numbers; a vector of nan is no action, which has an embedding of its own.

    Numbers are of any size, pixels of a mouse or angles. So the range of the footage's, `low` to `high` [a], is first
    brought to -1 to 1, and what lies far outside to `FARTHEST`. The range is kept with the weights.
    """

    low: Tensor
    high: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("low", -torch.ones(size))
        self.register_buffer("high", torch.ones(size))
        self.expand = nn.Linear(size, width)
        self.project = nn.Linear(width, width)
        self.null = nn.Parameter(torch.zeros(width))

    def set_range(self, low: Tensor, high: Tensor) -> None:
        """What is -1 and 1 to the network, float32 [a] each."""
        self.low.copy_(low)
        self.high.copy_(high)

    def forward(self, vectors: Tensor) -> Tensor:
        """[b, f, a] -> [b, f, d]"""
        absent = vectors.isnan().any(dim=-1, keepdim=True)
        centred = (2 * (vectors - self.low) / (self.high - self.low) - 1).clamp(-FARTHEST, FARTHEST)
        given = self.project(F.silu(self.expand(centred.masked_fill(absent, 0))))
        return torch.where(absent, self.null.to(given.dtype), given)


class Modulation(nn.Module):
    """adaLN-Zero (DiT, arXiv 2212.09748): what the condition vector of a frame does to all its tokens.

    At the start of training, nothing.
    """

    def __init__(self, width: int, chunks: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, chunks * width)

    def forward(self, condition: Tensor) -> Tensor:
        """`condition` [b, f, d], already through SiLU; returns [b, f, chunks * d], per frame and not per token."""
        return self.linear(condition)


def chunks(modulation: Tensor, count: int) -> tuple[Tensor, ...]:
    """[b, f, count * d] -> `count` tensors [b, f, 1, d], to be spread over the tokens of their frame."""
    return modulation[:, :, None].chunk(count, dim=-1)


def adaptive_layer_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without weights of its own, then the frame's shift and scale."""
    # Autocast would have CUDA bring all three to float32 and the result back, by a kernel each. The kernel of the norm
    # computes in float32 by itself; on a processor autocast leaves it alone.
    with torch.autocast("cuda", enabled=False) if x.is_cuda else nullcontext():
        return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=EPSILON), 1 + scale)


class HeadNorm(nn.RMSNorm):
    """RMS norm of queries or keys (arXiv 2302.05442 has a layer norm there), in float32, in which `rotate` goes on.

    The weight too, which may have been cast (FSDP2): torch's fused kernel wants one precision.
    """

    def forward(self, x: HeadTokens) -> HeadTokens:
        return F.rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps)


class AttentionLevel(nn.Module):
    """The projections of one level of tokens: each level has its own, the softmax is common.

    A level that only serves as memory in a block (the coarse one in the last block) has keys and values alone.
    """

    def __init__(self, width: int, heads: int, key_value_only: bool) -> None:
        super().__init__()
        self.heads = heads
        self.key_value = nn.Linear(width, 2 * width)
        self.key_norm = HeadNorm(width // heads, eps=EPSILON)
        if not key_value_only:
            self.query = nn.Linear(width, width)
            self.query_norm = HeadNorm(width // heads, eps=EPSILON)
            self.output = nn.Linear(width, width)

    def split_heads(self, x: Tensor) -> HeadTokens:
        """[b, f, n, d] -> [b, f n, k, e]"""
        return x.flatten(1, 2).unflatten(-1, (self.heads, -1))

    def keys_values(self, x: Tokens) -> tuple[HeadTokens, HeadTokens]:
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return self.key_norm(self.split_heads(keys)), self.split_heads(values)

    def queries(self, x: Tokens) -> HeadTokens:
        return self.query_norm(self.split_heads(self.query(x)))


@dataclass(frozen=True)
class Seen:
    """What so many rows of a batch see: keys of their own, on top of those in their cache."""

    rows: int
    views: Sequence[View]
    cache: KeyValueCache | FixedPart | None


class Attention(nn.Module):
    """Attention over all levels together, with q/k RMS norm and rotary positions; who sees whom is given by views."""

    def __init__(self, width: int, heads: int, coarse: bool, last: bool) -> None:
        super().__init__()
        levels = [AttentionLevel(width, heads, key_value_only=False)]
        if coarse:
            levels.append(AttentionLevel(width, heads, key_value_only=last))
        self.levels = nn.ModuleList(levels)
        self.kernel: AttentionKernel | None = None

    def level(self, index: int) -> AttentionLevel:
        level = self.levels[index]
        assert isinstance(level, AttentionLevel)
        return level

    def forward(
        self,
        hidden: Sequence[Tokens],
        levels: Sequence[int],
        query_segments: int,
        rotary: RotaryTable,
        seen: Sequence[Seen],
        layer: int,
    ) -> list[Tokens]:
        """Updates [b, f, n, d] of the last `query_segments` segments; those before have keys and values alone.

        `hidden`: [b, f, n, d] of each segment, `levels` its level. `rotary`: [(b,) tokens, e / 2, 2]. `layer`: of the
        cache.
        """
        parts = [self.level(index) for index in levels]
        pairs = [part.keys_values(x) for part, x in zip(parts, hidden, strict=True)]
        values = concatenated([value for _, value in pairs]).transpose(1, 2)
        keys = rotate(concatenated([key for key, _ in pairs]), rotary, values.dtype)
        querying = list(zip(parts, hidden, strict=True))[-query_segments:]
        queries = concatenated([part.queries(x) for part, x in querying])
        first_query = sum(x.shape[1] * x.shape[2] for x in hidden[:-query_segments])
        queries = rotate(queries, rotary[..., first_query:, :, :], values.dtype)
        mixed = attend_in_rows(queries, keys, values, seen, first_query, layer, self.kernel)
        updates = mixed.split([x.shape[1] * x.shape[2] for _, x in querying], dim=1)
        return [
            part.output(update).unflatten(1, x.shape[1:3]) for (part, x), update in zip(querying, updates, strict=True)
        ]


# Not compiled: there are many spans, and their sizes change with every length; what is before and after compiles once.
# All rows in one call: a loop around it would leave the rest uncompiled too.
@torch.compiler.disable()
def attend_in_rows(
    queries: Heads,
    keys: Heads,
    values: Heads,
    seen: Sequence[Seen],
    first_query: int,
    layer: int,
    kernel: AttentionKernel | None,
) -> Tensor:
    """[b, n, k e]: `attend` of so many rows after so many, each with its own cache, which is extended."""
    mixed, rows = [], [one.rows for one in seen]
    own = zip(seen, queries.split(rows), keys.split(rows), values.split(rows), strict=True)
    for one, query, key, value in own:
        stack = one.cache.extend(layer, key, value) if one.cache else (key, value)
        mixed.append(attend(query, *stack, one.views, first_query, kernel))
    return concatenated(mixed, dim=0)


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
        modulations: Sequence[Tensor],
        levels: Sequence[int],
        query_segments: int,
        rotary: RotaryTable,
        seen: Sequence[Seen],
        layer: int,
    ) -> list[Tokens]:
        """The last `query_segments` segments. `modulations`: of attention and MLP, [b, f, 3 d] for all frames."""
        frames = [x.shape[1] for x in hidden]
        attention, mlp = ([chunks(part, 3) for part in whole.split(frames, dim=1)] for whole in modulations)
        inputs = [adaptive_layer_norm(x, shift, scale) for x, (shift, scale, _) in zip(hidden, attention, strict=True)]
        updates = self.attention(inputs, levels, query_segments, rotary, seen, layer)
        outputs = []
        # What is asked for comes last.
        answered = list(zip(hidden, attention, mlp, strict=True))[-query_segments:]
        for update, (x, (_, _, gate), (shift, scale, mlp_gate)) in zip(updates, answered, strict=True):
            x = torch.addcmul(x, gate, update)
            outputs.append(torch.addcmul(x, mlp_gate, self.mlp(adaptive_layer_norm(x, shift, scale))))
        return outputs
