"""Stream the service's events as server-sent events.

One thread asks the provider and writes to the client. If the server has a relay, the request's
thread does so up to the first piece and after the last one, and the relay's thread in between.
Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from contextvars import copy_context
from typing import Any, Protocol

import orjson
from django.http import StreamingHttpResponse
from greenlet import getcurrent, greenlet

from chat.api.server_context import can_stream, cancel_on_disconnect, relay_of
from chat.errors import ClientDisconnected, Problem, log_and_convert, problem_from_exception
from chat.service import AnswerDelta, AnswerEnded, ChatResult
from chat.storage.transcripts import answered_message
from chat.telemetry.context import add_log_fields, current_request_id
from providers.base import DeltaThoughts, Message
from providers.deadline import Deadline, Waiter

# A silent stream sends a heartbeat this often. If the first event takes longer, the stream starts
# with a heartbeat, and a later error becomes an event of it.
HEARTBEAT_SECONDS = 10.0
HEARTBEAT = b": waiting\n\n"
# A piece waits this long at most for those that the vendor sent along with it.
MAX_HOLD_SECONDS = 0.02
# The relay tries this often to send what a slow client has not taken.
SLOW_CLIENT_SECONDS = 0.1
LINE_ENDS = {
    character.encode(): f"\\u{ord(character):04x}".encode()
    for character in ("\x85", "\u2028", "\u2029")
}

Events = Generator[AnswerDelta | AnswerEnded | ChatResult]


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
            # nginx would otherwise collect the events of a stream.
            "X-Accel-Buffering": "no",
            **({"Idempotency-Replayed": "true"} if stream.replayed else {}),
        },
    )


class EventStream:
    """The body of the response, to be read in the thread that made it.

    The chat runs in a greenlet. So it can hand over data from any depth of a call, and continue
    later. A greenlet cannot change its thread, but the generator of events can between two events:
    each thread reads it in a greenlet of its own.
    """

    def __init__(
        self,
        events: Events,
        deadline: Deadline,
        stream_format: StreamFormat,
        environ: dict[str, Any],
    ) -> None:
        self._events = events
        self._deadline = deadline
        self._format = stream_format
        # apig-wsgi sends the body as a whole, so heartbeats would not arrive in time.
        self._heartbeat_seconds = HEARTBEAT_SECONDS if can_stream(environ) else math.inf
        self._request_id = current_request_id()
        self._unsent: list[bytes] = []
        self._begun = self._answered = self._closed = self._ended = self.replayed = False
        self._sent_at = self._held_since = time.monotonic()
        self._relay = relay_of(environ)
        # The client has not taken all that the relay has sent.
        self._is_behind = False
        # The error of the relay's part, which `_read_events` raises again.
        self._error: Exception | None = None
        # The request's log fields and storage deadline are context variables.
        self._context = copy_context()
        self._server = getcurrent()
        self._chat = self._new_chat()
        with ExitStack() as until_error:
            until_error.enter_context(cancel_on_disconnect(environ, deadline))
            until_error.callback(deadline.on_wait, None)
            deadline.on_wait(self._waiting)
            self._first: bytes | None = self._chat.switch()
            if self._first is None:
                raise ClientDisconnected
            self._watch = until_error.pop_all()

    def __iter__(self) -> Iterator[bytes]:
        data = self._first
        while data is not None:
            yield data
            data = self._next()

    def close(self) -> None:
        """Stop watching the client, and end the chat if it is still running."""
        self._watch.close()
        self._closed = True
        if not self._ended:
            self._deadline.cancel()
            # The garbage collector may close a stream while another one's chat is running.
            self._chat.parent = getcurrent()
            self._chat.switch()

    def _new_chat(self) -> greenlet:
        chat = greenlet(self._run, self._server)
        chat.gr_context = self._context
        return chat

    def _next(self) -> bytes | None:
        """Run the chat until it hands over data for the server; None at its end."""
        while not self._ended:
            if self._chat.dead:  # between two pieces
                try:
                    if self._relay:
                        self._relay.run(self._relay_pieces, self._context)
                finally:
                    self._chat = self._new_chat()  # also for `close`, after an error
            data: bytes | None = self._chat.switch()
            if data is not None:
                return data
        return None

    def _relay_pieces(self, waiter: Waiter) -> None:
        """Run the chat in the relay until the provider's answer ends, or the client is slow."""
        self._chat, self._deadline.waiter = getcurrent(), waiter
        try:
            for event in self._events:
                if isinstance(event, AnswerEnded):
                    self._answered = True
                    break
                self._add(event)
                if self._is_behind:
                    break
        except Exception as exc:
            self._error = exc
        finally:
            self._deadline.waiter, self._is_behind = None, False

    def _run(self) -> None:
        """Run the parts of the chat that the relay does not, and hand over events or the error."""
        try:
            if not self._read_events():
                return
        except Exception as exc:
            add_log_fields(code=problem_from_exception(exc).code)
            if not self._begun:
                raise
            problem = log_and_convert(exc)
            if not self._deadline.cancelled:
                self._unsent.append(self._format.error(problem, self._request_id))
        self._flush()
        self._ended = True

    def _read_events(self) -> bool:
        """Add the events. Return False if the relay can go on after a piece, True at their end."""
        with ExitStack() as at_end:
            at_end.callback(self._events.close)
            if self._error:
                try:
                    raise self._error
                finally:
                    self._error = None  # its traceback refers to this stream
            # An answer that has ended is settled as such, also without a client.
            while self._answered or not self._closed:
                if (event := next(self._events, None)) is None:
                    return True
                if isinstance(event, AnswerDelta):
                    self._add(event)
                    if self._can_be_relayed:
                        at_end.pop_all()
                        return False
                else:
                    self._answered = True
                    if isinstance(event, ChatResult):
                        self._add(event)
            add_log_fields(code=ClientDisconnected.code)
        return True

    @property
    def _can_be_relayed(self) -> bool:
        """Whether the relay can go on: the response has begun, and the call uses the waiter."""
        begun = self._begun and not self._closed
        return self._relay is not None and begun and self._deadline.announces_waits

    def _add(self, event: AnswerDelta | ChatResult) -> None:
        """Write an event. Hold it back for a moment if the provider has more at hand."""
        if isinstance(event, AnswerDelta):
            data = self._format.delta(event)
        else:
            self.replayed = event.replayed
            data = self._format.done(event)
        if not data:  # an empty chunk would end the response
            return
        now = time.monotonic()
        if not self._unsent:
            self._held_since = now
        self._unsent.append(data)
        held = self._begun and self._deadline.announces_waits
        if not held or now - self._held_since >= MAX_HOLD_SECONDS:
            self._flush()

    def _waiting(self) -> float:
        """Send held-back data, or a heartbeat. Return the seconds until the next heartbeat."""
        if self._closed or getcurrent() is not self._chat:  # the garbage collector closes calls
            return math.inf
        left = self._sent_at + self._heartbeat_seconds - time.monotonic()
        if left <= 0:
            self._unsent.append(HEARTBEAT)
        if not self._unsent and not self._is_behind:
            return left
        self._flush()
        return SLOW_CLIENT_SECONDS if self._is_behind else self._heartbeat_seconds

    def _flush(self) -> None:
        if self._unsent or self._is_behind:
            data = b"".join(self._unsent)
            self._unsent.clear()
            self._send(data)

    def _send(self, data: bytes) -> None:
        """Send data to the client, unless the stream is closed."""
        if not self._closed:
            self._begun = True
            if self._relay and self._deadline.waiter:
                try:
                    self._is_behind = not self._relay.send(data)
                except TimeoutError:  # the client is as good as gone
                    self._deadline.cancel()
            else:
                self._server.switch(data)  # and continue when it has been sent
            self._sent_at = time.monotonic()


class ChatEventFormat:
    """The events of `/v1/chat`: `reasoning` and `delta` events, then `done` or `error`."""

    def __init__(self, render: Callable[[ChatResult], Any]) -> None:
        self._render = render
        self._has_delta = False
        self._thoughts = DeltaThoughts()

    def delta(self, delta: AnswerDelta) -> bytes:
        self._has_delta = True
        return self._events(delta.delta.message)

    def done(self, result: ChatResult) -> bytes:
        whole = b"" if self._has_delta else self._events(answered_message(result.record))
        return whole + event("done", self._render(result))

    def error(self, problem: Problem, request_id: str) -> bytes:
        return event("error", problem.body(request_id))

    def _events(self, message: Message) -> bytes:
        """Write the parts of a message that `/v1/chat` shows: thoughts, and text or a refusal."""
        thoughts = self._thoughts.add(message)
        text = message.get("content") or message.get("refusal")
        return (event("reasoning", {"text": thoughts}) if thoughts else b"") + (
            event("delta", {"text": text}) if text else b""
        )


def event(name: str, data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), one_line(data))


def one_line(data: Any) -> bytes:
    """Return JSON with U+0085, U+2028 and U+2029 escaped: some clients split lines there."""
    encoded = orjson.dumps(data)
    if not encoded.isascii():
        for character, escape in LINE_ENDS.items():
            encoded = encoded.replace(character, escape)
    return encoded
