"""Checkpoints in pieces: each process writes what it has, and any number of processes can go on from them.

Each writes three safetensors files, of weights, average and optimizer: its pieces, and its share of what all have.
Where a piece belongs is said in the head of its file (torch.distributed.checkpoint); nothing is ever pickled.
"""

import hashlib
import json
import os
import shutil
import sys
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from nextframe import ranks
from nextframe.checkpoint import CHECKPOINTS, WEIGHTS, checkpoints, write_weights
from nextframe.errors import UserError
from nextframe.files import TEMPORARY, plain_name, read_json, sha256, writing

POSITION = "state.json"
SUMS = "SHA256SUMS"
"""As `sha256sum --check` reads it."""
KEPT_CHECKPOINTS = 2
State = dict[str, dict[str, Tensor]]
"""Of `weights`, `average` and `optimizer` named tensors: whole ones that every process has, or (DTensor) its pieces."""

# One process has no others to save with, and a process that loads needs none.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


@dataclass(frozen=True)
class Position:
    """Where a training run stands. The order of reading and all that is random follow from the step."""

    step: int = 0
    seconds: float = 0.0
    """Time spent in training, the writing of checkpoints included, over all runs that continued each other."""


@dataclass(frozen=True)
class Checkpoint:
    """One that is whole."""

    path: Path
    position: Position

    def names(self) -> set[str]:
        """Of all its tensors: `part/name`."""
        return set(_metadata(self.path))

    def load(self, state: State) -> None:
        """Fill the tensors of a state, each process its own pieces; nothing is exchanged.

        Raises ValueError when the checkpoint is of other tensors.
        """
        wanted = _flat(state)
        if different := sorted(wanted.keys() ^ self.names()):
            raise ValueError(f"only one of the two has {different[0]}")
        _read(self.path, wanted)


def write_checkpoint(
    run: Path, state: State, position: Position, before: Position, group: dist.ProcessGroup | None
) -> None:
    """Write a checkpoint, and the averaged weights in one file, whole or not at all; drop all but the newest few.

    `before`: where it was saved last, or went on from. Later checkpoints that are there are damaged, or it would have
    gone on from them: they are renamed. All processes write together; `group` is what they talk over meanwhile. Raises
    UserError, in all of them.
    """
    path = _path(run, position)
    temporary = path.with_name(f"{TEMPORARY}{path.name}")  # the same in all processes
    try:
        sums = ranks.together(lambda: _write_pieces(temporary, _flat(state), group), group)
        publish = partial(_publish, temporary, run, position, before, "".join(sums))
        ranks.together(publish if ranks.rank() == 0 else str, group)
    finally:
        if ranks.rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)


def _path(run: Path, position: Position) -> Path:
    return run / CHECKPOINTS / f"{position.step:08d}"


def _write_pieces(folder: Path, state: dict[str, Tensor], group: dist.ProcessGroup | None) -> str:
    """Write what is this process's to write; returns its lines of `SUMS`."""
    state = {name: tensor.contiguous() for name, tensor in state.items()}  # convolutions have their channels last
    parts = list(dict.fromkeys(name.split("/")[0] for name in state))
    files = {name: 1 + parts.index(name.split("/")[0]) for name in state}
    with writing(folder):
        writer = HuggingFaceStorageWriter(str(folder), files, save_distributed=True)
        try:
            dcp.save(state, storage_writer=writer, process_group=group, no_dist=group is None)
        except CheckpointException as error:  # of any process
            raise next(iter(error.failures.values()))[0] from error
        mine = sorted(folder.glob(f"shard-{ranks.rank() + 1:05d}-*"))
        return "".join(f"{sha256(file)}  {file.name}\n" for file in mine)


def _publish(temporary: Path, run: Path, position: Position, before: Position, sums: str) -> str:
    """Make a checkpoint of pieces that are all there; nothing is left to say."""
    path = _path(run, position)
    with writing(path):
        content = json.dumps(asdict(position)).encode()
        (temporary / POSITION).write_bytes(content)
        (temporary / SUMS).write_text(f"{sums}{hashlib.sha256(content).hexdigest()}  {POSITION}\n")
        for file in temporary.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        # First, so that a run that is killed between the two does not stand finished beside weights that are older.
        write_weights(run / WEIGHTS, _averaged(temporary))
        for other in checkpoints(run):
            if other.name > _path(run, before).name:
                set_aside(other)
        os.replace(temporary, path)
        for old in checkpoints(run)[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)
    return ""


def _averaged(folder: Path) -> dict[str, Tensor]:
    """The averaged weights, put together from pieces."""
    kept = {name: tensor for name, tensor in _metadata(folder).items() if name.startswith("average/")}
    average = {name: torch.empty(tensor.size, dtype=tensor.properties.dtype) for name, tensor in kept.items()}
    _read(folder, average)
    return {name.removeprefix("average/"): tensor for name, tensor in average.items()}


def _metadata(folder: Path) -> dict[str, TensorStorageMetadata]:
    """The size and the pieces of every tensor in a folder, by the heads of its files."""
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, TensorStorageMetadata)}


def _read(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill tensors, or what of them this process has. Raises ValueError when one is of another shape."""
    try:
        dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error


def _flat(state: State) -> dict[str, Tensor]:
    return {f"{part}/{name}": tensor for part, tensors in state.items() for name, tensor in tensors.items()}


def set_aside(path: Path) -> None:
    """Give a damaged checkpoint a name under which nobody goes on from it."""
    aside = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run, or None where there is none yet; the first process says which are damaged.

    All processes ask together, and are answered alike. Raises UserError when they see different checkpoints, when
    there are some and none is whole.
    """
    damaged: list[str] = []
    for path in [*reversed(checkpoints(run)), None]:
        _agree_on(0 if path is None else int(path.name), run)
        if path is None:
            break
        if problem := _damage(path):
            damaged.append(problem)
            continue
        if damaged and ranks.rank() == 0:
            print(f"{'; '.join(damaged)}: going on from {path}", file=sys.stderr)
        try:
            said = read_json(path / POSITION)
            return Checkpoint(path, Position(int(said["step"]), float(said["seconds"])))
        except (OSError, ValueError, TypeError, KeyError) as error:  # whole, and yet not one of ours
            raise UserError(f"{path / POSITION} is damaged ({error}): delete {path}") from None
    if damaged:
        raise UserError(f"{damaged[0]}, and there is no whole one before: delete {run / CHECKPOINTS} to begin anew")
    return None


def _agree_on(step: int, run: Path) -> None:
    """Raises UserError when other processes found another checkpoint."""
    highest, lowest = ranks.largest(step, -step)
    if highest != -lowest:
        found = f"the processes found checkpoints of steps {-lowest:.0f} and {highest:.0f}"
        raise UserError(f"{found}: put {run} on a disk that all of them share")


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, if anything. Each process looks at its share of the files; all come to know."""
    try:
        lines = [line.split("  ", 1) for line in (path / SUMS).read_text().splitlines()]
        sums = {name: digest for digest, name in lines}
    except (OSError, ValueError):
        sums = {}
    if not all(map(plain_name, sums)):
        sums = {}
    names = [*sums, SUMS]
    if POSITION in sums:  # the last line
        mine = range(ranks.rank(), len(sums), ranks.world_size())
        bad = max((number for number in mine if not _is_whole(path / names[number], sums[names[number]])), default=-1)
    else:
        bad = len(sums)
    bad = int(ranks.largest(bad)[0])
    return None if bad < 0 else f"checkpoint {path / names[min(bad, len(sums))]} is damaged"


def _is_whole(file: Path, digest: str) -> bool:
    try:
        regular = file.is_file() and not file.is_symlink()  # a device would be read for ever
        return regular and sha256(file) == digest
    except OSError:
        return False
