"""Footage and latents in object storage: each file is fetched when it is first read, into a cache on this disk."""

import errno
import hashlib
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nextframe.errors import UserError, reason_of
from nextframe.files import address_of, cache_folder, new_file, sha256, write_atomically, writing

KEPT_SECONDS = 7 * 24 * 3600
"""That an older state stays on this disk after it was last opened: who opened it may still be reading."""


@dataclass(frozen=True)
class Mirror:
    """A folder in object storage, and the one here that its files are fetched into."""

    url: str
    folder: Path

    def fetch(self, name: str, digest: str | None = None) -> None:
        """Have a file of the folder here. Raises UserError when it cannot be had, or is not the one of this sha256."""
        path = self.folder / name
        if not path.exists():
            with new_file(path) as temporary:
                _copy(f"{self.url}/{name}", temporary)
                if digest is not None and sha256(temporary) != digest:
                    raise UserError(f"{self.url}/{name} is not the file that its index lists: it changed, begin again")

    def fetch_folder(self, name: str) -> None:
        """The same for all files of a folder in it."""
        for file in _listed(f"{self.url}/{name}"):
            self.fetch(f"{name}/{file}")


def mirror_of(folder: Path | str, index: str) -> Mirror | None:
    """Where the files of a folder in object storage are to be found here; None of a folder that is here.

    Each state of its file `index` has a cache of its own, so that nothing of an older one is taken for it.
    Raises UserError when the index cannot be had.
    """
    url = address_of(folder)
    if url is None:
        return None
    place = cache_folder() / "remote" / hashlib.sha256(url.encode()).hexdigest()[:16]
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    fresh = place / index
    with new_file(fresh) as temporary:
        _copy(f"{url}/{index}", temporary)
    content = fresh.read_bytes()
    state = place / hashlib.sha256(content).hexdigest()[:16]
    for other in place.iterdir():
        with suppress(FileNotFoundError):  # another process may be doing the same
            # To open it again, below, writes into it.
            if other.is_dir() and other != state and other.stat().st_mtime < time.time() - KEPT_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
    write_atomically(state / index, content)
    return Mirror(url, state)


def _copy(url: str, path: Path) -> None:
    import fsspec

    try:
        system, name = fsspec.core.url_to_fs(url)
        system.get_file(name, str(path))
    except Exception as error:  # each kind of storage has exceptions of its own
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # this disk is full, and `new_file` says so
        raise UserError(_said(url, error)) from error


def _listed(url: str) -> list[str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        return sorted(str(name).rstrip("/").rpartition("/")[2] for name in system.ls(path, detail=False))
    except Exception as error:
        raise UserError(_said(url, error)) from error


def _said(url: str, error: Exception) -> str:
    return (
        f"{url} cannot be fetched ({reason_of(error)}): check the address and your access to it, or copy it here first"
    )
