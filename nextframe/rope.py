"""Rotary positions (RoPE, arXiv 2104.09864) on three axes: frame, row, column; with a compass a fourth, the heading."""

import math
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from nextframe.layout import Layout, Segment
from nextframe.shapes import Heads, HeadTokens, RotaryTable

THETA = 10_000.0
KEPT = 256
"""Frames whose angles are made at once."""


@lru_cache(maxsize=64)  # those of a step, or of a frame of many walks: its expensive part is kept below
def rotary_table(
    layout: Layout, axes: tuple[int, int, int], riflex_frames: int | None, device: torch.device
) -> RotaryTable:
    """Cosine and sine for every token of the layout and every pair of channels, float32 [n, e / 2, 2].

    Pair j of an axis with m channels turns by position * theta^(-2j / m). Computed in float64, because positions
    reach hundreds and the angles must not lose their last digits.
    """
    parts = []
    for segment in layout.segments:
        for first in range(segment.start // KEPT * KEPT, segment.stop, KEPT):
            kept = _rotary_rows(replace(segment, start=first, stop=first + KEPT), axes, riflex_frames, device)
            start, stop = max(segment.start, first) - first, min(segment.stop, first + KEPT) - first
            parts.append(kept[start * segment.tokens_per_frame : stop * segment.tokens_per_frame])
    return torch.cat(parts)


@lru_cache(maxsize=64)
def _rotary_rows(
    segment: Segment, axes: tuple[int, int, int], riflex_frames: int | None, device: torch.device
) -> RotaryTable:
    """Those of one segment. Many layouts are made of few: to bring every table to a GPU would be to wait for it."""
    positions = segment.positions().to(torch.float64)
    frequencies = [_frequencies(width) for width in axes]
    if riflex_frames is not None:
        frequencies[0] = riflex(frequencies[0], riflex_frames)
    angles = torch.cat([positions[:, axis, None] * frequencies[axis] for axis in range(3)], dim=1)
    return _cosine_sine(angles).to(device)


def heading_table(layout: Layout, headings: Tensor, compass: tuple[int, ...], circle: int) -> RotaryTable:
    """Cosine and sine for every token and every number of `compass`, float32 [b, n, m, 2]: position on a fourth axis.

    `headings`: [b, f], of the frames of the layout, `circle` of them all the way round. Pair j turns compass[j] times
    round in a full circle, so that the product of a query and a key knows the angle between their frames.
    """
    angles = headings[..., None] * _times_round(compass, headings.device) * (2 * math.pi / circle)
    return _cosine_sine(angles)[:, _frame_of_token(layout, headings.device)]


@lru_cache(maxsize=8)
def _times_round(compass: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(compass, dtype=torch.float64, device=device)


@lru_cache(maxsize=512)
def _frame_of_token(layout: Layout, device: torch.device) -> Tensor:
    """int64 [n]: at which of the layout's frames each token is."""
    places = torch.arange(layout.frames, device=device).split([segment.frames for segment in layout.segments])
    parts = zip(places, layout.segments, strict=True)
    return torch.cat([part[:, None].expand(-1, segment.tokens_per_frame).flatten() for part, segment in parts])


def _cosine_sine(angles: Tensor) -> Tensor:
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def _frequencies(channels: int) -> Tensor:
    return THETA ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)


def riflex(frequencies: Tensor, frames: int) -> Tensor:
    """After RIFLEx (arXiv 2502.15894): slow one temporal frequency so that its period covers all `frames` frames.

    It is the lowest that would repeat within them (the method's own code has it chosen by hand); the others stay.
    `frequencies`: float64, falling, radians per frame.
    """
    repeating = int((2 * math.pi / frequencies < frames).sum())  # periods rise, so these come first
    slowed = frequencies.clone()
    if repeating:
        slowed[repeating - 1] = 2 * math.pi / frames
    return slowed


def rotate(x: HeadTokens, rotary: RotaryTable, dtype: torch.dtype) -> Heads:
    """Turn neighbouring channel pairs (x0, x1), (x2, x3) ... by the angle of their token; in float32, then `dtype`.

    Where that is a conversion, the result is laid out by heads at once, as products want it.
    """
    pairs, rotary = x.float().unflatten(-1, (-1, 2)), rotary.unsqueeze(-3)
    if torch.compiler.is_compiling():  # it makes one kernel of this and what is around it, but none of complex numbers
        (x0, x1), (cosine, sine) = pairs.unbind(-1), rotary.unbind(-1)
        turned = torch.stack([x0 * cosine - x1 * sine, x0 * sine + x1 * cosine], dim=-1)
    else:  # the same as (x0 + i x1) exp(i angle): one pass over memory (docs/speed.md)
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotary))
    return turned.flatten(-2).transpose(1, 2).to(dtype, memory_format=torch.contiguous_format)
