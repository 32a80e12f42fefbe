"""What a lossy mp4 leaves of two videos: the published script scores what it reads back from such a file.

Prediction and truth lie side by side in it, so both lose detail, and colours are kept at half the resolution. Which
encoder made the file, its quality (that of imageio: libx264, constant rate factor 25) and its rate decide what is left.
"""

from io import BytesIO

import numpy as np

from nextframe.data.video import decoded, mp4

FPS = 8.0
OPTIONS = {"crf": "25", "preset": "medium", "threads": "1"}


def through_mp4(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two videos of one shape, uint8 [f, h, w, 3], as they come back from one file; h is even."""
    content = mp4(np.concatenate([left, right], axis=2), FPS, "libx264", "yuv420p", OPTIONS)
    both = np.stack(list(decoded(BytesIO(content))))
    return both[:, :, : left.shape[2]], both[:, :, left.shape[2] :]
