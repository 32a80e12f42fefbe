"""How this process treats memory it has freed, and how much more it can have."""

import ctypes
import os
import sys
from pathlib import Path


def keep_freed_memory() -> None:
    """Keep freed memory for the next step instead of giving it back to the system (glibc only).

    A CPU step allocates and frees the same hundreds of megabytes each time. Given back, every page of them is faulted
    in anew; on virtual machines that took four times as long as the arithmetic (docs/experiments.md).
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, map_count = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(map_count, 0)


CONTROL_GROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
"""Of either version: the limit, what of it is used, and what of that are files that can be read again."""


def available_memory(system: Path = Path("/")) -> int:
    """Bytes that may still be allocated on this machine without swapping, or in this container if that is less."""
    described = system / "proc/meminfo"
    if not described.exists():  # no Linux: all there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = 1024 * _figures(described)["MemAvailable"]
    for limit, used, files in CONTROL_GROUPS:
        path = system / "sys/fs/cgroup" / limit
        if path.exists() and (most := path.read_text().strip()).isdigit():
            statistics = _figures(path.with_name("memory.stat"))
            taken = int((system / "sys/fs/cgroup" / used).read_text()) - statistics.get(files, 0)
            available = min(available, max(0, int(most) - taken))
    return available


def _figures(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    words = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    return {name: int(number) for name, number, *_ in words}
