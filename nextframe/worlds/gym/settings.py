"""What a person may choose about the recording of an environment."""

from dataclasses import dataclass
from typing import get_args

from nextframe.data.video import Fit
from nextframe.errors import UserError

RANDOM = "random"  # the policy that is no MODULE:FUNCTION
SIZES = (16, 1024)


@dataclass(frozen=True)
class GymSettings:
    """How episodes are made. Two recordings with the same settings and seed are the same bytes, if the environment
    and the policy are functions of their seeds.

    environment: ID of the environment, as `gymnasium.make` takes it.
    frames: per episode, at most: the environment may end it before.
    least_frames: a shorter episode is kept out.
    size: height and width of a frame in pixels.
    fit: how the environment's picture is made square: "crop" keeps its middle, as the paper's video is prepared,
        "squeeze" keeps all of it and changes its aspect.
    fps: frames per second; as the environment says if not given.
    action_repeat: steps of the environment per frame, all with the same action.
    policy: "random", or MODULE:FUNCTION.
    hold: frames that the random policy keeps an action for, on average.
    """

    environment: str
    frames: int = 300
    least_frames: int = 16
    size: int = 64
    fit: Fit = "crop"
    fps: float | None = None
    action_repeat: int = 1
    policy: str = RANDOM
    hold: float = 8.0

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
