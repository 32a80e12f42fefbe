"""Arrays of files that somebody else wrote: nothing is unpickled, and no small file fills the memory."""

import sys
from collections.abc import Container
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np

from nextframe.errors import UserError, reason_of

MOST_BYTES = 4 * 2**30
"""That the arrays of one file may take; a zip of megabytes can hold terabytes of zeros."""


def arrays_of(file: IO[bytes], unread: Container[str] = ()) -> dict[str, np.ndarray]:
    """All arrays of an npz but those that stay `unread`, or the one of an npy as `actions`.

    Raises ValueError for other or damaged files.
    """
    try:
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"actions": found}
        if (size := sum(member.file_size for member in found.zip.infolist())) > MOST_BYTES:
            raise ValueError(f"its arrays take {size >> 20:,} MiB, the most is {MOST_BYTES >> 20:,}: divide it")
        arrays = {name: found[name] for name in found.files if name not in unread}
    except Exception as error:  # broken files make numpy raise of all kinds
        raise ValueError(reason_of(error)) from error
    if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{others[0][:100]!r} in it is no array")
    if strange := [name for name, array in arrays.items() if _is_no_text(array)]:
        raise ValueError(f"the text of {strange[0][:100]!r} in it is damaged")
    return arrays


def check_room(where: Path, frames: int, size: int) -> None:
    """Raises UserError for more pixels than an episode may have: they are in memory at once."""
    if (room := frames * size * size * 3) > MOST_BYTES:
        raise UserError(f"{where} would take {room >> 20:,} MiB of memory, the most is {MOST_BYTES >> 20:,}: divide it")


def read_npz(path: Path, again: str) -> dict[str, np.ndarray]:
    """All arrays of a file, none unpickled. Raises UserError, ending in `again`, when it is missing or damaged."""
    content = read_bytes(path, again)
    try:
        return arrays_of(BytesIO(content))
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}): delete it, and {again}") from error


def read_bytes(path: Path, again: str) -> bytes:
    """Raises UserError, ending in `again`, when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {again}") from error


def _is_no_text(array: np.ndarray) -> bool:
    """Whether an array of texts has a number in it that is no letter: numpy only finds out when one is asked for."""
    if array.dtype.kind != "U" or not array.nbytes:
        return False
    numbers = np.ascontiguousarray(array).ravel().view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
    return bool(numbers.max() > sys.maxunicode)


def names_of_arrays(path: Path) -> list[str]:
    """Those in an npz, which are not read. Raises ValueError as `arrays_of` does."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays.files
    except Exception as error:
        raise ValueError(reason_of(error)) from error
