"""How this process treats memory it has freed."""

import ctypes
import sys


def keep_freed_memory() -> None:
    """Keep freed memory for the next step instead of giving it back to the system (glibc only).

    A CPU step allocates and frees the same hundreds of megabytes each time. Given back, every page of them is faulted
    in anew; on virtual machines that took four times as long as the arithmetic (docs/experiments.md).
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, map_count = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(map_count, 0)
