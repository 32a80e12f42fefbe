"""How long training waits for a checkpoint, on a CPU: tests/checkpoint_cost.py PRESET RUN.

Under torchrun the model is in pieces. Three checkpoints are written to RUN, a folder that is not there yet.
"""

import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from nextframe import ranks
from nextframe.learner import Learner, Task
from nextframe.memory import keep_freed_memory
from nextframe.objective import FrameFlowMatching
from nextframe.pieces import Position
from nextframe.presets import FAR
from nextframe.saver import saving
from nextframe.train import save
from nextframe.transformer import Transformer


def now() -> float:
    """When all processes are here."""
    ranks.largest(0)
    return time.monotonic()


def measure(preset: str, run: Path) -> None:
    config = FAR[preset]
    network = Transformer(config.model)
    settings = replace(config.train, device="cpu", shard=ranks.world_size() > 1, precision="float32")
    learner = Learner(Task(network, FrameFlowMatching(config), lambda step: None, product=network), settings)
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    learner.optimizer.step(0.0, torch.tensor(False))  # so that it has a state
    with saving(run, Position(), learner.device) as saver:
        for step in (1, 2, 3):
            begun = now()
            save(saver, learner, Position(step))
            blocked = now()
            saver.wait()
            written = now()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            if ranks.rank() == 0:
                print(
                    f"blocked {blocked - begun:.2f} s, then {written - blocked:.1f} s of writing, peak {peak:.2f} GiB"
                )


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    keep_freed_memory()
    torch.set_num_threads(1)
    with ranks.process_group(torch.device("cpu"), 10):
        measure(sys.argv[1], Path(sys.argv[2]))
