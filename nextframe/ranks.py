"""Several processes that train one model: which of them this is, what part is its own, what they tell one another.

A process that was not started by torchrun is alone: nothing here does anything then.
"""

import faulthandler
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from nextframe.errors import Stopped, UserError

_patience = timedelta()
"""How long this process waits for the others."""
_hosts: dist.ProcessGroup | None = None
"""What the processors of all ranks talk over: to ask there does not wait for what a GPU was sent."""


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def rank() -> int:
    """Which of the processes that train together this is, from 0."""
    return dist.get_rank() if _hosts is not None else 0


def world_size() -> int:
    """Processes that train together; 1 for one that is alone."""
    return dist.get_world_size() if _hosts is not None else 1


def first_launched() -> bool:
    """Whether this is the first of the processes that torchrun started, or alone: also before they join and after."""
    return not launched() or os.environ["RANK"] == "0"


def local_rank() -> int | None:
    """Which of the processes of this machine this is; None of one that is alone."""
    return int(os.environ.get("LOCAL_RANK", "0")) if launched() else None


@contextmanager
def process_group(device: torch.device, patience_minutes: float) -> Iterator[None]:
    """Be one of the processes that torchrun started, and end as one of them: what all have to say is said once.

    Raises UserError when another of them has gone, or does not answer for so many minutes.
    """
    global _hosts, _patience
    if not launched() or _hosts is not None:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _patience = timedelta(minutes=patience_minutes)
    try:
        if device.type == "cuda":
            # The GPUs are given longer: a process that waits for another is to end with a word, not with an abort.
            dist.init_process_group("nccl", timeout=2 * _patience, device_id=device)
        else:
            dist.init_process_group("gloo", timeout=_patience)
        hosts = dist.new_group(backend="gloo", timeout=_patience)
        assert isinstance(hosts, dist.ProcessGroup)
        _hosts = hosts
        _watch()
        yield
        _hosts = None
        dist.destroy_process_group()
    except UserError as error:
        _leave_unless_first(2)
        raise error
    except KeyboardInterrupt as stop:
        _leave_unless_first(0 if isinstance(stop, Stopped) else 130)
        raise
    except RuntimeError as error:
        if not _is_about_others(error):
            raise
        _leave_unless_first(2)
        silent = "timed out" in str(error).lower()
        what = f"did not answer for {_patience.total_seconds():.0f} s" if silent else "has gone"
        raise UserError(
            f"another of the {os.environ['WORLD_SIZE']} processes {what}: see what it said, and run the same command "
            "again; it goes on from the newest checkpoint"
        ) from error
    finally:
        faulthandler.cancel_dump_traceback_later()


def first_to_say(text: str) -> bool:
    """Whether no other process that the same torchrun started has said this: all find the same error in a command.

    For what goes wrong before they have joined. True also where torchrun's store cannot be reached.
    """
    if not launched() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=10))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return store.add(f"nextframe/{attempt}/{hashlib.sha256(text.encode()).hexdigest()}", 1) == 1
    except (KeyError, ValueError, RuntimeError):
        return True


def _watch() -> None:
    """Have this process say where it stands if it does not come back to the others: just before they give it up."""
    faulthandler.dump_traceback_later(0.9 * _patience.total_seconds())


def _leave_unless_first(status: int) -> None:
    """End this process without a word if another one has said already why they all end."""
    try:
        first = dist.distributed_c10d._get_default_store().add("nextframe/said", 1) == 1
    except (RuntimeError, ValueError):  # whoever keeps the store has gone, or it never was
        return
    if not first:
        raise SystemExit(status)


def _is_about_others(error: RuntimeError) -> bool:
    """Whether an error of torch says that another process has gone or is silent."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)


def largest(value: float, *others: float) -> list[float]:
    """Of each value the largest that a process gives. All wait here for the last; nobody waits for a GPU."""
    if _hosts is None:
        return [value, *others]
    told = torch.tensor([value, *others], dtype=torch.float64)
    faulthandler.cancel_dump_traceback_later()  # who waits here is not the one that hangs
    dist.all_reduce(told, dist.ReduceOp.MAX, group=_hosts)
    _watch()
    return told.tolist()


def barrier() -> None:
    """All wait here for the last."""
    largest(0)


def another_group() -> dist.ProcessGroup | None:
    """What all ranks can talk over beside what they say elsewhere; None of one that is alone."""
    if _hosts is None:
        return None
    group = dist.new_group(backend="gloo", timeout=_patience)
    assert isinstance(group, dist.ProcessGroup)
    return group


def together(work: Callable[[], str], group: dist.ProcessGroup | None) -> list[str]:
    """What `work` returns in each process. When it raises UserError in one of them, all raise it."""
    try:
        said = (work(), None)
    except UserError as error:
        said = ("", str(error))
    told = [said] * world_size()
    if group is not None:
        dist.all_gather_object(told, said, group=group)
    for _, problem in told:
        if problem is not None:
            raise UserError(problem)
    return [result for result, _ in told]


def mean(value: Tensor) -> Tensor:
    """The mean over all processes of a value without a gradient."""
    if _hosts is None:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


class _Sum(torch.autograd.Function):
    """The sum over all processes; each of them depends on the parts of all others."""

    @staticmethod
    def forward(ctx: object, part: Tensor) -> Tensor:
        total = part.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def shared_mean(part: Tensor) -> Tensor:
    """The mean over all processes, with the gradient of the losses of all of them."""
    summed = _Sum.apply(part)
    assert isinstance(summed, Tensor)
    return summed / world_size()


def deviation(part: Tensor) -> Tensor:
    """The standard deviation of all numbers of a batch, of which each process has as many."""
    if _hosts is None:
        return part.std()
    centred = part - shared_mean(part.mean())
    count = part.numel() * world_size()
    return (shared_mean(centred.square().mean()) * count / (count - 1)).sqrt()


@dataclass(frozen=True)
class Share:
    """The rows of a batch that are one process's own.

    Each part into which a batch is cut, to be accumulated, is divided among all. So what is computed from a part at a
    time (the statistics of batch norm) is of the same rows, whatever the number of processes.
    """

    rank: int = 0
    ranks: int = 1
    parts: int = 1

    @staticmethod
    def own(rows: int, parts: int, windows: int = 1) -> "Share":
        """Of a batch of `rows`, each of so many `windows`. Raises UserError when it cannot be divided."""
        share = Share(rank(), world_size(), parts)
        if share.ranks > 1 and rows % (share.ranks * parts):
            batch = f"batch of {rows * windows}" + (f" windows ({rows} clips of {windows})" if windows > 1 else "")
            ways = f"set --train.batch to a multiple of {share.ranks * parts * windows}, or start fewer"
            raise UserError(f"{share.ranks} processes cannot divide a {batch} in {parts} parts: {ways}")
        return share

    def of(self, rows: Tensor) -> Tensor:
        """Its own of the rows of the whole batch."""
        if self.ranks == 1:
            return rows
        pieces = rows.unflatten(0, (self.parts, self.ranks, -1))
        return pieces[:, self.rank].flatten(0, 1)

    def numbers(self, rows: int) -> list[int]:
        """Which they are, of `rows`."""
        return self.of(torch.arange(rows)).tolist()


ALONE = Share()
"""All rows of a batch."""
