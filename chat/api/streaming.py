"""Answers that grow: the service's events as server-sent events.

https://html.spec.whatwg.org/multipage/server-sent-events.html has the format. A thread of its own
asks the model and settles the record, while the one that serves the client waits for what comes and
keeps the connection alive. When nobody listens any more, the request's deadline is cancelled, which
ends the call to the vendor.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import orjson
from django.conf import settings
from django.db import close_old_connections
from django.http import StreamingHttpResponse

from chat.api.disconnect import cancel_on_disconnect
from chat.api.server_context import can_stream
from chat.errors import ClientDisconnected, Problem, log_and_convert, problem_from_exception
from chat.service import ChatResult, Delta
from chat.telemetry.context import add_log_fields, current_request_id
from providers.deadline import Deadline

logger = logging.getLogger(__name__)

# A silent stream sends a heartbeat this often. A request without a first token by then is answered
# with a stream, whatever comes of it.
HEARTBEAT_SECONDS = 10.0
HEARTBEAT = b": waiting\n\n"
# How long the end of a request whose client went away is waited for, so that its log line has it.
ABORT_SECONDS = 1.0

Events = Iterator[Delta | ChatResult]


class StreamFormat(Protocol):
    """The wire format of one request's events."""

    def delta(self, delta: Delta) -> bytes:
        """Write a piece of the text."""

    def done(self, result: ChatResult) -> bytes:
        """Write the end of the answer, and its text if no delta came before (a replay)."""

    def error(self, problem: Problem, request_id: str) -> bytes:
        """Write the error that ends the stream."""


def respond(
    events: Events, *, deadline: Deadline, stream_format: StreamFormat, environ: dict[str, Any]
) -> StreamingHttpResponse:
    """Return a response that streams the events, after the first of them has come.

    Raises the exception that comes instead of a first event.
    """
    stream = EventStream(events, deadline, stream_format, environ)
    return StreamingHttpResponse(
        stream,
        content_type="text/event-stream; charset=utf-8",
        headers={
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            **({"Idempotency-Replayed": "true"} if stream.replayed else {}),
        },
    )


class EventStream:
    """The body of the response."""

    def __init__(
        self,
        events: Events,
        deadline: Deadline,
        stream_format: StreamFormat,
        environ: dict[str, Any],
    ) -> None:
        self._deadline = deadline
        self._format = stream_format
        # Lambda's bridge sends nothing before the end.
        self._patience = HEARTBEAT_SECONDS if can_stream(environ) else None
        self._request_id = current_request_id()
        self._items: SimpleQueue[Delta | ChatResult | Exception | None] = SimpleQueue()
        self._watch = ExitStack()
        self._watch.enter_context(cancel_on_disconnect(environ, deadline))
        self._pump: Future[None] = _producer_pool().submit(copy_context().run, self._run, events)
        self._first = self._wait()
        if self._first is None:
            self.close()
            raise ClientDisconnected
        if isinstance(self._first, Exception):
            self._watch.close()
            raise self._first
        self.replayed = isinstance(self._first, ChatResult) and self._first.replayed

    def __iter__(self) -> Iterator[bytes]:
        item = self._first
        while item is not None:
            match item:
                case Delta():
                    yield self._format.delta(item)
                case ChatResult():
                    yield self._format.done(item)
                case Exception():
                    yield self._format.error(log_and_convert(item), self._request_id)
                case bytes():
                    yield item
            item = self._wait()

    def close(self) -> None:
        """End what still runs, as the client has gone or has been given everything."""
        self._watch.close()
        if not self._pump.done():
            self._deadline.cancel()
            try:
                self._pump.result(timeout=ABORT_SECONDS)
            except TimeoutError:
                logger.warning("a request goes on without its client")

    def _run(self, events: Events) -> None:
        """In the other thread: pass on what comes, and let the request come to its end."""
        try:
            for event in events:
                self._items.put(event)
        except Exception as exc:
            add_log_fields(code=problem_from_exception(exc).code)
            if self._deadline.cancelled:  # then nobody else may report it
                log_and_convert(exc)
            self._items.put(exc)
        finally:
            self._items.put(None)
            close_old_connections()

    def _wait(self) -> Delta | ChatResult | Exception | bytes | None:
        """Return the next item or a heartbeat; None at the end, or once nobody listens."""
        with self._deadline.on_cancel(self._stop):
            try:
                return self._items.get(timeout=self._patience)
            except Empty:
                return HEARTBEAT

    def _stop(self) -> None:
        self._items.put(None)


@functools.cache
def _producer_pool() -> ThreadPoolExecutor:
    """Threads that stay, and with them their connections to the vendors."""
    return ThreadPoolExecutor(settings.WEB_THREADS, thread_name_prefix="stream")


class ChatEventFormat:
    """The events of `/v1/chat`: `delta` events, then `done` or `error`."""

    def __init__(self, render: Callable[[ChatResult], Any]) -> None:
        self._render = render
        self._has_delta = False

    def delta(self, delta: Delta) -> bytes:
        self._has_delta = True
        return event("delta", {"text": delta.text})

    def done(self, result: ChatResult) -> bytes:
        text = result.record.response
        delta = event("delta", {"text": text}) if text and not self._has_delta else b""
        return delta + event("done", self._render(result))

    def error(self, problem: Problem, request_id: str) -> bytes:
        return event("error", problem.body(request_id))


def event(name: str, data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), one_line(data))


def one_line(data: Any) -> bytes:
    """Return JSON with U+0085, U+2028 and U+2029 escaped: some clients split lines there."""
    encoded = orjson.dumps(data)
    for character in (b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9"):
        if character in encoded:
            escape = f"\\u{ord(character.decode()):04x}".encode()
            encoded = encoded.replace(character, escape)
    return encoded
