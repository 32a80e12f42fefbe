"""Is the wall still there after turning away and back? python tests/turning_round.py MODEL DATA [MAZES]

From the last frame of the context one turns left, and right again as often (or goes on to the left, once round): the
pose is then the one before to the last bit, so the truth is the last frame that was shown. With all frames as memory,
and with as many as its window has alone. Means over mazes of the split `test` and 95 % intervals; `elsewhere` is the
view half way, against the same truth: what any other view scores.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import nextframe
from nextframe.data.episodes import EpisodeDataset
from nextframe.metrics.image import psnr
from nextframe.runs import WorldModel

CONTEXT = 144
STAY, LEFT, RIGHT = 0, 2, 3
QUARTER = 4
WALKS = {
    "45": [LEFT] * 2 + [RIGHT] * 2,
    "90": [LEFT] * QUARTER + [RIGHT] * QUARTER,
    "180": [LEFT] * 2 * QUARTER + [RIGHT] * 2 * QUARTER,
    "180, 8 frames there": [LEFT] * 2 * QUARTER + [STAY] * 8 + [RIGHT] * 2 * QUARTER,
    "once round, 360": [LEFT] * 4 * QUARTER,
}


def scores(model: WorldModel, video: torch.Tensor, actions: torch.Tensor, memory: int | None) -> dict[str, float]:
    sample = model.config.sample
    if memory is not None:
        sample = replace(sample, memory=memory, slide=1)
    walk, truth = model.walk(video, actions, sample), video[-1:].numpy()

    def score(frame: torch.Tensor) -> float:
        return float(psnr(frame[None].numpy(), truth)[0])

    found = {"autoencoder": score(model.decode(model.encode(video[-1:]))[0])}
    for name, turns in WALKS.items():
        frames = [walk.step(action) for action in turns]
        found[name] = score(frames[-1])
        if name == "180":
            found["elsewhere"] = score(frames[len(frames) // 2 - 1])
        walk.rewind(len(video))
    return found


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    model, data = nextframe.load(Path(sys.argv[1])), EpisodeDataset.open(Path(sys.argv[2]))
    window = model.config.model.window
    for name, memory in (("all frames", None), (f"the newest {window}", window)):
        found: list[dict[str, float]] = []
        for info in data.episodes("test")[: int(sys.argv[3]) if len(sys.argv) > 3 else 64]:
            episode = data.read(info)
            video, actions = torch.from_numpy(episode.video[:CONTEXT]), torch.from_numpy(episode.actions[: CONTEXT - 1])
            found.append(scores(model, video, actions, memory))
        for walk in found[0]:
            values = np.array([one[walk] for one in found])
            half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
            print(f"{name:14} {walk:20} {values.mean():.1f} ({values.mean() - half:.1f}-{values.mean() + half:.1f}) dB")


if __name__ == "__main__":
    main()
