"""The optimizer and the average of the weights, with states that are plain named tensors."""

from collections.abc import Container

import torch
from torch import Tensor, nn

from nextframe.config import OptimizerConfig
from nextframe.distributed import gathered_like, local_tensor, sharded_like

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that pulls singular values towards 1, five times (Muon, Jordan and others, 2024)."""
MOMENTUM = 0.95
TOGETHER = 8
"""Matrices of one shape that are made orthogonal in one go: fewer are more launches on a GPU, more take more memory."""
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
        alike: dict[torch.Size, list[str]] = {}
        for name, p in self._matrices.items():
            if p.grad is not None:
                alike.setdefault(p.shape, []).append(name)
        for names in alike.values():
            for first in range(0, len(names), TOGETHER):
                self._move(names[first : first + TOGETHER], rate, broken)
        self._rest.step(rate, broken)

    def _move(self, names: list[str], rate: float, broken: Tensor) -> None:
        """Some matrices of one shape."""
        matrices = [self._matrices[name] for name in names]
        kept, size = 1 - rate * self._weight_decay, rate * ADAMW_SIZE * max(matrices[0].shape) ** 0.5
        directions = orthogonal(torch.stack([self._ahead(name, broken) for name in names]))
        for p, direction in zip(matrices, directions, strict=True):
            weight, own = local_tensor(p), sharded_like(direction.to(p.dtype), p)
            weight.copy_(torch.where(broken, weight, kept * weight - size * own))

    def _ahead(self, name: str, broken: Tensor) -> Tensor:
        """Where the momentum of a matrix, with this gradient in it, will be: whole, in the precision of products."""
        p = self._matrices[name]
        assert p.grad is not None
        if name not in self._momenta:
            self._momenta[name] = torch.zeros_like(p)
        momentum = local_tensor(self._momenta[name])
        gradient = torch.where(broken, momentum, local_tensor(p.grad))
        momentum.lerp_(gradient, 1 - MOMENTUM)
        return gathered_like(gradient.lerp(momentum, MOMENTUM), p).to(self._precision)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"{name}/momentum": momentum for name, momentum in self._momenta.items()} | self._rest.state_dict()

    def make_room(self, names: Container[str]) -> None:
        """Have states of these names, to be filled: a weight has one once it has had a gradient."""
        for name, p in self._matrices.items():
            if f"{name}/momentum" in names:
                self._momenta[name] = torch.zeros_like(p)
        self._rest.make_room(names)


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly the semi-orthogonal matrices nearest to these, [m, rows, columns]: their singular values become 0.7 to 1.2
    (Newton-Schulz)."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Average:
    """Exponential moving average of the weights; buffers are taken as they are."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._decay = network, decay
        self._shadows = {name: p.detach().clone() for name, p in network.named_parameters()}

    @torch.no_grad()
    def update(self, step: int, broken: Tensor) -> None:
        """Short at first, so that the random start is soon forgotten. Where `broken` is true nothing is changed."""
        decay = min(self._decay, (1 + step) / (10 + step))
        weight = (1 - decay) * ~broken
        shadows = [local_tensor(shadow) for shadow in self._shadows.values()]
        weights = [local_tensor(p.detach()) for p in self._network.parameters()]
        torch._foreach_lerp_(shadows, weights, [weight] * len(shadows))

    @torch.no_grad()
    def distance(self) -> Tensor:
        """The L2 norm of what lies between the weights and their average, one weight after the other."""
        apart = zip(self._network.parameters(), self._shadows.values(), strict=True)
        norms = torch.stack([torch.linalg.vector_norm(weight - shadow) for weight, shadow in apart])
        return torch.linalg.vector_norm(norms)

    def state_dict(self) -> dict[str, Tensor]:
        """The state dict of the network with averaged weights."""
        return {**self._network.state_dict(), **self._shadows}
