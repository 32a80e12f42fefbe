"""Who may look at whom: everything within a frame, and every earlier frame."""

from functools import lru_cache

import torch

from nextframe.layout import Layout
from nextframe.shapes import AttentionMask


@lru_cache(maxsize=128)
def frame_causal_mask(
    queries: Layout, keys: Layout, temporal_decay: float, device: torch.device
) -> AttentionMask | None:
    """The mask of frame-causal attention, or None where every query may see every key.

    With FlexRoPE (`temporal_decay` > 0) it is float and holds `temporal_decay * (frame of key - frame of query)`:
    zero within a frame and ever lower for older ones.
    """
    first_query = min(segment.start for segment in queries.segments)
    last_key = max(segment.stop for segment in keys.segments) - 1
    if last_key <= first_query and not temporal_decay:
        return None
    query_frame, key_frame = queries.table()[:, 0, None], keys.table()[None, :, 0]
    visible = key_frame <= query_frame
    if not temporal_decay:
        return visible.to(device)
    decay = temporal_decay * (key_frame - query_frame).float()
    return decay.masked_fill(~visible, float("-inf")).to(device)
