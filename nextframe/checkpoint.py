"""What training leaves on disk: checkpoints to go on from, and the weights to use.

RUN/config.yaml               the configuration
RUN/weights.safetensors       the averaged weights of the newest checkpoint, float32
RUN/checkpoints/00001000/     weights, average, optimizer (safetensors), state.json, and SHA256SUMS of them all
RUN/autoencoder/              a world model carries the autoencoder its latents were made with
"""

import hashlib
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from nextframe.data.arrays import reason_of
from nextframe.errors import UserError
from nextframe.files import new_folder, sweep, write_atomically

WEIGHTS = "weights.safetensors"
CONFIG = "config.yaml"
AUTOENCODER = "autoencoder"
PARTS = ("weights", "average", "optimizer")
SUMS = "SHA256SUMS"
"""As `sha256sum --check` reads it."""
KEPT_CHECKPOINTS = 2
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Position:
    """Where a training run stands."""

    step: int = 0
    seconds: float = 0.0
    """Time spent in training steps, over all runs that continued each other."""


@dataclass(frozen=True)
class TrainingState:
    """All that a run needs to go on as if it had not stopped. The order of reading follows from the step."""

    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    position: Position


def save_checkpoint(run: Path, state: TrainingState) -> Path:
    """Write a checkpoint whole or not at all, and drop all but the newest few.

    Those that are there and of later steps are damaged, or the run would have gone on from them: they are renamed.
    """
    folder = run / "checkpoints"
    path = folder / f"{state.position.step:08d}"
    for other in checkpoints(run):
        if other.name >= path.name:
            if other == path and _problem(path) is None:  # a good one is never touched again
                return path
            set_aside(other)
    if folder.exists():
        sweep(folder)
    with new_folder(path) as temporary:
        sums = []
        for part, tensors in zip(PARTS, (state.weights, state.average, state.optimizer), strict=True):
            sums.append(_written(temporary / f"{part}.safetensors", save(tensors)))
        sums.append(_written(temporary / "state.json", json.dumps(asdict(state.position)).encode()))
        (temporary / SUMS).write_text("".join(sums))
    for old in checkpoints(run)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old)
    return path


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("[0-9]" * 8))


def _written(path: Path, content: bytes) -> str:
    """Write a file; returns its line of `SUMS`."""
    path.write_bytes(content)
    return f"{hashlib.sha256(content).hexdigest()}  {path.name}\n"


def set_aside(path: Path) -> None:
    """Give a damaged checkpoint a name under which nobody goes on from it."""
    aside = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def newest_checkpoint(run: Path, loud: bool = True) -> TrainingState | None:
    """The newest whole checkpoint of a run, or None where there is none yet; if `loud`, says which are damaged.

    Raises UserError when there are some, and none is whole.
    """
    damaged = []
    for path in reversed(checkpoints(run)):
        try:
            state = read_checkpoint(path)
        except UserError as error:
            damaged.append(str(error))
            continue
        if damaged and loud:
            print(f"{'; '.join(damaged)}: going on from {path}", file=sys.stderr)
        return state
    if damaged:
        raise UserError(f"{damaged[0]}, and there is no whole one before: delete {run / 'checkpoints'} to begin anew")
    return None


def read_checkpoint(path: Path) -> TrainingState:
    """Raises UserError when a file of it is damaged: by its checksum, or (older runs have none) unreadable."""
    try:
        lines = [line.split("  ", 1) for line in (path / SUMS).read_text().splitlines()]
        sums = {name: digest for digest, name in lines}
    except FileNotFoundError:
        sums = {}
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint {path} is damaged ({SUMS}: {error})") from None

    def content(name: str) -> bytes:
        found = (path / name).read_bytes()
        if sums and sums.get(name) != hashlib.sha256(found).hexdigest():
            raise ValueError("its checksum is another")
        return found

    name = ""
    try:
        parts = {}
        for part in PARTS:
            name = f"{part}.safetensors"
            parts[part] = load(content(name))
        name = "state.json"
        position = Position(**json.loads(content(name)))
        if type(position.step) is not int or not isinstance(position.seconds, int | float):
            raise ValueError(f"step {str(position.step)[:20]}")
    except (OSError, ValueError, TypeError, RecursionError, SafetensorError) as error:
        raise UserError(f"checkpoint {path / name} is damaged ({reason_of(error)})") from None
    return TrainingState(**parts, position=position)


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint, if anything."""
    try:
        read_checkpoint(path)
    except UserError as error:
        return str(error)
    return None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises UserError when it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file ({reason_of(error)})") from None


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    write_atomically(path, save({name: tensor.detach().contiguous().cpu() for name, tensor in weights.items()}))


def load_weights(network: N, path: Path) -> N:
    """Load a weight file into a network of the same configuration, in the network's own precision.

    Raises UserError listing the first names that are missing, unexpected or of another shape.
    """
    weights = read_weights(path)
    check_fit(network, weights, path)
    with torch.no_grad():
        network.load_state_dict(weights)
    return network


def check_fit(network: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Raises UserError listing the first names that are missing, unexpected or of another shape."""
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in weights]
    unexpected = [name for name in weights if name not in wanted]
    shapes = [name for name in wanted if name in weights and wanted[name].shape != weights[name].shape]
    for problem, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(f"{path} does not fit its configuration: {problem}: {', '.join(names[:3])}{more}")
