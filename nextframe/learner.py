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
from nextframe.devices import (
    blocks_of,
    compile_blocks,
    leave_out_cudnn_attention,
    matrix_precision,
    multiply_in_float8,
    recompute_blocks,
    resolve_device,
    resolve_precision,
    should_compile,
    use_flex_attention,
)
from nextframe.distributed import distributed_score, exchange, full_tensor
from nextframe.flow import noise_generator
from nextframe.objective import LENGTHS, Inputs, Objective, Score
from nextframe.optimizer import Average, optimizer_of


@dataclass(frozen=True)
class Task:
    """What a run trains: a network, its objective, and the batch of each step, a pure function of the step."""

    network: nn.Module
    objective: Objective
    batch: Callable[[int], Any]
    product: nn.Module
    """What the run is for: the network, or a part of it where the rest only helps in training. Its weights are
    averaged and written to use, and its gradient is clipped (as published: a discriminator's is not)."""
    flops: Callable[[Inputs], int] | None = None
    """The arithmetic of a step on such inputs, of all processes together, where it can be counted."""


class Learner:
    """A task on its device. No step waits for it: figures for the log are added up there until `figures` reads them."""

    def __init__(self, task: Task, config: TrainConfig) -> None:
        """Raises UserError for a device that is not there, or cannot do what is set."""
        self.task, self.config = task, config
        self.device = resolve_device(config.device)
        self.precision = resolve_precision(config.precision, self.device)
        leave_out_cudnn_attention(self.device)
        self.network = task.network.train()
        if config.float8 != "off":
            multiply_in_float8(self.network, config.float8 == "emulated", self.device)
        if config.flex_attention:
            use_flex_attention(self.network, self.device)
        # `auto` compiles what can be compiled; `on` says so when that is nothing.
        if should_compile(config.compile, self.device) and (config.compile == "on" or blocks_of(self.network)):
            compile_blocks(self.network)
        if config.recompute:
            recompute_blocks(self.network)
        alone = ranks.world_size() == 1
        if alone or not config.shard:  # a model in pieces need not fit on one device
            self.network.to(self.device)
        objective = task.objective
        how = (self.device, self.precision, config.shard, objective.has_unused_parameters)
        self._scored = None if alone else distributed_score(self.network, objective.score, *how).to(self.device)
        self.optimizer = optimizer_of(self.network, config.optimizer, self.precision)
        self.average = Average(task.product, config.optimizer.ema_decay)
        self._skipped_in_a_row = torch.zeros((), device=self.device)
        self._named = ("loss", "gradient_norm", *task.objective.terms)
        # Of each the sum and the number, over the steps that were not skipped since somebody asked.
        self._tally = torch.zeros(len(self._named), 2, dtype=torch.float64, device=self.device)

    def inputs(self, step: int) -> Inputs:
        """All that a step needs, randomness included: a function of the step, on the CPU, ready to be sent."""
        generator = noise_generator(self.config.seed, step)
        inputs = self.task.objective.prepare(self.task.batch(step), generator)
        # Only from pinned memory can a copy be asked for without waiting for it.
        return {name: x.pin_memory() for name, x in inputs.items()} if self.device.type == "cuda" else inputs

    def differentiate(self, inputs: Inputs, micro_batches: int | None = None) -> Tensor:
        """Set the gradients of the mean loss over the batch (of all processes); returns that loss.

        `micro_batches`: into how many it is cut, if not as configured (`accumulate`).
        """
        micro_batches, scored = micro_batches or self.config.accumulate, self._scored
        work = (self.network, inputs, micro_batches, self.device)
        self._buffers = [buffer.clone() for buffer in self.network.buffers()]
        with matrix_precision(self.precision, self.device):
            if scored is None:
                loss, terms = accumulate_gradients(self.task.objective.score, *work)
            else:
                score_of, around = (lambda _, part: scored(lambda: part)), partial(exchange, scored)
                loss, terms = accumulate_gradients(score_of, *work, around)
        everything = ranks.mean(torch.cat([loss[None], terms.flatten()]))
        self._loss, self._terms = everything[0], everything[1:].view(-1, 2)
        return self._loss

    def forget(self) -> None:
        """Undo `differentiate`: there are no gradients, and batch norms have not seen that batch."""
        self.network.zero_grad(set_to_none=True)
        for buffer, before in zip(self.network.buffers(), self._buffers, strict=True):
            buffer.copy_(before)

    def update(self, rate: float, step: int) -> Tensor:
        """Clip, move the weights, and move the average after them; returns the norm of the gradient.

        When the loss or the gradient is not finite nothing is moved: neither weights, nor average, nor optimizer.
        """
        product = list(self.task.product.parameters())
        norm = full_tensor(nn.utils.clip_grad_norm_(product, self.config.optimizer.gradient_clip))
        broken = ~(torch.isfinite(norm) & torch.isfinite(self._loss))
        mine = {id(weight) for weight in product}
        others = [weight.grad for weight in self.network.parameters() if id(weight) not in mine]
        if given := [gradient for gradient in others if gradient is not None]:
            broken |= ~torch.isfinite(full_tensor(nn.utils.get_total_norm(given)))
        self.optimizer.step(rate, broken)
        self.average.update(step, broken)
        for buffer, before in zip(self.network.buffers(), self._buffers, strict=True):
            buffer.copy_(torch.where(broken, before, buffer))  # batch norm has seen what broke the step
        self._skipped_in_a_row = (self._skipped_in_a_row + 1) * broken
        once = torch.stack([torch.stack([figure, torch.ones_like(figure)]) for figure in (self._loss, norm)])
        self._tally += torch.where(broken, 0, torch.cat([once, self._terms]))
        return norm

    def figures(self, steps: int) -> tuple[dict[str, float], int]:
        """Figures of the `steps` steps since the last call; all processes must call.

        Returns the means of loss, gradient norm and the objective's terms over the steps that were not `skipped` (a
        term without values is left out), the L2 norm of the weights, and the distance of their average from them as a
        share of that; and how many steps in a row have been skipped up to now.
        """
        tally = self._tally.tolist()
        self._tally.zero_()
        means = {name: total / count for name, (total, count) in zip(self._named, tally, strict=True) if count}
        product = self.task.product
        weights = full_tensor(nn.utils.get_total_norm([weight.detach() for weight in product.parameters()])).item()
        distance = full_tensor(self.average.distance()).item()
        counted = {"skipped": steps - int(tally[0][1]), "weight_norm": weights, "average_distance": distance / weights}
        return {**means, **counted}, int(self._skipped_in_a_row.item())

    def state(self) -> dict[str, dict[str, Tensor]]:
        """All that the next steps depend on: the tensors themselves, or where the model is in pieces, the pieces."""
        return {
            "weights": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights, whole and on the CPU, for the first process. All must ask together."""
        kept = {}
        for name, tensor in self.average.state_dict().items():
            gathered = full_tensor(tensor.detach())  # one tensor at a time: not every process has room for all
            if ranks.rank() == 0:
                kept[name] = gathered.cpu().contiguous()
        return kept


def accumulate_gradients(
    score_of: Callable[[nn.Module, Inputs], Score],
    network: nn.Module,
    inputs: Inputs,
    micro_batches: int,
    device: torch.device,
    around: Callable[[bool], AbstractContextManager[object]] = lambda last: nullcontext(),
) -> Score:
    """Set the gradients of the mean loss over the batch, one micro-batch after the other; returns the batch's score.

    `around`: entered around each micro-batch, told whether it is the last.
    """
    network.zero_grad(set_to_none=True)
    pieces = [
        dict(zip(inputs, piece, strict=True))
        for piece in zip(*(x.chunk(micro_batches) for x in inputs.values()), strict=True)
    ]
    size = len(next(iter(inputs.values())))
    total, terms = torch.zeros((), device=device), []
    for number, piece in enumerate(pieces, 1):
        share = len(next(iter(piece.values()))) / size
        sent = {name: x if name == LENGTHS else x.to(device, non_blocking=True) for name, x in piece.items()}
        with around(number == len(pieces)):
            score = score_of(network, sent)
            loss = score.loss * share
            loss.backward()
        total += loss.detach()
        terms.append(score.terms)
    return Score(total, torch.stack(terms).sum(dim=0))
