"""The metrics of a protocol: which can be computed here, what they say of a prediction, and how scores are combined."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from nextframe.autoencoder import pixels_from_video
from nextframe.data.episodes import Episode, EpisodeDataset, EpisodeInfo
from nextframe.errors import UserError
from nextframe.metrics import control, drift, revisit
from nextframe.metrics.compression import through_mp4
from nextframe.metrics.control import ActionReader
from nextframe.metrics.fvd import FEWEST_FRAMES, FEWEST_VIDEOS, VideoFeatures, frechet_distance
from nextframe.metrics.image import LARGEST_PSNR, psnr, ssim, torchmetrics_version
from nextframe.metrics.kinds import FRAME_METRICS
from nextframe.metrics.lpips import FILES as LPIPS_FILES
from nextframe.metrics.lpips import Lpips
from nextframe.metrics.statistics import ROUNDED_TO, Figure, Gain, Score, Spread, figures, jackknife, score, spread
from nextframe.metrics.weights import fingerprint
from nextframe.protocol import Protocol
from nextframe.results import (
    METHODS,
    OWN_METRICS,
    Measured,
    Method,
    Revisit,
    best_trajectories,
    shown,
    summarise,
)
from nextframe.runs import WorldModel

PICTURES_AT_ONCE = 64
"""Frames in one pass of LPIPS."""
ROWS = {"drift": (*METHODS, "truth"), "revisit": (*METHODS, "frames"), "control": (*METHODS, "truth", "guess")}
"""What each row of the scores of an episode's first trajectory is of, by metric; of `METHODS` alone, if nothing is said
here. Further trajectories have the first row alone, the model's."""


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
    protocol: Protocol
    own: tuple[str, ...] = ()
    """Of OWN_METRICS."""
    reader: ActionReader | None = None
    """None: no control."""
    how: dict[str, str] = field(default_factory=dict)
    """By metric that is not missing, what computes it."""

    def lacks(self, measured: Measured, first: bool) -> bool:
        """Whether there is more to compute than was, perhaps because weights have been found since, or otherwise."""
        metrics = (*self.frames, *self.own)
        wanted = {metric: len(ROWS.get(metric, METHODS)) if first else 1 for metric in metrics}
        enough = all(len(measured.scores.get(metric, ())) == rows for metric, rows in wanted.items())
        sets = 0 if self.video_features is None else 2 if first else 1
        alike = all(measured.how.get(metric) == how for metric, how in self.how.items())
        return not (enough and alike and len(measured.features) >= sets)

    def judge(self, world: WorldModel, episode: Episode, video: np.ndarray, first: bool) -> Judged:
        """Score `video`, uint8 [frames, h, w, 3], against the last frames of `episode`, which is as long as was asked.

        `first`: of the trajectories of an episode; with it the other methods are scored, and the truth is looked at.
        """
        context, truth = np.split(episode.video, [len(episode.video) - len(video)])
        candidates: dict[Method, np.ndarray] = {"model": video}
        reconstruction = truth[:0]
        if first and len(context):
            candidates["reconstruction"] = there_and_back(world, truth)
            mean = np.rint(context.mean(axis=0, dtype=np.float64)).astype(np.uint8)
            candidates["repeat_last"] = np.repeat(context[-1:], len(truth), axis=0)
            candidates["context_mean"] = np.repeat(mean[None], len(truth), axis=0)
            reconstruction = candidates["reconstruction"][[frame - 1 for frame in shown(len(truth))]]
        compared = [candidates[method] for method in METHODS if method in candidates]
        given = context
        if self.protocol.fvd_frames == "all" and len(context):
            given = there_and_back(world, context)  # of the published script's predictions the decoder makes all frames
        whole = np.concatenate([context, truth])
        pairs = [self._as_scored(np.concatenate([given, one]), whole) for one in compared]
        later = slice(len(context), None)
        scores = {
            metric: np.stack([self._frame_scores(metric, one[later], true[later]) for one, true in pairs])
            for metric in self.frames
        }
        if self.own:
            scores |= self._own_scores(episode, compared, first)
        counted = slice(None) if self.protocol.fvd_frames == "all" else later
        looked_at = np.stack([side[counted] for side in (pairs[0] if first else pairs[0][:1])])
        none = np.empty((0, 0), np.float32)
        features = none if self.video_features is None else self.video_features(looked_at)
        return Judged(scores, features, reconstruction)

    def _as_scored(self, video: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return through_mp4(video, truth) if self.protocol.scored == "mp4" else (video, truth)

    def _frame_scores(self, metric: str, video: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """float32 [frames]"""
        if metric == "psnr":
            return psnr(video, truth).numpy()
        if metric == "ssim":
            return ssim(video, truth).numpy()
        assert self.lpips is not None
        parts = [torch.from_numpy(clip).split(PICTURES_AT_ONCE) for clip in (video, truth)]
        pairs = [[self._for_lpips(part) for part in pair] for pair in zip(*parts, strict=True)]
        return torch.cat([self.lpips(*pair) for pair in pairs]).cpu().numpy()

    def _for_lpips(self, video: torch.Tensor) -> torch.Tensor:
        pixels = pixels_from_video(video.to(self.device))
        return (pixels + 1) / 2 if self.protocol.lpips_pixels == "unit" else pixels

    def _own_scores(self, episode: Episode, compared: list[np.ndarray], first: bool) -> dict[str, np.ndarray]:
        """Of `OWN_METRICS`, as `Measured` keeps them; always of the frames themselves."""
        context = len(episode.video) - len(compared[0])
        truth = episode.video[context:]
        scores: dict[str, np.ndarray] = {}
        if "drift" in self.own:
            scores["drift"] = np.stack([drift.frame_statistics(one) for one in [*compared, *([truth] * first)]])
        if "revisit" in self.own:
            scores["revisit"] = self._revisit_scores(episode, compared, first)
        if self.reader is not None:
            taken, last = episode.actions[context - 1 : -1], episode.video[context - 1 : context]
            clips = [np.concatenate([last, one]) for one in [*compared, *([truth] * first)]]
            obeyed = [self.reader.obeyed(clip, taken) for clip in clips]
            scores["control"] = np.stack([*obeyed, *([self.reader.guessed(taken)] * first)])
        return scores

    def _revisit_scores(self, episode: Episode, compared: list[np.ndarray], first: bool) -> np.ndarray:
        """A row for each candidate, and for an episode's first trajectory the numbers of frames: float32 [n, groups].

        An episode without poses has no frames in any group.
        """
        context, poses = len(episode.video) - len(compared[0]), _poses(episode)
        ages = revisit.frames_since_shown(poses, context) if len(poses) else np.empty(0, np.int64)
        psnrs = np.stack([psnr(one, episode.video[context:]).numpy() for one in compared])[:, : len(ages)]
        means = revisit.by_age(psnrs, ages)
        return np.concatenate([means, revisit.groups(ages).sum(1)[None].astype(np.float32)]) if first else means


def there_and_back(world: WorldModel, video: np.ndarray) -> np.ndarray:
    """A video through the autoencoder: uint8 [f, h, w, 3]."""
    return world.decode(world.encode(torch.from_numpy(video))).numpy()


@dataclass(frozen=True)
class Footage:
    """What some metrics need beside the pictures."""

    dataset: EpisodeDataset
    episodes: Sequence[EpisodeInfo]
    told: bool
    """Whether the model is told the actions."""
    folder: Path | None
    """Where a network that learns for it is kept; None: it learns nothing, for an estimate."""


def load_scorer(protocol: Protocol, device: torch.device, footage: Footage) -> Scorer:
    """The protocol's metrics, ready to use; raises UserError when there is none that can be computed."""
    missing: dict[str, str] = {}
    how: dict[str, str] = {}
    lpips_network, video_features, reader = None, None, None
    pixels = "" if protocol.scored == "frames" else ", after a lossy mp4"
    for metric in protocol.metrics:
        try:
            if metric == "fvd":
                _check_fvd(protocol)
                video_features = VideoFeatures.load(device)
                shown_to_it = "predicted frames" if protocol.fvd_frames == "predicted" else "context and prediction"
                how[metric] = f"I3D, {fingerprint('i3d')}; {shown_to_it}{pixels}"
            elif protocol.context == 0:
                raise UserError("what begins from nothing is no prediction of any frame: ask for fvd")
            elif metric == "lpips":
                lpips_network = Lpips.load("alex").to(device)
                shown_to_it = "[-1, 1]" if protocol.lpips_pixels == "signed" else "[0, 1]"
                how[metric] = f"AlexNet, {fingerprint(*LPIPS_FILES['alex'])}; pixels in {shown_to_it}{pixels}"
            elif metric == "drift":
                how[metric] = drift.VERSION
            elif metric == "revisit":
                _check_poses(footage)
                torchmetrics_version()  # it is a PSNR
                how[metric] = revisit.VERSION
            elif metric == "control":
                reader, digest = _action_reader(footage)
                how[metric] = f"{control.VERSION}, footage sha256 {digest}"
            else:
                limit = f", at most {LARGEST_PSNR:g} dB" if metric == "psnr" else ""
                how[metric] = f"torchmetrics {torchmetrics_version()}{limit}{pixels}"
        except UserError as error:
            missing[metric] = str(error)
    if len(missing) == len(protocol.metrics):
        reasons = "; ".join(f"{metric}: {reason}" for metric, reason in missing.items())
        raise UserError(f"nothing of this protocol can be scored ({reasons})")
    frames, own = (tuple(metric for metric in kind if metric in how) for kind in (FRAME_METRICS, OWN_METRICS))
    return Scorer(device, frames, lpips_network, video_features, missing, protocol, own, reader, how)


def _check_fvd(protocol: Protocol) -> None:
    frames = protocol.frames + (protocol.context if protocol.fvd_frames == "all" else 0)
    if frames < FEWEST_FRAMES:
        raise UserError(f"{frames} predicted frames are too few for its network: ask for {FEWEST_FRAMES}")
    if protocol.episodes < FEWEST_VIDEOS:
        raise UserError(f"{protocol.episodes} episode has no spread: ask for {FEWEST_VIDEOS} or more")


def _check_poses(footage: Footage) -> None:
    if not _poses(footage.dataset.read(footage.episodes[0])).size:
        raise UserError("no poses: the episodes have no array `pose` of x, y and angle for each of their frames")


def _poses(episode: Episode) -> np.ndarray:
    """[f, 3]; [0, 3] of an episode that has none."""
    poses = episode.extras.get("pose", np.empty(0))
    usable = poses.shape == (len(episode.video), 3) and np.isfinite(poses).all()
    return poses if usable else np.empty((0, 3))


def _action_reader(footage: Footage) -> tuple[ActionReader, str]:
    if not footage.told:
        raise UserError("the model is not told actions by number, and it is those that can be read off its frames")
    return ActionReader.learned(footage.dataset, footage.folder)


@dataclass(frozen=True)
class Combined:
    """The scores of all trajectories as one; the fields are those of `Results`."""

    scores: dict[Method, dict[str, Score]]
    gains: dict[Method, dict[str, Gain]]
    by_seed: dict[str, Spread]
    picked: tuple[int, ...]
    revisit: tuple[Revisit, ...]
    control: dict[str, Score]
    fvd: Figure | None
    missing: dict[str, str]


def combine(scorer: Scorer, measured: Sequence[Measured]) -> Combined:
    """`measured`: by episode, then by seed, then by trajectory.

    Of an episode's trajectories the best by the mean over its frames counts, for each metric and seed; then the mean
    over seeds is taken, frame by frame.
    """
    seeds, trajectories = len(scorer.protocol.seeds), scorer.protocol.trajectories
    episodes = len(measured) // (seeds * trajectories)
    shape = (episodes, seeds, trajectories)
    values, by_seed, picked = _best(scorer.frames, measured, shape)
    scores, gains = summarise(values)
    fvd_figure = None
    if scorer.video_features is not None:
        by_seed["fvd"], fvd_figure = _fvd(measured, shape)
    missing = dict(scorer.missing)
    own = {metric: _rows(metric, measured, shape) for metric in scorer.own}
    if "drift" in own:
        model, rows = own["drift"]
        for method in METHODS:
            samples = model.reshape(episodes, -1, *model.shape[3:]) if method == "model" else rows[method][:, None]
            scores[method]["drift"] = drift.drift(samples, rows["truth"])
        by_seed["drift"] = spread(np.array([drift.overall(one, rows["truth"]) for one in model.swapaxes(0, 1)]))
    references: dict[str, Score] = {}
    if "control" in own:
        model, rows = own["control"]
        for method in METHODS:
            scores[method]["control"] = score(model.mean((1, 2)) if method == "model" else rows[method])
        references = {name: score(rows[name]) for name in ("truth", "guess")}
        by_seed["control"] = spread(model.mean((0, 2, 3)))
    revisits: tuple[Revisit, ...] = ()
    if "revisit" in own:
        model, rows = own["revisit"]
        revisits = _revisits({**rows, "model": model.mean((1, 2))})
        if revisits[0].frames:
            by_seed["revisit"] = spread(np.nanmean(model[..., 0].mean(2), axis=0))
        else:
            missing["revisit"] = "no predicted frame shows a view of the context"
    return Combined(scores, gains, by_seed, picked, revisits, references, fvd_figure, missing)


def _best(
    metrics: Sequence[str], measured: Sequence[Measured], shape: tuple[int, int, int]
) -> tuple[dict[str, np.ndarray], dict[str, Spread], tuple[int, ...]]:
    """By metric of frames: scores [episodes, methods, frames], those of the model of its best trajectories, the mean
    over seeds; and of each seed. And each episode's best trajectory in the first seed, by the first metric."""
    episodes, seeds, trajectories = shape
    values: dict[str, np.ndarray] = {}
    by_seed: dict[str, Spread] = {}
    picked = (0,) * episodes
    for metric in metrics:
        scores = np.stack([one.scores[metric][0] for one in measured]).reshape(*shape, -1)
        places = best_trajectories(metric, scores)  # [episodes, seeds]
        if not values:
            picked = tuple(places[:, 0].tolist())
        best = np.take_along_axis(scores, places[..., None, None], axis=2)[:, :, 0]  # [episodes, seeds, frames]
        by_seed[metric] = spread(best.mean((0, 2)))
        others = np.stack([one.scores[metric][1:] for one in measured[:: seeds * trajectories]])
        values[metric] = np.concatenate([best.mean(1, keepdims=True), others], axis=1)
    return values, by_seed, picked


def _rows(
    metric: str, measured: Sequence[Measured], shape: tuple[int, int, int]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A metric's scores of the model, [episodes, seeds, trajectories, ...], and its rows of each episode's first
    trajectory by what they are of, [episodes, ...]."""
    model = np.stack([one.scores[metric][0] for one in measured])
    _, seeds, trajectories = shape
    firsts = np.stack([one.scores[metric] for one in measured[:: seeds * trajectories]])
    rows = dict(zip(ROWS[metric], firsts.swapaxes(0, 1), strict=True))
    return model.reshape(*shape, *model.shape[1:]), rows


def _revisits(rows: dict[str, np.ndarray]) -> tuple[Revisit, ...]:
    """`rows`: [episodes, groups] of each method, and the numbers of `frames`."""
    found = []
    for place, group in enumerate(revisit.GROUPS):
        frames = rows["frames"][:, place]
        values = np.stack([rows[method][:, place] for method in METHODS], axis=1)[frames > 0]
        scores = dict(zip(METHODS, figures(values), strict=True)) if len(values) else {}
        found.append(Revisit(group, int(frames.sum()), len(values), scores))
    return tuple(found)


def _fvd(measured: Sequence[Measured], shape: tuple[int, int, int]) -> tuple[Spread, Figure | None]:
    """With each seed, the mean over trajectories of one distance for all episodes; and its interval over episodes."""
    episodes, seeds, trajectories = shape
    predicted = np.stack([one.features[0] for one in measured]).reshape(*shape, -1)
    true = np.stack([one.features[1] for one in measured[:: seeds * trajectories]])

    def distance(chosen: np.ndarray, seed: int, first: int) -> float:
        """Of some episodes, the mean over the first so many trajectories."""
        each = [frechet_distance(predicted[chosen, seed, place], true[chosen]) for place in range(first)]
        return float(np.mean(each))

    found = spread(np.array([distance(np.arange(episodes), seed, trajectories) for seed in range(seeds)]))
    # All trajectories would take as many distances again for every part; the first of each seed say enough.
    reach = jackknife(lambda part: float(np.mean([distance(part, seed, 1) for seed in range(seeds)])), episodes)
    if reach is None:
        return found, None
    return found, Figure(found.mean, round(found.mean - reach, ROUNDED_TO), round(found.mean + reach, ROUNDED_TO))
