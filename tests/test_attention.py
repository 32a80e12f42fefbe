"""Attention: by spans it is attention under the whole mask, and written out it is what torch's own kernel computes."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import LONG, random_transformer
from torch.nn.attention.flex_attention import flex_attention

from nextframe import attention
from nextframe import mask as mask_module
from nextframe.attention import AttentionKernel, MatmulAttention, attend, flex, fused
from nextframe.errors import UserError
from nextframe.layout import Layout, layout_of, shared_past
from nextframe.mask import Span, View, attention_mask, views, visible_spans
from nextframe.transformer import Transformer

CPU = torch.device("cpu")


@pytest.mark.parametrize("tokens", [16, 40, 10_000])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_spans_together_are_the_whole_mask(tokens: int, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention span by span is attention under the dense mask, which hides up to half of what it computes."""
    monkeypatch.setattr(mask_module, "SPAN_TOKENS", tokens)
    visible_spans.cache_clear()
    config = replace(LONG, temporal_decay=decay)
    layout = layout_of(config, 9)
    present = layout_of(config, 9, first=3)
    for queries in (layout, present):
        spans = visible_spans(queries, layout, config, CPU)
        whole = attention_mask(queries, layout, config)
        assert whole is not None
        q, k, v = (torch.randn(2, 2, n, 16) for n in (queries.tokens, layout.tokens, layout.tokens))
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=whole).transpose(1, 2).flatten(2)
        view = View(0, ((0, layout.tokens),), spans)
        torch.testing.assert_close(attend(q, k, v, [view]), expected, atol=1e-5, rtol=0)
        assert [span.start for span in spans[1:]] == [span.stop for span in spans[:-1]]
        assert spans[-1].stop == queries.tokens
        if tokens < 10_000:
            computed = sum((span.stop - span.start) * span.keys for span in spans)
            assert computed < 0.75 * queries.tokens * layout.tokens or queries is present
    visible_spans.cache_clear()


KERNELS = {
    "written out": (MatmulAttention.apply, 0.0),
    "written out, with decay": (MatmulAttention.apply, 0.3),
    "in blocks": (flex, 0.0),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("lengths", [[9], [12, 7, 9]], ids=["window", "windows"])
def test_every_kernel_is_the_same_function(kernel: str, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is mixed, and the gradients of queries, keys and values, in float64. In blocks by FlexAttention's own plain
    path: compiled, it has no backward pass on a processor (`test_gpu.py`), and none of its paths is let through there.
    """
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *tensors: None)
    monkeypatch.setattr(attention, "compiled_flex_attention", lambda: flex_attention)
    monkeypatch.setattr(mask_module, "SPAN_TOKENS", 40)
    visible_spans.cache_clear()
    own, decay = KERNELS[kernel]
    config = replace(LONG, temporal_decay=decay)
    layout = shared_past(config, lengths)
    memory = layout.segments[0].tokens  # as in the last block: the coarse frames ask nothing
    asked = layout.tokens - memory
    inputs = [
        torch.randn(2, 2, n, 16, dtype=torch.float64, requires_grad=True) for n in (asked, layout.tokens, layout.tokens)
    ]
    weight = torch.randn(2, asked, 32, dtype=torch.float64)

    def computed(way: AttentionKernel) -> tuple[torch.Tensor, ...]:
        mixed = attend(inputs[0], inputs[1], inputs[2], views(layout, Layout(), config, CPU), memory, way)
        return mixed, *torch.autograd.grad((mixed * weight).sum(), inputs)

    for ours, plain in zip(computed(own), computed(fused), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-12, rtol=0)
    visible_spans.cache_clear()


@pytest.mark.slow
def test_compiled_in_blocks_it_is_the_same_function() -> None:
    """Forward: on a processor there is no more of it."""
    script = Path(__file__).parent / "compiled_attention.py"
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 1e-5


def test_in_blocks_it_knows_no_decay() -> None:
    config = replace(LONG, temporal_decay=0.3)
    layout = layout_of(config, 9)
    keys = torch.randn(1, 2, layout.tokens, 16)
    with pytest.raises(UserError, match="no temporal decay"):
        attend(keys, keys, keys, views(layout, Layout(), config, CPU), kernel=flex)


def test_in_bfloat16_it_is_as_near_to_float32_as_torchs_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network's velocity and the gradients of all its weights, relative to float32."""
    torch.manual_seed(0)
    model, latents, actions = random_transformer(LONG), torch.randn(2, 9, 3, 4, 4), torch.randint(0, 3, (2, 9))
    exact = step(model, latents, actions)
    errors, used = {}, []
    for name, how in {"fused": fused, "written out": MatmulAttention.apply}.items():
        noted = noting(how, used)
        monkeypatch.setattr(attention, "fused", noted)
        monkeypatch.setattr(attention, "pays_as_matmuls", lambda queries: False)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = step(model, latents, actions)
        errors[name] = [float((a - b).norm() / a.norm()) for a, b in zip(exact, rounded, strict=True)]
    assert used.count(torch.bfloat16) == len(used) == 2 * model.config.layers
    for plain, written in zip(*errors.values(), strict=True):
        assert 0 < written < 1.1 * plain < 0.1


def test_it_is_written_out_where_bfloat16_is_for_products(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(attention.MatmulAttention, "apply", noting(fused, used))
    layout = layout_of(LONG, 9)
    for dtype, queries, gradient in (
        (torch.float32, layout, True),
        (torch.bfloat16, layout, False),
        (torch.bfloat16, layout_of(LONG, 9, first=8), True),
        (torch.bfloat16, layout_of(LONG, 9, first=8), False),
    ):
        asking = torch.randn(1, 2, queries.tokens, 16, dtype=dtype, requires_grad=gradient)
        below = Layout() if queries is layout else layout_of(LONG, 8)
        keys = torch.randn(1, 2, below.tokens + queries.tokens, 16, dtype=dtype)
        attend(asking, keys, keys, views(queries, below, LONG, CPU))
    assert used == [torch.bfloat16] * 2  # not where a few tokens want no gradient


@pytest.mark.parametrize("slow", ["fused", "written out"])
def test_with_amx_the_faster_one_is_found_by_trying(monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    used: dict[str, list[torch.dtype]] = {"fused": [], "written out": []}

    def late(*arguments: Any) -> torch.Tensor:
        sleep(0.005)
        return fused(*arguments)

    for name, place in (("fused", "fused"), ("written out", "MatmulAttention.apply")):
        how = noting(late if name == slow else fused, used[name])
        monkeypatch.setattr(f"nextframe.attention.{place}", how)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    attention.matmuls_are_faster.cache_clear()
    asking, keys = (torch.randn(1, 2, tokens, 16, dtype=torch.bfloat16) for tokens in (64, 80))
    for _ in range(3):
        attend(asking, keys, keys, [View(0, ((0, 80),), (Span(0, 64, 80, None),))])
    tried = {name: len(calls) for name, calls in used.items()}
    assert tried.pop(slow) + 3 == next(iter(tried.values())) == 5 + 3
    attention.matmuls_are_faster.cache_clear()


def step(model: Transformer, latents: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Velocity and all gradients of one loss."""
    layout = layout_of(model.config, latents.shape[1])
    velocity = model(model.tokens(latents, layout), layout, torch.full(latents.shape[:2], 500.0), actions).float()
    gradients = torch.autograd.grad(velocity.square().mean(), list(model.parameters()), allow_unused=True)
    return velocity.detach(), torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


def noting(how: Callable[..., torch.Tensor], used: list[torch.dtype]) -> Callable[..., torch.Tensor]:
    def noted(queries: torch.Tensor, *rest: object) -> torch.Tensor:
        used.append(queries.dtype)
        return how(queries, *rest)

    return noted
