"""What a visitor has walked: frames in branches. Going on from an earlier frame begins a new one; none is forgotten."""

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nextframe.errors import UserError
from nextframe.files import writing

Action = int | tuple[float, ...] | None
"""An id, the numbers of a vector, or nothing that anybody knows of."""
MOST_FRAMES = 20_000
MOST_BRANCHES = 100


class Film:
    """Frames of one size, kept in a file that goes with the object: thousands of them would fill the memory.

    Raises UserError where there is no room to write.
    """

    def __init__(self, size: int, folder: Path) -> None:
        self.size = size
        self.frames = 0
        self._coming: dict[int, tuple[Future[np.ndarray], Callable[[], np.ndarray]]] = {}
        self._folder = folder
        with writing(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`
        self._bytes = size * size * 3
        self._in_use = threading.Lock()

    def append(self, frame: np.ndarray) -> int:
        """Its place in the file."""
        place, self.frames = self.frames, self.frames + 1
        self._write(place, frame)
        return place

    def expect(self, frame: Future[np.ndarray], again: Callable[[], np.ndarray]) -> tuple[int, Future[np.ndarray]]:
        """The place of a frame that is still being made, and the frame when it lies there.

        Who reads it before that waits for it. If it could not be made, or kept, reading it makes it `again`.
        """
        place, self.frames = self.frames, self.frames + 1
        kept: Future[np.ndarray] = Future()
        self._coming[place] = kept, again
        frame.add_done_callback(lambda made: self._keep(place, made, kept))
        return place, kept

    def read(self, place: int) -> np.ndarray:
        """uint8 [size, size, 3]; from any thread. Raises UserError when the film has been given up meanwhile."""
        if (coming := self._coming.get(place)) is not None:
            kept, again = coming
            if kept.exception() is None:
                return kept.result()
            self._write(place, again())
            self._coming.pop(place, None)
        with self._in_use:
            self._check_open()
            content = os.pread(self._file.fileno(), self._bytes, place * self._bytes)
        return np.frombuffer(content, np.uint8).reshape(self.size, self.size, 3)

    def close(self) -> None:
        wait([kept for kept, _ in list(self._coming.values())])
        with self._in_use:
            self._file.close()

    def _keep(self, place: int, made: Future[np.ndarray], kept: Future[np.ndarray]) -> None:
        try:
            self._write(place, made.result())
        except Exception as error:  # who waits for the frame hears of it
            kept.set_exception(error)
        else:
            kept.set_result(made.result())
            del self._coming[place]

    def _write(self, place: int, frame: np.ndarray) -> None:
        content = np.ascontiguousarray(frame, np.uint8).tobytes()
        if len(content) != self._bytes:
            raise ValueError(f"a frame of {len(content)} bytes in a film of {self._bytes}")
        with self._in_use, writing(self._folder):
            self._check_open()
            if os.pwrite(self._file.fileno(), content, place * self._bytes) < self._bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _check_open(self) -> None:
        if self._file.closed:
            raise UserError("this walk is not kept any more: start a new one")


@dataclass
class Step:
    """A frame of a walk. `action` led to it. `place` and `truth_place`: where the films have it, and the engine's."""

    action: Action
    place: int
    latents: Any = None
    """Of a model's frame, as the model made it: a walk that is taken up again goes on from these, to the bit."""
    pose: tuple[int, int, int] | None = None
    truth_place: int | None = None
    psnr: float | None = None


@dataclass
class Branch:
    """Frames from `origin` on; those before it are the parent's."""

    number: int
    parent: "Branch | None"
    origin: int
    steps: list[Step] = field(default_factory=list)
    end: str | None = None
    """Why nothing follows its last frame; None where something may."""

    @property
    def length(self) -> int:
        """All its frames, those of its parents included."""
        return self.origin + len(self.steps)

    def path(self, length: int) -> list[Step]:
        """Its first so many frames, those of its parents included."""
        parts, branch = [], self
        while branch is not None:
            parts.append(branch.steps[: max(0, length - branch.origin)])
            length, branch = min(length, branch.origin), branch.parent
        return [step for part in reversed(parts) for step in part]

    def step(self, frame: int) -> Step:
        branch = self
        while frame < branch.origin:
            assert branch.parent is not None  # the first one begins at 0
            branch = branch.parent
        return branch.steps[frame - branch.origin]


class History:
    """The branches of a walk, and where in them one stands: `branch`, at `frame`, the newest that is shown."""

    def __init__(self, clip: Sequence[Step]) -> None:
        self.context = len(clip)
        self.branches = [Branch(0, None, 0, list(clip))]
        self.branch = self.branches[0]
        self.frame = len(clip) - 1

    @property
    def made(self) -> int:
        """Frames of all branches, those of the clip not counted."""
        return sum(len(branch.steps) for branch in self.branches) - self.context

    @property
    def shown(self) -> int:
        """Frames at the beginning of this branch that are the clip's: one that leaves within the clip has fewer."""
        shown, branch = self.context, self.branch
        while branch.parent is not None:
            shown, branch = min(shown, branch.origin), branch.parent
        return shown

    def current(self) -> Step:
        return self.branch.step(self.frame)

    def path(self) -> list[Step]:
        """All steps up to where one stands."""
        return self.branch.path(self.frame + 1)

    def check_room(self) -> None:
        """Raises UserError when there is no room for another frame, or another branch."""
        if self.made >= MOST_FRAMES:
            raise UserError(f"this walk has {MOST_FRAMES:,} frames, which is all there is room for: save it")
        if self.frame < self.branch.length - 1 and len(self.branches) >= MOST_BRANCHES:
            raise UserError(
                f"this walk has {MOST_BRANCHES} branches, which is all there is room for: go on from an end"
            )

    def append(self, step: Step) -> None:
        """One frame further: at the end of the branch, or else in a new one."""
        if self.frame < self.branch.length - 1:
            self.branch = Branch(len(self.branches), self.branch, self.frame + 1)
            self.branches.append(self.branch)
        self.branch.steps.append(step)
        self.frame += 1

    def seek(self, frame: int) -> None:
        """Stand at a frame of this branch. Raises UserError when it has none."""
        if not 0 <= frame < self.branch.length:
            raise UserError(f"this branch has no frame {frame}: choose 0 to {self.branch.length - 1}")
        self.frame = frame

    def enter(self, number: int) -> None:
        """Stand at the end of a branch. Raises UserError when there is none."""
        if not 0 <= number < len(self.branches):
            raise UserError(f"there is no branch {number}: choose 0 to {len(self.branches) - 1}")
        self.branch = self.branches[number]
        self.frame = self.branch.length - 1

    def outline(self) -> list[dict[str, int]]:
        """The branches in numbers: `from` is the first frame that is a branch's own."""
        return [
            {"id": branch.number, "from": branch.origin or self.context, "length": branch.length}
            for branch in self.branches
        ]
