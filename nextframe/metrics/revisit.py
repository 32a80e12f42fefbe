"""Revisits: does a place still look as it did when the model was shown it, and for how long does it remember?

Where the camera stood is logged, so it is known which predicted frames show a view that was in the context, and how
long ago. What was never shown can only be guessed: those frames say what a model does without memory.
"""

import numpy as np

VERSION = "revisit 1"
NEVER = 0
GROUPS = ("shown before", "never shown", "1 to 16 frames ago", "17 to 64 frames ago", "65 frames ago or more")
"""Of predicted frames; the last three together are the first."""
EDGES = (16, 64)


def same_view(poses: np.ndarray) -> tuple[float, float]:
    """How near two poses of a recording must be to be the same view: half of its usual step, and of its usual turn.

    So it needs no unit of length. That near, nineteen pictures of the maze in twenty are 34 dB alike or more; a whole
    step away, or a turn, half of them are below 27 dB, or 20. `poses`: [f, 3], x, y and an angle in degrees.
    """
    steps = np.hypot(*np.diff(poses[:, :2], axis=0).T)
    turns = np.abs(_turned(np.diff(poses[:, 2])))
    return _usual(steps) / 2, _usual(turns) / 2


def frames_since_shown(poses: np.ndarray, context: int) -> np.ndarray:
    """For each predicted frame how many frames ago its view was last in the context, int64 [f]; `NEVER`: it was not.

    `poses`: float [context + f, 3]. Only the context counts: what the model itself made up in between need not be true.
    """
    poses = poses.astype(np.float64)
    near, turned = same_view(poses)
    shown, later = poses[:context], poses[context:]
    distance = np.hypot(later[:, None, 0] - shown[:, 0], later[:, None, 1] - shown[:, 1])
    angle = np.abs(_turned(later[:, None, 2] - shown[:, 2]))
    same = (distance <= near) & (angle <= turned)
    last = context - 1 - same[:, ::-1].argmax(1)
    return np.where(same.any(1), context + np.arange(len(later)) - last, NEVER)


def groups(ages: np.ndarray) -> np.ndarray:
    """Which frames are in each of `GROUPS`: bool [5, f]."""
    first, second = EDGES
    shown = ages != NEVER
    return np.stack([shown, ~shown, shown & (ages <= first), (ages > first) & (ages <= second), ages > second])


def by_age(scores: np.ndarray, ages: np.ndarray) -> np.ndarray:
    """The mean score over each of `GROUPS`, nan where there are no such frames: [n, f] and [f] -> float32 [n, 5]."""
    means = [scores[:, one].mean(1) if one.any() else np.full(len(scores), np.nan) for one in groups(ages)]
    return np.stack(means, axis=1).astype(np.float32)


def _turned(degrees: np.ndarray) -> np.ndarray:
    """The same turn, between -180 and 180."""
    return (degrees + 180) % 360 - 180


def _usual(amounts: np.ndarray) -> float:
    """The median of those that are not nothing; nothing where there are none."""
    moving = amounts[amounts > 1e-6]
    return float(np.median(moving)) if moving.size else 0.0
