"""Run folders: a trained model with its configuration, ready to use."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from nextframe.autoencoder import Autoencoder, decode_video, encode_video
from nextframe.checkpoint import AUTOENCODER, CONFIG, WEIGHTS, load_weights, write_weights
from nextframe.conditions import actions_for_frames
from nextframe.config import SampleConfig, TokenizerConfig, WorldModelConfig
from nextframe.configfile import RunConfig, read_config, write_config
from nextframe.errors import UserError
from nextframe.files import new_folder, sha256
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

    def latent_session(
        self,
        video: Tensor,
        conditions: Tensor | None,
        capacity: int,
        sample: SampleConfig | None = None,
        seeds: list[int] | None = None,
    ) -> Session:
        """A batch of videos to go on from, uint8 [b, f, height, width, 3].

        `conditions`: int64 [b, f], what each of these frames is conditioned on (`actions_for_frames`).
        """
        latents = torch.stack([encode_video(self.autoencoder, clip) for clip in video])
        if conditions is not None:
            conditions = conditions.to(self.device)
        return Session(self.transformer, latents, conditions, capacity, sample or self.config.sample, seeds)

    def session(
        self, video: Tensor, actions: Tensor | None = None, sample: SampleConfig | None = None, most_frames: int = 600
    ) -> "Walk":
        """Walk on from a clip.

        `video`: uint8 [f, height, width, 3], f >= 1; `actions`: int64 [f - 1], those that led from each frame to the
        next. `most_frames`: room for so many frames, the clip included.
        """
        return Walk(self, video, actions, sample or self.config.sample, most_frames)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [f, c, h, w] -> uint8 [f, height, width, 3] on the CPU."""
        return decode_video(self.autoencoder, latents)


class Walk:
    """One walk through a world: a frame for every action."""

    def __init__(
        self, model: WorldModel, video: Tensor, actions: Tensor | None, sample: SampleConfig, most_frames: int
    ) -> None:
        config, size = model.config.model, model.autoencoder.config.frame_size
        if video.dtype != torch.uint8 or video.shape[1:] != (size, size, 3) or not len(video):
            raise ValueError(f"expected uint8 [f >= 1, {size}, {size}, 3], not {video.dtype} {tuple(video.shape)}")
        self._model = model
        conditions = None
        if config.condition == "action":
            taken = actions if actions is not None else torch.full((len(video) - 1,), config.null_condition)
            if len(taken) != len(video) - 1:
                raise ValueError(f"{len(video)} frames have {len(video) - 1} actions between them, not {len(taken)}")
            # Nobody has acted at the last frame yet.
            taken = torch.cat([taken, torch.tensor([config.null_condition])])
            conditions = actions_for_frames(config, taken)[None]
        self._session = model.latent_session(video[None], conditions, most_frames, sample)

    @torch.no_grad()
    def step(self, action: int = 0) -> Tensor:
        """The frame that `action`, taken at the last one, leads to: uint8 [height, width, 3].

        Raises ValueError for an action the model does not have.
        """
        session, config = self._session, self._model.config.model
        if config.condition == "action" and not 0 <= action <= config.null_condition:
            raise ValueError(f"action {action} is none of the model's: choose 0 to {config.null_condition - 1}")
        condition = None
        if session.conditions is not None:
            condition = torch.tensor([action], device=self._model.device)
            if config.action_of == "departure":
                # The last frame was made when nobody knew what would be done in it; now that is known.
                session.conditions[:, -1] = condition
                condition = torch.full_like(condition, config.null_condition)
        return self._model.decode(session.step(condition))[0]


def load(run: Path | str, device: str | torch.device = "cpu") -> WorldModel:
    """The world model of a run, its averaged weights, ready to sample. Raises UserError when `run` is none."""
    run = Path(run)
    config = _config(run, WorldModelConfig, "a world model")
    transformer = load_weights(Transformer(config.model), run / WEIGHTS).to(device).eval()
    autoencoder = load_autoencoder(run / AUTOENCODER, device)
    return WorldModel(config, transformer, autoencoder, sha256(run / WEIGHTS))


def export(run: Path, out: Path) -> None:
    """Write what it takes to use a world model, and nothing of its training, with 16-bit weights, to `out`.

    Raises UserError when `out` is there already.
    """
    if out.exists():
        raise UserError(f"{out} is there already: export to a new folder")
    model = load(run)
    with new_folder(out) as folder:
        for part, network in ((Path(), model.transformer), (Path(AUTOENCODER), model.autoencoder)):
            trained = {name for name, _ in network.named_parameters()}  # what is measured keeps its precision
            weights = {name: _small(name, x) if name in trained else x for name, x in network.state_dict().items()}
            write_weights(folder / part / WEIGHTS, weights)
            write_config(read_config(run / part / CONFIG), folder / part / CONFIG)


def _small(name: str, weight: Tensor) -> Tensor:
    """A weight in the precision it is shipped in: 16 bits, and 8 for what hardly feels it (docs/experiments.md)."""
    # How old frames, already coarse, read even older ones.
    coarse_query = name.endswith("attention.levels.1.query.weight")
    return weight.to(torch.float8_e4m3fn if coarse_query else torch.bfloat16)


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
