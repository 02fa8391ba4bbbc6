"""Stream the service's events as server-sent events.

A second thread runs the chat; the request's thread waits, sends heartbeats, and cancels on
disconnect. Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import functools
import logging
import math
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

from chat.api.server_context import can_stream, cancel_on_disconnect, remaining_seconds
from chat.conversation import answered_message
from chat.errors import ClientDisconnected, Problem, log_and_convert, problem_from_exception
from chat.service import AnswerDelta, ChatResult
from chat.telemetry.context import add_log_fields, current_request_id
from providers.base import Message, reasoning_text
from providers.deadline import Deadline

logger = logging.getLogger(__name__)

# A silent stream sends a heartbeat this often. If the first event takes longer, the stream starts
# with a heartbeat, and a later error becomes an event of it.
HEARTBEAT_SECONDS = 10.0
HEARTBEAT = b": waiting\n\n"
# Wait this long for an aborted request to settle before its log line is written; on Lambda, until
# the function's timeout.
ABORT_SECONDS = 1.0

Events = Iterator[AnswerDelta | ChatResult]


class StreamFormat(Protocol):
    """The wire format of one request's events."""

    def delta(self, delta: AnswerDelta) -> bytes:
        """Write a piece of the answer; nothing if the format has no place for it."""

    def done(self, result: ChatResult) -> bytes:
        """Write the end of the answer, and its text if no delta came before (a replay)."""

    def error(self, problem: Problem, request_id: str) -> bytes:
        """Write the error that ends the stream."""


def respond(
    events: Events, *, deadline: Deadline, stream_format: StreamFormat, environ: dict[str, Any]
) -> StreamingHttpResponse:
    """Wait for the first event or heartbeat, and return a response that streams from there.

    Raises the error of a request that fails before its first event.
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
        # apig-wsgi sends the body as a whole, so heartbeats would not arrive in time.
        self._heartbeat_seconds = HEARTBEAT_SECONDS if can_stream(environ) else None
        self._environ = environ
        self._request_id = current_request_id()
        self._items: SimpleQueue[AnswerDelta | ChatResult | Exception | None] = SimpleQueue()
        self._watch = ExitStack()
        self._watch.enter_context(cancel_on_disconnect(environ, deadline))
        self._watch.enter_context(deadline.on_cancel(self._stop))
        self._producer: Future[None] = _producer_pool().submit(
            copy_context().run, self._run, events
        )
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
            if written := self._write(item):  # an empty chunk would end the response
                yield written
            item = self._wait()

    def _write(self, item: AnswerDelta | ChatResult | Exception | bytes) -> bytes:
        match item:
            case AnswerDelta():
                return self._format.delta(item)
            case ChatResult():
                return self._format.done(item)
            case Exception():
                return self._format.error(log_and_convert(item), self._request_id)
        return item

    def close(self) -> None:
        """Stop watching the client, and cancel the chat if it is still running."""
        self._watch.close()
        if not self._producer.done():
            self._deadline.cancel()
            seconds = remaining_seconds(self._environ)  # Lambda would freeze the process
            if seconds == math.inf:
                seconds = ABORT_SECONDS
            try:
                self._producer.result(timeout=seconds)
            except TimeoutError:
                logger.warning("client disconnected; request still running after %g s", seconds)

    def _run(self, events: Events) -> None:
        """Run the chat in the second thread, and queue its events and error."""
        try:
            for event in events:
                self._items.put(event)
        except Exception as exc:
            add_log_fields(code=problem_from_exception(exc).code)
            if self._deadline.cancelled:  # the request's thread may have stopped reading
                log_and_convert(exc)
            self._items.put(exc)
        finally:
            self._items.put(None)
            close_old_connections()

    def _wait(self) -> AnswerDelta | ChatResult | Exception | bytes | None:
        """Return the next item or a heartbeat; None at the end or once the client disconnects."""
        try:
            return self._items.get(timeout=self._heartbeat_seconds)
        except Empty:
            return HEARTBEAT

    def _stop(self) -> None:
        self._items.put(None)


@functools.cache
def _producer_pool() -> ThreadPoolExecutor:
    """Return threads that are reused, and with them their connections to the vendors."""
    return ThreadPoolExecutor(settings.WEB_THREADS, thread_name_prefix="stream")


class ChatEventFormat:
    """The events of `/v1/chat`: `reasoning` and `delta` events, then `done` or `error`."""

    def __init__(self, render: Callable[[ChatResult], Any]) -> None:
        self._render = render
        self._has_delta = False

    def delta(self, delta: AnswerDelta) -> bytes:
        self._has_delta = True
        return _chat_events(delta.delta.message)

    def done(self, result: ChatResult) -> bytes:
        whole = b"" if self._has_delta else _chat_events(answered_message(result.record))
        return whole + event("done", self._render(result))

    def error(self, problem: Problem, request_id: str) -> bytes:
        return event("error", problem.body(request_id))


def _chat_events(message: Message) -> bytes:
    """Write what `/v1/chat` shows of a message: thoughts and text; a refusal is a text."""
    thoughts = reasoning_text(message)
    text = message.get("content") or message.get("refusal")
    return (event("reasoning", {"text": thoughts}) if thoughts else b"") + (
        event("delta", {"text": text}) if text else b""
    )


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
