"""Keep the memory of the server small, during bursts of requests and after them (with glibc)."""

import ctypes
import functools
import gc
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

TUNABLES = "GLIBC_TUNABLES"


def keep_less_for_threads(environment: MutableMapping[str, str]) -> None:
    """Start this program again, so that glibc keeps less of what its threads once needed.

    By default it makes up to eight arenas for each core, and a cache for each thread. glibc reads
    its tunables from the environment, and only at the start of a program.
    """
    if sys.platform == "linux" and TUNABLES not in environment:
        environment[TUNABLES] = "glibc.malloc.arena_max=2:glibc.malloc.tcache_count=0"
        os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606  (no shell is needed)


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
