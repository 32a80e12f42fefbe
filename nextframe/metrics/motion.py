"""How a picture moves from frame to frame, and which action that goes with.

An action recorded one frame early or late ruins a world model without a word: it learns to ignore the controls. So
the movement of the picture between t and t + 1 is measured, and the action that explains it best should be actions[t].
"""

from collections.abc import Sequence

import numpy as np

BANDS = 8
"""Rows of pixels are averaged into this many bands, whose horizontal movement is measured."""
CLEARLY = 0.15
"""Of what the best offset explains: by so much more than actions[t] must an action before explain to count as better.
In worlds with a momentum they are nearly alike; those after it never gain by that."""
OFFSETS = (-2, -1, 0, 1, 2)
SHIFTS = 20
"""One of so many explains as much by chance as the actions do, where they do nothing."""
TELLING = 0.1
"""Share of the movement that an action must explain before anything is concluded from it."""


def motion(video: np.ndarray) -> np.ndarray:
    """From each frame to the next, float64 [f - 1, 3]:

    the horizontal shift in pixels, to the right if positive, as when turning left; how far the halves move apart, in
    pixels, as when going forward; the logarithm of (1 + mean absolute change). `video`: uint8 [f, h, w, 3].
    """
    grey = video.astype(np.float32).mean(-1)
    frames, height, width = grey.shape
    rows = height // BANDS * BANDS
    bands = grey[:, :rows].reshape(frames, BANDS, -1, width).mean(2)
    reach, half = max(1, width // 5), width // 2
    left = _shift(bands[:, :, :half], reach // 2)
    right = _shift(bands[:, :, half:], reach // 2)
    change = np.abs(np.diff(grey, axis=0)).mean((1, 2))
    return np.stack([_shift(bands, reach), right - left, np.log1p(change)], axis=1)


def _shift(bands: np.ndarray, reach: int) -> np.ndarray:
    """Whole pixels [f - 1] by which [f, bands, width] move to the right between frames: least squared difference."""
    bands = bands - bands.mean(-1, keepdims=True)
    before, after = bands[:-1], bands[1:]
    width = bands.shape[-1]
    # By size, so that a picture without any pattern counts as still.
    shifts = np.array(sorted(range(-reach, reach + 1), key=abs))
    errors = []
    for shift in shifts:
        overlap = width - abs(shift)
        here, there = max(0, -shift), max(0, shift)
        moved = before[..., here : here + overlap] - after[..., there : there + overlap]
        errors.append(np.square(moved).mean((1, 2)))
    return shifts[np.argmin(errors, axis=0)].astype(np.float64)


def explained_by_actions(episodes: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[int, float]:
    """How much of the movement between t and t + 1 is explained by actions[t + offset], for every offset: 0 to 1.

    It is the share of the variance, averaged over the kinds of movement: that between the actions (eta squared), or,
    where actions are vectors, that of a linear fit. `episodes`: motion [f - 1, 3] and actions [f] or [f, a] of each.
    """
    return {offset: _explained(*_aligned(episodes, offset)) for offset in OFFSETS}


def explained_by_chance(episodes: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """The most that the same actions explain at moments they have nothing to do with: those of each episode are turned
    round as a ring, by `SHIFTS` parts of its length. Keys that are held long explain much of a short clip by chance.
    """
    shares = [0.0]
    for part in range(1, SHIFTS):
        turned = [(movement, np.roll(actions, len(actions) * part // SHIFTS, axis=0)) for movement, actions in episodes]
        far = [one for one in turned if len(one[1]) * min(part, SHIFTS - part) // SHIFTS > max(OFFSETS)]
        shares.append(_explained(*_aligned(far, 0)) if far else 0.0)
    return max(shares)


def _aligned(episodes: Sequence[tuple[np.ndarray, np.ndarray]], offset: int) -> tuple[np.ndarray, np.ndarray]:
    """The same moments for every offset, so that their shares can be compared."""
    margin = max(abs(other) for other in OFFSETS)
    kept = [slice(margin, max(margin, len(actions) - margin - 1)) for _, actions in episodes]
    movements = [movement[keep] for (movement, _), keep in zip(episodes, kept, strict=True)]
    actions = [
        actions[keep.start + offset : keep.stop + offset] for (_, actions), keep in zip(episodes, kept, strict=True)
    ]
    return np.concatenate(movements), np.concatenate(actions)


def _explained(movement: np.ndarray, actions: np.ndarray) -> float:
    if not len(movement):
        return 0.0
    total = np.square(movement - movement.mean(0)).sum(0)
    predicted = _group_means(movement, actions) if actions.ndim == 1 else _linear_fit(movement, actions)
    between = np.square(predicted - movement.mean(0)).sum(0)
    moving = total > 1e-9
    return float((between[moving] / total[moving]).mean()) if moving.any() else 0.0


def _group_means(movement: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The mean movement under the id taken at each moment."""
    means = np.zeros_like(movement)
    for action in np.unique(actions):
        means[actions == action] = movement[actions == action].mean(0)
    return means


def _linear_fit(movement: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The movement that a linear function of the numbers of an action predicts, at best."""
    numbers = np.concatenate([actions, np.ones((len(actions), 1))], axis=1, dtype=np.float64)
    return numbers @ np.linalg.lstsq(numbers, movement, rcond=None)[0]
