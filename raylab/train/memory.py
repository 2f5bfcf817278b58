"""Keep the memory that a training step frees, for the next step to use."""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Make malloc keep freed memory in this process, instead of giving it back to the kernel.

    By default glibc maps every large tensor afresh and unmaps it when it is freed, so that each step pays a page fault
    for every 4 KiB that it touches. After this call they come from one heap that only grows; the process holds on to
    the most it ever used. Call it once, before training starts.

    Returns:
        Whether it took effect; False without glibc (macOS, Windows, musl).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
