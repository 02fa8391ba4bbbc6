"""The one door to the vendors: an httpx client per thread, under the request's deadline.

A client per thread, because a pool that threads share costs more CPU in its lock than the call
itself. The deadline is held at the socket: httpx's read timeout starts anew with every packet, so a
vendor that trickles bytes would never meet it.
"""

import codecs
import functools
import json
import re
import socket
import ssl
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

import certifi
import httpcore
import httpx
import orjson
from httpx_sse import EventSource

from providers.base import (
    Deadline,
    DeadlineReached,
    ProviderError,
    ProviderFailed,
    ProviderMisconfigured,
    RequestRejected,
)

CONNECT_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 20.0
MAX_ANSWER_BYTES = 8 * 1024 * 1024
# How soon a call is ended whose deadline was cancelled by another thread.
CANCEL_SECONDS = 0.25
# What follows the end marker of a stream is awaited so long, to keep the connection.
REST_SECONDS = 0.1
END = "[DONE]"
# So much of the end of a stream is kept, in which an error may stand that is no event.
TAIL_CHARACTERS = 10_000

_BLANK_LINE = re.compile(r"\r\n\r\n|\n\n|\r\r")


@dataclass(frozen=True, slots=True)
class Answer:
    """A vendor's whole HTTP answer, whatever its status."""

    status: int
    headers: httpx.Headers
    body: bytes

    def json(self) -> Any:
        """The body as JSON, fractions as Decimal; None when it is not JSON."""
        try:
            return json.loads(self.body, parse_float=Decimal)
        # ArithmeticError: Decimal too has its limits, at an exponent of twenty digits.
        except (ValueError, ArithmeticError, RecursionError):
            return None


class Reply:
    """A vendor's HTTP answer whose body is still to be read."""

    def __init__(self, response: httpx.Response, deadline: Deadline) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.succeeded = response.is_success
        kind = response.headers.get("content-type", "").lower()
        self.streamed = "json" not in kind and "html" not in kind
        self._response = response
        self._deadline = deadline

    def read(self) -> Answer:
        """All of it. Raises DeadlineReached, ProviderFailed."""
        return Answer(self.status, self.headers, b"".join(self._chunks()))

    def events(self) -> Iterator[str]:
        """The data of each server-sent event up to the end, with the end marker if there is one.

        JSON that stands bare behind the last event counts as one: Gemini reports errors by it.
        Raises DeadlineReached, ProviderFailed.
        """
        chunks = self._chunks()
        text = _Utf8(chunks)
        # What it reads of a response is all that _Utf8 has.
        for event in EventSource(text).iter_sse():  # type: ignore[arg-type]
            if event.data == END:
                self._drain(chunks)  # first, as nobody reads on after it
                yield event.data
                return
            if event.data:
                yield event.data
        if text.tail.startswith(("{", "[")):
            yield text.tail

    def _drain(self, chunks: Iterator[bytes]) -> None:
        _thread.deadline = Deadline(min(REST_SECONDS, self._deadline.remaining()))
        with suppress(ProviderError):
            for _ in chunks:
                pass

    def _chunks(self) -> Iterator[bytes]:
        size = 0
        _thread.deadline = self._deadline
        try:
            for chunk in self._response.iter_bytes():
                size += len(chunk)
                if size > MAX_ANSWER_BYTES:
                    raise httpx.RemoteProtocolError("the answer is larger than any should be")
                yield chunk
        except httpx.HTTPError as exc:
            message = "The provider broke off its answer."
            raise _failure(exc, self._deadline, message, retry=False) from exc


class _Utf8:
    """What httpx-sse reads of a response: text, which in an event stream is always UTF-8."""

    headers: ClassVar[dict[str, str]] = {"content-type": "text/event-stream"}

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._last = ""

    def iter_text(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        for text in map(decoder.decode, self._chunks):
            self._last = (self._last + text)[-TAIL_CHARACTERS:]
            yield text
        yield "\n\n"  # some vendors leave out the blank line after the last event

    @property
    def tail(self) -> str:
        """What stands behind the last blank line."""
        return _BLANK_LINE.split(self._last.strip())[-1]


def post(url: str, *, headers: Mapping[str, str], body: Any, deadline: Deadline) -> Answer:
    """Send `body` as JSON and read the whole answer. Raises what `opened` and its reply raise."""
    with opened(url, headers=headers, body=body, deadline=deadline) as reply:
        return reply.read()


def get(url: str, *, headers: Mapping[str, str], deadline: Deadline) -> Answer:
    """Read what is there. Raises what `opened` and its reply raise."""
    with opened(url, headers=headers, body=None, deadline=deadline) as reply:
        return reply.read()


@contextmanager
def opened(
    url: str, *, headers: Mapping[str, str], body: Any, deadline: Deadline
) -> Iterator[Reply]:
    """Send `body` as JSON and wait for the head of the answer; the call ends with the context.

    Without a body it is a GET.

    Raises DeadlineReached, ProviderFailed for a vendor that cannot be reached or that breaks off,
    and ProviderMisconfigured for an address that sends us elsewhere.
    """
    client = _client(deadline)
    _thread.answered = False
    try:
        content = None if body is None else orjson.dumps(body)
    except orjson.JSONEncodeError as exc:  # half of a surrogate pair, which UTF-8 does not have
        message = "The text of the request cannot be encoded."
        raise RequestRejected(message, reason=type(exc).__name__) from exc
    method = "POST" if content else "GET"
    request = client.build_request(method, url, headers=headers, content=content)
    try:
        response = client.send(request, stream=True)
    except httpx.HTTPError as exc:
        untouched = not _thread.answered
        message = "The provider could not be reached."
        raise _failure(exc, deadline, message, retry=untouched) from exc
    try:
        if response.is_redirect:
            raise ProviderMisconfigured(
                "The provider's address redirects elsewhere.", reason=f"HTTP {response.status_code}"
            )
        yield Reply(response, deadline)
    finally:
        response.close()


def _failure(
    exc: httpx.HTTPError, deadline: Deadline, message: str, *, retry: bool
) -> DeadlineReached | ProviderFailed:
    reason = type(exc).__name__
    if deadline.reached:
        return DeadlineReached("The provider did not answer in time.", reason=reason)
    return ProviderFailed(message, reason=reason, retry=retry)


class _Thread(threading.local):
    """What each thread has for itself."""

    client: httpx.Client | None = None
    deadline: Deadline
    # Whether a byte of the answer has come: then the vendor may have done its work.
    answered = False


_thread = _Thread()


def _client(deadline: Deadline) -> httpx.Client:
    """This thread's client, its sockets bound to the deadline until the next call."""
    _thread.deadline = deadline
    if _thread.client is None:
        transport = httpx.HTTPTransport(verify=ssl_context())
        # httpx has no parameter for httpcore's network backend, which is where a deadline belongs.
        transport._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context(),
            keepalive_expiry=KEEP_ALIVE_SECONDS,
            network_backend=_DeadlineBackend(),
        )
        _thread.client = httpx.Client(
            transport=transport,
            trust_env=False,  # a proxy or .netrc of the machine must not see the vendors' keys
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            headers={"content-type": "application/json", "accept-encoding": "identity"},
        )
        # A thread takes its client along when it ends, but httpx leaves the sockets open.
        weakref.finalize(_thread.client, transport.close)
    return _thread.client


@functools.cache
def ssl_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certifi.where())


def _time_left(timeout: float | None) -> float:
    """The shorter of httpcore's timeout for one step and what the deadline leaves, in seconds."""
    remaining = _thread.deadline.remaining()
    if remaining <= 0:
        raise httpcore.ReadTimeout("deadline reached")
    return remaining if timeout is None else min(timeout, remaining)


class _DeadlineBackend(httpcore.NetworkBackend):
    """httpcore's sockets, each step of which ends at the deadline of the running call."""

    def __init__(self) -> None:
        self._sync = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Try the host's addresses in turn, all in the time that one would have."""
        budget = Deadline(_time_left(timeout))
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in _addresses(host, port):
            try:
                left = min(budget.remaining(), _time_left(None))
                return _DeadlineStream(
                    self._sync.connect_tcp(address, port, left, local_address, socket_options)
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
            if budget.reached:
                break
        raise failure


def _addresses(host: str, port: int) -> list[str]:
    """The name's addresses. Looking them up is left to the system, and to its own time limit."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise httpcore.ConnectError(f"{host} is unknown") from exc
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._read(max_bytes, timeout)
        _thread.answered = _thread.answered or bool(data)
        return data

    def _read(self, max_bytes: int, timeout: float | None) -> bytes:
        """Wait in steps: a socket does not hear of a deadline that another thread cancels."""
        budget = Deadline(_time_left(timeout))
        while (left := min(budget.remaining(), _time_left(None))) > CANCEL_SECONDS:
            with suppress(httpcore.ReadTimeout):
                return self._stream.read(max_bytes, CANCEL_SECONDS)
        return self._stream.read(max_bytes, max(left, 0.001))  # 0 would be: do not wait

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _time_left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _DeadlineStream(
            self._stream.start_tls(ssl_context, server_hostname, _time_left(timeout))
        )

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
