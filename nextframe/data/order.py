"""The order in which training reads: a pure function of (seed, step), so that resuming needs one counter."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def batch_indices(seed: int, step: int, batch: int, count: int) -> list[int]:
    """The items, of `count`, that make up the batch of one step: all are seen once before any is seen twice."""
    positions = range(step * batch, (step + 1) * batch)
    return [int(_permutation(seed, position // count, count)[position % count]) for position in positions]
