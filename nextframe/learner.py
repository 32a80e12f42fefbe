"""A network, its optimizer and its average, and the step that moves all three."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nextframe import ranks
from nextframe.config import TrainConfig
from nextframe.distributed import exchange, spread, whole
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
        self.network = task.network.train()
        if config.recompute:
            recompute_blocks(self.network)
        # `auto` compiles what can be compiled; `on` says so when that is nothing.
        if should_compile(config.compile, self.device) and (config.compile == "on" or blocks_of(self.network)):
            compile_blocks(self.network)
        alone = ranks.ranks() == 1
        if alone or not config.shard:  # a model in pieces need not fit on one device
            self.network.to(self.device)
        loss, shared = task.objective.loss, (self.device, self.precision, config.shard)
        self._scored = None if alone else spread(self.network, loss, *shared).to(self.device)
        self.optimizer = AdamW(self.network, config.optimizer)
        self.average = Average(task.product, config.optimizer.ema_decay)
        self._skipped = self._skipped_in_a_row = torch.zeros((), device=self.device)

    def inputs(self, step: int) -> Inputs:
        """All that a step needs, randomness included: a function of the step, on the CPU, ready to be sent."""
        generator = torch.Generator().manual_seed(step_seed(self.config.seed, step))
        inputs = self.task.objective.prepare(self.task.batch(step), generator)
        # Only from pinned memory does a copy go on beside the computation.
        return {name: x.pin_memory() for name, x in inputs.items()} if self.device.type == "cuda" else inputs

    def differentiate(self, inputs: Inputs) -> Tensor:
        """Set the gradients of the mean loss over the batch (of all processes); returns that loss."""
        work, scored = (self.network, inputs, self.config.accumulate, self.device), self._scored
        self._buffers = [buffer.clone() for buffer in self.network.buffers()]
        with matrix_precision(self.precision, self.device):
            if scored is None:
                self._loss = accumulate_gradients(self.task.objective.loss, *work)
            else:
                around = partial(exchange, scored)
                self._loss = ranks.mean(accumulate_gradients(lambda _, part: scored(part), *work, around))
        return self._loss

    def update(self, rate: float, step: int) -> Tensor:
        """Clip, move the weights, and move the average after them; returns the norm of the gradient.

        When the loss or the gradient is no number nothing is moved: neither weights, nor average, nor optimizer.
        """
        product = list(self.task.product.parameters())
        norm = whole(nn.utils.clip_grad_norm_(product, self.config.optimizer.gradient_clip))
        broken = ~(torch.isfinite(norm) & torch.isfinite(self._loss))
        mine = {id(weight) for weight in product}
        others = [weight.grad for weight in self.network.parameters() if id(weight) not in mine]
        if given := [gradient for gradient in others if gradient is not None]:
            broken |= ~torch.isfinite(whole(nn.utils.get_total_norm(given)))
        self.optimizer.step(rate, broken)
        self.average.update(self.task.product, step, broken)
        for buffer, before in zip(self.network.buffers(), self._buffers, strict=True):
            buffer.copy_(torch.where(broken, before, buffer))  # batch norm has seen what broke the step
        self._skipped, self._skipped_in_a_row = self._skipped + broken, (self._skipped_in_a_row + 1) * broken
        return norm

    def skipped(self) -> tuple[int, int]:
        """How many steps were skipped since this was asked last, and how many in a row up to now."""
        counted = int(self._skipped.item()), int(self._skipped_in_a_row.item())
        self._skipped = torch.zeros_like(self._skipped)
        return counted

    def state(self) -> dict[str, dict[str, Tensor]]:
        """All that the next steps depend on: the tensors themselves, or where the model is in pieces, the pieces."""
        return {
            "weights": self.network.state_dict(),
            "average": self.average.state_dict(self.task.product),
            "optimizer": self.optimizer.state_dict(),
        }


def accumulate_gradients(
    loss_of: Callable[[nn.Module, Inputs], Tensor],
    network: nn.Module,
    inputs: Inputs,
    parts: int,
    device: torch.device,
    around: Callable[[bool], AbstractContextManager[object]] = lambda last: nullcontext(),
) -> Tensor:
    """Set the gradients of the mean loss over the batch, computed part by part; returns that loss.

    `around`: entered around each part, told whether it is the last.
    """
    network.zero_grad(set_to_none=True)
    pieces = [
        dict(zip(inputs, piece, strict=True)) for piece in zip(*(x.chunk(parts) for x in inputs.values()), strict=True)
    ]
    size = len(next(iter(inputs.values())))
    total = torch.zeros((), device=device)
    for number, piece in enumerate(pieces, 1):
        share = len(next(iter(piece.values()))) / size
        sent = {name: x if name == LENGTHS else x.to(device, non_blocking=True) for name, x in piece.items()}
        with around(number == len(pieces)):
            loss = loss_of(network, sent) * share
            loss.backward()
        total += loss.detach()
    return total


def step_seed(seed: int, step: int) -> int:
    """A seed for each step, so that a resumed run draws what the undisturbed one would have drawn."""
    return (seed * 1_000_003 + step) & 0x7FFF_FFFF_FFFF_FFFF
