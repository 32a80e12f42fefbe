"""Devices: which one, in which precision, compiled or not. The network itself knows nothing of it."""

import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nextframe.attention import allow_recompiles, flex
from nextframe.errors import UserError, counted
from nextframe.layers import Block
from nextframe.ranks import local_rank

T = TypeVar("T")


def resolve_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one. Raises UserError for a device that is not there.

    Of several processes on a machine each has a GPU of its own.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and (number := local_rank()) is not None:
        name = f"cuda:{number}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r}: write auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise UserError(f"device {name!r} is not there: this machine shows {count} CUDA devices; choose auto")
    elif device.type != "cpu":
        raise UserError(f"device {name!r} is not supported: write auto, cpu, cuda or cuda:N")
    return device


def resolve_devices(names: str) -> list[torch.device]:
    """For work that falls into parts: several devices, `cuda:0,cuda:1`; `auto` is every GPU, or the processor.

    Raises UserError as `resolve_device` does.
    """
    if names == "auto" and torch.cuda.is_available():
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [resolve_device(name.strip()) for name in names.split(",")]


def thread_start(device: torch.device) -> Callable[[], None] | None:
    """What a new thread is to do first. On CUDA it would be on the first GPU, and take memory there that is another
    process's."""
    return partial(torch.cuda.set_device, device) if device.type == "cuda" and device.index is not None else None


def hardware_name(device: torch.device) -> str:
    """The GPU, or the processor and how many of its cores torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = torch.get_num_threads()
    return f"{models[0] if models else platform.machine()}, {counted(cores, 'core')}"


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products."""
    if name == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def matrix_precision(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Run matrix products in `dtype`, everything that needs it in float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


WORTH_A_THREAD = 1.15
"""Times as fast as one thread, for all of them to be worth their waiting for each other."""


def choose_threads(device: torch.device, work: Callable[[], object]) -> None:
    """Give torch one thread if `work` is done about as fast by one: it then waits for no other, whatever else runs.

    A small model is hundreds of small operators a frame, and at each all threads wait for the last (docs/play.md).
    """
    all_threads, seconds = torch.get_num_threads(), {}
    if device.type != "cpu" or all_threads == 1:
        return
    work()  # the first time of many things is slower
    for threads in (1, all_threads):
        torch.set_num_threads(threads)
        _, seconds[threads] = timed(device, work)
    torch.set_num_threads(1 if seconds[1] < WORTH_A_THREAD * seconds[all_threads] else all_threads)


PACKED_ROWS = 64
"""Rows that packed weights are laid out for: the tokens of a frame. Others work too, about as fast."""
PACKED_WEIGHTS = {torch.float32: 2**19, torch.bfloat16: 2**15}
"""Of a matrix that is packed, at least; smaller ones are multiplied as fast as they are (docs/speed.md)."""


def prepare_for_inference(network: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """For a network that is not trained any more: keep the weights of matrix products as the products want them.

    In their precision, because under `matrix_precision` they are cast at every use otherwise. On a processor, in the
    order in which oneDNN multiplies them, which pays for the few rows of a frame, and with the GELU that follows done
    before a result is written (docs/speed.md). The numbers are the same but for rounding.
    """
    leave_out_cudnn_attention(device)
    packs = device.type == "cpu" and torch.backends.mkldnn.is_available()
    chains = [module for module in network.modules() if isinstance(module, nn.Sequential)]
    following = {first: second for chain in chains for first, second in pairwise(chain)}
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(dtype)
        if packs and isinstance(module, nn.Linear) and module.weight.numel() >= PACKED_WEIGHTS[dtype]:
            gelu = following.get(module)
            if isinstance(gelu, nn.GELU):
                module.forward = _packed(module, gelu.approximate)  # pyright: ignore[reportAttributeAccessIssue]
                gelu.forward = lambda input: input  # done by the product now
            else:
                module.forward = _packed(module, None)  # pyright: ignore[reportAttributeAccessIssue]


def leave_out_cudnn_attention(device: torch.device) -> None:
    """For the whole process. It plans anew for every shape, and frames and clips have ever new ones (docs/speed.md)."""
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def _packed(linear: nn.Linear, gelu: str | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """The forward pass of a linear layer, and of a GELU of this kind, with its weight copied into oneDNN's order."""
    bias = None if linear.bias is None else linear.bias.detach()
    dtype = linear.weight.dtype
    packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACKED_ROWS)
    activation = ("none", [], "") if gelu is None else ("gelu", [], gelu)

    @torch.no_grad()
    def forward(input: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(input.to(dtype), packed, bias, *activation)

    return forward


def should_compile(setting: str, device: torch.device) -> bool:
    """Whether to compile. On a CPU it takes a minute and a C++ compiler, and gained little: docs/experiments.md."""
    return setting == "on" or (setting == "auto" and device.type == "cuda")


def compile_blocks(network: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile every transformer block. They share one piece of code, for clips of all lengths.

    Raises UserError for a network without blocks.
    """
    allow_recompiles()
    for block in _some_blocks(network):
        block.forward = torch.compile(block.forward, backend=backend, dynamic=True)


def recompute_blocks(network: nn.Module) -> None:
    """Keep the inputs of the blocks alone for the backward pass, and compute the rest again; compiled, if they were.

    Raises UserError for a network without blocks.
    """
    for block in _some_blocks(network):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def use_flex_attention(network: nn.Module, device: torch.device) -> None:
    """Let all attention be computed by `attention.flex`.

    Raises UserError for a network without blocks, and for a processor, where FlexAttention has no backward pass.
    """
    blocks = _some_blocks(network)
    if device.type != "cuda":
        raise UserError(f"FlexAttention has no backward pass on {device}: set --train.no-flex-attention")
    for block in blocks:
        block.attention.kernel = flex


def multiply_in_float8(network: nn.Module, emulated: bool, device: torch.device) -> None:
    """Let the products within every transformer block, forward and backward, be of 8-bit floats (torchao).

    Each matrix is scaled by its largest number first. What modulates a block is not: it is little work. Raises
    UserError for a network without blocks, without torchao, and for a device that has no such products.
    """
    blocks = _some_blocks(network)
    has_them = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
    if not (emulated or has_them):
        raise UserError(f"{device} multiplies no 8-bit floats: leave float8 off, or set it to emulated (slow)")
    try:
        from torchao.float8 import (  # pyright: ignore[reportMissingImports]
            Float8LinearConfig,
            convert_to_float8_training,
        )
    except ImportError as error:
        raise UserError(f"float8 needs torchao ({error}): pip install 'nextframe[float8]'") from error
    config = Float8LinearConfig(emulate=emulated, pad_inner_dim=True)  # padded: a clip has any number of tokens
    for block in blocks:
        convert_to_float8_training(block, module_filter_fn=_in_float8, config=config)


def _in_float8(module: nn.Module, name: str) -> bool:
    sixteens = isinstance(module, nn.Linear) and module.in_features % 16 == module.out_features % 16 == 0
    return sixteens and "modulation" not in name


def blocks_of(network: nn.Module) -> list[Block]:
    return [module for module in network.modules() if isinstance(module, Block)]


def _some_blocks(network: nn.Module) -> list[Block]:
    blocks = blocks_of(network)
    if not blocks:
        raise UserError(
            "only transformers are compiled, recomputed, multiplied in 8 bits or attend: set --train.compile off, "
            "--train.no-recompute, --train.float8 off, --train.no-flex-attention"
        )
    return blocks


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was sent."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def enough_room(otherwise: str) -> Iterator[None]:
    """Raises UserError with these words where there is no memory left for what is done within."""
    try:
        yield
    except RuntimeError as error:
        # A processor has no error of its own for it.
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise UserError(otherwise) from None
        raise


def now(device: torch.device) -> float:
    """Seconds on a clock that only means something in differences; what was sent to a GPU is finished first."""
    synchronise(device)
    return time.perf_counter()


def timed(device: torch.device, work: Callable[[], T]) -> tuple[T, float]:
    """What `work` makes, and how many seconds it took; what was sent to a GPU is finished first."""
    started = now(device)
    made = work()
    return made, now(device) - started


def peak_memory(device: torch.device) -> int:
    """Bytes held at once until now, at most: of a GPU in tensors, of a processor by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of a matrix product: on a processor [1024, 768] @ [768, 3072], a product of FAR-B's MLP.

    On a GPU 8192 x 8192 @ 8192 x 8192, several in a row: a smaller one is over before it is launched.
    """
    (rows, inner, columns), products = ((8192, 8192, 8192), 10) if device.type == "cuda" else ((1024, 768, 3072), 1)
    a = torch.randn(rows, inner, device=device).to(dtype)
    b = torch.randn(inner, columns, device=device).to(dtype)
    best = float("inf")
    for _ in range(10):
        started = now(device)
        for _ in range(products):
            torch.matmul(a, b)
        best = min(best, now(device) - started)
    return 2 * products * rows * inner * columns / best / 1e12
