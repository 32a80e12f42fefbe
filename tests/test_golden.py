"""A golden run: 100 losses of a tiny model, which no refactoring may change by more than rounding.

After a change that is meant to change them: `NEXTFRAME_GOLDEN=write pytest tests/test_golden.py`; the commit says why.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LONG

from nextframe.clip_starts import draw_clip_starts
from nextframe.config import ClipConfig, OptimizerConfig, TrainConfig, WorldModelConfig
from nextframe.learner import Learner, Task
from nextframe.objective import Clips, FrameFlowMatching
from nextframe.train import train
from nextframe.transformer import Transformer

GOLDEN = Path(__file__).parent / "golden.json"
CONFIG = WorldModelConfig(
    model=replace(LONG, layers=3),
    clip=ClipConfig(frames=12, min_frames=4),
    train=TrainConfig(
        steps=100,
        batch=4,
        accumulate=2,
        log_every=1,
        device="cpu",
        precision="float32",
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=10, decay=0.3),
    ),
)


def clips(step: int) -> Clips:
    """A wave that an action shifts: something to learn, a function of the step alone."""
    random = np.random.default_rng((1, step))
    frames, batch = draw_clip_starts(CONFIG, step, CONFIG.clip.frames, random).lengths[0], CONFIG.train.batch
    actions = random.integers(0, CONFIG.model.classes, (batch, frames))
    phase = random.uniform(0, 6, (batch, 1)) + np.cumsum(actions, axis=1)
    c, h, w = np.meshgrid(np.arange(3), np.arange(4), np.arange(4), indexing="ij")
    latents = np.sin(phase[:, :, None, None, None] + c + 0.7 * h + 1.3 * w)
    return Clips(torch.from_numpy(latents).float(), torch.from_numpy(actions))


def test_golden_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Transformer(CONFIG.model)
    task = Task(network, FrameFlowMatching(CONFIG), clips, product=network)
    train(Learner(task, CONFIG.train), tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 100 and sum(losses[-10:]) < 0.7 * sum(losses[:10])
    if os.environ.get("NEXTFRAME_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps([round(loss, 7) for loss in losses], indent=0))
    assert losses == pytest.approx(json.loads(GOLDEN.read_text()), rel=2e-4)
