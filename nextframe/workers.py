"""How a module of nextframe is run as a process of its own: with one core, and the nextframe that runs here."""

import os
import sys
from pathlib import Path


def worker_command(module: str, *arguments: str) -> list[str]:
    # -P: modules are not looked for in the working directory.
    return [sys.executable, "-P", "-m", module, *arguments]


def worker_environment() -> dict[str, str]:
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
