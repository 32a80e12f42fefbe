"""The metrics of a protocol: which can be computed here, what they say of a prediction, and how scores are combined."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nextframe.autoencoder import decode_video, encode_video, pixels_from_video
from nextframe.config import Protocol
from nextframe.data.episodes import Episode
from nextframe.errors import UserError
from nextframe.metrics.fvd import FEWEST_FRAMES, FEWEST_VIDEOS, VideoFeatures, frechet_distance
from nextframe.metrics.image import psnr, ssim, torchmetrics_version
from nextframe.metrics.lpips import Lpips
from nextframe.metrics.statistics import Gain, Score, Spread, spread
from nextframe.results import FRAME_METRICS, METHODS, Measured, Method, best_trajectories, shown, summarise
from nextframe.runs import WorldModel

PICTURES_AT_ONCE = 64
"""That LPIPS looks at."""


@dataclass(frozen=True)
class Judged:
    """A prediction's scores, features and reconstruction, as `Measured` and `Prediction` keep them."""

    scores: dict[str, np.ndarray]
    features: np.ndarray
    reconstruction: np.ndarray


@dataclass(frozen=True)
class Scorer:
    """The metrics that can be computed here. Make one with `load_scorer`."""

    device: torch.device
    frames: tuple[str, ...]
    """Of FRAME_METRICS."""
    lpips: Lpips | None
    video_features: VideoFeatures | None
    """None: no FVD."""
    missing: dict[str, str]
    """The other metrics of the protocol, and why."""

    def lacks(self, measured: Measured, first: bool) -> bool:
        """Whether there is more to compute than was, perhaps because weights have been found since."""
        methods, sets = (len(METHODS), 2) if first else (1, 1)
        enough = all(len(measured.scores.get(metric, ())) >= methods for metric in self.frames)
        return not enough or (self.video_features is not None and len(measured.features) < sets)

    def judge(self, world: WorldModel, episode: Episode, video: np.ndarray, first: bool) -> Judged:
        """Score `video`, uint8 [frames, h, w, 3], against the last frames of `episode`, which is as long as was asked.

        `first`: of the trajectories of an episode; with it the other methods are scored, and the truth is looked at.
        """
        context, truth = np.split(episode.video, [len(episode.video) - len(video)])
        candidates: dict[Method, np.ndarray] = {"model": video}
        reconstruction = truth[:0]
        if first and len(context):
            latents = encode_video(world.autoencoder, torch.from_numpy(truth))
            candidates["reconstruction"] = decode_video(world.autoencoder, latents).numpy()
            mean = np.rint(context.mean(axis=0, dtype=np.float64)).astype(np.uint8)
            candidates["repeat_last"] = np.repeat(context[-1:], len(truth), axis=0)
            candidates["context_mean"] = np.repeat(mean[None], len(truth), axis=0)
            reconstruction = candidates["reconstruction"][[frame - 1 for frame in shown(len(truth))]]
        compared = [candidates[method] for method in METHODS if method in candidates]
        scores = {
            metric: np.stack([self._frame_scores(metric, candidate, truth) for candidate in compared])
            for metric in self.frames
        }
        looked_at = np.stack([video, truth] if first else [video])
        none = np.empty((0, 0), np.float32)
        features = none if self.video_features is None else self.video_features(looked_at)
        return Judged(scores, features, reconstruction)

    def _frame_scores(self, metric: str, video: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """float32 [frames]"""
        if metric == "psnr":
            return psnr(video, truth).numpy()
        if metric == "ssim":
            return ssim(video, truth).numpy()
        assert self.lpips is not None
        parts = [torch.from_numpy(clip).split(PICTURES_AT_ONCE) for clip in (video, truth)]
        pairs = [[pixels_from_video(part.to(self.device)) for part in pair] for pair in zip(*parts, strict=True)]
        return torch.cat([self.lpips(*pair) for pair in pairs]).cpu().numpy()


def load_scorer(protocol: Protocol, device: torch.device) -> Scorer:
    """The protocol's metrics, ready to use; raises UserError when there is none that can be computed."""
    missing, lpips, video_features = {}, None, None
    for metric in protocol.metrics:
        try:
            if metric == "fvd":
                _check_fvd(protocol)
                video_features = VideoFeatures.load(device)
            elif protocol.context == 0:
                raise UserError("what begins from nothing is no prediction of any frame: ask for fvd")
            elif metric == "lpips":
                lpips = Lpips.load("alex").to(device)
            else:
                torchmetrics_version()
        except UserError as error:
            missing[metric] = str(error)
    if len(missing) == len(protocol.metrics):
        reasons = "; ".join(f"{metric}: {reason}" for metric, reason in missing.items())
        raise UserError(f"nothing of this protocol can be scored ({reasons})")
    asked = [metric for metric in FRAME_METRICS if metric in protocol.metrics]
    return Scorer(device, tuple(metric for metric in asked if metric not in missing), lpips, video_features, missing)


def _check_fvd(protocol: Protocol) -> None:
    if protocol.frames < FEWEST_FRAMES:
        raise UserError(f"{protocol.frames} predicted frames are too few for its network: ask for {FEWEST_FRAMES}")
    if protocol.episodes < FEWEST_VIDEOS:
        raise UserError(f"{protocol.episodes} episode has no spread: ask for {FEWEST_VIDEOS} or more")


@dataclass(frozen=True)
class Combined:
    """The scores of all trajectories as one; the fields are those of `Results`."""

    scores: dict[Method, dict[str, Score]]
    gains: dict[Method, dict[str, Gain]]
    by_seed: dict[str, Spread]
    picked: tuple[int, ...]


def combine(scorer: Scorer, protocol: Protocol, measured: Sequence[Measured]) -> Combined:
    """`measured`: by episode, then by seed, then by trajectory.

    Of an episode's trajectories the best by the mean over its frames counts, for each metric and seed; then the mean
    over seeds is taken, frame by frame.
    """
    shape = (len(measured) // (len(protocol.seeds) * protocol.trajectories), len(protocol.seeds), protocol.trajectories)
    firsts = measured[:: shape[1] * shape[2]]
    values: dict[str, np.ndarray] = {}
    by_seed: dict[str, Spread] = {}
    picked = (0,) * shape[0]
    for metric in scorer.frames:
        scores = np.stack([one.scores[metric][0] for one in measured]).reshape(*shape, -1)
        places = best_trajectories(metric, scores)  # [episodes, seeds]
        if not values:
            picked = tuple(places[:, 0].tolist())
        best = np.take_along_axis(scores, places[..., None, None], axis=2)[:, :, 0]  # [episodes, seeds, frames]
        by_seed[metric] = spread(best.mean((0, 2)))
        others = np.stack([one.scores[metric][1:] for one in firsts])
        values[metric] = np.concatenate([best.mean(1, keepdims=True), others], axis=1)
    if scorer.video_features is not None:
        by_seed["fvd"] = spread(_fvd_by_seed(measured, firsts, shape))
    scores, gains = summarise(values)
    return Combined(scores, gains, by_seed, picked)


def _fvd_by_seed(measured: Sequence[Measured], firsts: Sequence[Measured], shape: tuple[int, int, int]) -> np.ndarray:
    """float64 [seeds]: for each the mean over trajectories, one distance for all episodes each."""
    predicted = np.stack([one.features[0] for one in measured]).reshape(*shape, -1)
    true = np.stack([one.features[1] for one in firsts])
    distances = [
        [frechet_distance(predicted[:, seed, trajectory], true) for trajectory in range(shape[2])]
        for seed in range(shape[1])
    ]
    return np.array(distances).mean(1)
