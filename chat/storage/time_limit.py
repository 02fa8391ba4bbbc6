"""The time limit of storage calls: the request's deadline, and a little more to settle."""

from contextvars import ContextVar

from providers.deadline import Deadline

# The longest wait of a call for a slow storage, if the request has that much time.
MAX_SECONDS = 30.0
# A call has this long past the deadline, for the record of a request that used up its time:
# half a second for each of three tries.
SETTLE_SECONDS = 1.5

# The share of a request's time that it may wait for its turn to write, and its minimum.
WRITER_SHARE, MIN_WRITER_SECONDS = 0.1, 0.5

_deadline: ContextVar[Deadline | None] = ContextVar("storage_deadline", default=None)


class storage_deadline:
    """Let calls of the storage within the context wait until the deadline, cancelled or not."""

    __slots__ = ("_given", "_token")

    def __init__(self, deadline: Deadline) -> None:
        self._given = deadline

    def __enter__(self) -> None:
        self._token = _deadline.set(self._given)

    def __exit__(self, *error: object) -> None:
        _deadline.reset(self._token)


def storage_seconds(default: float) -> float:
    """Return how long a call may take from now on; `default` outside of requests."""
    deadline = _deadline.get()
    if deadline is None:
        return default
    return min(max(deadline.remaining_if_not_cancelled(), SETTLE_SECONDS), MAX_SECONDS)


def writer_seconds(default: float) -> float:
    """Return how long a call may wait for its turn to write; `default` outside of requests."""
    deadline = _deadline.get()
    if deadline is None:
        return default
    return min(max(deadline.seconds * WRITER_SHARE, MIN_WRITER_SECONDS), storage_seconds(default))
