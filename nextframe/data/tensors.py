"""Tensors of files that somebody else wrote with torch.save: no code in them is run, no small file fills the memory."""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextframe.errors import reason_of

PACKED = 2**26
"""Bytes more than its size that a file of torch may unpack to: tensors are never packed there, code is."""
SHARED = 4
"""How many tensors of a file may be one and the same: tied weights are."""


def tensors_of(path: Path, mmap: bool = False) -> Any:
    """What torch.save wrote, if that is tensors and what holds them: torch refuses a file that wants to run code.

    Raises ValueError for other or damaged files, in torch's words.
    """
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with it is said below, in a line
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
        tensors = _tensors(content)
    except Exception as error:  # broken files make torch raise of all kinds
        raise ValueError(reason_of(error)) from error
    # One number may be told to stand for all of a huge tensor.
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) > path.stat().st_size * SHARED:
        raise ValueError("its tensors are larger than the file")
    return content


def _check_archive(path: Path) -> None:
    """Raises ValueError or BadZipFile for a file of torch that promises more than is in it."""
    if zipfile.is_zipfile(path):  # files of old versions are none
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size + PACKED:
                raise ValueError("its parts are larger than the file")


def _tensors(content: Any) -> list[Tensor]:
    """All there are. What holds them is entered once, however often it is held: it may hold itself."""
    found: list[Tensor] = []
    entered: set[int] = set()

    def enter(part: Any) -> None:
        if isinstance(part, Tensor):
            found.append(part)
        elif isinstance(part, dict | list | tuple) and id(part) not in entered:
            entered.add(id(part))
            for value in part.values() if isinstance(part, dict) else part:
                enter(value)

    enter(content)
    return found
