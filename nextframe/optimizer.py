"""The optimizer and the average of the weights, with states that are plain named tensors."""

import torch
from torch import Tensor, nn

from nextframe.config import OptimizerConfig


class AdamW:
    """torch's AdamW with the rate given per step and a state of plain named tensors."""

    def __init__(self, network: nn.Module, config: OptimizerConfig) -> None:
        self._named = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._named.values(), betas=config.betas, weight_decay=config.weight_decay, fused=True
        )

    def step(self, rate: float) -> None:
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
                moments = {key: torch.empty_like(p).copy_(state[f"{name}/{key}"]) for key in ("exp_avg", "exp_avg_sq")}
                self._optimizer.state[p] = {"step": state[f"{name}/step"].to(p.device), **moments}


class Average:
    """Exponential moving average of the weights; buffers are taken as they are."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._names = [name for name, _ in network.named_parameters()]
        self._shadows = [p.detach().clone() for p in network.parameters()]

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Short at first, so that the random start is soon forgotten."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._shadows, list(network.parameters()), 1 - decay)

    def state_dict(self, network: nn.Module) -> dict[str, Tensor]:
        """The state dict of the network with averaged weights."""
        return {**network.state_dict(), **dict(zip(self._names, self._shadows, strict=True))}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, shadow in zip(self._names, self._shadows, strict=True):
            shadow.copy_(state[name])
