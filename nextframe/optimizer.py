"""The optimizer and the average of the weights, with states that are plain named tensors."""

from collections.abc import Container

import torch
from torch import Tensor, nn

from nextframe.config import OptimizerConfig
from nextframe.distributed import gathered_like, local_tensor, sharded_like

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that pulls singular values towards 1, five times (Muon, Jordan and others, 2024)."""
MOMENTUM = 0.95
ADAMW_SIZE = 0.2
"""Root mean square of what AdamW moves a weight by, in learning rates: so one rate serves both (arXiv 2502.16982)."""


def optimizer_of(network: nn.Module, config: OptimizerConfig, precision: torch.dtype) -> "AdamW | Muon":
    """The optimizer that is configured. `precision`: of the matrix products."""
    weights = {name: p for name, p in network.named_parameters() if p.requires_grad}
    return Muon(weights, config, precision) if config.algorithm == "muon" else AdamW(weights, config)


class AdamW:
    """torch's AdamW with the rate given per step and a state of plain named tensors."""

    def __init__(self, weights: dict[str, nn.Parameter], config: OptimizerConfig) -> None:
        self._named = weights
        self._optimizer = torch.optim.AdamW(
            weights.values(), betas=config.betas, weight_decay=config.weight_decay, fused=True
        )

    def step(self, rate: float, broken: Tensor) -> None:
        """`broken`: where it is true nothing is changed, and nobody waits to know."""
        # What a gradient scaler tells torch's fused kernels; its own way of skipping a step waits for the device.
        self._optimizer.found_inf = broken.float()  # pyright: ignore[reportAttributeAccessIssue]
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()

    def state_dict(self) -> dict[str, Tensor]:
        return {
            f"{name}/{key}": value for name, p in self._named.items() for key, value in self._optimizer.state[p].items()
        }

    def make_room(self, names: Container[str]) -> None:
        """Have states of these names, to be filled: a weight has one once it has had a gradient."""
        for name, p in self._named.items():
            if f"{name}/step" in names:
                # In the memory layout of the weight: another one would change the last bit of the update.
                moments = {key: torch.zeros_like(p) for key in ("exp_avg", "exp_avg_sq")}
                self._optimizer.state[p] = {"step": torch.zeros((), device=p.device), **moments}


class Muon:
    """Muon for the matrices inside the blocks of a transformer, AdamW for all other weights.

    A matrix moves by its momentum with all singular values made equal. Not torch's own: that cannot be told to leave
    out a step, and multiplies in bfloat16, which takes five times as long on a processor without it.
    """

    def __init__(self, weights: dict[str, nn.Parameter], config: OptimizerConfig, precision: torch.dtype) -> None:
        self._matrices = {name: p for name, p in weights.items() if name.startswith("blocks.") and p.ndim == 2}
        self._rest = AdamW({name: p for name, p in weights.items() if name not in self._matrices}, config)
        self._momenta: dict[str, Tensor] = {}
        self._weight_decay, self._precision = config.weight_decay, precision

    @torch.no_grad()
    def step(self, rate: float, broken: Tensor) -> None:
        """`broken`: where it is true nothing is changed, and nobody waits to know."""
        kept = 1 - rate * self._weight_decay
        for name, p in self._matrices.items():
            if p.grad is None:
                continue
            if name not in self._momenta:
                self._momenta[name] = torch.zeros_like(p)
            weight, momentum = local_tensor(p), local_tensor(self._momenta[name])
            gradient = torch.where(broken, momentum, local_tensor(p.grad))
            momentum.lerp_(gradient, 1 - MOMENTUM)
            ahead = gathered_like(gradient.lerp(momentum, MOMENTUM), p)
            direction = sharded_like(orthogonal(ahead.to(self._precision)).to(p.dtype), p)
            size = rate * ADAMW_SIZE * max(p.shape) ** 0.5
            weight.copy_(torch.where(broken, weight, kept * weight - size * direction))
        self._rest.step(rate, broken)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"{name}/momentum": momentum for name, momentum in self._momenta.items()} | self._rest.state_dict()

    def make_room(self, names: Container[str]) -> None:
        """Have states of these names, to be filled: a weight has one once it has had a gradient."""
        for name, p in self._matrices.items():
            if f"{name}/momentum" in names:
                self._momenta[name] = torch.zeros_like(p)
        self._rest.make_room(names)


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly the semi-orthogonal matrix nearest to this one: its singular values become 0.7 to 1.2 (Newton-Schulz)."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Average:
    """Exponential moving average of the weights; buffers are taken as they are."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._names = [name for name, _ in network.named_parameters()]
        self._shadows = [p.detach().clone() for p in network.parameters()]

    @torch.no_grad()
    def update(self, network: nn.Module, step: int, broken: Tensor) -> None:
        """Short at first, so that the random start is soon forgotten. Where `broken` is true nothing is changed."""
        decay = min(self._decay, (1 + step) / (10 + step))
        weight = (1 - decay) * ~broken
        shadows = [local_tensor(shadow) for shadow in self._shadows]
        weights = [local_tensor(p.detach()) for p in network.parameters()]
        torch._foreach_lerp_(shadows, weights, [weight] * len(shadows))

    @torch.no_grad()
    def distance(self, network: nn.Module) -> Tensor:
        """The L2 norm of what lies between the weights and their average, one weight after the other."""
        apart = zip(network.parameters(), self._shadows, strict=True)
        norms = torch.stack([torch.linalg.vector_norm(weight - shadow) for weight, shadow in apart])
        return torch.linalg.vector_norm(norms)

    def state_dict(self, network: nn.Module) -> dict[str, Tensor]:
        """The state dict of the network with averaged weights."""
        return {**network.state_dict(), **dict(zip(self._names, self._shadows, strict=True))}
