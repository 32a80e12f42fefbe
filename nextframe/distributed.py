"""One model on many processes: replicated (DDP), or in pieces (FSDP2). Applied to a finished network, from outside."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.nn.parallel import DistributedDataParallel

from nextframe import ranks
from nextframe.layers import Block, Modulation
from nextframe.objective import Inputs

# The modulations of a frame are views, cut from one tensor; nothing changes them in place, which is what it warns of.
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
# The new name of torch 2.13, which 2.11 does not know, is of another thing too: sending them once at the start.
warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)


class Scored(nn.Module):
    """A network and its score as one module: DDP and FSDP watch over what happens in a forward pass."""

    def __init__(self, network: nn.Module, score: Callable[[nn.Module, Inputs], Any]) -> None:
        super().__init__()
        self.network = network
        self.score = score

    def add_unused_parameter(self) -> None:
        """Have a weight that no step uses: DDP, told that some may have no gradient, warns where all have one."""
        self.unused = nn.Parameter(torch.zeros((), device=next(self.network.parameters()).device))

    def forward(self, inputs: Callable[[], Inputs]) -> Any:
        """The inputs are handed over unseen: FSDP2 would bring every tensor to its device, also what says where the
        windows are, which is read on the CPU so that no step waits for a device."""
        return self.score(self.network, inputs())


def distributed_score(
    network: nn.Module,
    score: Callable[[nn.Module, Inputs], Any],
    device: torch.device,
    precision: torch.dtype,
    shard: bool,
    has_unused_parameters: bool,
) -> nn.Module:
    """The score of a network as a module, whose gradients are the means over all processes.

    `has_unused_parameters`: whether some weights have no gradient in some steps (`Objective`).
    `shard`: each process keeps a piece of every weight, and with it of its gradient, average and optimizer state.
    """
    share_batch_norms(network)
    scored = Scored(network, score)
    if not shard:
        if has_unused_parameters:
            scored.add_unused_parameter()
        return DistributedDataParallel(
            scored,
            find_unused_parameters=has_unused_parameters,
            gradient_as_bucket_view=True,
            broadcast_buffers=False,  # they are alike: constant, or statistics of the whole batch
        )
    for weight in network.parameters():  # convolutions have their channels last, which cannot be cut
        weight.data = weight.data.contiguous()
    mesh = init_device_mesh(device.type, (ranks.world_size(),))
    # Inputs are not cast: times up to 1000 would be rounded. Gradients are added up in float32.
    parameters = None if precision == torch.float32 else precision
    added = None if parameters is None else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=parameters, reduce_dtype=added, cast_forward_inputs=False)
    # Modulations are computed outside their blocks, all at once: each is gathered alone.
    for kind in (Modulation, Block):
        for module in [module for module in network.modules() if isinstance(module, kind)]:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(scored, mesh=mesh, mp_policy=policy)
    return scored


def exchange(scored: nn.Module, last: bool) -> AbstractContextManager[object]:
    """Around a part of an accumulated batch: replicas add up their gradients once, with the last part.

    Pieces are added up with every part: a process has no room for whole gradients.
    """
    return scored.no_sync() if isinstance(scored, DistributedDataParallel) and not last else nullcontext()


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm with the statistics of the whole batch, on any device (torch's is for GPUs alone)."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        mean = ranks.shared_mean(x.mean(dim=(0, 2, 3)))
        centred = x - mean[:, None, None]
        variance = ranks.shared_mean(centred.square().mean(dim=(0, 2, 3)))
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            assert self.momentum is not None
            count = x.numel() // x.shape[1] * ranks.world_size()
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        y = centred * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            y = torch.addcmul(self.bias[:, None, None], y, self.weight[:, None, None])
        return y.to(input.dtype)


def share_batch_norms(network: nn.Module) -> None:
    """Let batch norms see the whole batch. Weights and their names stay as they are."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor of which every process has a piece, put together. All processes must ask, in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_tensor(tensor: Tensor) -> Tensor:
    """What of a tensor lies in this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered_like(tensor: Tensor, weight: Tensor) -> Tensor:
    """Of what each process has a piece, cut like a weight, the whole. All processes must ask, in the same order."""
    if not isinstance(weight, DTensor):
        return tensor
    mesh, how = weight.device_mesh, weight.placements
    return DTensor.from_local(tensor, mesh, how, shape=weight.shape, stride=weight.stride()).full_tensor()


def sharded_like(tensor: Tensor, weight: Tensor) -> Tensor:
    """This process's piece of what every process has whole, cut like a weight."""
    if not isinstance(weight, DTensor):
        return tensor
    mesh = weight.device_mesh
    return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim).redistribute(mesh, weight.placements).to_local()
