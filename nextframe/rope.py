"""Rotary positions on three axes: frame, row, column."""

from functools import lru_cache

import torch
from torch import Tensor

from nextframe.layout import Layout
from nextframe.shapes import HeadTokens, RotaryTable

THETA = 10_000.0


@lru_cache(maxsize=512)
def rotary_table(layout: Layout, axes: tuple[int, int, int], device: torch.device) -> tuple[RotaryTable, RotaryTable]:
    """Cosine and sine for every token of the layout, each float32 [n, e / 2].

    Pair j of an axis with m channels turns by position * theta^(-2j / m). Computed in float64, because positions
    reach hundreds and the angles must not lose their last digits.
    """
    positions = layout.table()[:, :3].to(torch.float64)
    angles = torch.cat([positions[:, axis, None] * _frequencies(width) for axis, width in enumerate(axes)], dim=1)
    return angles.cos().float().to(device), angles.sin().float().to(device)


def _frequencies(channels: int) -> Tensor:
    return THETA ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)


def rotate(x: HeadTokens, cosine: RotaryTable, sine: RotaryTable) -> HeadTokens:
    """Turn neighbouring channel pairs (x0, x1), (x2, x3) ... by the angle of their token; in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cosine - odd * sine, odd * cosine + even * sine), dim=-1)
    return turned.flatten(-2).to(x.dtype)
