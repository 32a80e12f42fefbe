"""Which action a frame is given, and which way it faces."""

from functools import lru_cache

import torch
from torch import Tensor

from nextframe.architecture import TransformerConfig


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


def headings_of(config: TransformerConfig, conditions: Tensor | None) -> Tensor | None:
    """Which way each frame faces, int64 [..., f] in [0, headings): the sum of the turns that its actions and those of
    all frames before it (`conditions`, ids [..., f] as `actions_for_frames` gives them) have made.

    An action that nobody knows turns nobody. None for a model without a compass.
    """
    if not config.turns or conditions is None:
        return None
    return _turns(config.turns, conditions.device)[conditions].cumsum(dim=-1) % config.headings


@lru_cache(maxsize=8)
def _turns(turns: tuple[int, ...], device: torch.device) -> Tensor:
    """What each action turns, and the null action last, which turns nobody."""
    return torch.tensor([*turns, 0], device=device)
