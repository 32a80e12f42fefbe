"""softmax(q k^T / sqrt(e) + mask) v, span by span of the queries (`mask.py` says who sees whom)."""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from nextframe.errors import UserError
from nextframe.mask import Span, View
from nextframe.shapes import Heads, HeadTokens

FEW_QUERIES = 64
"""Fewer attend faster by torch's fused kernel, as long as they need no gradient (docs/speed.md)."""


@runtime_checkable
class AttentionKernel(Protocol):
    """How the queries of neighbouring spans attend to the keys and values that the last of them may see."""

    def __call__(self, queries: Heads, keys: Heads, values: Heads, spans: tuple[Span, ...]) -> HeadTokens: ...


def attend(
    queries: Heads,
    keys: Heads,
    values: Heads,
    views: Sequence[View],
    first_query: int = 0,
    kernel: AttentionKernel | None = None,
) -> Tensor:
    """[b, n, k e]: what each query sees, mixed. Tokens before `first_query` have keys and values alone.

    `kernel`: if not the one that is fastest without compilation.
    """
    mixed = []
    for view in views:
        own_keys, own_values = (
            concatenated([x[:, :, start:stop] for start, stop in view.keys], dim=2) for x in (keys, values)
        )
        spans = tuple(span for span in view.spans if view.start + span.start >= first_query)
        if spans:
            first = view.start - first_query
            asking = queries[:, :, first + spans[0].start : first + spans[-1].stop]
            attention = kernel or (MatmulAttention.apply if pays_as_matmuls(asking) else fused)
            mixed.append(attention(asking, own_keys, own_values, spans))
    return concatenated(mixed).flatten(2)


def fused(queries: Heads, keys: Heads, values: Heads, spans: tuple[Span, ...]) -> HeadTokens:
    """Attention of the queries of these neighbouring spans, by torch's own kernel."""
    mixed = []
    for span, rows in placed(spans):
        mask = span.mask if span.mask is None or span.mask.dtype == torch.bool else span.mask.to(queries.dtype)
        asking, seen = queries[:, :, rows], slice(span.keys)
        part = F.scaled_dot_product_attention(asking, keys[:, :, seen], values[:, :, seen], attn_mask=mask)
        mixed.append(part.transpose(1, 2))
    return concatenated(mixed)


def flex(queries: Heads, keys: Heads, values: Heads, spans: tuple[Span, ...]) -> HeadTokens:
    """The same as `fused`, all spans in one kernel, compiled (FlexAttention): it leaves out the blocks of 128 queries
    and keys that the mask hides whole, and asks for the mask in those alone that it hides in part.

    Raises UserError for a mask that is added to the logits.
    """
    seen, mask = slice(spans[-1].keys), block_mask(spans, queries.device)
    mixed = compiled_flex_attention()(queries, keys[:, :, seen], values[:, :, seen], block_mask=mask)
    return mixed.transpose(1, 2)


@cache
def compiled_flex_attention() -> Callable[..., Heads]:
    """One kernel for all lengths. `fullgraph`: it raises where it cannot be compiled; as it is written it would lay out
    every score."""
    allow_recompiles()
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


def allow_recompiles() -> None:
    """Some more than torch's 8 versions of one piece of code (for the process): with and without gradient, with and
    without a coarse past, for one row and for many. Beyond the limit it goes on uncompiled."""
    torch._dynamo.config.recompile_limit = max(32, torch._dynamo.config.recompile_limit)


@lru_cache(maxsize=1024)
def block_mask(spans: tuple[Span, ...], device: torch.device) -> BlockMask:
    """Which blocks the queries of these spans see. What a query may see of the keys are the first so many."""
    counts = []
    for span in spans:
        if span.mask is not None and span.mask.dtype != torch.bool:
            raise UserError("FlexAttention knows no temporal decay here: set --train.no-flex-attention")
        all_seen = torch.full((span.stop - span.start,), span.keys, device=device)
        counts.append(all_seen if span.mask is None else span.mask.sum(dim=1))
    seen = torch.cat(counts)

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return key < seen[query]

    return create_block_mask(visible, None, None, len(seen), spans[-1].keys, device)


def pays_as_matmuls(queries: Heads) -> bool:
    """Whether products are faster than torch's kernel: in bfloat16 on a processor (docs/speed.md)."""
    many = queries.shape[2] >= FEW_QUERIES or queries.requires_grad
    if not many or queries.device.type != "cpu" or queries.dtype != torch.bfloat16:
        return False
    known = queries.requires_grad or not torch.cpu._is_amx_tile_supported()
    return known or matmuls_are_faster(queries.shape[1], queries.shape[3])


@cache
def matmuls_are_faster(heads: int, channels: int) -> bool:
    """Which attends faster on this machine, a frame's 64 queries to 1,024 keys; measured once, in milliseconds.

    With AMX torch's kernel has fast products of its own, and keeps the scores in the processor's cache.
    """
    queries, keys = (torch.ones(1, heads, tokens, channels, dtype=torch.bfloat16) for tokens in (64, 1024))
    seconds: dict[AttentionKernel, list[float]] = {fused: [], MatmulAttention.apply: []}
    with torch.no_grad():
        for kernel in 5 * list(seconds):
            started = perf_counter()
            kernel(queries, keys, keys, (Span(0, 64, 1024, None),))
            seconds[kernel].append(perf_counter() - started)
    return min(seconds[MatmulAttention.apply]) < min(seconds[fused])


class MatmulAttention(torch.autograd.Function):
    """The same as `fused`, as matrix products: the hardware's bfloat16 is for those.

    With scores S = q k^T / sqrt(e) + mask, weights P = softmax(S), mixed = P v, and G the gradient of what was mixed:

        dv = P^T G,    dS = P * (G v^T - rowsum(P * G v^T)),    dq = dS k / sqrt(e),    dk = dS^T q / sqrt(e)

    Scores and weights are rounded to the precision of the products; what spans add to a gradient is summed in float32.
    """

    @staticmethod
    def forward(ctx: Any, queries: Heads, keys: Heads, values: Heads, spans: Sequence[Span]) -> HeadTokens:  # pyright: ignore[reportIncompatibleMethodOverride]
        b, k, n, e = queries.shape
        mixed, scaled, all_weights = queries.new_empty(b, n, k, e), queries * e**-0.5, []
        for span, rows in placed(spans):
            weights = span_weights(scaled[:, :, rows], visible_prefix(span, keys), span)
            mixed[:, rows] = (weights @ visible_prefix(span, values)).transpose(1, 2)
            if any(ctx.needs_input_grad):
                all_weights.append(weights)
        ctx.spans = spans
        ctx.save_for_backward(scaled, keys, values, *all_weights)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: HeadTokens) -> tuple[Tensor, Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        scaled, keys, values, *all_weights = ctx.saved_tensors
        of_mixed, of_queries = gradients[0].transpose(1, 2).contiguous(), torch.empty_like(scaled)
        precision = torch.promote_types(keys.dtype, torch.float32)
        of_keys, of_values = (torch.zeros_like(x, dtype=precision) for x in (keys, values))
        for (span, rows), weights in zip(placed(ctx.spans), all_weights, strict=True):
            own, seen = of_mixed[:, :, rows], slice(span.keys)
            of_values[:, :, seen] += weights.mT @ own
            of_weights = own @ visible_prefix(span, values).mT
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_queries[:, :, rows] = of_scores @ visible_prefix(span, keys)
            of_keys[:, :, seen] += of_scores.mT @ scaled[:, :, rows]
        of_queries *= scaled.shape[-1] ** -0.5
        return of_queries, of_keys.to(keys.dtype), of_values.to(values.dtype), None


def placed(spans: Sequence[Span]) -> list[tuple[Span, slice]]:
    """Neighbouring spans, and which of all their queries are theirs."""
    first = spans[0].start
    return [(span, slice(span.start - first, span.stop - first)) for span in spans]


def visible_prefix(span: Span, x: Heads) -> Heads:
    """The keys or values of a span. Contiguous, or a product copies them as it needs them: transposed, and slowly."""
    return x[:, :, : span.keys].contiguous()


def span_weights(queries: Heads, keys: Heads, span: Span) -> Tensor:
    """[b, k, queries, keys]: how much of each key a query of the span takes."""
    scores = queries @ keys.mT
    if span.mask is not None and span.mask.dtype == torch.bool:
        scores[..., span.seen_by_all :].masked_fill_(~span.mask[:, span.seen_by_all :], float("-inf"))
    elif span.mask is not None:
        scores += span.mask
    return scores.softmax(dim=-1)


def concatenated(parts: Sequence[Tensor], dim: int = 1) -> Tensor:
    """One after the other; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
