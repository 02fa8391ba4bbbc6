"""Calls to vendors: JSON requests, whole answers and event streams, under a request's deadline.

Nothing here depends on the transport: any httpx.BaseTransport will do. Only CurlTransport holds the
deadline over all phases and can be cancelled; others get httpx's timeouts.
"""

import functools
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

import httpx
import orjson
from httpx_sse import EventSource

from providers.deadline import Deadline
from providers.errors import (
    DeadlineExceeded,
    ProviderError,
    ProviderFailed,
    ProviderMisconfigured,
    RequestRejected,
)
from providers.transport import default_transport

HEADERS = {"content-type": "application/json"}
EVENT_STREAM = {"content-type": "text/event-stream"}
# Wait this long for the end of a stream after its end marker, so that the connection can be kept.
REST_SECONDS = 0.1
DONE = "[DONE]"
BLANK_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")

_BLANK_LINE = re.compile(r"\r\n\r\n|\n\n|\r\r")
_REASON = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Answer:
    """A vendor's whole HTTP answer, whatever its status."""

    status: int
    headers: httpx.Headers
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON, fractions as Decimal; None when it is not JSON."""
        try:
            return json.loads(self.body, parse_float=Decimal)
        # ArithmeticError: Decimal too has its limits, at an exponent of twenty digits.
        except (ValueError, ArithmeticError, RecursionError):
            return None


class Reply:
    """A vendor's HTTP answer whose body is still to be read."""

    def __init__(self, response: httpx.Response, deadline: Deadline) -> None:
        self._response = response
        self._deadline = deadline
        self.status = response.status_code
        self.headers = response.headers
        self.succeeded = response.is_success
        kind = self.headers.get("content-type", "").lower()
        self.streamed = "json" not in kind and "html" not in kind

    def read(self) -> Answer:
        """Read all of it. Raises DeadlineExceeded, ProviderFailed."""
        return Answer(self.status, self.headers, b"".join(self._chunks()))

    def events(self) -> Iterator[str]:
        """Yield the data of each server-sent event, the end marker included if there is one.

        Bare JSON after the last event counts as one: Gemini reports errors by it.
        Raises DeadlineExceeded, ProviderFailed.
        """
        tail = _Tail(self._chunks())
        # Some vendors leave out the blank line after the last event, and the content type.
        content = itertools.chain(tail, [b"\n\n"])
        stream = httpx.Response(
            200, headers=EVENT_STREAM, content=content, default_encoding="utf-8-sig"
        )
        for event in EventSource(stream).iter_sse():
            if event.data == DONE:
                self._drain(tail)  # before the marker is passed on, as nobody reads on after it
                yield event.data
                return
            if event.data:
                yield event.data
        if (text := tail.text()).startswith(("{", "[")):
            yield text

    def _drain(self, chunks: Iterator[bytes]) -> None:
        self._deadline.shorten(REST_SECONDS)
        with suppress(ProviderError):
            for _ in chunks:
                pass

    def _chunks(self) -> Iterator[bytes]:
        response = self._response
        # Without httpx's decoders where the transport has decoded: they cost a tenth of a call.
        encoded = "content-encoding" in response.headers
        stream = response.iter_bytes() if encoded else cast(httpx.SyncByteStream, response.stream)
        try:
            yield from stream
        except httpx.RequestError as exc:
            message = "The provider broke off its answer."
            raise _failure(exc, self._deadline, message, retry=False) from exc


class _Tail:
    """Pass on chunks, and remember the last ones, back to a blank line."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._last: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        if self._last and self._last[-1].endswith(BLANK_LINES) and chunk.strip():
            self._last.clear()
        self._last.append(chunk)
        return chunk

    def text(self) -> str:
        """Return what stands behind the last blank line."""
        text = b"".join(self._last).decode("utf-8-sig", "replace")
        return _BLANK_LINE.split(text.strip())[-1]


class VendorClient:
    """Send requests through a transport; without one, through the process's own CurlTransport."""

    def __init__(self, transport: httpx.BaseTransport | None = None) -> None:
        self._transport = transport or default_transport()

    def post(
        self, url: str, *, headers: Mapping[str, str], body: Any, deadline: Deadline
    ) -> Answer:
        """Send `body` as JSON and read the whole answer. Raises what `open` and Reply raise."""
        with self.open(url, headers=headers, body=body, deadline=deadline) as reply:
            return reply.read()

    def get(self, url: str, *, headers: Mapping[str, str], deadline: Deadline) -> Answer:
        """Read what is there. Raises what `open` and Reply raise."""
        with self.open(url, headers=headers, body=None, deadline=deadline) as reply:
            return reply.read()

    @contextmanager
    def open(
        self, url: str, *, headers: Mapping[str, str], body: Any, deadline: Deadline
    ) -> Iterator[Reply]:
        """Send `body` as JSON and wait for the head of the answer; the call ends with the context.

        Without a body it is a GET.

        Raises DeadlineExceeded, ProviderFailed for a vendor that cannot be reached or breaks off,
        and ProviderMisconfigured for an address that redirects.
        """
        own = deadline.capped(deadline.remaining_if_not_cancelled())
        request = _request(url, headers, body, own)
        try:
            response = self._transport.handle_request(request)
        except httpx.RequestError as exc:
            begun = isinstance(exc, httpx.RemoteProtocolError | httpx.DecodingError)
            message = "The provider could not be reached."
            raise _failure(exc, own, message, retry=not begun) from exc
        try:
            if response.is_redirect:
                raise ProviderMisconfigured(
                    "The provider's address redirects elsewhere.",
                    reason=f"HTTP {response.status_code}",
                )
            yield Reply(response, own)
        finally:
            response.close()


def _request(url: str, headers: Mapping[str, str], body: Any, deadline: Deadline) -> httpx.Request:
    try:
        content = b"" if body is None else orjson.dumps(body)
    except orjson.JSONEncodeError as exc:  # half of a surrogate pair, which UTF-8 does not have
        message = "The text of the request cannot be encoded."
        raise RequestRejected(message, reason=type(exc).__name__) from exc
    parsed, host = _parsed(url)
    length = {"content-length": str(len(content))} if content else {}
    whole = {"host": host, **length, **HEADERS, **headers}
    seconds = deadline.remaining()
    return httpx.Request(
        "POST" if content else "GET",
        parsed,
        headers=whole,
        stream=httpx.ByteStream(content),
        extensions={
            "deadline": deadline,
            "timeout": dict.fromkeys(("connect", "read", "write", "pool"), seconds),
        },
    )


@functools.lru_cache(maxsize=128)
def _parsed(url: str) -> tuple[httpx.URL, str]:
    """Parse a URL once, because that takes as long as the rest of a request."""
    parsed = httpx.URL(url)
    return parsed, parsed.netloc.decode("ascii")


def _failure(
    exc: httpx.RequestError, deadline: Deadline, message: str, *, retry: bool
) -> DeadlineExceeded | ProviderFailed:
    # CurlTransport's messages are words for the log; others are prose, with addresses in it.
    reason = str(exc) if _REASON.fullmatch(str(exc)) else type(exc).__name__
    if deadline.expired:
        return DeadlineExceeded("The provider did not answer in time.", reason=reason)
    return ProviderFailed(message, reason=reason, retry=retry)
