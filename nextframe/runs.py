"""Run folders: a trained model with its configuration, ready to use."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from nextframe.autoencoder import Autoencoder, decode_video, encode_video
from nextframe.checkpoint import AUTOENCODER, CONFIG, WEIGHTS, load_weights
from nextframe.config import SampleConfig, TokenizerConfig, WorldModelConfig
from nextframe.configfile import RunConfig, read_config
from nextframe.errors import UserError
from nextframe.files import sha256
from nextframe.sampler import Session
from nextframe.transformer import Transformer


C = TypeVar("C", bound=RunConfig)


@dataclass(frozen=True)
class WorldModel:
    """A transformer and the autoencoder it thinks in."""

    config: WorldModelConfig
    transformer: Transformer
    autoencoder: Autoencoder
    sha256: str
    """Of the transformer's weights."""

    @property
    def device(self) -> torch.device:
        return self.autoencoder.scale.device

    def session(
        self,
        video: Tensor,
        conditions: Tensor | None,
        capacity: int,
        sample: SampleConfig | None = None,
        seeds: list[int] | None = None,
    ) -> Session:
        """A session that goes on from `video`, uint8 [b, f, height, width, 3].

        `conditions`: int64 [b, f], what each of these frames is conditioned on (`actions_for_frames`).
        """
        latents = torch.stack([encode_video(self.autoencoder, clip) for clip in video])
        if conditions is not None:
            conditions = conditions.to(self.device)
        return Session(self.transformer, latents, conditions, capacity, sample or self.config.sample, seeds)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [f, c, h, w] -> uint8 [f, height, width, 3] on the CPU."""
        return decode_video(self.autoencoder, latents)


def load(run: Path | str, device: str | torch.device = "cpu") -> WorldModel:
    """The world model of a run, its averaged weights, ready to sample. Raises UserError when `run` is none."""
    run = Path(run)
    config = _config(run, WorldModelConfig, "a world model")
    transformer = load_weights(Transformer(config.model), run / WEIGHTS).to(device).eval()
    autoencoder = load_autoencoder(run / AUTOENCODER, device)
    return WorldModel(config, transformer, autoencoder, sha256(run / WEIGHTS))


def load_autoencoder(run: Path | str, device: str | torch.device = "cpu") -> Autoencoder:
    """The autoencoder of a run, its averaged weights. Raises UserError when `run` is none."""
    run = Path(run)
    config = _config(run, TokenizerConfig, "an autoencoder")
    return load_weights(Autoencoder(config.model), run / WEIGHTS).to(device).eval()


def _config(run: Path, kind: type[C], what: str) -> C:
    config = read_config(run / CONFIG)
    if not isinstance(config, kind):
        raise UserError(f"{run} is not {what}: its {CONFIG} says otherwise")
    return config
