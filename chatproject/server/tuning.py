"""Make gunicorn's threaded workers faster. Without this module the server works the same, slower.

docs/performance.md has the measurements. tests/chatproject/server/test_overrides.py fails when
gunicorn renames or changes a method that is overridden here.
"""

import os
import select
import time
from collections import Counter
from contextlib import suppress
from multiprocessing.sharedctypes import RawArray
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

# Seconds that a worker waits before it accepts, for each connection that it has more than another.
ACCEPT_BACKOFF = 0.001
MAX_ACCEPT_BACKOFF = 0.003
# Seconds that a thread waits for the next request of a connection.
KEEPALIVE_WAIT = 0.02

# The number of connections of each worker, by its age, in shared memory. The arbiter counts ages
# up, so that two workers share a place only if one outlives 255 others.
UNAVAILABLE = 2**31 - 1
# RawArray has no lock: each worker writes its own number, and an old one does no harm.
CONNECTION_COUNTS = RawArray("i", [UNAVAILABLE] * 256)


class TunedWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    core: int | None = None

    def notify(self) -> None:
        """Publish the number of connections; gunicorn calls this before each wait for events."""
        super().notify()
        _publish(self, self.nr_conns if self.alive else UNAVAILABLE)

    def accept(self, listener: Any) -> None:
        """Wait a moment if another worker has fewer connections, so that it accepts first.

        The kernel often wakes the same worker: one of two had up to 47 of 50 connections, and their
        requests waited for its threads while the other's were free. gunicorn's `reuse_port` does
        not balance by number: https://github.com/benoitc/gunicorn/pull/2938
        """
        more = self.nr_conns - min(CONNECTION_COUNTS)
        if more > 0:
            time.sleep(min(more * ACCEPT_BACKOFF, MAX_ACCEPT_BACKOFF))
        super().accept(listener)

    def handle(self, conn: Any) -> Any:
        """Serve the next request of a connection in the same thread, if it comes at once.

        gunicorn hands each request from its main thread to another one.
        """
        while (kept := super().handle(conn)) is True and self._next_request_comes(conn):
            pass
        return kept

    def _next_request_comes(self, conn: Any) -> bool:
        # Beyond that number, another request may need the thread.
        if not self.alive or self.nr_conns > self.cfg.threads:
            return False
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(KEEPALIVE_WAIT * 1000))


def assign_core(arbiter: Any, worker: TunedWorker) -> None:
    """Choose the core with the fewest workers, if there are at least as many workers as cores.

    A worker's threads run one at a time, so one core is enough, and its cache keeps their data.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cores and len(cores) <= arbiter.num_workers:
        taken = Counter(other.core for other in arbiter.WORKERS.values())
        worker.core = min(cores, key=taken.__getitem__)


def pin_to_core(arbiter: Any, worker: TunedWorker) -> None:
    if worker.core is not None:
        with suppress(OSError):  # the core may have been taken away
            os.sched_setaffinity(0, {worker.core})


def withdraw(arbiter: Any, worker: TunedWorker) -> None:
    """Let no worker leave connections to one that has ended."""
    _publish(worker, UNAVAILABLE)


def _publish(worker: Any, count: int) -> None:
    CONNECTION_COUNTS[worker.age % len(CONNECTION_COUNTS)] = count


HOOKS = {"pre_fork": assign_core, "post_fork": pin_to_core, "child_exit": withdraw}
