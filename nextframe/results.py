"""What an evaluation leaves on disk.

OUT/predictions/EPISODE.npz    the predicted frames of one episode and their scores, written when it is done
OUT/results.json               everything measured, and all it takes to measure it again
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nextframe.config import Protocol, SampleConfig
from nextframe.data.episodes import read_npz
from nextframe.errors import UserError
from nextframe.files import new_file, write_atomically
from nextframe.metrics.statistics import Gain, Score, gain, score

RESULTS = "results.json"
PREDICTIONS = "predictions"
Method = Literal["model", "repeat_last", "context_mean", "reconstruction"]
METHODS: dict[Method, str] = {
    "model": "the model",
    "repeat_last": "repeat the last frame",
    "context_mean": "mean frame of the context",
    "reconstruction": "autoencoder alone (ceiling)",
}
BASELINES: tuple[Method, ...] = ("repeat_last", "context_mean")
METRICS = ("psnr", "ssim")
SHOWN = (1, 2, 4, 8, 16, 32, 64, 128)
"""Predicted frames, counted from 1, that film strips show and reconstructions are kept of."""


@dataclass(frozen=True)
class Prediction:
    """The file of one finished episode."""

    video: np.ndarray
    """uint8 [frames, h, w, 3]: what the model predicts."""
    reconstruction: np.ndarray
    """uint8 [shown, h, w, 3]: the true frames `SHOWN`, through the autoencoder and back."""
    scores: np.ndarray
    """float32 [methods, metrics, frames], in the order of METHODS and METRICS."""
    rollout_seconds: float
    """This episode's share of its batch's time in the transformer."""
    decode_seconds: float
    """The same in the decoder."""
    batch: int
    """Episodes predicted side by side with this one, itself included."""
    hardware: str
    """That the seconds were measured on."""
    fingerprint: str
    """Of everything that decides what is predicted; another one means that this file is out of date."""


@dataclass(frozen=True)
class Speed:
    """Measured while sampling. The context is encoded before; reading it is part of the first frame."""

    hardware: str
    batch: int
    """Episodes predicted side by side."""
    rollout_frames_per_second: float
    """Frames of all episodes of the batch together; the transformer alone."""
    decode_frames_per_second: float
    """The decoder alone."""
    frames_per_second: float
    """Both, one after the other."""
    seconds_per_frame: float
    """1 / frames_per_second"""


@dataclass(frozen=True)
class Tokens:
    """What the transformer looks at when the last frame is predicted: the newest frames fine, all older ones coarse."""

    fine_frames: int
    fine_per_frame: int
    coarse_frames: int
    coarse_per_frame: int
    total: int
    uniform: int
    """If every frame were fine."""


@dataclass(frozen=True)
class Results:
    """`results.json`"""

    protocol: Protocol
    sample: SampleConfig
    episodes: tuple[str, ...]
    seeds: tuple[int, ...]
    """Of each episode's noise."""
    scores: dict[Method, dict[str, Score]]
    """By method and metric."""
    gains: dict[Method, dict[str, Gain]]
    """The model's lead over each baseline, by metric."""
    speed: Speed
    tokens: Tokens
    model: dict[str, Any]
    """Its folder, configuration, parameters, and the sha256 of its weights."""
    data: dict[str, Any]
    """Its folder, and what it says about itself."""
    environment: dict[str, Any]
    """Hardware, precision, versions."""

    def best_to_worst(self) -> list[int]:
        """Episode numbers by the model's PSNR over all predicted frames, best first."""
        values = self.scores["model"]["psnr"].episodes
        return sorted(range(len(values)), key=lambda index: -values[index])


def summarise(scores: np.ndarray) -> tuple[dict[Method, dict[str, Score]], dict[Method, dict[str, Gain]]]:
    """Scores of every method and leads over the baselines, from [episodes, methods, metrics, frames]."""
    by_method = dict(zip(METHODS, scores.swapaxes(0, 1), strict=True))  # each [episodes, metrics, frames]
    return (
        {
            method: {metric: score(values[:, index]) for index, metric in enumerate(METRICS)}
            for method, values in by_method.items()
        },
        {
            baseline: {
                metric: gain(by_method["model"][:, index], by_method[baseline][:, index])
                for index, metric in enumerate(METRICS)
            }
            for baseline in BASELINES
        },
    )


def shown(frames: int) -> list[int]:
    """Which of `frames` predicted frames are shown, counted from 1."""
    return [frame for frame in SHOWN if frame <= frames]


def write_results(out: Path, results: Results) -> None:
    write_atomically(out / RESULTS, json.dumps(asdict(results), indent=1).encode())


def prediction_path(out: Path, episode: str) -> Path:
    return out / PREDICTIONS / f"{episode}.npz"


def write_prediction(path: Path, prediction: Prediction) -> None:
    with new_file(path) as temporary:
        np.savez_compressed(temporary, **vars(prediction))


def is_done(path: Path, fingerprint: str) -> bool:
    """Whether an episode was predicted under the same settings before. A damaged file counts as not done."""
    try:
        return path.exists() and read_prediction(path).fingerprint == fingerprint
    except UserError:
        return False


def read_prediction(path: Path) -> Prediction:
    """Raises UserError when the file is missing or damaged."""
    arrays = read_npz(path, "evaluate again")
    try:
        return Prediction(
            video=arrays["video"],
            reconstruction=arrays["reconstruction"],
            scores=arrays["scores"],
            rollout_seconds=float(arrays["rollout_seconds"]),
            decode_seconds=float(arrays["decode_seconds"]),
            batch=int(arrays["batch"]),
            hardware=str(arrays["hardware"]),
            fingerprint=str(arrays["fingerprint"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no prediction ({error}): delete it, and evaluate again") from error
