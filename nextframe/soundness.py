"""What a person should be told of the data and the settings of a run before it begins."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from nextframe.architecture import AutoencoderConfig, TransformerConfig
from nextframe.clip_starts import length_range
from nextframe.clips import long_enough
from nextframe.config import TokenizerConfig, WorldModelConfig
from nextframe.configfile import RunConfig, dotted
from nextframe.data.episodes import EpisodeDataset, EpisodeInfo
from nextframe.data.latents import LatentDataset, LatentEpisode, LatentIndex
from nextframe.errors import UserError, counted
from nextframe.files import read_json, write_json
from nextframe.worlds.maze.settings import ACTION_NAMES

Settings = RunConfig | TransformerConfig | AutoencoderConfig
Episodes = Sequence[EpisodeInfo] | Sequence[LatentEpisode]
MOST_SHOWINGS = 1000
"""Of each training frame, in the mean, in a run; the presets on the paper's data sets have hundreds."""
SCALES = (0.5, 2.0)
"""Between which the standard deviation of latents lies that flow matching is meant for: 1."""
EPISODES, FRAMES = 8, 32
"""Evenly spread, whose latents are looked at."""
CONSTANT = 1e-3
"""A channel that varies less is constant."""
DATA = "data.json"
"""In a run: what it learns from."""


def few_episodes(config: RunConfig, episodes: Episodes) -> Iterator[str]:
    """A line if there are fewer than go into one batch, or if each is shown very often."""
    train, frames, each = config.train, sum(episode.frames for episode in episodes), ""
    if isinstance(config, TokenizerConfig):
        wanted, shown, what = 1, train.batch * train.steps, "frames"
    else:
        wanted, what = train.batch // config.clip.windows, "clips"
        each = f" of {config.clip.windows} windows" if config.clip.windows > 1 else ""
        least, beyond = length_range(config, train.steps)
        shown = train.batch * train.steps * (least + beyond - 1) / 2
    if len(episodes) < wanted:
        learnt = f"{counted(len(episodes), 'episode')} to learn from, and {wanted} {what}{each} in a batch"
        yield f"there {'is' if len(episodes) == 1 else 'are'} only {learnt}: expect them to be learnt by heart"
    elif train.minutes is None and shown > MOST_SHOWINGS * frames:
        often = f"each of the {frames:,} frames is shown about {shown / frames:,.0f} times"
        yield f"{often}: give more data, or lower --train.steps ({train.steps:,})"


def assumed(config: WorldModelConfig, index: LatentIndex) -> Iterator[str]:
    """What a model takes for granted of its footage; and a line if its clips leave a part of it untrained."""
    model = config.model
    if model.turns:
        turning = [(index.action_names[action], turn) for action, turn in enumerate(model.turns) if turn]
        told = ", ".join(f"{name!r} turns by {360 * turn / model.headings:+g} degrees" for name, turn in turning)
        if index.action_names != ACTION_NAMES:  # of the mazes, which do turn so
            yield f"a compass takes it that {told}; if they do not, train the preset footage, which has no compass"
    longest = length_range(config, config.train.steps)[1] - 1
    if model.coarse_patch is not None and longest <= model.window:
        yield (
            f"no clip is longer than the window of {model.window} frames: the coarse level learns nothing. Raise "
            "--clip.frames, or train a short model: --model.coarse-patch None --sample.slide 1 --clip.windows 1"
        )


def latents_off(data: LatentDataset, episodes: Sequence[LatentEpisode]) -> Iterator[str]:
    """A line for latents that are not numbers, not of unit variance, or have a channel without content."""
    chosen = episodes[:: -(-len(episodes) // EPISODES)]
    frames = []
    for episode in chosen:
        every = -(-episode.frames // FRAMES)
        frames.append(data.latents(episode, 0, -(-episode.frames // every), every))
    latents = torch.cat(frames).float()
    again = "encode the data again"
    if not latents.isfinite().all():
        yield f"some latents in {data.folder} are not finite: {again}"
        return
    if not SCALES[0] <= (deviation := latents.std().item()) <= SCALES[1]:
        yield f"the latents in {data.folder} have standard deviation {deviation:.3g}, not about 1: {again}"
    spread = latents.transpose(0, 1).flatten(1).std(dim=1)
    if constant := (spread < CONSTANT).nonzero().flatten().tolist():
        yield f"channel {constant[0]} of the latents in {data.folder} is constant ({len(constant)} are): look at them"


def changed_settings(before: Settings, now: Settings) -> str:
    """`train.batch 16 -> 32, clean_context 0.1 -> 0.4`, or nothing."""
    old, new = (dict(dotted(dataclasses.asdict(config))) for config in (before, now))
    return ", ".join(f"{name} {old[name]} -> {value}" for name, value in new.items() if old[name] != value)


def other_data(run: Path, episodes: Episodes) -> str:
    """`1,088 episodes -> 24 other ones`, or nothing; nothing of a run that has not noted what it learns from."""
    path, now = run / DATA, description(episodes)
    if not path.exists():
        return ""
    try:
        before = read_json(path)
        differs, count = before["sha256"] != now["sha256"], int(before["episodes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): delete it") from None
    return f"{count:,} episodes -> {now['episodes']:,} other ones" if differs else ""


def note_data(run: Path, episodes: Episodes) -> None:
    write_json(run / DATA, description(episodes))


def description(episodes: Episodes) -> dict[str, Any]:
    """What tells episodes from others: how many, and a digest of their names, lengths and contents."""
    told = [(one.name, one.frames, one.source if isinstance(one, LatentEpisode) else one.sha256) for one in episodes]
    digest = hashlib.sha256(json.dumps(sorted(told, key=lambda one: one[0])).encode()).hexdigest()
    return {"episodes": len(told), "sha256": digest}


def learnt_from(config: RunConfig, data: EpisodeDataset | LatentDataset) -> Episodes:
    """The episodes that training takes its clips or frames from."""
    if isinstance(data, EpisodeDataset):
        return data.episodes("train")
    assert isinstance(config, WorldModelConfig)
    return long_enough(data, config)
