"""Flow matching: the straight path from latents to noise, and the way back along it (design of the paper, section 3.1).

x_s = (1 - s) z + s noise,    velocity = dx/ds = noise - z,    network time t = 1000 s

Flow matching: arXiv 2210.02747; the straight path: rectified flow, arXiv 2209.03003.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from nextframe.config import Solver

CLEAN_TIME = -1.0
"""Network time of a clean context frame. It is embedded as any other time (as published), like the next one."""
COARSE_TIME = -2.0
"""Network time of a frame of the coarse level, which is always clean."""

Velocity = Callable[[Tensor, float], Tensor]
"""dx/ds at (x, s)."""


def noise_generator(seed: int, number: int) -> torch.Generator:
    """Of the `number`-th draw of a seed, the step of a training or the frame of a sample: it does not depend on those
    before, so what is resumed draws what the undisturbed would have drawn.
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + number) & 0x7FFF_FFFF_FFFF_FFFF)


def noised(latents: Tensor, noise: Tensor, s: Tensor) -> Tensor:
    """x_s; `s` in [0, 1] broadcasts from the left: [b, f] for latents [b, f, c, h, w]."""
    s = s.reshape(s.shape + (1,) * (latents.dim() - s.dim()))
    return (1 - s) * latents + s * noise


def training_levels(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise levels s in (0, 1]: s = (1000 - floor(1000 u)) / 1000, with u logit-normal (arXiv 2403.03206)."""
    u = torch.sigmoid(torch.randn(shape, generator=generator))
    return (1000 - torch.floor(1000 * u)) / 1000


def published_levels(steps: int) -> list[float]:
    """The levels the published sampler stops at: `steps` from 1 to 0.001, evenly, and then 0."""
    return [*torch.linspace(1, 0.001, steps, dtype=torch.float64).tolist(), 0.0]


def even_levels(steps: int) -> list[float]:
    """`steps` even steps from 1 to 0."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()


def euler(velocity: Velocity, noise: Tensor, steps: int) -> Tensor:
    """Integrate dx/ds from s = 1 (noise) to s = 0 (latents) as the published sampler does, in `steps` evaluations.

    The last of them moves x by a thousandth of a velocity, next to nothing: `even_euler` does without.
    """
    return _euler(velocity, noise, published_levels(steps))


def even_euler(velocity: Velocity, noise: Tensor, steps: int) -> Tensor:
    """The same in steps of one length, all of which count."""
    return _euler(velocity, noise, even_levels(steps))


def _euler(velocity: Velocity, noise: Tensor, levels: list[float]) -> Tensor:
    x = noise
    for s, next_s in pairwise(levels):
        x = x + (next_s - s) * velocity(x, s)
    return x


def heun(velocity: Velocity, noise: Tensor, steps: int) -> Tensor:
    """Second order: the mean slope of both ends of a step; the last step is Euler's. 2 `steps` - 1 evaluations."""
    x, levels = noise, even_levels(steps)
    for s, next_s in pairwise(levels):
        slope = velocity(x, s)
        ahead = x + (next_s - s) * slope
        # At s = 0 the network was never trained.
        x = ahead if next_s == 0 else x + (next_s - s) * (slope + velocity(ahead, next_s)) / 2
    return x


def adams(velocity: Velocity, noise: Tensor, steps: int) -> Tensor:
    """Second order (Adams-Bashforth): goes on along the line through this slope and the last. `steps` evaluations."""
    x, before = noise, None
    for s, next_s in pairwise(even_levels(steps)):
        slope = velocity(x, s)
        x = x + (next_s - s) * (slope if before is None else (3 * slope - before) / 2)
        before = slope
    return x


SOLVERS: dict[Solver, Callable[[Velocity, Tensor, int], Tensor]] = {
    "euler": euler,
    "even-euler": even_euler,
    "heun": heun,
    "adams": adams,
}
"""By the names of `config.Solver`. Each asks for its highest level first, because that evaluation also reads the past,
and draws no noise of its own."""


def evaluated_levels(solver: Solver, steps: int) -> list[float]:
    """The levels at which a solver asks for the velocity, in order."""
    levels: list[float] = []

    def note(x: Tensor, s: float) -> Tensor:
        levels.append(s)
        return x

    SOLVERS[solver](note, torch.zeros(1), steps)
    return levels


def noise_levels(solver: Solver, steps: int) -> list[float]:
    """The same, each once and the noisiest first."""
    return sorted(set(evaluated_levels(solver, steps)), reverse=True)
