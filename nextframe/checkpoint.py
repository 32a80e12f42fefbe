"""What training leaves on disk: checkpoints to go on from, and the weights to use.

RUN/config.yaml               the configuration
RUN/weights.safetensors       the averaged weights of the newest checkpoint, float32, in one file
RUN/checkpoints/00001000/     weights, average and optimizer in pieces (pieces.py), state.json, SHA256SUMS of them all
RUN/autoencoder/              a world model carries the autoencoder its latents were made with
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from nextframe.errors import UserError, reason_of, some_of
from nextframe.files import write_atomically

WEIGHTS = "weights.safetensors"
CONFIG = "config.yaml"
AUTOENCODER = "autoencoder"
CHECKPOINTS = "checkpoints"
N = TypeVar("N", bound=nn.Module)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run / CHECKPOINTS).glob("[0-9]" * 8))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises UserError when it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: name a file of weights, or a run that has them") from None
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
    if problem := misfits(weights, network.state_dict()):
        raise UserError(f"{path} does not fit its configuration: {problem}")


def misfits(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What is missing, unexpected or of another shape, by name; empty when all fits."""
    problems = {
        "missing": [name for name in wanted if name not in weights],
        "unexpected": [name for name in weights if name not in wanted],
        "of another shape": [
            f"{name} {list(weights[name].shape)} instead of {list(wanted[name].shape)}"
            for name in wanted
            if name in weights and weights[name].shape != wanted[name].shape
        ],
    }
    return "; ".join(f"{problem}: {some_of(names, 3)}" for problem, names in problems.items() if names)
