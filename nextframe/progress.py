"""Progress with time left: a bar on a terminal, a line every few seconds in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

LOG_EVERY_SECONDS = 10.0


class Advance(Protocol):
    """Report that `count` more units are done; `note` is shown beside the bar."""

    def __call__(self, count: float = 1, note: str = "") -> None: ...


def clock(seconds: float) -> str:
    """Seconds as a person writes them: `42s`, `3m10s`, `2h05m`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


def in_words(size: int) -> str:
    """Bytes as a person writes them: `2.1 GiB`."""
    for unit, amount in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= amount:
            return f"{size / amount:.1f} {unit}"
    return f"{size / 2**10:.1f} KiB"


def silent(count: float = 1, note: str = "") -> None:
    """An `Advance` that nobody sees."""


def progress(title: str, total: float, done: float = 0) -> AbstractContextManager[Advance]:
    """Show the progress of `total` units of work, of which `done` were finished by an earlier run."""
    return (_bar if sys.stderr.isatty() else _lines)(title, total, done)


@contextmanager
def _bar(title: str, total: float, done: float) -> Iterator[Advance]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(bar_width=30),
        rich_progress.TaskProgressColumn(),
        rich_progress.TimeRemainingColumn(compact=True),
        rich_progress.TextColumn("{task.fields[note]}"),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=total, note="")
        bars.update(task, completed=done)

        def advance(count: float = 1, note: str = "") -> None:
            bars.update(task, advance=count, note=note)

        yield advance


@contextmanager
def _lines(title: str, total: float, done: float) -> Iterator[Advance]:
    started = last = time.monotonic()
    finished = done

    def line(note: str) -> None:
        spent = time.monotonic() - started
        left = spent / (finished - done) * (total - finished) if finished > done else float("nan")
        time_left = f", {clock(left)} left" if 0 < left < float("inf") else ""
        print(f"{title}: {finished / total:4.0%}{time_left}{'  ' + note if note else ''}", file=sys.stderr, flush=True)

    def advance(count: float = 1, note: str = "") -> None:
        nonlocal finished, last
        finished += count
        if time.monotonic() - last >= LOG_EVERY_SECONDS:
            last = time.monotonic()
            line(note)

    yield advance
    ended = "done" if finished >= total * (1 - 1e-6) else f"stopped at {finished / total:.0%}"
    print(f"{title}: {ended} after {clock(time.monotonic() - started)}", file=sys.stderr, flush=True)
