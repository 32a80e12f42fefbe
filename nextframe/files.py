"""Files that are there whole or not at all."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nextframe.errors import UserError

TEMPORARY = ".nextframe-partial-"
"""Prefix of names that a killed run may leave behind; nobody else uses it, so they may always be deleted."""
LONGEST_NAME = 1000
"""Characters of a file that an index names."""


CACHE = "NEXTFRAME_CACHE"
"""Environment variable: a folder for what was downloaded, if not ~/.cache/nextframe."""


def cache_folder() -> Path:
    """Where downloads, and what was made of them, are kept."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nextframe"
    return Path(os.environ.get(CACHE) or usual).expanduser()


INDICES = {"dataset.json": "footage", "latents.json": "latents", "config.yaml": "a run"}
"""By the file that says so: what of ours may lie in a folder."""


def described(folder: Path) -> str:
    """What a folder is, where something else was wanted: `is not there`, `holds latents`, `holds a run`."""
    if not folder.is_dir():
        return "is a file" if folder.exists() else "is not there"
    kinds = [kind for index, kind in INDICES.items() if (folder / index).exists()]
    return f"holds {' and '.join(kinds)}" if kinds else "holds nothing that nextframe has made"


def refuse_taken(out: Path, what: str) -> None:
    """Raises UserError where footage, latents or a run lies in the folder that `what` shall be written to."""
    if any((out / index).exists() for index in INDICES):
        raise UserError(f"{out} {described(out)}: choose another --out for {what}")


_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(.*)")  # a Path makes one slash of two


def address_of(folder: Path | str) -> str | None:
    """`s3://bucket/latents` of what is meant for an address in object storage; None of a folder here."""
    found = _ADDRESS.fullmatch(str(folder))
    if found is None:
        return None
    root = "/" if found[1] == "file" else ""  # a path follows, not a host
    return f"{found[1]}://{root}{found[2].strip('/')}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk, or a folder one may not write to, into a line for the user."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        way_out = "free some space and run the same command again" if full else "choose another folder"
        raise UserError(f"{path} cannot be written ({error.strerror}): {way_out}") from error


def refuse_object_storage(path: Path) -> None:
    """Raises UserError for a path that is an address: there is no writing to it in one piece."""
    if address_of(path):
        raise UserError(f"{path} is in object storage: choose a folder here, and upload it when it is done")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name that becomes `path` when the block ends well, and is removed when it does not."""
    # The suffix is kept at the end: libraries choose the format by it.
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{threading.get_ident()}-{path.name}")
    refuse_object_storage(path)
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


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    write_atomically(path, json.dumps(content, indent=indent).encode())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """The same for a folder, which must not exist yet."""
    refuse_object_storage(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
        temporary = aside / path.name
        temporary.mkdir()  # open to whom new folders are; `aside` is closed to others
        try:
            yield temporary
            for file in (path for path in temporary.rglob("*") if path.is_file()):
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Be the only one to write to a folder, which is made if need be, and taken away again if nothing was put there.

    Raises UserError when another process is writing. The lock goes with the process, however it ends.
    """
    refuse_object_storage(folder)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}): choose another folder") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is writing to {folder}: wait, or choose another folder") from None
        except OSError as error:
            raise UserError(f"{folder} cannot be locked ({error.strerror}): choose a folder on another disk") from error
        yield
    finally:
        if made:
            with suppress(OSError):  # there is something in it
                folder.rmdir()
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what killed runs left behind in `folder`, which must be ours alone: see `sole_writer`.

    Not below it: a folder of somebody else's may lie there, with a writer at work.
    """
    for leftover in folder.glob(f"{TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def state_of(path: Path) -> tuple[int, int] | None:
    """Another one means that a file was written anew: they are replaced whole."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError, and ValueError for all that is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def plain_name(name: object) -> bool:
    """Whether a word can be the name of a file, and not lead out of its folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name and can_be_told(name)


def can_be_told(name: str) -> bool:
    """Whether a name is short enough for a path and a message, and is text of one line: no letter in it tells a
    terminal what to do."""
    controls = any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name[:LONGEST_NAME])
    return len(name) <= LONGEST_NAME and not controls


def inside(folder: Path, name: str) -> Path:
    """The file of a folder that an index in it names. Raises ValueError where that leads out of it, by links too,
    or can be no path."""
    if not can_be_told(name):
        raise ValueError(f"names {name[:200]!r}, which can be no path: do not trust it")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"names {name[:200]!r}, outside its folder: do not trust it")
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
