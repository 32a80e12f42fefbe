"""Which action a frame is given."""

import torch
from torch import Tensor

from nextframe.config import TransformerConfig


def actions_for_frames(config: TransformerConfig, actions: Tensor) -> Tensor:
    """From the action *taken at* each frame, int64 [..., f] or (condition "vector") float [..., f, a], to the one each
    frame is conditioned on.

    `arrival`: the action that led to the frame, and the null action for the first, which none led to; so a frame can
    be generated as soon as somebody has acted. `departure` (the published networks): the action taken at the frame.
    """
    if config.action_of == "departure":
        return actions
    axis = -2 if config.condition == "vector" else -1
    first = torch.full_like(actions.narrow(axis, 0, 1), config.null_condition)
    return torch.cat([first, actions.narrow(axis, 0, actions.shape[axis] - 1)], dim=axis)
