"""A network, its optimizer and its average, and the step that moves all three."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nextframe.config import TrainConfig
from nextframe.objective import LENGTHS, Inputs, Objective
from nextframe.optimizer import AdamW, Average
from nextframe.parallel import (
    blocks_of,
    compile_blocks,
    matrix_precision,
    recompute_blocks,
    resolve_device,
    resolve_precision,
    should_compile,
)


@dataclass(frozen=True)
class Task:
    """What a run trains: a network, its objective, and the batch of each step, a pure function of the step."""

    network: nn.Module
    objective: Objective
    batch: Callable[[int], Any]
    product: nn.Module
    """What the run is for: the network, or a part of it where the rest only helps in training. Its weights are
    averaged and written to use, and its gradient is clipped (as published: a discriminator's is not)."""


class Learner:
    """A task on its device. No step waits for the device: losses and norms are tensors until somebody reads them."""

    def __init__(self, task: Task, config: TrainConfig) -> None:
        """Raises UserError for a device that is not there."""
        self.task, self.config = task, config
        self.device = resolve_device(config.device)
        self.precision = resolve_precision(config.precision, self.device)
        self.network = task.network.to(self.device).train()
        self.optimizer = AdamW(self.network, config.optimizer)
        self.average = Average(task.product, config.optimizer.ema_decay)
        if config.recompute:
            recompute_blocks(self.network)
        # `auto` compiles what can be compiled; `on` says so when that is nothing.
        if should_compile(config.compile, self.device) and (config.compile == "on" or blocks_of(self.network)):
            compile_blocks(self.network)

    def inputs(self, step: int) -> Inputs:
        """All that a step needs, randomness included: a function of the step, on the CPU, ready to be sent."""
        generator = torch.Generator().manual_seed(step_seed(self.config.seed, step))
        inputs = self.task.objective.prepare(self.task.batch(step), generator)
        # Only from pinned memory does a copy go on beside the computation.
        return {name: x.pin_memory() for name, x in inputs.items()} if self.device.type == "cuda" else inputs

    def differentiate(self, inputs: Inputs) -> Tensor:
        """Set the gradients of the mean loss over the batch; returns that loss."""
        with matrix_precision(self.precision, self.device):
            return accumulate_gradients(
                self.task.objective.loss, self.network, inputs, self.config.accumulate, self.device
            )

    def update(self, rate: float, step: int) -> Tensor:
        """Clip, move the weights, and move the average after them; returns the norm of the gradient."""
        norm = nn.utils.clip_grad_norm_(self.task.product.parameters(), self.config.optimizer.gradient_clip)
        self.optimizer.step(rate)
        self.average.update(self.task.product, step)
        return norm


def accumulate_gradients(
    loss_of: Callable[[nn.Module, Inputs], Tensor], network: nn.Module, inputs: Inputs, parts: int, device: torch.device
) -> Tensor:
    """Set the gradients of the mean loss over the batch, computed part by part; returns that loss."""
    network.zero_grad(set_to_none=True)
    pieces = [
        dict(zip(inputs, piece, strict=True)) for piece in zip(*(x.chunk(parts) for x in inputs.values()), strict=True)
    ]
    size = len(next(iter(inputs.values())))
    total = torch.zeros((), device=device)
    for piece in pieces:
        share = len(next(iter(piece.values()))) / size
        sent = {name: x if name == LENGTHS else x.to(device, non_blocking=True) for name, x in piece.items()}
        loss = loss_of(network, sent) * share
        loss.backward()
        total += loss.detach()
    return total


def step_seed(seed: int, step: int) -> int:
    """A seed for each step, so that a resumed run draws what the undisturbed one would have drawn."""
    return (seed * 1_000_003 + step) & 0x7FFF_FFFF_FFFF_FFFF
