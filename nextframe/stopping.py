"""To be asked to stop, and to end well: what is under way is finished first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from nextframe import ranks
from nextframe.errors import Stopped

ASKED: dict[int, int] = {signal.SIGTERM: 1, signal.SIGINT: 2}
"""The ways to ask a run to stop. Where processes are asked in both, all end as by the second."""


@contextmanager
def interruptions() -> Iterator[Callable[[], float]]:
    """Yield a question: was the process asked to stop, and how (`ASKED`; 0: it was not)?

    No step is left half done, but a second Ctrl-C does not wait. A second SIGTERM does: whoever sends it to all
    processes, and has torchrun pass it on to them, means it once.
    """
    asked = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT and not ranks.launched():
            raise KeyboardInterrupt
        asked = max(asked, ASKED[number])

    if threading.current_thread() is not threading.main_thread():  # only the main thread may catch signals
        yield lambda: 0
        return
    before = {number: signal.signal(number, note) for number in ASKED}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_as(asked: float) -> KeyboardInterrupt:
    """What to raise when all is saved, as it was asked (`ASKED`)."""
    return Stopped() if asked == ASKED[signal.SIGTERM] else KeyboardInterrupt()
