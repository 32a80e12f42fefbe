"""Fréchet video distance (arXiv 1812.01717): how far apart two sets of videos are, for a network that tells actions.

Every video becomes a vector of features, every set of vectors a Gaussian. No pair of videos is compared: it is also for
videos that are nobody's prediction. The network is I3D, in the TorchScript file that published numbers are made with.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from nextframe.errors import UserError, reason_of
from nextframe.files import sha256
from nextframe.metrics.exact import exactly
from nextframe.metrics.weights import STANDARD, weight_file

FEWEST_FRAMES = 10
"""The network halves time again and again: of shorter videos nothing is left."""
AT_ONCE = 8
"""Videos that the network looks at together: it changes speed and memory alone."""
FEWEST_VIDEOS = 2
"""One has no covariance. It takes hundreds for a number to compare with anybody's."""


class VideoFeatures:
    """The network that looks at videos. Make one with `load`."""

    def __init__(self, network: Any, device: torch.device) -> None:
        """`network`: called on [b, 3, f, h, w] in [-1, 1] as that TorchScript is, it gives features [b, d]."""
        self._network, self._device = network, device

    @classmethod
    def load(cls, device: torch.device) -> "VideoFeatures":
        """With the standard weights. Raises UserError when their file is missing or damaged."""
        path = weight_file("i3d")
        if not sha256(path).startswith(STANDARD["i3d"].sha256):  # TorchScript is code: nobody else's is run
            raise UserError(f"{path} is damaged, or not the published file: delete that file, and it is fetched anew")
        try:
            return cls(torch.jit.load(path, map_location=device).eval(), device)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{path} is damaged ({reason_of(error)}): delete that file, and it is fetched anew"
            ) from error

    @torch.no_grad()
    def __call__(self, videos: np.ndarray) -> np.ndarray:
        """uint8 [b, f, h, w, 3], f >= `FEWEST_FRAMES` -> features, float32 [b, d]."""
        features = []
        for part in torch.from_numpy(videos).split(AT_ONCE):
            pixels = (part.to(self._device).float() / 127.5 - 1).movedim(-1, 1).contiguous()
            with exactly(self._device):
                features.append(self._network(pixels, rescale=False, resize=True, return_features=True).float().cpu())
        return torch.cat(features).numpy()


def frechet_distance(features: ArrayLike, others: ArrayLike) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) of the means m and covariances S of two sets of features, each [n, d].

    With S1 = A'A and S2 = B'B, the trace of that root is the sum of the singular values of AB'. So no root is taken of
    a rounding error, as it would be of the eigenvalues of S1 S2 wherever there are fewer videos than features.
    """
    (mean, deviations), (other_mean, other_deviations) = (
        _gaussian(np.asarray(x, np.float64)) for x in (features, others)
    )
    triangles = [np.linalg.qr(x).R for x in (deviations, other_deviations)]  # no larger than [d, d]
    root = np.linalg.svd(triangles[0] @ triangles[1].T, compute_uv=False).sum()
    traces = np.square(deviations).sum() + np.square(other_deviations).sum()
    return float(np.square(mean - other_mean).sum() + traces - 2 * root)


def _gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and A [n, d], where A'A is the unbiased covariance."""
    mean = features.mean(axis=0)
    return mean, (features - mean) / np.sqrt(len(features) - 1)
