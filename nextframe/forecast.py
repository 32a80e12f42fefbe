"""A model goes on from the first frames of episodes, under the actions that were really taken; or begins from none."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from nextframe.conditions import actions_for_frames
from nextframe.config import SampleConfig
from nextframe.data.episodes import Episode, EpisodeDataset, EpisodeInfo
from nextframe.devices import now
from nextframe.errors import UserError, counted
from nextframe.metadata import Metadata, unlike
from nextframe.progress import Advance
from nextframe.protocol import MOST_EPISODES, MOST_TRAJECTORIES, Protocol
from nextframe.runs import WorldModel
from nextframe.sampler import at_sampling
from nextframe.session import predicted


def noise_seed(seed: int, episode: int, trajectory: int) -> int:
    """A number of its own for every trajectory of a protocol; the episode's number for the first of seed 0."""
    return (seed * MOST_TRAJECTORIES + trajectory) * MOST_EPISODES + episode


def held_out_episodes(dataset: EpisodeDataset, world: WorldModel, protocol: Protocol) -> list[EpisodeInfo]:
    """The protocol's episodes. Raises UserError when they are too few, or do not fit the model or the protocol."""
    _check_kind(dataset, world, protocol)
    if differs := unlike(Metadata.of(dataset.info, world.config.model.condition), world.metadata):
        print(f"{dataset.folder} is unlike what the model learnt from: {differs}", file=sys.stderr)
    folder, wanted = dataset.folder, protocol.episodes
    interval, frames = world.config.clip.interval, protocol.context + protocol.frames
    needed = (frames - 1) * interval + 1
    of_split = infos = dataset.episodes(protocol.split)[:: protocol.every]
    if protocol.context == 0:
        infos = drawn([info for info in infos if info.frames >= needed])
    if len(infos) < wanted:
        long_enough = f" with {needed} frames" if protocol.context == 0 else ""
        long_enough += f", each {protocol.every}th one counted" if protocol.every > 1 else ""
        have = (
            f"{folder} has {counted(len(infos), 'episode')} of the split {protocol.split!r}{long_enough}, "
            f"{wanted} are asked for"
        )
        there = ", ".join(sorted({info.split for info in dataset.episodes()}))
        way_out = f"choose another --split (this has {there})"
        if of_split:
            way_out = _within(infos or of_split, protocol, interval)
        more = f"record more with --split {protocol.split}, or import them with it or with --test-share"
        raise UserError(f"{have}: {more}; or {way_out}")
    infos = infos[:wanted]
    for info in infos:
        if info.frames < needed:
            every = f" at every {interval} frames" if interval > 1 else ""
            raise UserError(
                f"{folder}: {info.name} has {info.frames} frames, {protocol.context} of context and {protocol.frames} "
                f"to predict{every} are {needed}: {_within(infos, protocol, interval)}, or give longer episodes"
            )
    return infos


def _within(infos: Sequence[EpisodeInfo], protocol: Protocol, interval: int) -> str:
    """What to lower so that these episodes are enough, and long enough, in the same proportion."""
    episodes, asked = min(len(infos), protocol.episodes), protocol.context + protocol.frames
    frames = min(asked, (min(info.frames for info in infos) - 1) // interval + 1)
    context = min(max(protocol.context * frames // asked, 1), protocol.context)
    return f"ask for less with `--episodes {episodes} --context {context} --frames {max(frames - context, 1)}`"


def _check_kind(dataset: EpisodeDataset, world: WorldModel, protocol: Protocol) -> None:
    """Raises UserError where the footage is of another kind than the model's, or is asked for what it cannot do."""
    folder, config, names = dataset.folder, world.config.model, dataset.info.action_names
    size = world.autoencoder.config.frame_size
    if dataset.info.size != size:
        have = f"{folder} has frames of {dataset.info.size} pixels, the model takes {size}"
        raise UserError(f"{have}: record or import it at that size")
    if config.attention == "full" and protocol.context:
        raise UserError(f"a Video DiT makes clips from nothing: it cannot go on from {protocol.context} frames")
    if config.condition == "label" and len(dataset.info.label_names) > config.classes:
        have = f"{folder} has {len(dataset.info.label_names)} classes, the model knows {config.classes}"
        raise UserError(f"{have}: use footage of the classes it was trained on")
    if config.condition not in ("action", "vector"):
        return
    kind = {"id": "action", "vector": "vector", "none": "none"}[dataset.info.action_kind]
    if kind != config.condition:
        raise UserError(f"{folder} has {_KINDS[kind]}, the model takes {_KINDS[config.condition]}: use other footage")
    if kind == "action" and len(names) > config.classes:
        have = f"{folder} has {len(names)} actions, the model knows {config.classes}"
        raise UserError(f"{have}: use footage of the world it was trained on")
    if kind == "vector" and len(names) != config.action_size:
        have = f"{folder} has actions of {len(names)} numbers, the model takes {config.action_size}"
        raise UserError(f"{have}: use footage of the world it was trained on")
    if world.config.clip.interval != 1:
        raise UserError(
            f"the model was trained on every {world.config.clip.interval} frames, and would not be told the actions "
            "between: train with --clip.interval 1, or without actions"
        )


_KINDS = {"action": "actions by number", "vector": "actions that are vectors", "none": "no actions"}


def check_sampling(world: WorldModel, protocol: Protocol, sample: SampleConfig) -> None:
    """Raises UserError for sampling settings that the model cannot do."""
    model = world.config.model
    extrapolates = sample.memory is not None or sample.riflex or sample.temporal_decay
    if model.attention == "full" and extrapolates:
        raise UserError("a Video DiT sees its whole clip: leave out --memory, --riflex and --temporal-decay")
    at_sampling(model, sample, protocol.context + protocol.frames)


def drawn(infos: Sequence[EpisodeInfo]) -> list[EpisodeInfo]:
    """In a random order, always the same, but each class in its turn: any number of first ones are a fair choice."""
    by_label: dict[int, list[EpisodeInfo]] = {}
    for place in np.random.default_rng(0).permutation(len(infos)):
        label = infos[place].label
        by_label.setdefault(-1 if label is None else label, []).append(infos[place])
    rounds = zip_longest(*(by_label[label] for label in sorted(by_label)))
    return [info for one_of_each in rounds for info in one_of_each if info is not None]


def labels_of(world: WorldModel, infos: Sequence[EpisodeInfo], protocol: Protocol) -> list[int]:
    """The class each clip is to be of: the episode's own, or, if the clip is made from nothing, each in its turn.

    All 0 where the model is not told. Raises UserError for an episode that has none.
    """
    if world.config.model.condition != "label":
        return [0] * len(infos)
    if protocol.context == 0:
        return [index % world.config.model.classes for index in range(len(infos))]
    labels = [info.label for info in infos if info.label is not None]
    if len(labels) < len(infos):
        raise UserError(
            "the model is conditioned on class labels, and episodes of the footage have none: import footage with "
            "labels, or take a model without"
        )
    return labels


@dataclass(frozen=True)
class Forecast:
    """What a model predicts for a batch of episodes."""

    videos: np.ndarray
    """uint8 [b, frames, h, w, 3]"""
    rollout_seconds: float
    """In the transformer, all episodes and frames together, with the making of its cache."""
    decode_seconds: float


def forecast(
    world: WorldModel,
    episodes: Sequence[Episode],
    protocol: Protocol,
    sample: SampleConfig,
    seeds: list[int],
    advance: Advance,
    labels: Sequence[int] = (),
) -> Forecast:
    """Go on from the context of episodes of `context + frames` frames, under the actions that were really taken.

    `labels`: of each episode, for a model that is conditioned on them.
    """
    with world.at_work():
        conditions = conditions_of(world, episodes, protocol, labels)
        context = _context(world, episodes, protocol)
        started = now(world.device)
        made = predicted(world.transformer, context, conditions, protocol.frames, sample, seeds, advance)
        rolled_out = now(world.device)
        videos = torch.stack([world.decode(clip) for clip in made])
        return Forecast(videos.numpy(), rolled_out - started, now(world.device) - rolled_out)


def conditions_of(
    world: WorldModel, episodes: Sequence[Episode], protocol: Protocol, labels: Sequence[int]
) -> Tensor | None:
    """What every frame is told: int64 [b, f], or float32 [b, f, a] of actions that are vectors."""
    config = world.config.model
    if config.condition == "none":
        return None
    if config.condition == "label":
        return torch.tensor(labels)[:, None].expand(-1, protocol.context + protocol.frames)
    actions = torch.from_numpy(np.stack([episode.actions for episode in episodes]))
    return actions_for_frames(config, actions)


def _context(world: WorldModel, episodes: Sequence[Episode], protocol: Protocol) -> Tensor:
    """Latents [b, context, c, h, w] of what the model is shown."""
    if not protocol.context:
        return torch.empty(len(episodes), 0, *world.config.model.latent_shape)
    videos = [torch.from_numpy(episode.video[: protocol.context]) for episode in episodes]
    return torch.stack([world.encode(video) for video in videos])


def shortened(episode: Episode, protocol: Protocol, world: WorldModel) -> Episode:
    """The frames of an episode that the protocol is about, as far apart as those the model was trained on."""
    interval = world.config.clip.interval
    frames = slice(0, (protocol.context + protocol.frames - 1) * interval + 1, interval)
    # What there is one of for each frame stays with it; a map, say, is of the whole episode.
    extras = {name: array[frames] for name, array in episode.extras.items() if name == "pose"}
    return Episode(episode.video[frames], episode.actions[frames], extras)
