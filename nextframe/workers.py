"""How a module of nextframe is run as a process of its own: with one core, the nextframe that runs here, and no longer
than the process that started it."""

import ctypes
import os
import signal
import sys
from pathlib import Path

SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def worker_command(module: str, *arguments: str) -> list[str]:
    # -P: modules are not looked for in the working directory.
    return [sys.executable, "-P", "-m", module, *arguments]


def worker_environment() -> dict[str, str]:
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def end_with_parent(parent: int) -> None:
    """Have the kernel end this process (SIGTERM) when the one that started it is no more, however that went.

    Raises SystemExit when it has gone already, before it could be told so.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the process that started this one has ended")
