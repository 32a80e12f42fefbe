"""Training that is killed at random moments, again and again: tests/stress.py FOLDER KILLS.

FOLDER holds latents. Each life is forked from this process, which has imported torch and does nothing else; it is
killed after a random time, most likely while a checkpoint is written: one is, after every step.
"""

import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from ranks_target import FAR_LONG

from nextframe.config import WorldModelConfig
from nextframe.recipes import train_preset

CONFIG = replace(FAR_LONG, train=replace(FAR_LONG.train, checkpoint_minutes=0.0))
STEPS_PER_LIFE = 6


def endless() -> WorldModelConfig:
    return replace(FAR_LONG, train=replace(FAR_LONG.train, steps=10**6))


def lives(folder: Path, kills: int) -> int:
    """Train FOLDER/killed to its end, with `kills` kills on the way; returns how many hit the work itself."""
    config = replace(CONFIG, train=replace(CONFIG.train, steps=STEPS_PER_LIFE * (kills + 1)))
    chance, killed, longest = random.Random(0), 0, 0.5
    while True:
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            train_preset(config, folder / "latents", folder / "killed")
            os._exit(0)
        if killed < kills:
            time.sleep(chance.uniform(0.02, longest))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "a life ended with an error of its own"
            return killed
        killed += 1


if __name__ == "__main__":
    print(lives(Path(sys.argv[1]), int(sys.argv[2])))
