"""Drift: how far the look of predicted frames moves away, whatever they show.

A prediction may lose its way and still look like the world it is of; or it washes out, darkens, loses its colours. So
frames are reduced to a few numbers, averaged over episodes (what one episode shows by chance cancels), and held
against those of the true frames at the same place, in units of how far true frames lie apart.
"""

import numpy as np

from nextframe.metrics.statistics import Score, score

VERSION = "drift 2"
FLAT = 0.5
"""Levels of 255: true frames that lie less far apart than that count as lying so far apart, not as never changing."""


def frame_statistics(video: np.ndarray) -> np.ndarray:
    """float32 [f, 4], in levels of 255: the mean; the deviation over pixels; how far the colours are from grey; the
    mean step from a pixel to the next. `video`: uint8 [f, h, w, 3].
    """
    pixels = video.astype(np.float32)
    grey = pixels.mean(-1)
    steps = np.abs(np.diff(grey, axis=1)).mean((1, 2)) + np.abs(np.diff(grey, axis=2)).mean((1, 2))
    colour = np.abs(pixels - grey[..., None]).mean((1, 2, 3))
    return np.stack([grey.mean((1, 2)), grey.std((1, 2)), colour, steps / 2], axis=1)


def drift(predicted: np.ndarray, true: np.ndarray) -> Score:
    """0: on average predicted frames look like true ones; 1: as far away as true frames lie apart. Lower is better.

    `frame_statistics`: `predicted` [episodes, samples, frames, 4], `true` [episodes, frames, 4]. The mean over the four
    of the distance between the averages over episodes; of several samples of each the mean of theirs, so that opposite
    ones do not cancel. Few episodes leave some of it by chance, whatever the prediction; the same is left to all
    methods. Of a single episode it is the distance of its own averages over time.
    """
    return score(_moved(predicted, true), _far)


def overall(predicted: np.ndarray, true: np.ndarray) -> float:
    """The same over all frames together."""
    return float(_far(_moved(predicted, true).mean((0, 1))))


def _moved(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """[episodes, frames, samples, 4]"""
    apart = np.maximum(true.std((0, 1), dtype=np.float64), FLAT)
    return (predicted.swapaxes(1, 2).astype(np.float64) - true[:, :, None]) / apart


def _far(moved: np.ndarray) -> np.ndarray:
    return np.abs(moved).mean((-2, -1))
