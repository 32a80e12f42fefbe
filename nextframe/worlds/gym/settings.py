"""What a person may choose about the recording of an environment."""

from dataclasses import dataclass
from typing import get_args

import tyro

from nextframe.data.video import Fit
from nextframe.errors import UserError

RANDOM = "random"  # the policy that is no MODULE:FUNCTION
SIZES = (16, 1024)


@dataclass(frozen=True)
class GymSettings:
    """How episodes are made. Two recordings with the same settings and seed are the same bytes, if the environment
    and the policy are functions of their seeds.
    """

    environment: tyro.conf.Suppress[str]  # the command line has it before the options
    """ID of the environment, as `gymnasium.make` takes it; MODULE:ENV_ID imports MODULE first."""
    frames: int = 300
    """Frames per episode, at most; one that the environment ends is shorter."""
    least_frames: int = 16
    """Shorter episodes are kept out."""
    size: int = 64
    """Height and width of a frame in pixels."""
    fit: Fit = "crop"
    """crop keeps the middle square of the picture, as the paper's video is prepared; squeeze keeps all of it and
    changes its aspect, as Atari games need."""
    fps: float | None = None
    """Frames per second of the video; if not given, the environment's, divided by --action-repeat."""
    action_repeat: int = 1
    """Steps of the environment per frame, all with the same action."""
    policy: str = RANDOM
    """random, or MODULE:FUNCTION, which is given (observation, info, generator) and returns an action."""
    hold: float = 8.0
    """Frames that the random policy keeps to an action, on average."""

    def __post_init__(self) -> None:
        if self.fit not in get_args(Fit):
            raise UserError(f"fit {self.fit!r} is unknown: choose {' or '.join(get_args(Fit))}")
        if not 1 <= self.least_frames <= self.frames:
            raise UserError(
                f"least-frames is {self.least_frames} and frames {self.frames}: choose 1 <= least-frames <= frames"
            )
        if not SIZES[0] <= self.size <= SIZES[1]:
            raise UserError(f"size is {self.size}: choose {SIZES[0]} to {SIZES[1]}")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise UserError(f"fps is {self.fps}: choose more than 0 and at most 1000")
        if self.action_repeat < 1:
            raise UserError(f"action-repeat is {self.action_repeat}: choose 1 or more")
        if not self.hold >= 1:
            raise UserError(f"hold is {self.hold}: choose 1 frame or more")
        if self.policy != RANDOM and not all(self.policy.partition(":")):
            raise UserError(f"policy {self.policy!r} is unknown: choose {RANDOM}, or write MODULE:FUNCTION")
