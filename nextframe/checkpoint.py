"""What training leaves on disk: checkpoints to go on from, and the weights to use.

RUN/config.yaml               the configuration
RUN/weights.safetensors       the averaged weights of the newest checkpoint, float32
RUN/checkpoints/00001000/     weights, average, optimizer (safetensors) and state.json
RUN/autoencoder/              a world model carries the autoencoder its latents were made with
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from nextframe.errors import UserError
from nextframe.files import new_folder, sweep, write_atomically

WEIGHTS = "weights.safetensors"
CONFIG = "config.yaml"
AUTOENCODER = "autoencoder"
PARTS = ("weights", "average", "optimizer")
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
    """Write a checkpoint whole or not at all, and drop all but the newest few."""
    folder = run / "checkpoints"
    path = folder / f"{state.position.step:08d}"
    if path.exists():  # a good one is never touched again
        return path
    if folder.exists():
        sweep(folder)
    with new_folder(path) as temporary:
        for part, tensors in zip(PARTS, (state.weights, state.average, state.optimizer), strict=True):
            (temporary / f"{part}.safetensors").write_bytes(save(tensors))
        (temporary / "state.json").write_text(json.dumps(asdict(state.position)))
    for old in checkpoints(run)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old)
    return path


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("[0-9]" * 8))


def newest_checkpoint(run: Path) -> TrainingState | None:
    """The newest checkpoint of a run, or None where there is none yet."""
    found = checkpoints(run)
    if not found:
        return None
    path = found[-1]
    weights, average, optimizer = (read_weights(path / f"{part}.safetensors") for part in PARTS)
    try:
        position = Position(**json.loads((path / "state.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"checkpoint {path} is damaged ({error}): delete that folder to go on from the one before"
        ) from None
    return TrainingState(weights, average, optimizer, position)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises UserError when it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file ({error})") from None


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    write_atomically(path, save({name: tensor.detach().contiguous().cpu() for name, tensor in weights.items()}))


def load_weights(network: N, path: Path) -> N:
    """Load a weight file into a network of the same configuration, in the network's own precision.

    Raises UserError listing the first names that are missing, unexpected or of another shape.
    """
    weights, wanted = read_weights(path), network.state_dict()
    missing = [name for name in wanted if name not in weights]
    unexpected = [name for name in weights if name not in wanted]
    shapes = [name for name in wanted if name in weights and wanted[name].shape != weights[name].shape]
    for problem, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(f"{path} does not fit its configuration: {problem}: {', '.join(names[:3])}{more}")
    with torch.no_grad():
        network.load_state_dict(weights)
    return network
