"""From a configuration and a folder of data to a trained run."""

import shutil
from pathlib import Path

import torch

from nextframe.autoencoder import Autoencoder
from nextframe.checkpoint import AUTOENCODER, CONFIG, load_weights, newest_checkpoint
from nextframe.clips import clip_batches, frame_batches
from nextframe.config import TokenizerConfig, WorldModelConfig
from nextframe.configfile import RunConfig, read_config, write_config
from nextframe.data.episodes import EpisodeDataset
from nextframe.data.latents import LatentDataset
from nextframe.errors import UserError
from nextframe.objective import FrameFlowMatching, Reconstruction
from nextframe.train import Position, Task, train
from nextframe.transformer import Transformer


def train_preset(config: RunConfig, data: Path, run: Path, initial: Path | None = None) -> Position:
    """Train what `config` describes on `data` (episodes for an autoencoder, latents for a world model).

    Going on in an existing run takes the same model; other settings may change, and are written anew. `initial`: a
    weight file to start from instead of random weights.
    """
    if (run / CONFIG).exists() and read_config(run / CONFIG).model != config.model:
        raise UserError(f"{run} holds a run of another model ({run / CONFIG} differs): use another --out")
    torch.manual_seed(config.train.seed)
    if isinstance(config, TokenizerConfig):
        return _train_autoencoder(config, EpisodeDataset.open(data), run, initial)
    return _train_world_model(config, LatentDataset(data), run, initial)


def _train_autoencoder(config: TokenizerConfig, data: EpisodeDataset, run: Path, initial: Path | None) -> Position:
    batches = frame_batches(data, config)
    network = Autoencoder(config.model)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    write_config(config, run / CONFIG)
    if initial is not None and newest_checkpoint(run) is None:
        load_weights(network, initial)
    return train(Task(network, Reconstruction(config), batches), config.train, run)


def _train_world_model(config: WorldModelConfig, data: LatentDataset, run: Path, initial: Path | None) -> Position:
    batches = clip_batches(data, config)
    network = Transformer(config.model)
    if initial is not None and newest_checkpoint(run) is None:
        load_weights(network, initial)
    write_config(config, run / CONFIG)
    shutil.copytree(data.folder / AUTOENCODER, run / AUTOENCODER, dirs_exist_ok=True)
    return train(Task(network, FrameFlowMatching(config), batches), config.train, run)
