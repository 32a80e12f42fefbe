"""Where training clips are taken from: how long they are, and where in their episodes they start."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from nextframe.config import WorldModelConfig

L = TypeVar("L", int, np.ndarray)
"""A length, or several."""


@dataclass(frozen=True)
class ClipStarts:
    """Where the clips of one step are: the lengths of their windows, the same for all clips, and how to draw a start.

    A window alone has a length L uniform in what is allowed, and a start s uniform in [0, n(L)), the frames of its
    episode at which a clip of that length can start:

        p(L | s) ∝ [s < n(L)] / n(L),    p(s) ∝ w(s) = sum over L of [s < n(L)] / n(L)

    Here the K windows of a clip share their start, and each alone is still distributed like that: lengths are drawn
    independently given one start, which is that of a window drawn alone, so

        p(s | L_1 .. L_K) ∝ w(s)^(1 - K) where s < n(L) for all of them

    and every clip draws its start anew from this: the clips of a step have nothing but lengths in common.

    All this is done in the shortest episode. One with `more` starts keeps a start, counted from its end, with
    probability (start + 1) / (start + 1 + more), and draws it from all before that otherwise: this makes uniform
    in n + more of uniform in n, whatever n is.
    """

    lengths: tuple[int, ...]
    interval: int
    shortest: int
    """Frames of the shortest episode."""
    probabilities: np.ndarray | None
    """Of each start in the shortest episode. None, for one window: they are equal."""

    def start(self, frames: int, random: np.random.Generator) -> int:
        """First frame of a clip from an episode of `frames` frames."""
        if self.probabilities is None:
            return int(random.integers(start_count(frames, self.lengths[0], self.interval)))
        start, more = int(random.choice(len(self.probabilities), p=self.probabilities)), frames - self.shortest
        kept = random.random() * (start + 1 + more) < start + 1
        return start + more if kept else int(random.integers(start + more))


def draw_clip_starts(config: WorldModelConfig, step: int, shortest: int, random: np.random.Generator) -> ClipStarts:
    """Those of one step; `shortest`: frames of the shortest episode that clips are taken from."""
    clip = config.clip
    first = int(random.integers(*length_range(config, step)))
    if clip.windows == 1:
        return ClipStarts((first,), clip.interval, shortest, None)
    lengths = np.arange(*length_range(config, step))
    fit = start_count(shortest, lengths, clip.interval)
    # [start, length]: what each length alone adds to the probability of a start.
    shares = (np.arange(fit.max())[:, None] < fit) / fit
    weights = shares.sum(axis=1)
    start = int(random.integers(start_count(shortest, first, clip.interval)))
    others = random.choice(lengths, clip.windows - 1, p=shares[start] / weights[start])
    drawn = (first, *(int(length) for length in others))
    probabilities = weights[: start_count(shortest, max(drawn), clip.interval)] ** (1.0 - clip.windows)
    return ClipStarts(drawn, clip.interval, shortest, probabilities / probabilities.sum())


def start_count(frames: int, length: L, interval: int) -> L:
    """How many starts a clip of `length` frames has in an episode of `frames`."""
    return frames - (length - 1) * interval


def length_range(config: WorldModelConfig, step: int) -> tuple[int, int]:
    """Lengths [least, beyond) that clips may have at this step."""
    clip = config.clip
    if clip.min_frames is None:
        return clip.frames, clip.frames + 1
    grown = min(1.0, step / (clip.ramp * config.train.steps)) if clip.ramp else 1.0
    longest = clip.min_frames * (clip.frames / clip.min_frames) ** grown
    return clip.min_frames, max(clip.min_frames + 1, round(longest))
