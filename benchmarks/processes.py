"""CPU and memory of a process and its descendants, from /proc."""

import os
from pathlib import Path

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of the tree, with that of ended processes it waited for."""
    return sum(_own_cpu(member) for member in _tree(pid))


def memory_mb(pid: int) -> float:
    """Return the resident memory of the tree; memory that processes share counts once."""
    return sum(_proportional_kb(member) for member in _tree(pid)) / 1024


def resident_mb(pid: int) -> float:
    """Return the resident memory of one process, with all that it shares."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _tree(pid: int) -> list[int]:
    return [pid, *(member for child in children(pid) for member in _tree(child))]


def _own_cpu(pid: int) -> float:
    # The program's name may hold anything, and ends with the last parenthesis.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) * TICK_SECONDS


def _proportional_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0
