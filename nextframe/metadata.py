"""`metadata.json`: how fast a world model's footage ran, and what its actions and labels were called.

Nothing is computed with it. It is for people: for the keys of `nextframe play`, and to tell one world from another.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nextframe.architecture import Condition
from nextframe.errors import UserError, reason_of, some_of
from nextframe.files import can_be_told, read_json, write_json

METADATA = "metadata.json"
SOME = 8
"""Names that are listed in a line."""


class Described(Protocol):
    """Footage, or latents of it."""

    @property
    def fps(self) -> float: ...
    @property
    def action_names(self) -> tuple[str, ...]: ...
    @property
    def label_names(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Metadata:
    """Of a model that was converted, or trained before this was kept, nothing is known."""

    fps: float | None = None
    """Frames per second of the footage."""
    action_names: tuple[str, ...] = ()
    """By action number; of actions that are vectors, the names of their numbers."""
    label_names: tuple[str, ...] = ()
    """Classes, by label."""

    def __post_init__(self) -> None:
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps is {self.fps}")
        names = (*self.action_names, *self.label_names)
        if strange := [name for name in names if not isinstance(name, str) or not can_be_told(name)]:
            raise ValueError(f"{str(strange[0])[:200]!r} is no name")

    @classmethod
    def of(cls, data: Described, condition: Condition) -> "Metadata":
        """With the names of what a model of that condition is told, and no others."""
        actions = data.action_names if condition in ("action", "vector") else ()
        return cls(data.fps, actions, data.label_names if condition == "label" else ())


def unlike(now: Metadata, learnt: Metadata) -> str:
    """`actions up, down, where it learnt left, right`: how footage differs from what a model learnt."""
    differ = []
    if learnt.fps is not None and now.fps != learnt.fps:
        differ.append(f"{now.fps:g} frames a second, where it learnt {learnt.fps:g}")
    for what in ("action", "label"):
        names, before = (getattr(one, f"{what}_names") for one in (now, learnt))
        if before and names != before:
            called = some_of(names, SOME) or "without names"
            differ.append(f"{what}s {called}, where it learnt {some_of(before, SOME)}")
    return "; ".join(differ)


def write_metadata(metadata: Metadata, run: Path) -> None:
    write_json(run / METADATA, dataclasses.asdict(metadata))


def read_metadata(run: Path) -> Metadata:
    """Raises UserError when the file is there and damaged."""
    path = run / METADATA
    try:
        content = read_json(path)
        return Metadata(content["fps"], tuple(content["action_names"]), tuple(content["label_names"]))
    except FileNotFoundError:
        return Metadata()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({reason_of(error)}): without it all works, but names are missing"
        ) from None
