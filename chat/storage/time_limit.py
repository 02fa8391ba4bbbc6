"""The time limit of storage calls: the request's deadline, and a little more to settle."""

import time
from contextvars import ContextVar

from providers.deadline import Deadline

# The longest wait of a call for a slow storage, if the request has that much time.
MAX_SECONDS = 30.0
# Calls of a context have this long at least, for the record of a request that used up its time:
# half a second for each of three tries.
SETTLE_SECONDS = 1.5

# The share of a request's time that it may wait for its turns to write, and its minimum.
WRITER_SHARE, MIN_WRITER_SECONDS = 0.1, 0.5

_limit: ContextVar["storage_deadline | None"] = ContextVar("storage_deadline", default=None)


class storage_deadline:
    """Let calls of the storage within the context wait until the deadline, cancelled or not.

    Together they have at least SETTLE_SECONDS, and wait for SQLite's writer for at most a tenth of
    the deadline's length.
    """

    __slots__ = ("_end", "_token", "_writer_seconds")

    def __init__(self, deadline: Deadline) -> None:
        left = max(deadline.remaining_if_not_cancelled(), SETTLE_SECONDS)
        self._end = time.monotonic() + left
        share = max(deadline.seconds * WRITER_SHARE, MIN_WRITER_SECONDS)
        self._writer_seconds = min(share, MAX_SECONDS)

    def __enter__(self) -> None:
        self._token = _limit.set(self)

    def __exit__(self, *error: object) -> None:
        _limit.reset(self._token)

    def seconds(self) -> float:
        return min(max(0.0, self._end - time.monotonic()), MAX_SECONDS)

    def writer_seconds(self) -> float:
        return min(self._writer_seconds, self.seconds())

    def waited(self, seconds: float) -> None:
        self._writer_seconds = max(0.0, self._writer_seconds - seconds)


def storage_seconds(default: float) -> float:
    """Return how long a call may take from now on; `default` outside of requests."""
    limit = _limit.get()
    return default if limit is None else limit.seconds()


def writer_seconds(default: float) -> float:
    """Return how long a call may wait for its turn to write; `default` outside of requests."""
    limit = _limit.get()
    return default if limit is None else limit.writer_seconds()


def waited_for_writer(seconds: float) -> None:
    """Take a wait from those that the request has left."""
    if limit := _limit.get():
        limit.waited(seconds)
