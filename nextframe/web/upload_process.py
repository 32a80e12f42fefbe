"""`python -m nextframe.web.upload_process SIZE FRAMES SECONDS < FILE > PIXELS`: whatever it meets, it stays small."""

import resource
import sys
from collections.abc import Iterator
from itertools import islice
from typing import IO

import av
import numpy as np

from nextframe.data.video import decoded, fitted

MEMORY = 2 * 2**30
MOST_PIXELS = 8192 * 8192
"""Of a frame, as the file says before any is decoded."""


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
        loaded = np.load(file, allow_pickle=False)
        video = loaded if isinstance(loaded, np.ndarray) else loaded["video"]
        if video.dtype != np.uint8 or video.ndim not in (3, 4) or video.shape[-1] != 3:
            raise ValueError(f"{video.dtype} {video.shape}")
        yield from video if video.ndim == 4 else video[None]
        return
    with av.open(file, "r", metadata_errors="replace") as container:
        stream = container.streams.video[0]
        if not 0 < stream.width * stream.height <= MOST_PIXELS:
            raise ValueError(f"{stream.width} x {stream.height} pixels")
    file.seek(0)
    yield from decoded(file)


if __name__ == "__main__":
    size, frames, seconds = map(int, sys.argv[1:])
    main(size, frames, seconds, sys.stdin.buffer, sys.stdout.buffer)
