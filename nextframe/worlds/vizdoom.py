"""The ViZDoom engine as a process: started so that it ends with whoever uses it, and leaves nothing."""

import os
import stat
import sys
from pathlib import Path
from typing import Any

from nextframe.errors import UserError

INSTANCE = "instance"  # the file with the name of an engine's shared memory
LAUNCHER = """#!/bin/sh
'''exec' "{python}" "$0" "$@" # for Python this line and the next are a string: a path may have spaces
' '''
# The engine must not outlive the process that uses it, however that ends: the kernel kills it (PR_SET_PDEATHSIG = 1).
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != {parent}:
    sys.exit("the process that started this engine has ended")
os.chdir({folder!r})  # it makes a folder _vizdoom where it starts
with open({note!r}, "w") as note:
    note.write(sys.argv[sys.argv.index("+viz_instance_id") + 1])
os.execv({engine!r}, [{engine!r}, *sys.argv[1:]])
"""


def clear_after_kill(folder: Path) -> None:
    """Free the shared memory (10 MB) of engines that had their files under `folder` and whose user was killed."""
    for note in folder.rglob(INSTANCE):
        if instance := note.read_text():
            for block in Path("/dev/shm").glob(f"ViZDoom*{instance}"):
                block.unlink()


def load_vizdoom() -> Any:
    """The vizdoom module. Raises UserError when it is not installed."""
    try:
        import vizdoom
    except ModuleNotFoundError as error:
        if error.name != "vizdoom":
            raise
        raise UserError("mazes are rendered by ViZDoom, which is not installed: pip install vizdoom") from error
    return vizdoom


def launcher(engine: Path, folder: Path) -> Path:
    """A program that runs the engine in `folder`, and ends it with this process; see `clear_after_kill`."""
    if sys.platform != "linux":
        return engine
    script = folder / "engine"
    facts = {"python": sys.executable, "parent": os.getpid(), "engine": str(engine), "folder": str(folder)}
    script.write_text(LAUNCHER.format(**facts, note=INSTANCE))
    script.chmod(stat.S_IRWXU)
    return script
