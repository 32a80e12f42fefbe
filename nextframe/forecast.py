"""A model goes on from the first frames of episodes, under the actions that were really taken."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nextframe.conditions import actions_for_frames
from nextframe.config import Protocol, SampleConfig
from nextframe.data.episodes import Episode, EpisodeDataset, EpisodeInfo
from nextframe.errors import UserError
from nextframe.progress import Advance
from nextframe.runs import WorldModel
from nextframe.sampler import rollout


def held_out_episodes(dataset: EpisodeDataset, world: WorldModel, protocol: Protocol) -> list[EpisodeInfo]:
    """The protocol's episodes. Raises UserError when they are too few, or do not fit the model or the protocol."""
    folder, config = dataset.folder, world.config.model
    for name in ("context", "frames", "episodes"):
        if getattr(protocol, name) < 1:
            raise UserError(f"--{name} is {getattr(protocol, name)}: it must be at least 1")
    size, names = world.autoencoder.config.frame_size, dataset.info.action_names
    if dataset.info.size != size:
        have = f"{folder} has frames of {dataset.info.size} pixels, the model takes {size}"
        raise UserError(f"{have}: record or import it at that size")
    if config.condition == "label":
        raise UserError("the model is conditioned on class labels, and episodes have none: evaluate a model of actions")
    if config.condition == "action" and len(names) > config.classes:
        have = f"{folder} has {len(names)} actions, the model knows {config.classes}"
        raise UserError(f"{have}: use footage of the world it was trained on")
    infos = dataset.episodes(protocol.split)
    if len(infos) < protocol.episodes:
        have = f"{folder} has {len(infos)} episodes of the split {protocol.split!r}, {protocol.episodes} are asked for"
        raise UserError(f"{have}: record {protocol.episodes} of them, or lower --episodes")
    infos = infos[: protocol.episodes]
    needed = protocol.context + protocol.frames
    for info in infos:
        if info.frames < needed:
            raise UserError(
                f"{folder}: {info.name} has {info.frames} frames, {protocol.context} of context and {protocol.frames} "
                f"to predict are {needed}: record longer episodes, or use a protocol with fewer"
            )
    return infos


@dataclass(frozen=True)
class Forecast:
    """What a model predicts for a batch of episodes."""

    videos: np.ndarray
    """uint8 [b, frames, h, w, 3]"""
    rollout_seconds: float
    """In the transformer, all episodes and frames together."""
    decode_seconds: float


def forecast(
    world: WorldModel,
    episodes: Sequence[Episode],
    protocol: Protocol,
    sample: SampleConfig,
    seeds: list[int],
    advance: Advance,
) -> Forecast:
    """Go on from the context of episodes of `context + frames` frames, under the actions that were really taken."""
    context = torch.from_numpy(np.stack([episode.video[: protocol.context] for episode in episodes]))
    conditions = None
    if world.config.model.condition == "action":
        actions = torch.from_numpy(np.stack([episode.actions for episode in episodes]))
        conditions = actions_for_frames(world.config.model, actions)
    past = None if conditions is None else conditions[:, : protocol.context]
    future = None if conditions is None else conditions[:, protocol.context :]
    session = world.latent_session(context, past, protocol.context + protocol.frames, sample, seeds)
    started = _now(world.device)
    latents: list[Tensor] = []
    for frame in rollout(session, future, protocol.frames):
        latents.append(frame)
        advance(len(episodes))
    rolled_out = _now(world.device)
    videos = torch.stack([world.decode(clip) for clip in torch.stack(latents, dim=1)])
    return Forecast(videos.numpy(), rolled_out - started, _now(world.device) - rolled_out)


def shortened(episode: Episode, protocol: Protocol) -> Episode:
    """The frames of an episode that the protocol is about."""
    frames = protocol.context + protocol.frames
    return Episode(episode.video[:frames], episode.actions[:frames])


def _now(device: torch.device) -> float:
    """Seconds; what was sent to a GPU is finished first."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
