"""Which action a frame is given."""

import torch
from torch import Tensor

from nextframe.config import TransformerConfig


def actions_for_frames(config: TransformerConfig, actions: Tensor) -> Tensor:
    """From the action *taken at* each frame, int64 [..., f], to the one each frame is conditioned on.

    `arrival`: the action that led to the frame, and the null action for the first, which none led to; so a frame can
    be generated as soon as somebody has acted. `departure` (the published networks): the action taken at the frame.
    """
    if config.action_of == "departure":
        return actions
    first = torch.full_like(actions[..., :1], config.null_condition)
    return torch.cat([first, actions[..., :-1]], dim=-1)
