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
from functools import partial
from typing import Any, Protocol

import orjson
from django.http import StreamingHttpResponse
from greenlet import getcurrent, greenlet

from chat.api.server_context import Relay, can_stream, cancel_on_disconnect, relay_of
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
        self._begun = self._closed = self._ended = self.replayed = False
        self._sent_at = self._held_since = time.monotonic()
        self._relay = relay_of(environ)
        self._send_to_client: Callable[[bytes], object] = self._switch_to_server
        # The client has not taken all yet that the relay has sent.
        self._is_behind = False
        # An unexpected one, in the relay.
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
            if self._chat.dead:
                self._chat = self._new_chat()
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
                if self._relay:
                    self._relay.run(partial(self._relay_pieces, self._relay), self._context)
                self._chat = self._new_chat()
            data: bytes | None = self._chat.switch()
            if data is not None:
                return data
        return None

    def _relay_pieces(self, relay: Relay, waiter: Waiter) -> None:
        """Run the chat in the relay until the provider's answer ends, or the client is slow."""
        self._chat, self._deadline.waiter = getcurrent(), waiter
        self._send_to_client = partial(self._send_by, relay)
        try:
            for event in self._events:
                if isinstance(event, AnswerEnded):
                    break
                self._add(event)
                if self._is_behind:
                    break
        except Exception as exc:
            self._error = exc
        finally:
            self._deadline.waiter, self._is_behind = None, False
            self._send_to_client = self._switch_to_server

    def _run(self) -> None:
        """Run the chat as far as the relay does not, and hand over its events, or its error."""
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
        """Add the events. Return whether these were all: the relay may go on after a piece."""
        event: AnswerDelta | AnswerEnded | ChatResult | None = None
        with ExitStack() as at_end:
            at_end.callback(self._events.close)
            if self._error:
                raise self._error
            while not self._closed and (event := next(self._events, None)) is not None:
                if isinstance(event, AnswerEnded):
                    continue
                self._add(event)
                if isinstance(event, AnswerDelta) and self._can_be_relayed:
                    at_end.pop_all()
                    return False
            if self._closed and not isinstance(event, ChatResult):
                add_log_fields(code=ClientDisconnected.code)
        return True

    @property
    def _can_be_relayed(self) -> bool:
        """Whether a relay may go on: the response has begun, and the call waits as it needs."""
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
        if self._unsent or self._is_behind:
            self._flush()
            return SLOW_CLIENT_SECONDS if self._is_behind else self._heartbeat_seconds
        left = self._sent_at + self._heartbeat_seconds - time.monotonic()
        if left <= 0:
            self._send(HEARTBEAT)
            left = self._heartbeat_seconds
        return left

    def _flush(self) -> None:
        if self._unsent or self._is_behind:
            data = b"".join(self._unsent)
            self._unsent.clear()
            self._send(data)

    def _send(self, data: bytes) -> None:
        """Send data to the client, unless it has gone."""
        if not self._closed:
            self._begun = True
            self._send_to_client(data)
            self._sent_at = time.monotonic()

    def _switch_to_server(self, data: bytes) -> None:
        """Hand over data to the server, and continue when it has been sent."""
        self._server.switch(data)

    def _send_by(self, relay: Relay, data: bytes) -> None:
        self._is_behind = not relay.send(data)


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
