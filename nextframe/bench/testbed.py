"""The model a bench measures, on its device: of a run, or of a preset with random weights; and random inputs for it."""

import platform
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nextframe.architecture import AutoencoderConfig, TransformerConfig
from nextframe.autoencoder import Autoencoder
from nextframe.bench.stopwatch import PeakMemory
from nextframe.bench.workload import Subject
from nextframe.config import TokenizerConfig, WorldModelConfig
from nextframe.devices import hardware_name, matrix_rate, prepare_for_inference, resolve_device, resolve_precision
from nextframe.errors import UserError, unknown
from nextframe.hub import local_run
from nextframe.presets import PRESETS
from nextframe.runs import load, world_config
from nextframe.transformer import Transformer, parameters_of
from nextframe.version import VERSION

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Bed:
    """The model that is measured, and what it runs on."""

    subject: Subject
    config: WorldModelConfig
    network: Transformer
    autoencoder: Autoencoder | None
    """Of a run that samples; a preset has none of its own, and training needs none."""
    device: torch.device
    precision: torch.dtype
    memory: PeakMemory
    rate: float
    """TFLOP/s of matrix products."""

    @staticmethod
    def of(subject: Subject, training: bool) -> "Bed":
        """Raises UserError for a preset, run or device that is not there."""
        device = resolve_device(subject.device)
        precision = resolve_precision(subject.dtype, device)
        rate = matrix_rate(device, precision)
        memory = PeakMemory(device)
        if subject.model is not None and not training:
            world = load(subject.model, device, subject.dtype)
            return Bed(subject, world.config, world.transformer, world.autoencoder, device, precision, memory, rate)
        config = world_preset(subject.preset) if subject.model is None else world_config(local_run(subject.model))
        network = randomised(Transformer(config.model)).to(device)
        if not training:
            prepare_for_inference(network, precision, device)
        return Bed(subject, config, network, None, device, precision, memory, rate)

    @property
    def precision_name(self) -> str:
        return str(self.precision).removeprefix("torch.")

    def described(self) -> dict[str, Any]:
        """What a number needs beside it to mean something."""
        versions = {"nextframe": VERSION, "torch": torch.__version__, "python": platform.python_version()}
        return {
            "preset": self.subject.preset if self.subject.model is None else None,
            "model": None if self.subject.model is None else str(self.subject.model),
            "parameters": parameters_of(self.network),
            "dtype": self.precision_name,
            "device": str(self.device),
            "hardware": hardware_name(self.device),
            "threads": torch.get_num_threads(),
            "versions": versions | ({"cuda": torch.version.cuda} if self.device.type == "cuda" else {}),
        }

    def arithmetic(self, flops: float, seconds: float) -> dict[str, float]:
        """Rates of `flops` operations in `seconds`."""
        # The machine may have been disturbed the first time; its rate is the best it was seen to do.
        rate = max(self.rate, matrix_rate(self.device, self.precision))
        achieved = flops / seconds / 1e12
        return {
            "tflop": flops / 1e12,
            "tflop_per_second": achieved,
            "matrix_tflop_per_second": rate,
            "matrix_share": achieved / rate,
        }


def world_preset(name: str) -> WorldModelConfig:
    """Raises UserError for a name that is no world model's."""
    preset = PRESETS.get(name)
    if not isinstance(preset, WorldModelConfig):
        worlds = [known for known, config in PRESETS.items() if isinstance(config, WorldModelConfig)]
        raise UserError(unknown("world model preset", name, worlds))
    return preset


def decoder_for(name: str | None, bed: Bed) -> Autoencoder:
    """What decodes the frames: a run's own, else of the preset `name`, else of the first that fits the latents.

    Raises UserError when there is none, or it does not fit.
    """
    fitting = fitting_autoencoders(bed.config.model)
    if bed.autoencoder is not None:
        if name is not None:
            raise UserError(f"{bed.subject.model} has an autoencoder of its own: leave --autoencoder out")
        return bed.autoencoder
    if name is not None and name not in fitting:
        raise UserError(f"no autoencoder {name!r} for these latents: choose {', '.join(fitting) or '--no-decode'}")
    if not fitting:
        raise UserError("no autoencoder of the presets fits these latents: time the transformer alone, --no-decode")
    autoencoder = randomised(Autoencoder(fitting[name or next(iter(fitting))])).to(bed.device).eval()
    prepare_for_inference(autoencoder, bed.precision, bed.device)
    return autoencoder


def fitting_autoencoders(config: TransformerConfig) -> dict[str, AutoencoderConfig]:
    """The presets whose latents have the size and channels of this model's."""
    presets = {name: preset.model for name, preset in PRESETS.items() if isinstance(preset, TokenizerConfig)}
    return {name: model for name, model in presets.items() if model.latent_shape == config.latent_shape}


@torch.no_grad()
def randomised(network: N) -> N:
    """Small random numbers in place of what training starts at zero: no product is trivially zero."""
    for weight in network.parameters():
        if not weight.any():
            weight.normal_(0, 0.02)
    return network


def random_latents(config: TransformerConfig, batch: int, frames: int) -> Tensor:
    """Scaled latents [b, f, c, h, w] on the CPU."""
    return torch.randn(batch, frames, *config.latent_shape)


def random_conditions(config: TransformerConfig, batch: int, frames: int) -> Tensor | None:
    """What each frame is told, on the CPU: ids, int64 [b, f], or vectors, float [b, f, a]; a label is the clip's."""
    if config.condition == "none":
        return None
    if config.condition == "vector":
        return torch.randn(batch, frames, config.action_size)
    return torch.randint(config.classes, (batch, 1 if config.condition == "label" else frames)).expand(batch, frames)
