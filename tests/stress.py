"""Training that is killed: tests/stress.py FOLDER KILLS at random moments again and again, or FOLDER moments.

FOLDER holds latents. Each life is forked from this process, which has imported torch and does nothing else; it is
killed after a random time, most likely while a checkpoint is written: one is, after every step.
"""

import os
import random
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from ranks_target import FAR_LONG

from nextframe import pieces
from nextframe.config import WorldModelConfig
from nextframe.errors import Stopped
from nextframe.recipes import train_preset

CONFIG = replace(FAR_LONG, train=replace(FAR_LONG.train, checkpoint_minutes=0.0))
STEPS_PER_LIFE = 12  # more than a life can take: so the run never ends before its last life
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
STOPPED = 3
"""Exit status of a life that was asked to end, and has saved."""
MOMENTS = ("half its pieces", "before the weights", "after the weights")


def endless() -> WorldModelConfig:
    return replace(FAR_LONG, train=replace(FAR_LONG.train, steps=10**6))


def lives(folder: Path, kills: int) -> int:
    """Train FOLDER/killed to its end, with `kills` kills on the way, by SIGKILL and SIGTERM in turns; returns how many
    hit the work itself."""
    config = replace(CONFIG, train=replace(CONFIG.train, steps=STEPS_PER_LIFE * (kills + 1)))
    chance, killed, longest = random.Random(0), 0, 0.5
    while True:
        child = os.fork()
        if child == 0:
            live(config, folder)
        if killed < kills:
            time.sleep(chance.uniform(0.02, longest))
            os.kill(child, SIGNALS[killed % len(SIGNALS)])
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != STOPPED:
            assert os.WEXITSTATUS(status) == 0, "a life ended with an error of its own"
            return killed
        killed += 1


def live(config: WorldModelConfig, folder: Path) -> None:
    """Train until it is done, or asked to end; does not return."""
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _give_way)
    try:
        torch.set_num_threads(1)
        train_preset(config, folder / "latents", folder / "killed")
    except Stopped:
        os._exit(STOPPED)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _give_way(_signal: int, _frame: Any) -> None:
    # What is raised while something is deleted, Python prints and forgets: so once more, unless this life has ended.
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    raise Stopped


def moments(folder: Path) -> None:
    """Train FOLDER/MOMENT, for each of `MOMENTS` at which its second checkpoint is killed."""
    for moment in MOMENTS:
        for steps in (2, 4):
            if (child := os.fork()) == 0:
                torch.set_num_threads(1)
                if steps == 4:
                    kill_at(moment)
                train_preset(
                    replace(FAR_LONG, train=replace(FAR_LONG.train, steps=steps)), folder / "latents", folder / moment
                )
                os._exit(0)
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status) == (steps == 4)


def kill_at(moment: str) -> None:
    """Have this process killed at a moment of its first checkpoint."""
    saved, exported, calls = safetensors.torch.save, pieces.write_weights, []

    def save(*given: Any, **named: Any) -> bytes:
        calls.append(given)
        if moment == "half its pieces" and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return saved(*given, **named)

    def export(*given: Any) -> None:
        if moment == "after the weights":
            exported(*given)
        os.kill(os.getpid(), signal.SIGKILL)

    safetensors.torch.save, pieces.write_weights = save, export


if __name__ == "__main__":
    if sys.argv[2] == "moments":
        moments(Path(sys.argv[1]))
    else:
        print(lives(Path(sys.argv[1]), int(sys.argv[2])))
