"""What a person may choose about the mazes, and the names and sizes everything else in this package shares."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from nextframe.errors import UserError

Difficulty = Literal["calm", "plain", "rich"]

REVISION = 2  # of the mazes, looks and walks a seed gives; raise it when they change, so that no dataset mixes two
ACTION_NAMES = ("noop", "forward", "turn_left", "turn_right", "backward")
NOOP, FORWARD, TURN_LEFT, TURN_RIGHT, BACKWARD = range(5)

CELL = 128  # map units along one side of a grid cell, and pixels of a texture: a power of two, see look.py
HEIGHT = 80  # of the ceiling: from the middle of a corridor, its floor and ceiling are seen even when facing a wall
STEP = 64  # map units of one forward action: two steps cross a cell, so paths close exactly
HEADINGS = 16  # one turn is 360 / 16 = 22.5 degrees, exact in the 16-bit angles of the engine
CLEARANCE = 28  # map units the eye keeps from every wall
MOST_PIXELS = 2**30  # of an episode, which is in memory whole
FRAMES_PER_SECOND = 10.0  # at which a walk is pleasant to watch; nothing in a maze moves by itself


@dataclass(frozen=True)
class MazeSettings:
    """How episodes are made. Two recordings with the same settings and seed are the same bytes."""

    difficulty: Difficulty = "calm"
    """calm has plain floors and 3 or 4 soft wall colours in large patterns, for small models; plain has more patterns
    and stronger colours; rich has a pattern per wall, fine ones too, and patterned floors."""
    cells: int = 3
    """The maze has cells x cells junctions, on a grid of (2 cells + 1) squared."""
    frames: int = 300
    """Frames per episode."""
    size: int = 64
    """Height and width of a frame in pixels: 64, 128 or 256."""
    loops: float = 0.25
    """Probability that a wall between two corridors is opened."""
    revisit: float = 0.6
    """Probability that the explorer's next goal is a place it has already been to."""
    linger: float = 0.0
    """Probability, before each turn, step or new goal, that the explorer first looks around on the spot, so that views
    come back soon after they were left."""

    def __post_init__(self) -> None:
        if self.difficulty not in get_args(Difficulty):
            raise UserError(f"maze difficulty {self.difficulty!r} is unknown: choose {', '.join(get_args(Difficulty))}")
        if not 2 <= self.cells <= 30:
            raise UserError(f"maze cells is {self.cells}: choose 2 to 30")
        if self.frames < 2:
            raise UserError(f"maze frames is {self.frames}: an episode needs at least 2")
        if self.size not in (64, 128, 256):
            raise UserError(f"maze size is {self.size}: choose 64, 128 or 256")
        if self.frames > (most := MOST_PIXELS // self.size**2):
            raise UserError(f"maze frames is {self.frames}: choose {most:,} or less, and more episodes")
        for name in ("loops", "revisit", "linger"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"maze {name} is {getattr(self, name)}: it is a probability, choose 0 to 1")
        if self.linger == 1:
            raise UserError("maze linger is 1: whoever always looks around first never walks, choose less")


USUAL_MAZES = MazeSettings()


def source_of(settings: MazeSettings) -> dict[str, Any]:
    """What a dataset of these mazes says of its making. Of footage that says nothing of `linger`, nobody did."""
    said = {"world": "maze", "revision": REVISION, **asdict(settings)}
    return said if settings.linger else {name: value for name, value in said.items() if name != "linger"}


def settings_of(source: dict[str, Any]) -> MazeSettings | None:
    """From what a dataset says of its making: of mazes of this revision, None of anything else."""
    if source.get("world") != "maze" or source.get("revision") != REVISION:
        return None
    given = {field.name: source[field.name] for field in fields(MazeSettings) if field.name in source}
    try:
        return MazeSettings(**given)
    except (TypeError, UserError):
        return None
