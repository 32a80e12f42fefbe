"""Averages over episodes, and how far to trust them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

EARLY = 16
"""The first predicted frames, averaged apart from the rest: what the model sees, before what it must remember."""
FEWEST = 5
"""Episodes from which an interval may decide: of fewer, drawing again and again makes one that is far too narrow."""
RESAMPLES = 5000
PARTS = 10
"""Of the episodes, of which a jackknife leaves out one at a time."""
ROUNDED_TO = 4


@dataclass(frozen=True)
class Figure:
    """A mean over episodes and its 95 % confidence interval: percentile bootstrap over episodes; of FVD a jackknife."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """One method by one metric."""

    early: Figure
    """Over predicted frames 1 to 16."""
    late: Figure | None
    """Over predicted frames 17 to the last; None where there are none."""
    frames: tuple[Figure, ...]
    """At each predicted frame."""
    episodes: tuple[float, ...]
    """Of each episode, over all its predicted frames."""


@dataclass(frozen=True)
class Gain:
    """How much better (if positive) one method is than another, episode by episode, by one metric."""

    early: Figure
    late: Figure | None
    won: int
    """Episodes in which it is better, over all predicted frames."""


@dataclass(frozen=True)
class Spread:
    """One figure, measured once with every seed."""

    mean: float
    deviation: float | None
    """Standard deviation between the seeds (unbiased); None of one seed."""
    seeds: tuple[float, ...]


def spread(values: np.ndarray) -> Spread:
    """`values`: [seeds]."""
    rounded = tuple(round(float(value), ROUNDED_TO) for value in values)
    deviation = round(float(values.std(ddof=1)), ROUNDED_TO) if len(values) > 1 else None
    return Spread(round(float(values.mean()), ROUNDED_TO), deviation, rounded)


def score(values: np.ndarray, of: Callable[[np.ndarray], np.ndarray] | None = None) -> Score:
    """`values`: [episodes, frames], or [episodes, frames, ...] and `of` as in `figures`."""
    late, means = values[:, EARLY:], values.mean(1)
    return Score(
        figures(values[:, :EARLY].mean(1, keepdims=True), of)[0],
        figures(late.mean(1, keepdims=True), of)[0] if late.size else None,
        figures(values, of),
        tuple(round(float(mean), ROUNDED_TO) for mean in (means if of is None else of(means))),
    )


def gain(values: np.ndarray, others: np.ndarray) -> Gain:
    """`values`, `others`: [episodes, frames] of the same episodes, which makes it a paired comparison."""
    difference = score(values - others)
    return Gain(difference.early, difference.late, int(np.sum(values.mean(1) > others.mean(1))))


def figures(values: np.ndarray, of: Callable[[np.ndarray], np.ndarray] | None = None) -> tuple[Figure, ...]:
    """The mean of each column of [episodes, columns] (or of [episodes]), with its interval.

    `of`: what is wanted of the means, if not they themselves: from [n, ...] of values [episodes, ...] to [n, columns].
    """
    columns = values.reshape(len(values), -1).astype(np.float64)
    mean, drawn = columns.mean(0, keepdims=True), _resamples(len(columns)) @ columns
    if of is not None:
        mean, drawn = (of(found.reshape(-1, *values.shape[1:])) for found in (mean, drawn))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    rows = np.stack([mean[0], low, high], axis=1).round(ROUNDED_TO)
    return tuple(Figure(*row) for row in rows.tolist())


def jackknife(distance: Callable[[np.ndarray], float], episodes: int) -> float | None:
    """How far the 95 % interval of a figure of all episodes together, which is no mean over them, reaches either way;
    None of too few.

    `distance` of the numbers of the episodes that count. A tenth is left out at a time: to draw with replacement would
    put the same episode in twice, which such distances take for less variety, and the interval would miss the figure.
    Says how much other episodes would change it; not how far it is from that of infinitely many, which is smaller.
    """
    if episodes < FEWEST:
        return None
    parts = np.array_split(np.random.default_rng(0).permutation(episodes), min(PARTS, episodes))
    without = np.array([distance(np.setdiff1d(np.arange(episodes), part)) for part in parts])
    return round(float(1.96 * np.sqrt((len(parts) - 1) * without.var())), ROUNDED_TO)


@lru_cache(1)
def _resamples(episodes: int) -> np.ndarray:
    """Bootstrap weights [resamples, episodes]: the share of draws that fall on each episode; always the same draws."""
    return np.random.default_rng(0).multinomial(episodes, [1 / episodes] * episodes, RESAMPLES) / episodes
