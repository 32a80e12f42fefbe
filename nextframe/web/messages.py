"""What a client may say, checked. Anything else is `MalformedError`, and ends that client's session alone."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nextframe.flow import SOLVERS
from nextframe.web.history import Action

LONGEST = 4096  # bytes of a message
MOST_STEPS = 100  # of a solver: whoever asks for more would keep the others waiting
MOST_GUIDANCE = 20.0
MOST_CONTEXT = 2000
MOST_LABELS = 100_000
MOST_REPEATS = 1000
LARGEST = 1e30  # of the numbers of an action: finite in float32 too


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
        return tuple(_number(part, "action", -LARGEST, LARGEST) for part in action)


@dataclass(frozen=True)
class StartMessage:
    episode: str | None
    upload: str | None
    context: int
    real: bool
    label: int = 0
    """What an upload shows, for a model of labels."""


@dataclass(frozen=True)
class Resume:
    session: str


@dataclass(frozen=True)
class Act:
    """at: milliseconds of the client's clock, given back with the frame."""

    action: Action
    at: float | None


@dataclass(frozen=True)
class Hold:
    action: Action
    on: bool
    at: float | None


@dataclass(frozen=True)
class Repeat:
    action: Action
    frames: int


@dataclass(frozen=True)
class Seek:
    frame: int


@dataclass(frozen=True)
class Enter:
    branch: int


@dataclass(frozen=True)
class Change:
    steps: int | None
    guidance: float | None
    solver: str | None


@dataclass(frozen=True)
class Pause:
    pass


@dataclass(frozen=True)
class Ping:
    at: float | None


Message = StartMessage | Resume | Act | Hold | Repeat | Seek | Enter | Change | Pause | Ping


def parsed(text: str | bytes, actions: Actions) -> Message:
    """Raises MalformedError for all that is no message of the protocol (docs/play.md)."""
    if not isinstance(text, str):
        raise MalformedError("messages are text: send JSON")
    if len(text) > LONGEST or len(text.encode(errors="replace")) > LONGEST:
        raise MalformedError(f"a message has at most {LONGEST} bytes")
    try:
        said = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise MalformedError("this is not JSON") from None
    if not isinstance(said, dict):
        raise MalformedError("a message is a JSON object with a type")
    kind = said.get("type")
    if not isinstance(kind, str) or kind not in _PARSERS:
        raise MalformedError(f"type: choose {', '.join(_PARSERS)}")
    return _PARSERS[kind](said, actions)


def _start(said: dict[str, Any], _actions: Actions) -> StartMessage:
    episode, upload = _text(said, "episode"), _text(said, "upload")
    if (episode is None) == (upload is None):
        raise MalformedError("start: name an episode or an upload")
    context = _whole(said.get("context", 144), "context", 1, MOST_CONTEXT)
    label = _whole(said.get("label", 0), "label", 0, MOST_LABELS - 1)
    return StartMessage(episode, upload, context, _flag(said.get("real", False), "real"), label)


def _resume(said: dict[str, Any], _actions: Actions) -> Resume:
    if (session := _text(said, "session")) is None:
        raise MalformedError("resume: name a session")
    return Resume(session)


def _change(said: dict[str, Any], _actions: Actions) -> Change:
    steps, guidance, solver = said.get("steps"), said.get("guidance"), _text(said, "solver")
    if solver is not None and solver not in SOLVERS:
        raise MalformedError(f"solver: choose {', '.join(SOLVERS)}")
    return Change(
        None if steps is None else _whole(steps, "steps", 1, MOST_STEPS),
        None if guidance is None else _number(guidance, "guidance", 0, MOST_GUIDANCE),
        solver,
    )


_PARSERS: dict[str, Callable[[dict[str, Any], Actions], Message]] = {
    "start": _start,
    "resume": _resume,
    "act": lambda said, actions: Act(actions.parsed(said.get("action")), _moment(said)),
    "hold": lambda said, actions: Hold(actions.parsed(said.get("action")), _flag(said.get("on"), "on"), _moment(said)),
    "repeat": lambda said, actions: Repeat(
        actions.parsed(said.get("action")), _whole(said.get("frames"), "frames", 1, MOST_REPEATS)
    ),
    "seek": lambda said, _: Seek(_whole(said.get("frame"), "frame", 0, 2**53)),
    "branch": lambda said, _: Enter(_whole(said.get("branch"), "branch", 0, 2**53)),
    "settings": _change,
    "pause": lambda _said, _actions: Pause(),
    "ping": lambda said, _: Ping(_moment(said)),
}


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _number(value: Any, what: str, least: float, most: float) -> float:
    if type(value) not in (int, float) or not least <= value <= most or not math.isfinite(value):
        raise MalformedError(f"{what}: choose {least:g} to {most:g}")
    return float(value)


def _whole(value: Any, what: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise MalformedError(f"{what}: choose {least} to {most}")
    return value


def _flag(value: Any, what: str) -> bool:
    if type(value) is not bool:
        raise MalformedError(f"{what}: choose true or false")
    return value


def _text(said: dict[str, Any], what: str) -> str | None:
    value = said.get(what)
    if value is not None and not isinstance(value, str):
        raise MalformedError(f"{what}: give its name")
    return value


def _moment(said: dict[str, Any]) -> float | None:
    value = said.get("at")
    return None if value is None else _number(value, "at", -1e18, 1e18)
