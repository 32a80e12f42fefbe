"""The metrics against what other implementations said of the same inputs (tests/recorded/metrics.json)."""

import json
from typing import Literal

import numpy as np
import pytest
import torch
from record_metrics import FEATURES, RECORDED, features, stand_in_weights, videos

from nextframe.autoencoder import pixels_from_video
from nextframe.metrics.fvd import frechet_distance
from nextframe.metrics.image import psnr, ssim
from nextframe.metrics.lpips import Lpips

SAID = json.loads(RECORDED.read_text())


@pytest.mark.parametrize("by", ["torchmetrics", "scikit-image"])
def test_psnr_and_ssim(by: str) -> None:
    one, other = videos()
    np.testing.assert_allclose(psnr(other, one), SAID["psnr"][by], atol=1e-4, rtol=0)
    np.testing.assert_allclose(ssim(other, one), SAID["ssim"][by], atol=1e-4, rtol=0)
    assert SAID["ssim"][by][0] > 0.9 > 0.3 > SAID["ssim"][by][-1]


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_lpips_with_weights_that_stand_in(trunk: Literal["alex", "vgg"]) -> None:
    network = Lpips(trunk)
    weights = stand_in_weights(trunk)
    heads = {name: torch.from_numpy(value) for name, value in weights.items() if name.startswith("lin")}
    network.heads.load_state_dict({f"{name[3]}.weight": value for name, value in heads.items()})
    layers = {name: torch.from_numpy(value) for name, value in weights.items() if name.startswith("features")}
    network.features.load_state_dict({name.removeprefix("features."): value for name, value in layers.items()})
    pictures = [pixels_from_video(torch.from_numpy(video)) for video in videos()]
    np.testing.assert_allclose(network(*pictures), SAID["lpips"][trunk], atol=1e-4, rtol=1e-5)
    assert min(SAID["lpips"][trunk]) < max(SAID["lpips"][trunk]) / 10


@pytest.mark.parametrize("kind", FEATURES)
def test_the_frechet_distance(kind: str) -> None:
    """Of fewer videos than features too, where the usual root of a singular product is taken of rounding errors."""
    assert frechet_distance(*features(kind)) == pytest.approx(SAID["frechet distance"]["scipy"][kind], abs=1e-4)
