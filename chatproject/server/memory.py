"""Return memory to the system after a burst of requests (with glibc)."""

import ctypes
import functools
import gc
import os
from pathlib import Path
from typing import Any


def trim() -> None:
    """Return free memory to the system; it takes some tens of milliseconds."""
    # First, so that malloc_trim finds what only cycles still hold.
    gc.collect()
    if libc := _glibc():
        libc.malloc_trim(0)


def resident_bytes() -> int:
    """Return the memory that this process holds; 0 where the system does not tell (macOS)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def _glibc() -> Any:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None
