"""The time limits of storage calls, and of their waits for SQLite's one writer.

A call may take what is left of its request's deadline: 30 seconds at most. After the deadline all
calls together have 1.5 seconds, to settle the record.

Before the model is asked, all waits for the writer together may take a tenth of the request's time,
but at least 0.5 and at most 30 seconds. Then the model still has time to answer.
"""

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

    Together they have at least SETTLE_SECONDS. Their waits for SQLite's writer have `writer_share`
    of the deadline's length.

    The limits replace those of a context around it. With `narrow` both hold, and the waits count
    against both.
    """

    __slots__ = ("_around", "_end", "_token", "_writer_seconds")

    def __init__(
        self, deadline: Deadline, *, writer_share: float = WRITER_SHARE, narrow: bool = False
    ) -> None:
        self._around = _limit.get() if narrow else None
        left = max(deadline.remaining_if_not_cancelled(), SETTLE_SECONDS)
        self._end = time.monotonic() + left
        length = max(deadline.seconds, SETTLE_SECONDS)
        self._writer_seconds = min(max(length * writer_share, MIN_WRITER_SECONDS), MAX_SECONDS)

    def __enter__(self) -> None:
        self._token = _limit.set(self)

    def __exit__(self, *error: object) -> None:
        _limit.reset(self._token)

    def seconds(self) -> float:
        left = min(max(0.0, self._end - time.monotonic()), MAX_SECONDS)
        return min(left, self._around.seconds()) if self._around else left

    def writer_seconds(self) -> float:
        left = min(self._writer_seconds, self.seconds())
        return min(left, self._around.writer_seconds()) if self._around else left

    def spend_writer_seconds(self, seconds: float) -> None:
        self._writer_seconds = max(0.0, self._writer_seconds - seconds)
        if self._around:
            self._around.spend_writer_seconds(seconds)


def storage_seconds(default: float) -> float:
    """Return how long a call may take from now on; `default` outside of requests."""
    limit = _limit.get()
    return default if limit is None else limit.seconds()


def writer_seconds(default: float) -> float:
    """Return how long a call may wait for its turn to write; `default` outside of requests."""
    limit = _limit.get()
    return default if limit is None else limit.writer_seconds()


def spend_writer_seconds(seconds: float) -> None:
    """Take a wait for the writer from the time that the request has left for such waits."""
    if limit := _limit.get():
        limit.spend_writer_seconds(seconds)
