"""Flow matching: the straight path from latents to noise, and the way back along it (design of the paper, section 3.1).

x_s = (1 - s) z + s noise,    velocity = dx/ds = noise - z,    network time t = 1000 s
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

CLEAN_TIME = -1.0
"""Network time of a clean context frame."""
COARSE_TIME = -2.0
"""Network time of a frame of the coarse level, which is always clean."""

Velocity = Callable[[Tensor, float], Tensor]
"""dx/ds at (x, s)."""


def noised(latents: Tensor, noise: Tensor, s: Tensor) -> Tensor:
    """x_s; `s` in [0, 1] broadcasts from the left: [b, f] for latents [b, f, c, h, w]."""
    s = s.reshape(s.shape + (1,) * (latents.dim() - s.dim()))
    return (1 - s) * latents + s * noise


def training_levels(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise levels s in (0, 1]: logit-normal u on the grid of 1000 levels, s = (1000 - floor(1000 u)) / 1000."""
    u = torch.sigmoid(torch.randn(shape, generator=generator))
    return (1000 - torch.floor(1000 * u)) / 1000


def sampling_levels(steps: int) -> list[float]:
    """The levels an Euler sampler stops at: `steps` from 1 to 0.001, evenly, and then 0."""
    return [*torch.linspace(1, 0.001, steps, dtype=torch.float64).tolist(), 0.0]


def euler(velocity: Velocity, noise: Tensor, steps: int) -> Tensor:
    """Integrate dx/ds from s = 1 (noise) to s = 0 (latents) with `steps` calls of `velocity`."""
    x, levels = noise, sampling_levels(steps)
    for s, next_s in pairwise(levels):
        x = x + (next_s - s) * velocity(x, s)
    return x
