"""Return memory to the system after a rush (with glibc)."""

import ctypes
import functools
import gc
from typing import Any

M_ARENA_MAX = -8  # of malloc.h


def share_arenas() -> None:
    """Let all threads allocate from two arenas.

    glibc makes up to eight for each core. Each keeps what its threads once needed, and threads that
    run Python allocate one at a time anyway.
    """
    if libc := _glibc():
        libc.mallopt(M_ARENA_MAX, 2)


def trim() -> None:
    """Return free memory to the system; it takes some tens of milliseconds."""
    gc.collect()
    if libc := _glibc():
        libc.malloc_trim(0)


@functools.cache
def _glibc() -> Any:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None
