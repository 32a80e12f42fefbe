"""What an evaluation asks of a model."""

from dataclasses import dataclass, replace
from typing import Literal

from nextframe.architecture import at_least
from nextframe.config import SampleConfig

Metric = Literal["psnr", "ssim", "lpips", "fvd", "drift", "revisit", "control"]
MOST_EPISODES, MOST_TRAJECTORIES, SEEDS = 2**20, 2**10, 2**12
"""Within these no two trajectories meet in the 63 bits that noise is drawn from (`forecast.noise_seed`)."""


@dataclass(frozen=True)
class Protocol:
    """What `nextframe evaluate` asks of a model: go on from the first frames of held-out episodes, or begin.

    Frames are counted as the model counts them: a model that was trained on every third frame is shown, and asked for,
    every third. The last four fields are choices of measuring, in which the published script differs (docs/paper.md).
    """

    context: int = 144
    """Frames the model is shown. 0: it is asked for clips of its own, which are held against as many true ones; these
    are then drawn from the split, the same number of each class."""
    frames: int = 156
    """Frames it predicts after them, given the true actions."""
    episodes: int = 64
    """How many, the first by name."""
    split: str = "test"
    """Which part of the data set they are taken from."""
    seeds: tuple[int, ...] = (0,)
    """All is done once for each seed; the scores are averaged, and their spread is reported."""
    trajectories: int = 1
    """Continuations of each episode. PSNR, SSIM and LPIPS are those of its best one, by each metric's own choice; the
    FVD is the mean over those of all first continuations, of all second ones ..."""
    steps: int | None = None
    """Euler steps per frame. None: the model's own setting, and its own solver."""
    guidance: float | None = None
    """None: the model's own setting."""
    metrics: tuple[Metric, ...] = ("psnr", "ssim")
    """What cannot be computed is reported missing. FVD needs 10 frames and 2 episodes; FVD and LPIPS need weights,
    revisit needs logged poses, control needs actions by number and footage of the training split."""
    name: str = ""
    """As it is listed; the authors' results stand beside those of theirs. Empty: your own."""
    every: int = 1
    """Only every n-th episode of the split, by name, is one of the protocol's."""
    fvd_frames: Literal["predicted", "all"] = "predicted"
    """all: the context too, true on one side, through the autoencoder and back on the other."""
    scored: Literal["frames", "mp4"] = "frames"
    """Of PSNR, SSIM, LPIPS and FVD: the 8-bit frames themselves, or what a lossy mp4 leaves of them."""
    lpips_pixels: Literal["signed", "unit"] = "signed"
    """What LPIPS is shown: [-1, 1], as its authors say, or [0, 1], as the published script does."""

    def __post_init__(self) -> None:
        at_least(self, context=0, frames=1, episodes=1, trajectories=1, steps=1, guidance=0, every=1)
        seeds_fit = all(0 <= seed < SEEDS for seed in self.seeds)
        if self.episodes > MOST_EPISODES or self.trajectories > MOST_TRAJECTORIES or not seeds_fit:
            raise ValueError("at most 2**20 episodes and 2**10 trajectories, and seeds from 0 to 2**12 - 1")
        for name in ("seeds", "metrics"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} {values}: give at least one, none of them twice")

    def settings(self, own: SampleConfig) -> SampleConfig:
        """A model's own sampling settings, with those of the protocol in their place."""
        if self.steps is not None:
            own = replace(own, steps=self.steps, solver="euler")
        return own if self.guidance is None else replace(own, guidance=self.guidance)
