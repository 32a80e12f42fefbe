"""Convolutions of a metric are computed in float32, whatever the model's are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Under somebody's autocast they would run in bfloat16, on a GPU in TF32: the third digit would be wrong."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), torch.autocast(device.type, enabled=False):
        yield
