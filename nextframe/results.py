"""What an evaluation leaves on disk.

OUT/predictions/EPISODE.npz    the predicted frames of one episode and their scores, written when it is done
OUT/predictions/EPISODE@seed2@trajectory7.npz    the same of a further seed, or of a further continuation
OUT/results.json               everything measured, and all it takes to measure it again
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nextframe.config import SampleConfig
from nextframe.data.arrays import read_npz
from nextframe.errors import UserError
from nextframe.files import new_file, write_json
from nextframe.metrics.kinds import FRAME_METRICS, METRICS
from nextframe.metrics.statistics import EARLY, Figure, Gain, Score, Spread, gain, score
from nextframe.protocol import Protocol

RESULTS = "results.json"
PREDICTIONS = "predictions"
SCORE = "score_"
"""Before the name of a metric: the array of its scores in a prediction's file."""
HOW = "how_"
"""The same, of the text that says what computed them."""
Method = Literal["model", "repeat_last", "context_mean", "reconstruction"]
METHODS: dict[Method, str] = {
    "model": "the model",
    "repeat_last": "repeat the last frame",
    "context_mean": "mean frame of the context",
    "reconstruction": "autoencoder alone (ceiling)",
}
REFERENCES = {"truth": "the true frames", "guess": "the commonest action"}
"""What control is measured of beside the methods."""
BASELINES: tuple[Method, ...] = ("repeat_last", "context_mean")
OWN_METRICS = ("drift", "revisit", "control")
"""No best trajectory is picked for them."""
SHOWN = (1, 2, 4, 8, 16, 32, 64, 128)
"""Predicted frames, counted from 1, that film strips show and reconstructions are kept of."""


@dataclass(frozen=True)
class Measured:
    """What is known of one finished trajectory, beside its pictures."""

    scores: dict[str, np.ndarray]
    """By metric, float32 [methods, frames] in the order of METHODS; of an episode's further trajectories [1, frames],
    as the other methods know no trajectories. Of drift [methods and truth, frames, statistics], of revisit [methods
    and number of frames, groups], of control [methods, truth and guess, frames]."""
    features: np.ndarray
    """For the FVD, float32 [n, d]: of the prediction and, with an episode's first trajectory, of the true frames."""
    frames: int
    rollout_seconds: float
    """This trajectory's share of its batch's time in the transformer."""
    decode_seconds: float
    """The same in the decoder."""
    batch: int
    """Trajectories predicted side by side with this one, itself included."""
    hardware: str
    """That the seconds were measured on."""
    fingerprint: str
    """Of everything that decides what is predicted; another one means that this file is out of date."""
    how: dict[str, str] = field(default_factory=dict)
    """By metric, what computed it; another one means that it is to be scored again."""


@dataclass(frozen=True)
class Prediction:
    """The file of one finished trajectory."""

    video: np.ndarray
    """uint8 [frames, h, w, 3]: what the model predicts."""
    reconstruction: np.ndarray
    """uint8 [shown, h, w, 3]: the true frames `SHOWN`, through the autoencoder and back; none of further trajectories,
    nor where nothing was to be continued."""
    measured: Measured


@dataclass(frozen=True)
class Speed:
    """Measured while sampling. The context is encoded before; reading it is part of the first frame."""

    hardware: str
    batch: int
    """Trajectories predicted side by side."""
    rollout_frames_per_second: float
    """Frames of the whole batch together; the transformer alone."""
    decode_frames_per_second: float
    """The decoder alone."""
    frames_per_second: float
    """Both, one after the other."""
    seconds_per_frame: float
    """1 / frames_per_second"""


@dataclass(frozen=True)
class TokenCounts:
    """What the transformer looks at when the last frame is predicted: the newest frames fine, all older ones coarse."""

    fine_frames: int
    fine_per_frame: int
    coarse_frames: int
    coarse_per_frame: int
    total: int
    uniform: int
    """If every frame were fine."""


@dataclass(frozen=True)
class Revisit:
    """PSNR over the predicted frames of one of `revisit.GROUPS`."""

    group: str
    frames: int
    """In all episodes together."""
    episodes: int
    """That have such frames; each has the same weight."""
    scores: dict[Method, Figure]
    """Empty where there are no such frames."""


@dataclass(frozen=True)
class Results:
    """`results.json`"""

    protocol: Protocol
    sample: SampleConfig
    episodes: tuple[str, ...]
    seeds: tuple[int, ...]
    """Of the noise of each episode, in its first trajectory; those of the others follow from `forecast.noise_seed`."""
    labels: tuple[int, ...]
    """The class that the model was told for each episode; none where it is not told any."""
    scores: dict[Method, dict[str, Score]]
    """By method and metric of frames: the best trajectory of each episode, averaged over seeds; by drift and control
    the mean over trajectories."""
    gains: dict[Method, dict[str, Gain]]
    """The model's lead over each baseline, by metric; positive where it is better."""
    by_seed: dict[str, Spread]
    """The model by each metric, FVD too: over all predicted frames and episodes, for each of the protocol's seeds (by
    revisit over frames that were shown before)."""
    picked: tuple[int, ...]
    """The trajectory of each episode that is its best in the first seed, by the first metric of frames."""
    revisit: tuple[Revisit, ...]
    """By group of frames; none where it was not computed."""
    control: dict[str, Score]
    """What control is of the true frames, and of a guess that does not look; none where it was not computed."""
    fvd: Figure | None
    """With its 95 % interval over episodes (`statistics.jackknife`); None where there is none."""
    how: dict[str, str]
    """By metric, what computed it: name and version, or the sha256 of its weights, and what it was shown."""
    missing: dict[str, str]
    """Metrics of the protocol that could not be computed, and why."""
    speed: Speed
    tokens: TokenCounts
    model: dict[str, Any]
    """Its folder, configuration, parameters, and the sha256 of its weights."""
    data: dict[str, Any]
    """Its folder, and what it says about itself."""
    environment: dict[str, Any]
    """Hardware, precision, versions."""

    @property
    def told(self) -> str:
        """What the model was told of each frame, as in `TransformerConfig.condition`."""
        return self.model["config"]["model"]["condition"] if self.sample.guidance else "none"

    @property
    def frame_metrics(self) -> list[str]:
        """Those of frames that were computed, in the order of FRAME_METRICS."""
        return [metric for metric in FRAME_METRICS if metric in self.by_seed]

    @property
    def fps(self) -> float:
        """Frames per second, as the model counts frames."""
        return float(self.data["fps"]) / self.interval

    @property
    def interval(self) -> int:
        """The model counts every n-th frame of the footage."""
        return self.model["config"]["clip"]["interval"]

    def summary(self) -> list[str]:
        """In lines, what the metrics say over all predicted frames, and beside it what they say of others than the
        model; first of all `the model  PSNR 22.31 ± 0.02  SSIM 0.687 ± 0.001  FVD missing`.
        """
        metrics = self.protocol.metrics
        rows = [[METHODS["model"], *(f"{METRICS[metric].title} {self.figure(metric)}" for metric in metrics)]]
        others = {METHODS[method]: self.scores.get(method, {}) for method in METHODS if method != "model"}
        others |= {REFERENCES[name]: {"control": score} for name, score in self.control.items()}
        for name, scores in others.items():
            # Not of drift: that of all episodes together is no mean over them (the report has it, early and late).
            cells = [
                _cell(metric, scores[metric]) if metric in scores and metric != "drift" else "" for metric in metrics
            ]
            rows += [[name, *cells]] if any(cells) else []
        lines = aligned(rows)
        if self.protocol.frames > EARLY and self.frame_metrics:
            early = [f"{METRICS[metric].title} {self._early(metric)}" for metric in self.frame_metrics]
            lines.append(
                f"over {self.protocol.frames} frames; the model over the first {EARLY} alone: {', '.join(early)}"
            )
        return lines + [f"{METRICS[metric].title} is missing: {reason}" for metric, reason in self.missing.items()]

    def _early(self, metric: str) -> str:
        return f"{self.scores['model'][metric].early.mean:.{METRICS[metric].digits}f}"

    def figure(self, metric: str) -> str:
        """The model by one metric, over all predicted frames, and how far the seeds lie apart."""
        if metric in self.missing:
            return "missing"
        found, digits = self.by_seed[metric], METRICS[metric].digits
        return f"{found.mean:.{digits}f}" + (f" ± {found.deviation:.{digits}f}" if found.deviation is not None else "")

    def best_to_worst(self) -> list[int]:
        """Episode numbers by the model's score over all predicted frames, best first; as they are where there is none.

        It is the first metric's: PSNR, unless the protocol does without.
        """
        if not self.frame_metrics:
            return list(range(len(self.episodes)))
        values, sign = self.scores["model"][self.frame_metrics[0]].episodes, METRICS[self.frame_metrics[0]].sign
        return sorted(range(len(values)), key=lambda index: -sign * values[index])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in lines: cells of one column begin below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(metric: str, scored: Score) -> str:
    """`PSNR 15.31`, over all predicted frames."""
    return f"{METRICS[metric].title} {np.mean(scored.episodes):.{METRICS[metric].digits}f}"


def best_trajectories(metric: str, values: np.ndarray) -> np.ndarray:
    """The place of each episode's best: [..., trajectories, frames] -> int64 [...], by the mean over frames."""
    return (METRICS[metric].sign * values.mean(-1)).argmax(-1)


def summarise(values: dict[str, np.ndarray]) -> tuple[dict[Method, dict[str, Score]], dict[Method, dict[str, Gain]]]:
    """Scores of every method and leads over the baselines, from [episodes, methods, frames] by metric."""
    by_metric = {
        metric: dict(zip(METHODS, scores.swapaxes(0, 1), strict=True))  # each [episodes, frames]
        for metric, scores in values.items()
    }
    return (
        {method: {metric: score(found[method]) for metric, found in by_metric.items()} for method in METHODS},
        {
            baseline: {
                metric: gain(METRICS[metric].sign * found["model"], METRICS[metric].sign * found[baseline])
                for metric, found in by_metric.items()
            }
            for baseline in BASELINES
        },
    )


def shown(frames: int) -> list[int]:
    """Which of `frames` predicted frames are shown, counted from 1."""
    return [frame for frame in SHOWN if frame <= frames]


def write_results(out: Path, results: Results) -> None:
    write_json(out / RESULTS, asdict(results), indent=1)


def prediction_path(out: Path, episode: str, seed: int = 0, trajectory: int = 0) -> Path:
    further = f"@seed{seed}@trajectory{trajectory}" if seed or trajectory else ""  # no episode has an @ in its name
    return out / PREDICTIONS / f"{episode}{further}.npz"


def write_prediction(path: Path, prediction: Prediction) -> None:
    measured = vars(prediction.measured).copy()
    scores = {f"{SCORE}{metric}": values for metric, values in measured.pop("scores").items()}
    scores |= {f"{HOW}{metric}": np.array(text) for metric, text in measured.pop("how").items()}
    pictures = {"video": prediction.video, "reconstruction": prediction.reconstruction}
    with new_file(path) as temporary:
        np.savez_compressed(temporary, **pictures, **measured, **scores)


def is_done(path: Path, fingerprint: str) -> bool:
    """Whether a trajectory was predicted under the same settings before. A damaged file counts as not done."""
    try:
        return path.exists() and read_prediction(path).measured.fingerprint == fingerprint
    except UserError:
        return False


def read_prediction(path: Path) -> Prediction:
    """Raises UserError when the file is missing or damaged."""
    arrays = read_npz(path, "evaluate again")
    try:
        measured = Measured(
            scores={name.removeprefix(SCORE): arrays[name] for name in arrays if name.startswith(SCORE)},
            features=arrays["features"],
            frames=int(arrays["frames"]),
            rollout_seconds=float(arrays["rollout_seconds"]),
            decode_seconds=float(arrays["decode_seconds"]),
            batch=int(arrays["batch"]),
            hardware=str(arrays["hardware"]),
            fingerprint=str(arrays["fingerprint"]),
            how={name.removeprefix(HOW): str(arrays[name]) for name in arrays if name.startswith(HOW)},
        )
        return Prediction(arrays["video"], arrays["reconstruction"], measured)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no prediction ({error}): delete it, and evaluate again") from error
