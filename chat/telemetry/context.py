"""The context of the running request: its id, the fields of its log line, its timings."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_fields: ContextVar[dict[str, Any] | None] = ContextVar("fields", default=None)
_timings: ContextVar[dict[str, float] | None] = ContextVar("timings", default=None)


def current_request_id() -> str:
    """Return the id of the running request; empty outside a request."""
    return _request_id.get()


def add_log_fields(**fields: Any) -> None:
    """Add fields to the log line of the running request."""
    known = _fields.get()
    if known is not None:
        known.update(fields)


def log_fields() -> dict[str, Any]:
    """Return the live fields of the running request's log line: later ones are added to them."""
    return _fields.get() or {}


class server_timing:  # noqa: N801  (a context manager, named like contextlib's)
    """Add the time spent in the block to a part of the request's `Server-Timing`."""

    __slots__ = ("_part", "_started")

    def __init__(self, part: str) -> None:
        self._part = part

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        parts = _timings.get()
        if parts is not None:
            elapsed = (time.perf_counter() - self._started) * 1000
            parts[self._part] = parts.get(self._part, 0.0) + elapsed


@contextmanager
def request_context(request_id: str) -> Iterator[None]:
    """Set the context of a request, and clear it after: threads serve many requests."""
    _request_id.set(request_id)
    _fields.set({})
    _timings.set({})
    try:
        yield
    finally:
        _request_id.set("")
        _fields.set(None)
        _timings.set(None)


def timings() -> dict[str, float]:
    """Return the milliseconds spent so far in each part of the running request."""
    return _timings.get() or {}
