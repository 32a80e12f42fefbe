"""Files that are there whole or not at all."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nextframe.errors import UserError

TEMPORARY = ".partial-"
"""Prefix of names that a killed run may leave behind; they may always be deleted."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk, or a folder one may not write to, into a line for the user."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        way_out = "free some space and run the same command again" if full else "choose another folder"
        raise UserError(f"{path} cannot be written ({error.strerror}): {way_out}") from error


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name that becomes `path` when the block ends well, and is removed when it does not."""
    # The suffix is kept at the end: libraries choose the format by it.
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    with new_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """The same for a folder, which must not exist yet."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
        try:
            yield temporary
            for file in temporary.iterdir():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed runs left behind in `folder` and below it."""
    for leftover in folder.rglob(f"{TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
