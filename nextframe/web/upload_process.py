"""`python -m nextframe.web.upload_process SIZE FRAMES SECONDS < FILE > PIXELS`: whatever it meets, it stays small."""

import resource
import sys
from collections.abc import Iterator
from itertools import islice
from typing import IO

import numpy as np

from nextframe.data.arrays import arrays_of
from nextframe.data.video import decoded, fitted

MEMORY = 2 * 2**30


def main(size: int, frames: int, seconds: int, file: IO[bytes], out: IO[bytes]) -> None:
    """Write the first frames, fitted to `size`."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    for frame in islice(_pictures(file), frames):
        out.write(np.ascontiguousarray(fitted(frame, size)).tobytes())
    out.flush()


def _pictures(file: IO[bytes]) -> Iterator[np.ndarray]:
    """uint8 [h, w, 3] each, of a video, a picture, or an array `video` of them."""
    begins = file.read(6)
    file.seek(0)
    if begins == b"\x93NUMPY" or begins[:2] == b"PK":
        arrays = arrays_of(file)
        video = arrays["video"] if "video" in arrays else arrays["actions"]  # as the only one is called
        if video.dtype != np.uint8 or video.ndim not in (3, 4) or video.shape[-1] != 3:
            raise ValueError(f"{video.dtype} {video.shape}")
        yield from video if video.ndim == 4 else video[None]
        return
    yield from decoded(file)


if __name__ == "__main__":
    size, frames, seconds = map(int, sys.argv[1:])
    main(size, frames, seconds, sys.stdin.buffer, sys.stdout.buffer)
