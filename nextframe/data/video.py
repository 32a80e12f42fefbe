"""Video files, both ways: our own lossless ones, and whatever people have."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import IO, Literal

import av
import av.error
import numpy as np
from PIL import Image

from nextframe.errors import reason_of

Fit = Literal["crop", "squeeze"]
"""How a picture is made square."""
SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".gif")
MOST_PIXELS = 8192 * 8192
"""Of a frame, as the file says before any is decoded."""
FEWEST_TIMES, FEW, FAR = 16, 0.05, 0.1
"""Frames, share of the distances between them, and distance of the usual one from what the file says, from which a
rate counts as uneven."""
ALONE = {"protocol_whitelist": "none"}
"""For FFmpeg: nothing is read but the open file. One that is a list of others would have it open those."""
VIDEO_ERRORS = (av.error.FFmpegError, IndexError, ValueError, AttributeError, MemoryError)
"""What a broken file makes of reading it. IndexError: there is no video in it; AttributeError: none with a size."""
# Lossless H.264 in RGB. Without arithmetic coding (coder 0) it is 6 % larger and decodes in half the time.
ENCODER = {"qp": "0", "preset": "veryfast", "coder": "0", "g": "15", "threads": "1"}


def lossless_mp4(video: np.ndarray, fps: float) -> bytes:
    """An mp4 that decodes to exactly `video`, uint8 [f, h, w, 3]."""
    return mp4(video, fps, "libx264rgb", "rgb24", ENCODER)


def mp4(video: np.ndarray, fps: float, codec: str, pixels: str, options: dict[str, str]) -> bytes:
    """`video`, uint8 [f, h, w, 3], as an mp4; `codec` and its `options` and format of `pixels` by FFmpeg's names."""
    file = BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = pixels
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def decoded(file: IO[bytes], times: list[float] | None = None) -> Iterator[np.ndarray]:
    """The frames of a video file, uint8 [h, w, 3], one after the other; `times`: gets the second each is shown at.

    Raises one of `VIDEO_ERRORS` for what is no video.
    """
    with av.open(file, "r", metadata_errors="replace", options=ALONE) as container:
        stream = container.streams.video[0]
        if stream.width * stream.height > MOST_PIXELS:
            raise ValueError(f"{stream.width} x {stream.height} pixels are too many")
        stream.thread_type = "NONE"
        matrix: bytes | None = None
        rotation: int | None = None
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise ValueError("a frame is damaged")
            if times is not None and frame.time is not None:
                times.append(frame.time)
            if frame.rotation != rotation:  # not of every frame: one whose side data were looked at is freed late
                rotation, side_data = frame.rotation, frame.side_data.get("DISPLAYMATRIX")
                matrix = None if side_data is None else bytes(side_data)
            planar = frame.format.name == "gbrp"  # 15 times cheaper to copy than to have it converted
            yield upright(frame.to_ndarray() if planar else frame.to_ndarray(format="rgb24"), matrix)


def upright(picture: np.ndarray, matrix: bytes | None) -> np.ndarray:
    """The picture [h, w, 3] of a frame as it is to be shown: phones turn and mirror it by a matrix beside it."""
    if matrix is None:
        return picture
    # A pixel at (x, y) is shown at (a x + c y, b x + d y).
    (a, b, _), (c, d, _), _ = np.frombuffer(matrix, np.int32).reshape(3, 3).tolist()
    if abs(c) > abs(a):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: 1 if d >= 0 else -1, :: 1 if a >= 0 else -1]


@dataclass(frozen=True)
class VideoFacts:
    """What a video file says of itself. fps: None where it does not say; frames: 0 where it does not."""

    fps: float | None
    frames: int


def video_facts(path: Path) -> VideoFacts:
    """Without decoding. Raises one of `VIDEO_ERRORS`, and OSError."""
    with path.open("rb") as file, av.open(file, "r", metadata_errors="replace", options=ALONE) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 0)
        frames = stream.frames
        if stream.duration and stream.time_base:  # an edit list may hide frames, and shortens this too
            frames = min(frames, round(float(stream.duration * stream.time_base) * rate))
        return VideoFacts(rate if 0 < rate < math.inf else None, frames)


def uneven(times: list[float], fps: float | None) -> bool:
    """Whether frames follow each other at several rates: more than a few at half the usual distance, or half as far
    again; or all but a pause at another rate than `fps`, which a file states in the mean."""
    if len(times) < FEWEST_TIMES:
        return False
    distances = np.diff(times)
    usual = np.median(distances)
    paused = fps is not None and bool(abs(usual * fps - 1) > FAR)
    return paused or bool((np.abs(distances - usual) > usual / 2).mean() > FEW)


def unreadable(path: Path, error: Exception) -> str:
    """What is wrong with a video, without a way out."""
    reason = "there is no video in it" if isinstance(error, IndexError) else reason_of(error)
    return f"{path} cannot be read as a video ({reason})"


MOST_SCALED_PIXELS = 2**25
"""Of a picture that is scaled before its middle is kept."""


def fitted(picture: np.ndarray, size: int, fit: Fit = "crop") -> np.ndarray:
    """A picture, uint8 [h, w, 3], as a frame, uint8 [size, size, 3].

    crop: its shorter side is brought to `size`, and the middle is kept, as the paper's evaluations do. squeeze: all of
    it is kept, and its aspect changes. Bilinear and antialiased: every pixel of what is kept has its share. Raises
    ValueError for a picture so narrow that it would fill the memory before it is cropped.
    """
    height, width = picture.shape[:2]
    if (height, width) == (size, size):
        return np.ascontiguousarray(picture)
    if fit == "crop" and size**2 * max(height, width) > MOST_SCALED_PIXELS * min(height, width):
        raise ValueError(f"is {width} x {height}, too narrow to keep the middle of it")
    shorter = min(height, width) if fit == "crop" else None
    # The longer side is rounded down, and the middle to an even number, as torchvision does.
    across, down = (size * width // shorter, size * height // shorter) if shorter else (size, size)
    left, top = round((across - size) / 2), round((down - size) / 2)
    image = Image.fromarray(np.ascontiguousarray(picture)).resize((across, down), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + size, top + size)))
