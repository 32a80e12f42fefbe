"""Who may look at whom: everything within a frame, and every earlier frame; in a Video DiT, everything."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from nextframe.architecture import TransformerConfig
from nextframe.layout import Layout, continued
from nextframe.shapes import AttentionMask

SPAN_TOKENS = 256
"""Queries that attend together: few enough that little is computed only to be hidden (docs/speed.md)."""


@dataclass(frozen=True, eq=False)
class Span:
    """Queries [start, stop), and how many of the keys, from the first on, they may see."""

    start: int
    stop: int
    keys: int
    mask: AttentionMask | None
    """[stop - start, keys], or None where every query may see every one of these keys."""
    seen_by_all: int = 0
    """The first so many keys are visible to every query: no mask is needed there. 0: not counted."""


@dataclass(frozen=True)
class View:
    """Queries from row `start` on, and all that they may see."""

    start: int
    keys: tuple[tuple[int, int], ...]
    """Rows [start, stop) of the keys, one range after the other."""
    spans: tuple[Span, ...]
    """Who sees whom of these; queries and keys are counted within the view."""


def views(layout: Layout, below: Layout, config: TransformerConfig, device: torch.device) -> tuple[View, ...]:
    """What is seen by the tokens of `layout`, whose keys are those of `below` (a cache) and their own.

    One view of everything; or, where windows share a past, one of the past alone, and one for each window: the part of
    the past before it, and itself.
    """
    if layout.windows == 1:
        keys = Layout(below.segments + layout.segments)
        spans = (spans_over_a_stack if below.segments else visible_spans)(layout, keys, config, device)
        return (View(0, ((0, keys.tokens),), spans),)
    shared = layout.segments[: -layout.windows]
    found, start = [], 0
    for segment in layout.segments:
        own = Layout((segment,))
        earlier = [replace(one, stop=min(one.stop, segment.start)) for one in shared if one is not segment]
        seen = continued(Layout(), [*earlier, segment])
        past, stop = seen.tokens - own.tokens, start + own.tokens
        rows = ((0, past), (start, stop)) if past else ((start, stop),)
        found.append(View(start, rows, visible_spans(own, seen, config, device)))
        start = stop
    return tuple(found)


@lru_cache(maxsize=1024)  # of every length of a clip that a long model learns from
def visible_spans(queries: Layout, keys: Layout, config: TransformerConfig, device: torch.device) -> tuple[Span, ...]:
    """Attention by spans: each computes no keys that all of its queries must not see.

    Together they are `attention_mask`. Keys are in the order of their frames, so what a query sees is a prefix.
    """
    if sees_everything(queries, keys, config):
        return (Span(0, queries.tokens, keys.tokens, None),)
    edges, start = [], 0
    for segment in queries.segments:
        step = max(1, SPAN_TOKENS // segment.tokens_per_frame) * segment.tokens_per_frame
        edges += [
            (first, min(first + step, start + segment.tokens)) for first in range(start, start + segment.tokens, step)
        ]
        start += segment.tokens
    seen = torch.searchsorted(keys.token_frames(), queries.token_frames(), right=True).tolist()
    frames, key_frames, spans = queries.token_frames(device), keys.token_frames(device), []
    for start, stop in edges:
        seen_by_all, visible = seen[start], seen[stop - 1]
        mask = None
        if config.temporal_decay or seen_by_all < visible:
            mask = frame_mask(frames[start:stop], key_frames[:visible], config.temporal_decay)
        spans.append(Span(start, stop, visible, mask, seen_by_all))
    return tuple(spans)


spans_over_a_stack = lru_cache(maxsize=64)(visible_spans.__wrapped__)
"""The same where tokens lie over others in a cache: every frame of a walk is a place of its own, which does not come
again once its steps are done. Kept like those of clips, they would fill the memory."""


def sees_everything(queries: Layout, keys: Layout, config: TransformerConfig) -> bool:
    """Whether every query may see every key, all alike."""
    if config.attention == "full":
        return True
    first_query = min(segment.start for segment in queries.segments)
    last_key = max(segment.stop for segment in keys.segments) - 1
    return last_key <= first_query and not config.temporal_decay


def attention_mask(queries: Layout, keys: Layout, config: TransformerConfig) -> AttentionMask | None:
    """The whole mask [queries, keys], or None where every query may see every key.

    With FlexRoPE (`temporal_decay` > 0) it is float and holds `temporal_decay * (frame of key - frame of query)`:
    zero within a frame and ever lower for older ones.
    """
    if sees_everything(queries, keys, config):
        return None
    return frame_mask(queries.token_frames(), keys.token_frames(), config.temporal_decay)


def added_to_logits(mask: AttentionMask, dtype: torch.dtype) -> AttentionMask:
    """The same mask as numbers: 0 where a query may look at a key, or what it held, and minus infinity elsewhere."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))


def frame_mask(query_frames: Tensor, key_frames: Tensor, temporal_decay: float) -> AttentionMask:
    """The mask [queries, keys] of tokens that belong to these frames (int64 [n] each)."""
    if not temporal_decay:
        return key_frames[None, :] <= query_frames[:, None]
    distance = key_frames[None, :] - query_frames[:, None]
    return (temporal_decay * distance.float()).masked_fill(distance > 0, float("-inf"))
