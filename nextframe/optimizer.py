"""The optimizer and the average of the weights, with states that are plain named tensors."""

import torch
from torch import Tensor, nn

from nextframe.config import OptimizerConfig
from nextframe.distributed import piece, pieces_like


class AdamW:
    """torch's AdamW with the rate given per step and a state of plain named tensors."""

    def __init__(self, network: nn.Module, config: OptimizerConfig) -> None:
        self._named = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._named.values(), betas=config.betas, weight_decay=config.weight_decay, fused=True
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

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, p in self._named.items():
            if f"{name}/step" in state:  # a weight has a state once it has had a gradient
                # In the memory layout of the weight: another one would change the last bit of the update.
                kept = {key: pieces_like(state[f"{name}/{key}"], p) for key in ("exp_avg", "exp_avg_sq")}
                moments = {key: torch.empty_like(p).copy_(moment) for key, moment in kept.items()}
                self._optimizer.state[p] = {"step": state[f"{name}/step"].to(p.device), **moments}


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
        shadows = [piece(shadow) for shadow in self._shadows]
        weights = [piece(p.detach()) for p in network.parameters()]
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

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, shadow in zip(self._names, self._shadows, strict=True):
            shadow.copy_(pieces_like(state[name], shadow))
