"""The one door to the vendors: a call under its request's deadline, and httpx's view of its answer.

The call itself is not httpx's. Its client cannot hold a deadline, as its read timeout starts anew
with every packet, which a vendor that trickles bytes would never meet; it knows cookies, proxies
and redirects, none of which a vendor is to have here; and it takes four times the CPU.
"""

import codecs
import functools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

import httpx
import orjson
from httpx_sse import EventSource

from providers import connections
from providers.base import Deadline
from providers.connections import BrokenAnswer, Connection, Origin
from providers.errors import (
    DeadlineExceeded,
    ProviderError,
    ProviderFailed,
    ProviderMisconfigured,
    RequestRejected,
)

HEADERS = {"content-type": "application/json", "accept-encoding": "identity"}
MAX_ANSWER_BYTES = 8 * 1024 * 1024
# What follows the end marker of a stream is awaited so long, to keep the connection.
REST_SECONDS = 0.1
DONE = "[DONE]"
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

    def __init__(self, connection: Connection) -> None:
        """Wait for the head of the answer. Raises OSError."""
        self.status, fields = connection.head()
        self._connection = connection
        self._deadline = connection.deadline
        self._response = httpx.Response(self.status, headers=fields, content=connection.body())
        self.headers = self._response.headers
        self.succeeded = self._response.is_success
        self.redirected = self._response.is_redirect
        kind = self.headers.get("content-type", "").lower()
        self.streamed = "json" not in kind and "html" not in kind

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
            if event.data == DONE:
                self._drain(chunks)  # first, as nobody reads on after it
                yield event.data
                return
            if event.data:
                yield event.data
        if text.tail.startswith(("{", "[")):
            yield text.tail

    def _drain(self, chunks: Iterator[bytes]) -> None:
        self._connection.deadline = self._deadline.within(REST_SECONDS)
        with suppress(ProviderError):
            for _ in chunks:
                pass

    def _chunks(self) -> Iterator[bytes]:
        size = 0
        try:
            for chunk in self._response.iter_bytes():
                size += len(chunk)
                if size > MAX_ANSWER_BYTES:
                    raise BrokenAnswer("the answer is larger than any should be")
                yield chunk
        except (OSError, httpx.DecodingError) as exc:
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
    request = _request(url, headers, body)
    with _connected(url, deadline) as connection:
        try:
            connection.send(request, deadline)
            reply = Reply(connection)
        except OSError as exc:
            retry = not connection.answered
            raise _unreachable(exc, deadline, retry=retry) from exc
        if reply.redirected:
            raise ProviderMisconfigured(
                "The provider's address redirects elsewhere.", reason=f"HTTP {reply.status}"
            )
        yield reply


@contextmanager
def _connected(url: str, deadline: Deadline) -> Iterator[Connection]:
    try:
        connection = connections.take(_target(url)[0], deadline)
    except OSError as exc:
        raise _unreachable(exc, deadline, retry=True) from exc
    try:
        yield connection
    finally:
        connection.keep()


def _request(url: str, headers: Mapping[str, str], body: Any) -> bytes:
    _, target, host = _target(url)
    try:
        content = b"" if body is None else orjson.dumps(body)
    except orjson.JSONEncodeError as exc:  # half of a surrogate pair, which UTF-8 does not have
        message = "The text of the request cannot be encoded."
        raise RequestRejected(message, reason=type(exc).__name__) from exc
    length = {"content-length": len(content)} if content else {}
    whole = {"host": host, **HEADERS, **length, **headers}
    fields = "".join(f"{name}: {value}\r\n" for name, value in whole.items())
    method = "POST" if content else "GET"
    return f"{method} {target} HTTP/1.1\r\n{fields}\r\n".encode("ascii") + content


@functools.lru_cache(maxsize=128)
def _target(url: str) -> tuple[Origin, str, str]:
    """Who is to be asked, for what, and by which name."""
    parsed = httpx.URL(url)
    secure = parsed.scheme == "https"
    origin = Origin(secure, parsed.raw_host.decode(), parsed.port or (443 if secure else 80))
    return origin, parsed.raw_path.decode(), parsed.netloc.decode()


def _unreachable(
    exc: Exception, deadline: Deadline, *, retry: bool
) -> DeadlineExceeded | ProviderFailed:
    return _failure(exc, deadline, "The provider could not be reached.", retry=retry)


def _failure(
    exc: Exception, deadline: Deadline, message: str, *, retry: bool
) -> DeadlineExceeded | ProviderFailed:
    reason = type(exc).__name__
    if deadline.reached:
        return DeadlineExceeded("The provider did not answer in time.", reason=reason)
    return ProviderFailed(message, reason=reason, retry=retry)
