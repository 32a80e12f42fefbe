"""Training batches from footage: each a pure function of (seed, step)."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nextframe.conditions import actions_for_frames
from nextframe.config import TokenizerConfig, WorldModelConfig
from nextframe.data.episodes import EpisodeDataset
from nextframe.data.latents import LatentDataset
from nextframe.data.order import batch_indices
from nextframe.errors import UserError
from nextframe.objective import Clips

FRAMES_PER_EPISODE = 4
"""Frames of one episode in a batch of the autoencoder: a file is decoded once for all of them."""
DECODED_BYTES = 5 * 2**30
"""Of decoded footage kept in memory."""


def frame_batches(dataset: EpisodeDataset, config: TokenizerConfig) -> Callable[[int], Tensor]:
    """Batches for the autoencoder: uint8 [b, height, width, 3], frames of random places in the training episodes."""
    episodes, train, size = dataset.episodes("train"), config.train, config.model.frame_size
    if not episodes:
        raise UserError("there are no episodes of the split 'train' to learn from: record or import some")
    if dataset.info.size != size:
        raise UserError(f"the footage has {dataset.info.size} pixels a side, the preset {size}: set --model.frame-size")

    longest = max(episode.frames for episode in episodes)

    @lru_cache(max(1, DECODED_BYTES // (3 * longest * size**2)))
    def video(index: int) -> np.ndarray:
        return dataset.read(episodes[index]).video

    def batch(step: int) -> Tensor:
        random = np.random.default_rng((train.seed, step))
        count = -(-train.batch // FRAMES_PER_EPISODE)
        frames = []
        for index in batch_indices(train.seed, step, count, len(episodes)):
            clip = video(index)
            frames.extend(clip[random.choice(len(clip), FRAMES_PER_EPISODE, replace=len(clip) < FRAMES_PER_EPISODE)])
        return torch.from_numpy(np.stack(frames[: train.batch]))

    return batch


def clip_batches(dataset: LatentDataset, config: WorldModelConfig) -> Callable[[int], Clips]:
    """Batches for the world model: clips of one length, from random places in the training episodes."""
    clip, train, model = config.clip, config.train, config.model
    shape = (model.latent_channels, model.latent_size, model.latent_size)
    if dataset.index.shape != shape:
        raise UserError(
            f"the latents are {dataset.index.shape} (channels, rows, columns), the preset wants {shape}: "
            "set --model.latent-channels and --model.latent-size"
        )

    if model.condition == "label":
        raise UserError("recorded footage has no class labels: train a model of actions, or one without a condition")
    if model.condition == "action" and model.classes < len(dataset.index.action_names):
        raise UserError(
            f"the footage has {len(dataset.index.action_names)} actions, the preset {model.classes}: "
            "set --model.classes"
        )
    span = (clip.frames - 1) * clip.interval + 1
    episodes = [episode for episode in dataset.episodes("train") if episode.frames >= span]
    if not episodes:
        longest = max(episode.frames for episode in dataset.episodes("train"))
        raise UserError(f"no training episode has the {span} frames of a clip (longest: {longest}): set --clip.frames")

    def batch(step: int) -> Clips:
        random = np.random.default_rng((train.seed, step))
        frames = clip_length(config, step, random)
        latents, conditions = [], []
        for index in batch_indices(train.seed, step, train.batch, len(episodes)):
            episode = episodes[index]
            start = int(random.integers(episode.frames - (frames - 1) * clip.interval))
            latents.append(dataset.latents(episode, start, frames, clip.interval))
            if model.condition == "action":
                actions = actions_for_frames(model, dataset.actions(episode))
                conditions.append(actions[start :: clip.interval][:frames])
        return Clips(torch.stack(latents), torch.stack(conditions) if conditions else None)

    return batch


def clip_length(config: WorldModelConfig, step: int, random: np.random.Generator) -> int:
    """Frames of the clips of one step."""
    clip = config.clip
    if clip.min_frames is None:
        return clip.frames
    grown = min(1.0, step / (clip.ramp * config.train.steps)) if clip.ramp else 1.0
    longest = clip.min_frames * (clip.frames / clip.min_frames) ** grown
    return int(random.integers(clip.min_frames, max(clip.min_frames + 1, round(longest))))
