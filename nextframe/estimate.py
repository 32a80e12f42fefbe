"""What an evaluation will take, before it begins: measured on a first short piece of it, on this machine.

The piece is a batch of the very trajectories that are missing: a few frames after the context and a few at the end,
where the past is longest, then decoding, scoring and writing one of them. Between the two ends the time of a frame is
taken to grow evenly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO

import numpy as np
import torch
from torch import Tensor

from nextframe.autoencoder import encode_video
from nextframe.config import SampleConfig
from nextframe.data.episodes import Episode
from nextframe.devices import peak_memory, timed
from nextframe.errors import counted
from nextframe.flow import evaluated_levels
from nextframe.forecast import conditions_of
from nextframe.progress import clock, in_words
from nextframe.protocol import Protocol
from nextframe.runs import WorldModel
from nextframe.sampler import sample_clip
from nextframe.scoring import Scorer
from nextframe.session import Session

MEASURED_STEPS = 2


@dataclass(frozen=True)
class Estimate:
    """Of what is not on disk yet."""

    rollouts: int
    frames: int
    """Of each."""
    seconds: float
    disk_bytes: int
    memory_bytes: int
    """Largest amount in use: on a GPU of its memory, else of this machine's by this process."""

    def line(self) -> str:
        """`1,024 rollouts of 156 frames: about 3h20m here, 2.1 GiB on disk, peak memory about 4.0 GiB`"""
        work = f"{counted(self.rollouts, 'rollout')} of {self.frames} frames"
        sizes = f"{in_words(self.disk_bytes)} on disk, peak memory about {in_words(self.memory_bytes)}"
        return f"{work}: about {clock(self.seconds)} here, {sizes}"


def estimate(
    world: WorldModel,
    read: Callable[[], Episode],
    protocol: Protocol,
    sample: SampleConfig,
    scorer: Scorer,
    batches: Sequence[int],
    firsts: int,
) -> Estimate:
    """`read`: an episode, as long as the protocol asks. `batches`: how many trajectories each batch is of.

    `firsts`: how many of all trajectories are an episode's first, with which the other methods are scored too.
    """
    rollouts = sum(batches)
    if not rollouts:
        return Estimate(0, protocol.frames, 0.0, 0, peak_memory(world.device))
    episode, reading = timed(world.device, read)
    video = torch.from_numpy(episode.video)
    latents, encoding = timed(world.device, partial(encode_video, world.autoencoder, video))
    encoding *= protocol.context / len(episode.video)
    size = max(batches)
    rolling = _rollout_seconds(world, episode, latents, protocol, sample, size)
    decoded, decoding = timed(world.device, partial(world.decode, latents[-protocol.frames :]))
    made = decoded.numpy()
    judging = {
        first: timed(world.device, partial(scorer.judge, world, episode, made, first))[1]
        for first in {True, firsts == rollouts}
    }
    size_of_file, writing = timed(world.device, partial(_compressed, made))
    seconds = rollouts * (encoding + rolling / size + decoding + writing) + firsts * judging[True]
    seconds += (rollouts - firsts) * judging.get(False, 0.0) + reading * min(rollouts, firsts + len(batches))
    return Estimate(rollouts, protocol.frames, seconds, rollouts * size_of_file, peak_memory(world.device))


def _rollout_seconds(
    world: WorldModel,
    episode: Episode,
    latents: Tensor,
    protocol: Protocol,
    sample: SampleConfig,
    size: int,
) -> float:
    """A whole batch of `size` trajectories in the transformer. `latents`: of the episode, [f, c, h, w]."""
    seeds = list(range(size))
    conditions = conditions_of(world, [episode] * size, protocol, [0] * size)
    if world.config.model.attention == "full":
        short = replace(sample, steps=MEASURED_STEPS)  # all frames at once, by evaluations that cost the same
        clip = partial(sample_clip, world.transformer, size, protocol.frames, conditions, short, seeds)
        evaluations, few = (len(evaluated_levels(one.solver, one.steps)) for one in (sample, short))
        return timed(world.device, clip)[1] * evaluations / few
    if conditions is not None:
        conditions = conditions.to(world.device)
    clips = latents[None].expand(size, *latents.shape)
    # The first reads the context; after it, as many as the window moves by at a time: one of them reads the window.
    capacity, piece = protocol.context + protocol.frames, min(1 + sample.slide, protocol.frames)

    def end(place: int) -> list[float]:
        """Seconds of each frame of a piece from there on; its session is gone before the next needs the room."""
        past = None if conditions is None else conditions[:, :place]
        session = Session(world.transformer, clips[:, :place], past, capacity, sample, seeds)
        told = [None if conditions is None else conditions[:, frame] for frame in range(place, place + piece)]
        return [timed(world.device, partial(session.step, condition))[1] for condition in told]

    first, *others = end(protocol.context)
    others += end(capacity - piece)[1:]
    return first + (protocol.frames - 1) * sum(others) / max(1, len(others))


def _compressed(video: np.ndarray) -> int:
    file = BytesIO()
    np.savez_compressed(file, video=video)
    return file.tell()
