"""CPU and memory of a process and its descendants, from /proc."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 1.0
IDLE_SHARE = 0.05


@dataclass
class Usage:
    """The seconds of CPU of a tree, and its most memory in MB."""

    cpu: float = 0.0
    peak_mb: float = 0.0


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of the tree, with that of ended processes it waited for."""
    return sum(_own_cpu(member) for member in _tree(pid))


def memory_mb(pid: int) -> float:
    """Return the resident memory of the tree; memory that processes share counts once."""
    return sum(_proportional_kb(member) for member in _tree(pid)) / 1024


@contextmanager
def measured(pid: int) -> Iterator[Usage]:
    """Measure the tree meanwhile; the usage is complete at the end of the context."""
    usage, over = Usage(), threading.Event()

    def sample() -> None:
        while not over.is_set():
            usage.peak_mb = max(usage.peak_mb, memory_mb(pid))
            over.wait(SAMPLE_SECONDS)

    thread = threading.Thread(target=sample)
    before = cpu_seconds(pid)
    thread.start()
    try:
        yield usage
    finally:
        over.set()
        thread.join()
        usage.cpu = cpu_seconds(pid) - before


def wait_until_idle(pid: int, limit: float = 30.0) -> None:
    """Wait until the tree uses hardly any CPU, or for `limit` seconds."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        before = cpu_seconds(pid)
        time.sleep(1)
        if cpu_seconds(pid) - before < IDLE_SHARE:
            return


def resident_mb(pid: int) -> float:
    """Return the resident memory of one process, with all that it shares."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*")
    return [
        int(child) for task in tasks for child in _read(pid, f"task/{task.name}/children").split()
    ]


def _tree(pid: int) -> list[int]:
    return [pid, *(member for child in children(pid) for member in _tree(child))]


def _own_cpu(pid: int) -> float:
    # The program's name may hold anything, and ends with the last parenthesis.
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) * TICK_SECONDS


def _proportional_kb(pid: int) -> int:
    for line in _read(pid, "smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _read(pid: int, name: str) -> str:
    """Return a file of /proc, empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
