"""What is known of the running request: its id, the fields of its log line, its timings."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_fields: ContextVar[dict[str, Any] | None] = ContextVar("fields", default=None)
_spent: ContextVar[dict[str, float] | None] = ContextVar("spent", default=None)


def current_request_id() -> str:
    """The id of the running request; empty outside of one."""
    return _request_id.get()


def add_log_fields(**fields: Any) -> None:
    """Add fields to the log line of the running request."""
    line = _fields.get()
    if line is not None:
        line.update(fields)


def log_fields() -> dict[str, Any]:
    """The fields of the running request's line so far; it goes on to grow."""
    return _fields.get() or {}


class server_timing:  # noqa: N801  (a context, named as contextlib's are)
    """Add the time spent here to a part of the running request's `Server-Timing`."""

    __slots__ = ("_part", "_started")

    def __init__(self, part: str) -> None:
        self._part = part

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        spent = _spent.get()
        if spent is not None:
            elapsed = (time.perf_counter() - self._started) * 1000
            spent[self._part] = spent.get(self._part, 0.0) + elapsed


@contextmanager
def request_context(request_id: str) -> Iterator[None]:
    """Open the context of a request in this thread, which goes on to other requests after it."""
    _request_id.set(request_id)
    _fields.set({})
    _spent.set({})
    try:
        yield
    finally:
        _request_id.set("")
        _fields.set(None)
        _spent.set(None)


def timings() -> dict[str, float]:
    """Milliseconds spent so far in each part of the running request."""
    return _spent.get() or {}
