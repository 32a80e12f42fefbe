"""What a client may say, checked. Anything else is `MalformedError`, and ends that client's session alone."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError

from nextframe.config import Solver
from nextframe.web.history import Action

LONGEST = 4096  # bytes of a message
LARGEST = 1e30  # of the numbers of an action: finite in float32 too

Moment = Annotated[float, Field(ge=-1e18, le=1e18)]
"""Milliseconds of the client's clock, given back with the frame."""
Number = Annotated[int, Field(ge=0, le=2**53)]
"""Of a frame or a branch."""


class MalformedError(Exception):
    """One line: what is wrong with a message."""


@dataclass(frozen=True)
class Actions:
    """Which actions there are: "id" (`count` of them), "vector" (of `count` numbers), "label" or "none"."""

    kind: str
    count: int = 0

    def parsed(self, action: Any) -> Action:
        """Raises MalformedError for one there is not."""
        if self.kind in ("none", "label"):
            return None
        if self.kind == "id":
            if type(action) is not int or not 0 <= action < self.count:
                raise MalformedError(f"action: choose 0 to {self.count - 1}")
            return action
        if not isinstance(action, list) or len(action) != self.count:
            raise MalformedError(f"action: give {self.count} numbers")
        if not all(type(part) in (int, float) and abs(part) <= LARGEST for part in action):
            raise MalformedError(f"action: choose numbers from {-LARGEST:g} to {LARGEST:g}")
        return tuple(float(part) for part in action)


@dataclass(frozen=True)
class StartMessage:
    episode: str | None = None
    upload: str | None = None
    context: Annotated[int, Field(ge=1, le=2000)] = 144
    real: bool = False
    label: Annotated[int, Field(ge=0, lt=100_000)] = 0
    """What an upload shows, for a model of labels."""
    type: Literal["start"] = "start"

    def __post_init__(self) -> None:
        if (self.episode is None) == (self.upload is None):
            raise ValueError("name an episode or an upload")


@dataclass(frozen=True)
class Resume:
    session: str
    type: Literal["resume"] = "resume"


@dataclass(frozen=True)
class Act:
    action: Any = None
    """As the client has it; `parsed` gives an Action."""
    at: Moment | None = None
    type: Literal["act"] = "act"


@dataclass(frozen=True)
class Hold:
    on: bool
    action: Any = None
    at: Moment | None = None
    type: Literal["hold"] = "hold"


@dataclass(frozen=True)
class Repeat:
    frames: Annotated[int, Field(ge=1, le=1000)]
    action: Any = None
    type: Literal["repeat"] = "repeat"


@dataclass(frozen=True)
class Seek:
    frame: Number
    type: Literal["seek"] = "seek"


@dataclass(frozen=True)
class Enter:
    branch: Number
    type: Literal["branch"] = "branch"


@dataclass(frozen=True)
class Change:
    steps: Annotated[int, Field(ge=1, le=100)] | None = None  # whoever asks for more would keep the others waiting
    guidance: Annotated[float, Field(ge=0, le=20)] | None = None
    solver: Solver | None = None
    type: Literal["settings"] = "settings"


@dataclass(frozen=True)
class Pause:
    type: Literal["pause"] = "pause"


@dataclass(frozen=True)
class Ping:
    at: Moment | None = None
    type: Literal["ping"] = "ping"


Message = StartMessage | Resume | Act | Hold | Repeat | Seek | Enter | Change | Pause | Ping
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def parsed(text: str | bytes, actions: Actions) -> Message:
    """Raises MalformedError for all that is no message of the protocol (docs/play.md)."""
    if not isinstance(text, str):
        raise MalformedError("messages are text: send JSON")
    if len(text) > LONGEST or len(text.encode(errors="replace")) > LONGEST:
        raise MalformedError(f"a message has at most {LONGEST} bytes")
    try:
        message = _MESSAGES.validate_json(text, strict=True)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        if wrong["type"].startswith("union_tag"):  # the words of the client are in its message
            raise MalformedError(f"type: choose {', '.join(kind.type for kind in get_args(Message))}") from None
        place = [str(part) for part in wrong["loc"]]
        raise MalformedError(": ".join([*place, wrong["msg"].removeprefix("Value error, ")])) from None
    if isinstance(message, Act | Hold | Repeat):
        return replace(message, action=actions.parsed(message.action))
    return message
