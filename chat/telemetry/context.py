"""The context of the running request: its id, the fields of its log line, its timings."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class RequestContext:
    """`timings` are the milliseconds spent in each part of the request."""

    request_id: str = ""
    log_fields: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)


_context: ContextVar[RequestContext | None] = ContextVar("request", default=None)


def current_request() -> RequestContext:
    """Return the live context of the running request; outside a request, an empty one."""
    return _context.get() or RequestContext()


def current_request_id() -> str:
    """Return the id of the running request; empty outside a request."""
    return current_request().request_id


def add_log_fields(**fields: Any) -> None:
    """Add fields to the log line of the running request."""
    current_request().log_fields.update(fields)


class server_timing:
    """Add the time spent in the block to a part of the request's `Server-Timing`."""

    __slots__ = ("_part", "_started")

    def __init__(self, part: str) -> None:
        self._part = part

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        timings = current_request().timings
        elapsed = (time.perf_counter() - self._started) * 1000
        timings[self._part] = timings.get(self._part, 0.0) + elapsed


@contextmanager
def request_context(request_id: str) -> Iterator[RequestContext]:
    """Set the context of a request, and clear it after: threads serve many requests."""
    context = RequestContext(request_id)
    _context.set(context)
    try:
        yield context
    finally:
        _context.set(None)
