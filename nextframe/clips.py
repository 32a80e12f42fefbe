"""Training batches from footage: each a pure function of (seed, step)."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from nextframe.architecture import TransformerConfig
from nextframe.clip_starts import draw_clip_starts
from nextframe.conditions import actions_for_frames
from nextframe.config import ClipConfig, TokenizerConfig, WorldModelConfig
from nextframe.data.episodes import EpisodeDataset, EpisodeInfo
from nextframe.data.latents import LatentDataset, LatentEpisode, LatentIndex
from nextframe.data.order import batch_indices
from nextframe.errors import UserError
from nextframe.objective import Clips
from nextframe.ranks import ALONE, Share

FRAMES_PER_EPISODE = 4
"""Frames of one episode in a batch of the autoencoder: a file is decoded once for all of them."""
LEFT_OUT = 0.1
"""Share of the training frames that may lie in episodes shorter than a clip."""
DECODED_BYTES = 5 * 2**30
"""Of decoded footage kept in memory."""


def frame_batches(
    dataset: EpisodeDataset, config: TokenizerConfig, share: Share = ALONE, split: str = "train"
) -> Callable[[int], Tensor]:
    """Batches for the autoencoder: uint8 [b, height, width, 3], frames of random places in the episodes of a split.

    Of a batch no more than its `share` is read, here and in `clip_batches`; what is in it depends on the step alone.
    """
    episodes, train, size = dataset.episodes(split), config.train, config.model.frame_size
    if not episodes:
        raise UserError(f"there are no episodes of the split {split!r} to learn from: record or import some")
    if (side := dataset.info.size) != size:
        multiple = config.model.compression
        fits = f"set --model.frame-size {side}" if side % multiple == 0 else f"import it at a multiple of {multiple}"
        raise UserError(f"the footage has {side} pixels a side, the preset {size}: {fits}")

    @lru_cache(videos_kept(episodes, size))
    def video(index: int) -> np.ndarray:
        return dataset.read(episodes[index]).video

    def batch(step: int) -> Tensor:
        random = np.random.default_rng((train.seed, step))
        count = -(-train.batch // FRAMES_PER_EPISODE)
        places: list[tuple[int, int]] = []
        for index in batch_indices(train.seed, step, count, len(episodes)):
            frames = episodes[index].frames
            chosen = random.choice(frames, FRAMES_PER_EPISODE, replace=frames < FRAMES_PER_EPISODE)
            places.extend((index, int(frame)) for frame in chosen)
        own = [places[row] for row in share.numbers(train.batch)]
        return torch.from_numpy(np.stack([video(index)[frame] for index, frame in own]))

    return batch


def videos_kept(episodes: Sequence[EpisodeInfo], size: int) -> int:
    """How many decoded videos of `size` pixels a side are kept in memory."""
    return max(1, DECODED_BYTES // (3 * max(episode.frames for episode in episodes) * size**2))


def clip_batches(
    dataset: LatentDataset, config: WorldModelConfig, share: Share = ALONE, split: str = "train"
) -> Callable[[int], Clips]:
    """Batches for the world model: clips of one length, from random places in the episodes of a split.

    Raises UserError when the latents are not what the configuration wants.
    """
    clip, train, model = config.clip, config.train, config.model
    if dataset.index.shape != model.latent_shape:
        raise UserError(
            f"the latents are {dataset.index.shape} (channels, rows, columns), the preset wants {model.latent_shape}: "
            f"set {_latent_options(dataset.index.shape, model)}"
        )
    check_conditions(dataset.index, model)
    if clip.mirror:
        check_mirror(dataset.index, model)
    episodes = long_enough(dataset, config, split)
    shortest = min(episode.frames for episode in episodes)
    if model.condition == "label" and (without := [episode.name for episode in episodes if episode.label is None]):
        raise UserError(
            f"episode {without[0]} of the split {split} has no class label: give it one, and encode the data again"
        )

    def batch(step: int) -> Clips:
        random = np.random.default_rng((train.seed, step))
        clip_starts = draw_clip_starts(config, step, shortest, random)
        frames = max(clip_starts.lengths)
        clips = train.batch // clip.windows
        chosen = [episodes[index] for index in batch_indices(train.seed, step, clips, len(episodes))]
        starts = [clip_starts.start(episode.frames, random) for episode in chosen]
        # Drawn last, so that mirroring moves no clip: without it the clips are the same.
        mirrored = random.random(len(chosen)) < (0.5 if clip.mirror else 0.0)
        latents, conditions = [], []
        for row in share.numbers(clips):
            episode, start, mirror = chosen[row], starts[row], mirrored[row]
            latents.append(dataset.latents(episode, start, frames, clip.interval, bool(mirror)))
            if model.condition != "none":
                conditions.append(_conditions(dataset, model, episode)[start :: clip.interval][:frames])
        return Clips(torch.stack(latents), torch.stack(conditions) if conditions else None, clip_starts.lengths, share)

    return batch


def _latent_options(shape: tuple[int, int, int], model: TransformerConfig) -> str:
    """What to set for a model of latents of another shape; patches that do not divide its sides change too."""
    channels, rows, _ = shape
    patch = math.gcd(model.patch, rows)
    options = {"latent-channels": (model.latent_channels, channels), "latent-size": (model.latent_size, rows)}
    options["patch"] = (model.patch, patch)
    if model.coarse_patch is not None:
        fits = rows % model.coarse_patch == 0
        options["coarse-patch"] = (model.coarse_patch, model.coarse_patch if fits else rows)
    return " ".join(f"--model.{name} {now}" for name, (before, now) in options.items() if before != now)


def long_enough(dataset: LatentDataset, config: WorldModelConfig, split: str = "train") -> list[LatentEpisode]:
    """The episodes that clips are taken from. Raises UserError when there are none."""
    span = config.clip.span
    episodes = [episode for episode in dataset.episodes(split) if episode.frames >= span]
    if not episodes:
        lengths = [episode.frames for episode in dataset.episodes(split)]
        longest, way_out = max(lengths), f"set {better_clips(lengths, config.clip)}, or give longer ones"
        kind = "training" if split == "train" else "held-out"
        raise UserError(f"no {kind} episode has the {span} frames of a clip (longest: {longest}): {way_out}")
    return episodes


def _clip_options(longest: int, clip: ClipConfig) -> str:
    """What to set for clips no longer than this."""
    fits = (longest - 1) // clip.interval + 1 + (clip.min_frames is not None)
    shorter = f" --clip.min-frames {max(1, fits // 2)}" if clip.min_frames and clip.min_frames >= fits else ""
    return f"--clip.frames {fits}{shorter}"


def _conditions(dataset: LatentDataset, model: TransformerConfig, episode: LatentEpisode) -> Tensor:
    """What each frame of an episode is told: int64 [f], or float32 [f, a] where actions are vectors."""
    if model.condition == "label":
        assert episode.label is not None
        return torch.full((episode.frames,), episode.label)
    return actions_for_frames(model, dataset.actions(episode))


def options_for(index: LatentIndex, preset: WorldModelConfig) -> list[str]:
    """What to set for a preset that is told actions by number to learn from these latents."""
    actions, labels, options = len(index.action_names), len(index.label_names), list[str]()
    if index.action_kind == "vector":
        options = ["--model.condition", "vector", "--model.action-size", f"{actions}"]
    elif index.action_kind == "none":
        options = ["--model.condition", *(["label", "--model.classes", f"{labels}"] if labels else ["none"])]
    elif actions > preset.model.classes:
        options = ["--model.classes", f"{actions}"]
    if index.shape != preset.model.latent_shape:
        options += _latent_options(index.shape, preset.model).split()
    lengths = [episode.frames for episode in index.episodes if episode.split == "train"]
    return options + better_clips(lengths, preset.clip).split()


def better_clips(lengths: Sequence[int], clip: ClipConfig) -> str:
    """What to set for the longest clips that nearly all frames of episodes so long are learnt from; "" where they are.

    An episode that is shorter than a clip is left out.
    """
    frames = sum(lengths)
    if sum(length for length in lengths if length < clip.span) <= LEFT_OUT * frames:
        return ""
    ordered = sorted(lengths)
    before = accumulate(ordered, initial=0)  # frames of the episodes that come earlier: not more than are shorter
    fitting = [length for length, lost in zip(ordered, before, strict=False) if lost <= LEFT_OUT * frames]
    return _clip_options(fitting[-1], clip)


def check_conditions(index: LatentIndex, model: TransformerConfig) -> None:
    """Raises UserError when the footage has not the labels or the kind of actions that the model is conditioned on."""
    actions, labels = len(index.action_names), len(index.label_names)
    preset = " with the preset footage" if model.turns else ""  # its like without a compass
    if model.condition == "label" and not labels:
        raise UserError("the footage has no class labels: set --model.condition none, or encode footage that has them")
    if model.condition == "label" and model.classes < labels:
        raise UserError(f"the footage has {labels} classes, the preset {model.classes}: set --model.classes")
    if model.condition in ("action", "vector") and index.action_kind == "none":
        way_out = f"set --model.condition none{preset}, or import it with its actions"
        if labels:
            way_out = f"set --model.condition label --model.classes {labels}{preset}"
        raise UserError(f"the footage has no actions: {way_out}")
    if model.condition == "action" and index.action_kind == "vector":
        way_out = f"set --model.condition vector --model.action-size {actions}{preset}"
        raise UserError(f"the footage has actions that are vectors, the preset wants ids: {way_out}")
    if model.turns and len(model.turns) != actions:
        have = f"the footage has {actions} actions, the preset a compass for {len(model.turns)} of its own"
        raise UserError(f"{have}: train the preset footage, which has none")
    if model.condition == "action" and model.classes < actions:
        raise UserError(f"the footage has {actions} actions, the preset {model.classes}: set --model.classes {actions}")
    if model.condition == "vector" and index.action_kind == "id":
        way_out = f"set --model.condition action --model.classes {actions}"
        raise UserError(f"the footage has actions that are ids, the preset wants vectors: {way_out}")
    if model.condition == "vector" and model.action_size != actions:
        way_out = f"set --model.action-size {actions}"
        raise UserError(f"an action of the footage is {actions} numbers, of the preset {model.action_size}: {way_out}")


def check_mirror(index: LatentIndex, model: TransformerConfig) -> None:
    """Raises UserError when clips cannot be mirrored: of a model of actions, or of latents that were not."""
    if model.condition in ("action", "vector"):
        reason = "in a mirrored clip the actions would be wrong (a turn to the left is seen as one to the right)"
        raise UserError(f"{reason}: set --clip.no-mirror, or --model.condition none")
    if not index.mirrored:
        raise UserError("the latents are not mirrored: encode with --mirrored, or set --clip.no-mirror")
