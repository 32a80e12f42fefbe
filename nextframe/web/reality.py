"""The real world beside a dream, or alone: an engine in a process of its own, asked one question at a time.

In a process, because an engine takes over what signals mean, and because it may crash. This is the server's end of the
pipe; `reality_process.py` is the other.
"""

import contextlib
import json
import os
import select
import struct
import subprocess
import threading
from typing import Any

import numpy as np

from nextframe.errors import UserError
from nextframe.workers import worker_command, worker_environment

PATIENCE_SECONDS = 30.0
PROCESS = "nextframe.web.reality_process"


class Reality:
    """An engine that starts when it is first asked something. Close it: it is a process."""

    def __init__(self, world: dict[str, Any]) -> None:
        """`world`: what `reality_process` needs to know to begin."""
        self.world = world
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Raises UserError when it cannot; so does whatever is asked later."""
        with self._lock:
            self._started()

    def ask(self, question: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        """The answer, and the frame that belongs to it, uint8 [size, size, 3]. Raises UserError when there is none."""
        with self._lock:
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(json.dumps(question).encode() + b"\n")
                process.stdin.flush()
                header, pixels = _read_answer(process.stdout.fileno())
            except (OSError, EOFError, ValueError) as error:
                self._end()
                raise UserError("the engine has ended, or does not answer: go on without, or start again") from error
            if "error" in header:
                raise UserError(header["error"])
            return header, np.frombuffer(pixels, np.uint8).reshape(header["size"], header["size"], 3)

    def close(self) -> None:
        """End the process; it may be started again."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            # A session of its own: Ctrl-C reaches the server only, which then ends the engines.
            self._process = subprocess.Popen(
                worker_command(PROCESS, json.dumps(self.world)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=worker_environment(),
                start_new_session=True,
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # of what it has not read, if it has ended by itself
            process.stdin.close()  # which it takes as the end, and closes its engine
        try:
            process.wait(PATIENCE_SECONDS / 6)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _read_answer(file: int) -> tuple[dict[str, Any], bytes]:
    (length, pixels) = struct.unpack(">II", _read(file, 8))
    return json.loads(_read(file, length)), _read(file, pixels)


def _read(file: int, length: int) -> bytes:
    """Exactly so many bytes. Raises EOFError when the other end is gone, or silent for too long."""
    parts = bytearray()
    while len(parts) < length:
        if not select.select([file], [], [], PATIENCE_SECONDS)[0]:
            raise EOFError
        part = os.read(file, length - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
