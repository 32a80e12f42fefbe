"""Predictions to look at, not scored."""

from pathlib import Path
from typing import Any

import numpy as np

from nextframe.config import SampleConfig
from nextframe.data.episodes import Episode, EpisodeDataset
from nextframe.devices import resolve_device
from nextframe.errors import UserError
from nextframe.files import new_file, refuse_taken, sole_writer, write_atomically
from nextframe.forecast import check_sampling, forecast, held_out_episodes, labels_of, shortened
from nextframe.pages.drawing import action_clip, comparison_clip, label_name, mp4_bytes
from nextframe.progress import progress
from nextframe.protocol import Protocol
from nextframe.runs import WorldModel, clip_conditions, load


def sample(
    protocol: Protocol,
    model: Path,
    data: Path,
    out: Path,
    device: str = "auto",
    sample: SampleConfig | None = None,
    label: str | None = None,
) -> list[Path]:
    """Let a model go on from the first frames of episodes, once, without scoring: for each, writes to `out`

    EPISODE.mp4, truth and prediction side by side, and EPISODE.npz with `video` uint8 [context + frames, h, w, 3], the
    context first, `context`, `actions`, and `label` if the model was told one. Without context they are sample_000.mp4,
    sample_001.mp4 ... of the samples alone. `label`: name or number of the class that all are to be of; if not given,
    that of their episode, or without context each in its turn. Returns the videos. Raises UserError as `evaluate` does,
    and for a label there is not.
    """
    refuse_taken(out, "samples")
    dataset, target = EpisodeDataset.open(data), resolve_device(device)
    world = load(model, target)
    sample = sample or protocol.settings(world.config.sample)
    check_sampling(world, protocol, sample)
    infos = held_out_episodes(dataset, world, protocol)
    labels = labels_of(world, infos, protocol) if label is None else [_number(world, label)] * len(infos)
    videos = []
    # Better no folder now than after the first of them.
    with sole_writer(out), progress("sampling", protocol.frames * len(infos)) as advance:
        for index, (info, told) in enumerate(zip(infos, labels, strict=True)):
            episode = shortened(dataset.read(info), protocol, world)
            made = forecast(world, [episode], protocol, sample, [sample.seed + index], advance, [told])
            video = np.concatenate([episode.video[: protocol.context], made.videos[0]])
            name = info.name if protocol.context else f"sample_{index:03}"
            arrays: dict[str, Any] = {"video": video, "context": protocol.context, "actions": episode.actions}
            if world.config.model.condition == "label":
                arrays["label"] = told
            with new_file(out / f"{name}.npz") as temporary:
                np.savez_compressed(temporary, **arrays)
            words = _words(world, dataset, episode, told)
            if protocol.context:
                clip = comparison_clip(episode.video, made.videos[0], words)
            else:
                clip = action_clip(video, words)
            videos.append(out / f"{name}.mp4")
            write_atomically(videos[-1], mp4_bytes(clip, dataset.info.fps / world.config.clip.interval))
    return videos


def _number(world: WorldModel, label: str) -> int:
    """Of a class, by its name or as it is."""
    named = label in world.metadata.label_names or not label.isdecimal()
    try:
        told = clip_conditions(world.config.model, 1, None, label if named else int(label), world.metadata)
    except ValueError as error:
        raise UserError(str(error)) from None
    assert told is not None
    return int(told)


def _words(world: WorldModel, dataset: EpisodeDataset, episode: Episode, label: int) -> list[str]:
    """What each frame is captioned with: the class it was to be of, or the action taken at it."""
    if world.config.model.condition != "label":
        return dataset.info.action_texts(episode.actions)
    return [label_name(dataset.info.label_names, label)] * len(episode.video)
