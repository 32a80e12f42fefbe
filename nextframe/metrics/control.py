"""Control: does the predicted picture do what the action says?

A small network learns, from true footage, which action leads from one frame to the next. Then it is shown predicted
frames: where it reads the action that was asked for, the prediction obeyed. What it reads off true frames is the most
that can be hoped for: against a wall, forward is no movement.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nextframe.data.episodes import EpisodeDataset, EpisodeInfo
from nextframe.errors import UserError, reason_of
from nextframe.files import new_file
from nextframe.progress import progress

VERSION = "control 1"
SPLIT = "train"
MOST_EPISODES = 24
"""To learn from; two dozen mazes are 7,000 steps."""
FEWEST_PAIRS = 200
SIDE = 32
"""Rows and columns of what the network sees."""
STEPS, BATCH, RATE = 300, 64, 4e-3


class ActionReader(nn.Module):
    """Two frames to the action between them. Make one with `learned`."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.actions = actions
        channels, kernels, layers = (9, 16, 32, 64), (5, 3, 3), []
        for before, after, kernel in zip(channels[:-1], channels[1:], kernels, strict=True):
            convolution = nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * (SIDE // 8) ** 2, actions))
        self.commonest: Tensor
        self.register_buffer("commonest", torch.zeros((), dtype=torch.int64))
        """The action most often taken in the footage it learned from: what one says without looking."""

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Two pictures [b, 3, SIDE, SIDE] in [0, 1] -> logits [b, actions]"""
        return self.network(torch.cat([before, after, after - before], dim=1))

    @classmethod
    def learned(cls, dataset: EpisodeDataset, folder: Path | None) -> tuple[Self, str]:
        """One that has learned from the training split of `dataset`, and the digest of that footage.

        It is kept in `folder`, and learns anew only from other footage. It always learns the same. Without a folder it
        learns nothing: it is for an estimate then, which takes as long. Raises UserError where there is nothing to
        learn from.
        """
        infos = episodes_to_learn_from(dataset)
        facts = [VERSION, STEPS, BATCH, RATE, SIDE, [dataset.digest(info) for info in infos]]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        if folder is None:
            return cls(len(dataset.info.action_names)).eval(), digest
        path = folder / f"control-{digest[:16]}.safetensors"
        if path.exists():
            reader = cls(len(dataset.info.action_names))
            try:
                reader.load_state_dict(load_file(path))
                return reader.eval(), digest
            except (SafetensorError, RuntimeError, OSError) as error:
                raise UserError(f"{path} is damaged ({reason_of(error)}): delete it, and evaluate again") from error
        pictures, actions = [], []
        with progress("reading footage with actions", len(infos)) as advance:
            for info in infos:
                episode = dataset.read(info)
                pictures.append(_small(episode.video))
                actions.append(torch.from_numpy(episode.actions))
                advance()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            reader = cls(len(dataset.info.action_names))
            reader.learn(pictures, actions)
        with new_file(path) as temporary:
            save_file(reader.state_dict(), temporary)
        return reader.eval(), digest

    def learn(self, pictures: Sequence[Tensor], actions: Sequence[Tensor]) -> None:
        """`pictures`: [f, 3, SIDE, SIDE] of each episode. `actions`: [f] of each, the last of which led nowhere."""
        before = torch.cat([clip[:-1] for clip in pictures])
        after = torch.cat([clip[1:] for clip in pictures])
        taken = torch.cat([ids[:-1] for ids in actions])
        self.commonest.copy_(taken.bincount().argmax())
        # An action that is rare counts as much as one that is common.
        counts = taken.bincount(minlength=self.actions)
        weights = torch.where(counts > 0, len(taken) / counts.clamp(min=1), 0.0)
        weights /= weights[counts > 0].mean()
        optimizer = torch.optim.AdamW(self.parameters(), lr=RATE, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
        told = "learning to read actions off pictures"
        with torch.enable_grad(), torch.autocast("cpu", enabled=False), progress(told, STEPS) as advance:
            for _ in range(STEPS):
                batch = torch.randint(len(taken), (BATCH,))
                logits = self(before[batch], after[batch])
                loss = nn.functional.cross_entropy(logits, taken[batch], weights)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                advance()

    @torch.no_grad()
    def obeyed(self, video: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Whether each frame but the first is where its action leads: float32 [f - 1] of 0 and 1.

        `video`: uint8 [f, h, w, 3]. `actions`: int64 [f - 1], those between the frames.
        """
        pictures = _small(video)
        with torch.autocast("cpu", enabled=False):
            read = self(pictures[:-1], pictures[1:]).argmax(1)
        return (read.numpy() == actions).astype(np.float32)

    def guessed(self, actions: np.ndarray) -> np.ndarray:
        """The same of one who always says the commonest action."""
        return (actions == self.commonest.item()).astype(np.float32)


def episodes_to_learn_from(dataset: EpisodeDataset) -> list[EpisodeInfo]:
    """The first of the training split. Raises UserError where they are too few, or no action can be read."""
    info, infos = dataset.info, dataset.episodes(SPLIT)[:MOST_EPISODES]
    if info.action_kind == "vector":
        raise UserError("actions that are vectors are not read off pictures: leave it out")
    if len(info.action_names) < 2:
        raise UserError(f"{dataset.folder} has no two actions to tell apart: leave it out")
    if sum(episode.frames - 1 for episode in infos) < FEWEST_PAIRS:
        have = f"{dataset.folder} has too little footage of the split {SPLIT!r} to learn from"
        raise UserError(f"{have}: record {MOST_EPISODES} episodes of it beside the others")
    return infos


def _small(video: np.ndarray) -> Tensor:
    """uint8 [f, h, w, 3] -> [f, 3, SIDE, SIDE] in [0, 1], each pixel an average."""
    pixels = torch.from_numpy(video).movedim(-1, 1).float() / 255
    return nn.functional.adaptive_avg_pool2d(pixels, SIDE)
