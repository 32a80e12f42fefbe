"""How near a picture is to the true one, frame by frame: PSNR and SSIM, through torchmetrics.

Scored on the pixels themselves, never on a video file: compression would blur both and flatter the prediction.
"""

import numpy as np
import torch
from torch import Tensor

from nextframe.errors import UserError
from nextframe.metrics.exact import exactly

LARGEST_PSNR = 60.0
"""dB. Rounding to whole pixel values alone is 59 dB; without a largest value, two equal frames would be infinite."""
Video = Tensor | np.ndarray


def psnr(prediction: Video, truth: Video) -> Tensor:
    """Peak signal-to-noise ratio of each frame, float32 [f], in dB; at most `LARGEST_PSNR`. 6 dB more: half the error.

    `prediction`, `truth`: uint8 [f, h, w, 3].
    """
    _, image = _torchmetrics()
    predicted, true = _pair(prediction, truth)
    scores = image.peak_signal_noise_ratio(predicted, true, data_range=255.0, reduction="none", dim=(1, 2, 3))
    return scores.clamp(max=LARGEST_PSNR)


def pooled_psnr(video: np.ndarray, truth: np.ndarray) -> float:
    """PSNR in dB of the error averaged over all frames at once, at most 100. It needs no torchmetrics.

    `video`, `truth`: uint8, of one shape.
    """
    error = np.square(video.astype(np.float32) - truth).mean()
    return float(10 * np.log10(255**2 / max(error, 255**2 * 1e-10)))


def ssim(prediction: Video, truth: Video) -> Tensor:
    """Structural similarity of each frame, float32 [f]: 1 for equal frames, about 0 for unrelated ones.

    Gaussian window of 11 pixels, sigma 1.5, mean over the colour channels. `prediction`, `truth`: uint8 [f, h, w, 3].
    """
    _, image = _torchmetrics()
    predicted, true = _pair(prediction, truth)
    with exactly(predicted.device):
        scores = image.structural_similarity_index_measure(
            predicted, true, gaussian_kernel=True, sigma=1.5, kernel_size=11, data_range=255.0, reduction="none"
        )
    assert isinstance(scores, Tensor)
    return scores


def torchmetrics_version() -> str:
    """For the record. Raises UserError when torchmetrics is missing."""
    version, _ = _torchmetrics()
    return version


def _pair(prediction: Video, truth: Video) -> tuple[Tensor, Tensor]:
    predicted, true = torch.as_tensor(prediction), torch.as_tensor(truth)
    if predicted.dtype != torch.uint8 or true.dtype != torch.uint8:
        raise ValueError(f"frames must be uint8, not {predicted.dtype} and {true.dtype}")
    if predicted.shape != true.shape or predicted.ndim != 4 or predicted.shape[-1] != 3:
        raise ValueError(f"two videos [f, h, w, 3] of one shape, not {predicted.shape} and {true.shape}")
    # Colours stay last in memory: torchmetrics is then four times faster on a CPU.
    return predicted.float().movedim(-1, 1), true.float().movedim(-1, 1)


def _torchmetrics():
    """Its version and its functions; imported here because that takes three seconds."""
    try:
        import torchmetrics
        from torchmetrics.functional import image
    except ImportError as error:
        raise UserError(f"scoring needs torchmetrics ({error}): pip install 'nextframe[report]'") from error
    return torchmetrics.__version__, image
