"""From a configuration and a folder of data to a trained run."""

import sys
from pathlib import Path

import torch

from nextframe.autoencoder import Autoencoder
from nextframe.checkpoint import AUTOENCODER, CONFIG, WEIGHTS, checkpoints, load_weights
from nextframe.clips import clip_batches, frame_batches
from nextframe.config import TokenizerConfig, WorldModelConfig
from nextframe.configfile import RunConfig, read_config, write_config
from nextframe.data.episodes import EpisodeDataset
from nextframe.data.latents import LatentDataset
from nextframe.discriminator import Discriminator
from nextframe.errors import UserError
from nextframe.files import sha256, write_atomically
from nextframe.flops import training_flops
from nextframe.held_out import SPLITS, autoencoder_examination, world_model_examination
from nextframe.journal import check_wandb
from nextframe.learner import Task
from nextframe.metrics.lpips import Lpips
from nextframe.objective import LENGTHS, FrameFlowMatching, Inputs
from nextframe.parallel import resolve_device
from nextframe.ranks import Share, joined, rank
from nextframe.reconstruction import Contest, Frames, Reconstruction, is_judged
from nextframe.train import Position, train
from nextframe.transformer import Transformer


def train_preset(config: RunConfig, data: Path, run: Path, initial: Path | None = None) -> Position:
    """Train what `config` describes on `data` (episodes for an autoencoder, latents for a world model).

    A run that has a checkpoint is gone on with, and must be of the same model; other settings may change, and are
    written anew. `initial`: a weight file for a new run to start from. Raises UserError, before anything is written,
    when configuration, data and run do not fit together.
    """
    with joined(resolve_device(config.train.device)):
        return _train_preset(config, data, run, initial)


def _train_preset(config: RunConfig, data: Path, run: Path, initial: Path | None) -> Position:
    check_wandb(config.train)
    begun = bool(checkpoints(run))
    if begun:
        refuse_another(read_config(run / CONFIG), config, run)
    torch.manual_seed(config.train.seed)
    if isinstance(config, TokenizerConfig):
        footage = EpisodeDataset.open(data)
        task = autoencoder_task(config, footage)
        assert isinstance(task.objective, Reconstruction)
        examine = autoencoder_examination(config, footage, task.objective, run)
    else:
        latents = LatentDataset(data)
        task = world_model_task(config, latents)
        examine = world_model_examination(config, latents, run)
        if begun or rank() == 0:
            keep_autoencoder(latents.folder / AUTOENCODER, run / AUTOENCODER, begun)
    if initial is not None and not begun:
        load_weights(task.product, initial)
    if rank() == 0:
        write_config(config, run / CONFIG)
    if config.train.examine_minutes is None:
        examine = None
    elif examine is None and rank() == 0:
        what = f"no long enough episode of the split {' or '.join(SPLITS)}"
        print(f"{data} has {what}: there will be no held-out loss and no samples", file=sys.stderr)
    return train(task, config.train, run, examine)


def refuse_another(before: RunConfig, config: RunConfig, run: Path) -> None:
    """Raises UserError when the checkpoints of a run do not fit the networks of a configuration."""
    if before.model != config.model:
        raise UserError(f"{run} holds a run of another model ({run / CONFIG} differs): use another --out")
    judged = [isinstance(one, TokenizerConfig) and one.adversarial_weight > 0 for one in (before, config)]
    if judged[0] != judged[1]:
        begun_as = "with" if judged[0] else "without"
        raise UserError(
            f"{run} was begun {begun_as} a discriminator: use another --out, with --initial {run / WEIGHTS}"
        )


def autoencoder_task(config: TokenizerConfig, data: EpisodeDataset) -> Task:
    """Raises UserError when the weights of LPIPS are wanted and missing."""
    share = Share.own(config.train.batch, config.train.accumulate)
    batches = frame_batches(data, config, share)
    autoencoder = Autoencoder(config.model)
    network = Contest(autoencoder, Discriminator()) if config.adversarial_weight else autoencoder
    objective = Reconstruction(config, perceptual_distance(config))
    return Task(
        network, objective, lambda step: Frames(batches(step), is_judged(config, step), share), product=autoencoder
    )


def perceptual_distance(config: TokenizerConfig) -> Lpips | None:
    """LPIPS where it is wanted, on the device of the training; it is no part of what is trained."""
    if not config.perceptual_weight:
        return None
    try:
        return Lpips.load("vgg").to(resolve_device(config.train.device))
    except UserError as error:
        raise UserError(f"{error}, or train without LPIPS: --perceptual-weight 0") from error


def world_model_task(config: WorldModelConfig, data: LatentDataset) -> Task:
    clips = config.train.batch // config.clip.windows
    batches = clip_batches(data, config, Share.own(clips, config.train.accumulate))
    transformer = Transformer(config.model)

    def flops(inputs: Inputs) -> int:
        return training_flops(config.model, clips, inputs[LENGTHS][0].tolist())

    return Task(transformer, FrameFlowMatching(config), batches, product=transformer, flops=flops)


def keep_autoencoder(source: Path, kept: Path, begun: bool) -> None:
    """A world model carries the autoencoder its latents were made with, from its first step to its last."""
    if begun:
        if sha256(source / WEIGHTS) != sha256(kept / WEIGHTS):
            raise UserError(f"{kept.parent} was trained on latents of another autoencoder: use another --out")
        return
    read_config(source / CONFIG)
    for name in (CONFIG, WEIGHTS):
        write_atomically(kept / name, (source / name).read_bytes())
