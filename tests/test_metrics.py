"""PSNR, SSIM, FVD, averages with their intervals, and the movement of the picture."""

import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from tiny import TURN, tiny_episode, tiny_i3d
from torchmetrics.functional.image import structural_similarity_index_measure

from nextframe.errors import UserError
from nextframe.metrics import fvd
from nextframe.metrics.fvd import VideoFeatures, frechet_distance
from nextframe.metrics.image import LARGEST_PSNR, psnr, ssim
from nextframe.metrics.kinds import METRICS
from nextframe.metrics.motion import explained_by_actions, motion
from nextframe.metrics.statistics import EARLY, Spread, figures, gain, score, spread
from nextframe.protocol import Metric


def random_video(seed: int, frames: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8)


def test_psnr_is_its_formula_per_frame() -> None:
    one, other = random_video(0), random_video(1)
    error = np.square(one.astype(float) - other).mean((1, 2, 3))
    np.testing.assert_allclose(psnr(one, other), 10 * np.log10(255**2 / error), rtol=1e-5)


def test_psnr_of_equal_frames_is_finite() -> None:
    video = random_video(0)
    assert psnr(video, video).tolist() == [LARGEST_PSNR] * 3


def test_ssim_is_that_of_torchmetrics_whatever_the_precision_around_it() -> None:
    one, other = random_video(0), random_video(0) // 2
    first, second = (torch.from_numpy(video).permute(0, 3, 1, 2).contiguous().float() for video in (one, other))
    wanted = structural_similarity_index_measure(first, second, data_range=255.0, reduction="none")
    assert isinstance(wanted, torch.Tensor)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ssim(one, other), wanted, atol=1e-5, rtol=0)


def test_ssim_of_flat_frames() -> None:
    """Without structure only the brightness term is left: (2 a b + c) / (a^2 + b^2 + c)."""
    one, other = np.full((1, 16, 16, 3), 100, np.uint8), np.full((1, 16, 16, 3), 150, np.uint8)
    c = (0.01 * 255) ** 2
    assert ssim(one, one).item() == pytest.approx(1, abs=1e-4)
    assert ssim(one, other).item() == pytest.approx((2 * 100 * 150 + c) / (100**2 + 150**2 + c), abs=2e-4)


def test_only_pixels_are_scored() -> None:
    video = random_video(0)
    with pytest.raises(ValueError, match="uint8"):
        psnr(video.astype(np.float32), video)
    with pytest.raises(ValueError, match="one shape"):
        ssim(video, video[:2])


def test_missing_torchmetrics_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(UserError, match="pip install"):
        psnr(random_video(0), random_video(1))


def by_eigenvalues(features: np.ndarray, others: np.ndarray) -> float:
    """The Fréchet distance as it is usually written: the root of a product of covariances, by its eigenvalues."""
    covariances = [np.cov(x, rowvar=False) for x in (features, others)]
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0))
    means = np.square(features.mean(0) - others.mean(0)).sum()
    return float(means + sum(np.trace(covariance) for covariance in covariances) - 2 * roots.sum())


@pytest.mark.parametrize(("count", "others"), [(40, 40), (300, 50), (4, 6), (2, 2)])
def test_the_frechet_distance_is_its_formula(count: int, others: int) -> None:
    """With fewer videos than the 8 features too, where covariances are singular."""
    random = np.random.default_rng(0)
    mixed = random.normal(size=(8, 8))
    one = random.normal(size=(count, 8)) @ mixed
    other = 0.5 + 2 * random.normal(size=(others, 8))
    # Of singular covariances the root of a rounding error is taken here: 1e-8 of what they are.
    assert frechet_distance(one, other) == pytest.approx(by_eigenvalues(one, other), rel=1e-6)
    assert frechet_distance(one.astype(np.float32), other) == pytest.approx(frechet_distance(one, other), rel=1e-5)


def test_the_frechet_distance_of_sets_that_are_known() -> None:
    features = np.random.default_rng(0).normal(size=(30, 5))
    assert frechet_distance(features, features[::-1]) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(features, features + np.array([3, 4, 0, 0, 0])) == pytest.approx(25)
    # In one dimension: (m1 - m2)^2 + (s1 - s2)^2, with unbiased deviations.
    assert frechet_distance([[0.0], [2.0]], [[5.0], [11.0]]) == pytest.approx(7**2 + (2**0.5 - 18**0.5) ** 2)


def test_videos_are_looked_at_as_i3d_wants_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In [-1, 1], time before rows and columns, whatever the batch and the precision around it."""
    monkeypatch.setenv("NEXTFRAME_WEIGHTS", str(tiny_i3d(tmp_path / "weights")))
    monkeypatch.setattr(fvd, "AT_ONCE", 2)
    features, videos = VideoFeatures.load(torch.device("cpu")), np.stack([random_video(seed, 12) for seed in range(5)])
    colours = (videos / 127.5 - 1).mean((1, 2, 3))
    change = np.abs(np.diff(videos / 127.5, axis=1)).mean((1, 2, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = features(videos)
    np.testing.assert_allclose(found, np.concatenate([colours, change], axis=1), atol=1e-6)
    (tmp_path / "weights" / "i3d_torchscript.pt").write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"i3d_torchscript\.pt is damaged, .*: delete that file"):
        VideoFeatures.load(torch.device("cpu"))


def test_the_spread_is_that_between_seeds() -> None:
    assert spread(np.array([1.0, 2.0, 3.0])) == Spread(2, 1, (1, 2, 3))
    assert spread(np.array([4.0])).deviation is None


def test_intervals_are_those_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(5, 2, (200, 3))
    for column, figure in zip(values.T, figures(values), strict=True):
        error = 1.96 * column.std() / np.sqrt(len(column))
        assert figure.mean == pytest.approx(column.mean(), abs=1e-3)
        assert figure.low == pytest.approx(column.mean() - error, abs=0.02)
        assert figure.high == pytest.approx(column.mean() + error, abs=0.02)


def test_early_and_late_frames_are_averaged_apart() -> None:
    values = np.repeat([[1.0] * EARLY + [3.0] * 4], 2, axis=0)
    found = score(values)
    assert found.late is not None
    assert (found.early.mean, found.late.mean, len(found.frames)) == (1, 3, EARLY + 4)
    assert score(values[:, :EARLY]).late is None


def test_a_lead_is_measured_episode_by_episode() -> None:
    """However different the episodes are, a lead of 1 in each is a lead of 1 for certain."""
    others = np.random.default_rng(0).normal(20, 10, (8, 20))
    found = gain(others + 1, others)
    assert (found.early.low, found.early.high, found.won) == (1, 1, 8)


def test_motion_tells_left_from_right() -> None:
    episode = tiny_episode(0, 60)
    shift = motion(episode.video)[:, 0]
    for action, wanted in ((0, 0), (1, TURN), (2, -TURN)):
        assert set(shift[episode.actions[:-1] == action]) == {wanted}


def test_a_picture_without_pattern_is_still() -> None:
    assert not motion(np.full((5, 32, 32, 3), 90, np.uint8)).any()


@pytest.mark.parametrize("late", [-1, 0, 1])
def test_the_action_that_moves_the_picture_is_found(late: int) -> None:
    episodes = [tiny_episode(seed, 60, late) for seed in range(2)]
    explained = explained_by_actions([(motion(episode.video), episode.actions) for episode in episodes])
    assert max(explained, key=lambda offset: explained[offset]) == late


def test_every_metric_has_what_is_printed_of_it() -> None:
    assert tuple(METRICS) == get_args(Metric)
    assert METRICS["psnr"].text(21.34) == "21.3 dB" and METRICS["ssim"].text(0.9124) == "SSIM 0.912"
    assert METRICS["lpips"].sign == METRICS["fvd"].sign == METRICS["drift"].sign == -METRICS["control"].sign == -1
