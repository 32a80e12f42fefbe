"""A visitor's own picture or clip. Decoded in a process that has so much time and memory, and no more."""

import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from nextframe.errors import UserError
from nextframe.files import writing
from nextframe.workers import worker_command, worker_environment

MOST_BYTES = 32 * 2**20
MOST_FRAMES = 300
SECONDS = 30
PROCESS = "nextframe.web.upload_process"


def decoded_upload(content: bytes, size: int, folder: Path) -> np.ndarray:
    """The first frames, uint8 [f, size, size, 3]. Raises UserError for what is no picture or video."""
    command = worker_command(PROCESS, str(size), str(MOST_FRAMES), str(SECONDS))
    with ExitStack() as held:
        with writing(folder):
            given, made = (held.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(2))
            given.write(content)
            given.seek(0)
        try:
            done = subprocess.run(
                command,
                stdin=given,
                stdout=made,
                stderr=subprocess.DEVNULL,
                env=worker_environment(),
                timeout=SECONDS,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"the file took more than {SECONDS} s to decode: use a smaller one") from None
        made.seek(0)
        pixels = made.read()
    frame = size * size * 3
    if done.returncode or not pixels or len(pixels) % frame:
        raise UserError("the file cannot be read as a picture or video: use png, jpg, gif, mp4, webm or npz")
    return np.frombuffer(pixels, np.uint8).reshape(-1, size, size, 3)
