"""Predictions to look at, not scored."""

from pathlib import Path

import numpy as np

from nextframe.config import Protocol, SampleConfig
from nextframe.data.episodes import EpisodeDataset
from nextframe.files import new_file, write_atomically
from nextframe.forecast import forecast, held_out_episodes, shortened
from nextframe.pages.drawing import comparison_clip, mp4_bytes
from nextframe.parallel import matrix_precision, resolve_device, resolve_precision
from nextframe.progress import progress
from nextframe.runs import load


def sample(
    protocol: Protocol, model: Path, data: Path, out: Path, device: str = "auto", sample: SampleConfig | None = None
) -> list[Path]:
    """Let a model go on from the first frames of episodes, without scoring: for each, writes to `out`

    EPISODE.mp4, truth and prediction side by side, and EPISODE.npz with `video` uint8 [context + frames, h, w, 3], the
    context first, `context` and `actions`. Returns the videos. Raises UserError as `evaluate` does.
    """
    dataset, target = EpisodeDataset.open(data), resolve_device(device)
    world = load(model, target)
    sample = sample or world.config.sample
    infos = held_out_episodes(dataset, world, protocol)
    videos, names = [], dataset.info.action_names
    with progress("sampling", protocol.frames * len(infos)) as advance:
        for index, info in enumerate(infos):
            episode = shortened(dataset.read(info), protocol)
            with matrix_precision(resolve_precision("auto", target), target):
                made = forecast(world, [episode], protocol, sample, [sample.seed + index], advance)
            video = np.concatenate([episode.video[: protocol.context], made.videos[0]])
            with new_file(out / f"{info.name}.npz") as temporary:
                np.savez_compressed(temporary, video=video, context=protocol.context, actions=episode.actions)
            clip = comparison_clip(episode.video, made.videos[0], [names[action] for action in episode.actions])
            videos.append(out / f"{info.name}.mp4")
            write_atomically(videos[-1], mp4_bytes(clip, dataset.info.fps))
    return videos
