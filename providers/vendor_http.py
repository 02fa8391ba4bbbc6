"""Calls to vendors: JSON requests, whole answers and event streams, under a request's deadline.

Nothing here depends on the transport: any httpx.BaseTransport will do. Only CurlTransport holds the
deadline over all phases and can be cancelled; others get httpx's timeouts.
"""

import codecs
import functools
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast

import httpx
import orjson
from httpx_sse import EventSource

from providers.answer_errors import as_object
from providers.deadline import Deadline
from providers.errors import (
    DeadlineExceeded,
    ProviderFailed,
    ProviderMisconfigured,
    RequestRejected,
    VendorSilent,
)
from providers.parsing import load_json
from providers.transport import default_transport

# Return the headers of a request with its signature, given method, URL, headers and body.
Sign = Callable[[str, httpx.URL, Mapping[str, str], bytes], Mapping[str, str]]

HEADERS = {"content-type": "application/json"}
EVENT_STREAM = {"content-type": "text/event-stream"}
# Wait this long for the end of a stream after its end marker, so that the connection can be kept.
DRAIN_SECONDS = 0.1
# Wait this long for what follows the finish reason (usage, end marker): some vendors do not close.
# FINISH_SECONDS and DRAIN_SECONDS together stay below two seconds.
FINISH_SECONDS = 1.8
DONE = "[DONE]"
BLANK_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")

_BLANK_LINE = re.compile(r"\r\n\r\n|\n\n|\r\r")
_EVENT_START = re.compile(rb"(data|event|id|retry|error)?:")
# llama.cpp's servers of before October 2025 write errors into a field of their own.
_ERROR = "error:"
_ERROR_FIELD = re.compile(r"(?<=[\r\n])error:")
_LONGEST_START = len(b"retry:")
_REASON = re.compile(r"[a-z0-9_]+")


def read_json(response: httpx.Response) -> Any:
    """Read the whole body as JSON; None when it is not JSON. Raises httpx.RequestError."""
    return load_json(b"".join(body_chunks(response)))


def read_error(response: httpx.Response) -> Any:
    """Read the body of an error: JSON, or plain text, which proxies and some servers send.

    None for another body, such as a page in HTML. Raises httpx.RequestError.
    """
    data = b"".join(body_chunks(response))
    body = load_json(data)
    if body is None and _content_type(response).startswith("text/plain"):
        return data.decode("utf-8", "replace")
    return body


def read_object(response: httpx.Response) -> dict[str, Any]:
    """Read the body of a successful answer. Raises ProviderFailed unless it is a JSON object."""
    body = read_json(response)
    # HTML is the login page or the error page of a proxy in front of the vendor.
    html = _content_type(response).startswith("text/html")
    return as_object(None if html else body)


def is_stream(response: httpx.Response) -> bool:
    """Return whether the body is an event stream, by its first bytes, else by its content type.

    Some vendors stream although a plain answer was requested or the other way round, and some name
    the wrong content type.
    """
    kind = _content_type(response)
    if "html" in kind:
        return False
    start = peek(response)
    if _EVENT_START.match(start):
        return True
    return "event-stream" in kind and not start.startswith(b"{")


def end_soon(response: httpx.Response) -> None:
    """Give the rest of a stream FINISH_SECONDS from now."""
    deadline: Deadline = response.request.extensions["deadline"]
    deadline.waiting()  # sends what is held back, before the time starts
    deadline.end_in(FINISH_SECONDS)


def read_events(response: httpx.Response) -> Iterator[str]:
    """Yield the data of each server-sent event, the end marker included if there is one.

    The data of an event that is named `error`, and a field of that name, become an object with an
    `error`. Bare JSON after the last event counts as one: Gemini reports errors by it. Raises
    httpx.RequestError.
    """
    last: list[bytes] = []
    chunks = _remembering(body_chunks(response), last)
    # Some vendors leave out the blank line after the last event.
    stream = _EventStream(itertools.chain(chunks, [b"\n\n"]))
    for event in EventSource(stream).iter_sse():
        if event.data.strip() == DONE:
            # Drain before the marker is passed on, because the caller stops reading there.
            deadline: Deadline = response.request.extensions["deadline"]
            deadline.waiting()
            deadline.end_in(DRAIN_SECONDS)
            with suppress(httpx.RequestError):
                deque(chunks, maxlen=0)
            yield DONE
            return
        if event.event == "error":
            yield _error_event(event.data)
        elif event.data:
            yield event.data
    text = b"".join(last).decode("utf-8-sig", "replace").strip()
    if (rest := _BLANK_LINE.split(text)[-1]).startswith(("{", "[")):
        yield rest


class _EventStream(httpx.Response):
    """An event stream for EventSource, in UTF-8 whatever the vendor's headers say.

    It skips httpx's decoders, which cost a quarter of a stream's CPU.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        super().__init__(200, headers=EVENT_STREAM)
        self._chunks = chunks

    def iter_text(self, chunk_size: int | None = None) -> Iterator[str]:
        return _with_error_events(codecs.iterdecode(self._chunks, "utf-8-sig", "replace"))


def _with_error_events(texts: Iterable[str]) -> Iterator[str]:
    """Turn each field `error` of an event stream into an event of that name."""
    last, held = "\n", ""
    for piece in texts:
        text, held = held + piece, ""
        if not text.endswith("\n"):
            line = text[max(text.rfind("\n"), text.rfind("\r")) + 1 :]
            # The beginning of a field waits for the rest.
            if _ERROR.startswith(line) and (line != text or last in "\r\n"):
                held, text = line, text.removesuffix(line)
        if _ERROR in text:
            text = _ERROR_FIELD.sub("event: error\ndata:", last + text)[1:]
        if text:
            last = text[-1]
            yield text


def _remembering(chunks: Iterable[bytes], last: list[bytes]) -> Iterator[bytes]:
    """Pass on chunks, and keep in `last` the last ones, back to a blank line."""
    for chunk in chunks:
        if last and last[-1].endswith(BLANK_LINES) and chunk.strip():
            last.clear()
        last.append(chunk)
        yield chunk


def _error_event(data: str) -> str:
    error = load_json(data)
    if isinstance(error, dict) and error.get("error"):
        return data
    return json.dumps({"error": error or data or True}, default=float)


def _content_type(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "")).lower()


def body_chunks(response: httpx.Response) -> Iterable[bytes]:
    """Return the body as it comes. Reading it raises httpx.RequestError."""
    # Without httpx's decoders where the transport has decoded: they cost a tenth of a call.
    encoded = "content-encoding" in response.headers
    return response.iter_bytes() if encoded else cast(httpx.SyncByteStream, response.stream)


def peek(response: httpx.Response) -> bytes:
    """Return the first bytes of the body after white space, and leave the body to be read."""
    chunks = iter(body_chunks(response))
    read: list[bytes] = []
    start = b""
    for chunk in chunks:
        read.append(chunk)
        # Not of all that was read: there may be megabytes of white space.
        start = (start + chunk).removeprefix(codecs.BOM_UTF8).lstrip()
        if len(start) >= _LONGEST_START:
            break
    response.stream = _Unread(itertools.chain(read, chunks), response.stream)
    response.headers.pop("content-encoding", None)  # it is decoded
    return start


class _Unread(httpx.SyncByteStream):
    """A body of which the first bytes were read and put back."""

    def __init__(self, chunks: Iterator[bytes], body: Any) -> None:
        self._chunks = chunks
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        self._body.close()


class VendorClient:
    """Send requests through a transport; without one, through the process's own CurlTransport."""

    def __init__(self, transport: httpx.BaseTransport | None = None) -> None:
        self._transport = transport or default_transport()

    @contextmanager
    def open(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Any,
        deadline: Deadline,
        sign: Sign | None = None,
    ) -> Iterator[httpx.Response]:
        """Send `body` as JSON and wait for the head of the answer; the call ends with the context.

        Without a body it is a GET. The context translates the httpx.RequestError of a body.

        Raises DeadlineExceeded; VendorSilent if the vendor is silent for `idle_seconds`;
        ProviderFailed if it cannot be reached or breaks off; and ProviderMisconfigured if the
        address redirects.
        """
        own = deadline.part()
        request = _request(url, headers, body, own, sign)
        response = None
        try:
            response = self._transport.handle_request(request)
            response.request = request
            if response.is_redirect:
                raise ProviderMisconfigured(
                    "The provider's base URL redirects to another address.",
                    reason=f"HTTP {response.status_code}",
                )
            yield response
        except httpx.RequestError as exc:
            raise _failure(exc, own, broken_off=response is not None) from exc
        finally:
            if response is not None:
                response.close()


def _request(
    url: str, headers: Mapping[str, str], body: Any, deadline: Deadline, sign: Sign | None
) -> httpx.Request:
    try:
        # Copied, because orjson's own holds 4 KB more for as long as the vendor takes.
        content = b"" if body is None else bytes(memoryview(orjson.dumps(body)))
    except orjson.JSONEncodeError as exc:  # half of a surrogate pair, which UTF-8 does not have
        message = "The text of the request cannot be encoded."
        raise RequestRejected(message, reason=type(exc).__name__) from exc
    parsed, host = _parsed(url)
    method = "POST" if content else "GET"
    length = {"content-length": str(len(content))} if content else {}
    headers = {**HEADERS, **headers}
    if sign:
        headers = sign(method, parsed, headers, content)
    whole = {"host": host, **length, **headers}
    seconds = deadline.remaining()
    timeout = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
    timeout["read"] = min(seconds, deadline.idle_seconds)
    return httpx.Request(
        method,
        parsed,
        headers=whole,
        stream=httpx.ByteStream(content),
        extensions={"deadline": deadline, "timeout": timeout},
    )


@functools.lru_cache(maxsize=128)
def _parsed(url: str) -> tuple[httpx.URL, str]:
    """Parse a URL once, because that takes as long as the rest of a request."""
    parsed = httpx.URL(url)
    return parsed, parsed.netloc.decode("ascii")


def _failure(
    exc: httpx.RequestError, deadline: Deadline, *, broken_off: bool
) -> DeadlineExceeded | ProviderFailed:
    # CurlTransport's messages are words for the log; others are prose, with addresses in it.
    reason = str(exc) if _REASON.fullmatch(str(exc)) else type(exc).__name__
    if deadline.expired:
        return DeadlineExceeded("The provider did not answer in time.", reason=reason)
    if isinstance(exc, httpx.ReadTimeout):
        return VendorSilent("The provider stopped sending.", reason=reason)
    if broken_off:
        return ProviderFailed("The provider broke off its answer.", reason=reason, retry=False)
    begun = isinstance(exc, httpx.RemoteProtocolError | httpx.DecodingError)
    return ProviderFailed("The provider could not be reached.", reason=reason, retry=not begun)
