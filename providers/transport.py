"""An httpx transport over libcurl's multi interface.

It keeps one deadline over all phases of a call (name lookup, connect, TLS, sending, waiting,
reading), and ends the call at once when that deadline is cancelled. Proxies, private CAs,
compression, HTTP/2 and happy eyeballs are libcurl's.

A handle holds one connection. Idle handles wait in a pool, and one thread at a time uses one.
https://curl.se/libcurl/c/curl_multi_socket_action.html describes how a handle is driven.
"""

import functools
import math
import os
import select
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple
from weakref import WeakSet

import certifi
import httpx
import pycurl

from providers import transport_errors
from providers.deadline import Deadline, Registration

CONNECT_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 20.0
MAX_IDLE_HANDLES = 128  # per origin; over TLS each holds about 0.7 MB, the CAs of its own multi
# A waiting call keeps both buffers. By default they have 16 and 64 KB.
BUFFER_BYTES = 4 * 1024
UPLOAD_BUFFER_BYTES = 16 * 1024
MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 32 * 1024 * 1024

_SUPPRESS_CONNECT_HEADERS = 265  # pycurl has no name for this option

# In the order of libcurl's POLL_NONE, POLL_IN, POLL_OUT and POLL_INOUT.
_POLL_EVENTS = (0, select.POLLIN, select.POLLOUT, select.POLLIN | select.POLLOUT)
# libcurl sends the length itself, and accepts the encodings that it can decode.
_OWN_HEADERS = {b"content-length", b"transfer-encoding", b"accept-encoding"}
_ENCODING_HEADERS = {b"content-encoding", b"content-length"}


class CurlTransport(httpx.BaseTransport):
    """Send httpx requests through libcurl.

    `request.extensions` may carry a `deadline` (Deadline) beside httpx's `timeout`, whose `read`
    is the longest silence of the server; `fresh` (bool), which asks for a new connection; and
    `max_body_bytes` (int). Redirects are not followed. Compressed bodies are decoded. Errors are
    httpx's, and their message is a word for the log, such as `connection_refused`:
    transport_errors.py lists them.
    """

    def __init__(
        self, *, http_proxy: str = "", https_proxy: str = "", no_proxy: str = "", ca_file: str = ""
    ) -> None:
        self._proxies = {"http": http_proxy, "https": https_proxy}
        self._no_proxy = no_proxy
        self._ca_file = os.fsencode(ca_file or certifi.where())
        self._idle: defaultdict[str, deque[_Handle]] = defaultdict(deque)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request and wait for the head of the response. Raises httpx.TransportError."""
        if request.url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(transport_errors.UNSUPPORTED_PROTOCOL)
        call = _call(request)
        handle = self._answered(call, fresh=bool(request.extensions.get("fresh")))
        return httpx.Response(
            handle.status,
            headers=_decoded(handle.header_lines),
            stream=_Body(handle, self._idle[call.origin]),
            extensions={"http_version": handle.http_version},
        )

    def post(
        self,
        origin: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes,
        *,
        deadline: Deadline,
        fresh: bool,
        max_body_bytes: int,
    ) -> tuple[int, bytes]:
        """Post to `origin + path`, and return the status and the body. Raises as `handle_request`.

        For AWS's small calls, of which httpx's requests and responses would be a tenth.
        """
        lines = [f"{name}: {value}".encode("ascii") for name, value in headers.items()]
        call = _Call("POST", origin, path, lines, content, deadline, math.inf, max_body_bytes)
        handle = self._answered(call, fresh=fresh)
        body = _Body(handle, self._idle[origin])
        try:
            return handle.status, b"".join(body)
        finally:
            body.close()

    def _answered(self, call: "_Call", *, fresh: bool) -> "_Handle":
        """Return a handle that has sent the call and read the head of the response."""
        try:
            return self._exchange(call, fresh=fresh)
        except httpx.WriteError:
            # The server did not take the whole body, so it cannot have done what was asked. Its
            # answer may be lost with the connection: ask again, and wait for it before the body.
            return self._exchange(call, fresh=True, expect=True)

    def _exchange(self, call: "_Call", *, fresh: bool, expect: bool = False) -> "_Handle":
        handle = None
        try:
            handle = self._take(call.origin, fresh=fresh)
            handle.send(call, expect=expect)
        except BaseException as exc:
            if handle:
                handle.close()
            if isinstance(exc, OSError | pycurl.error):
                raise transport_errors.unexpected(exc) from exc
            raise
        return handle

    def close(self) -> None:
        """Close the idle connections."""
        self.close_idle(but=0)

    def close_idle(self, *, but: int) -> None:
        """Close idle connections, but keep the last used ones of each origin, `but` in number."""
        for idle in list(self._idle.values()):
            _discard(idle, most=but)

    def _take(self, origin: str, *, fresh: bool) -> "_Handle":
        """Return the idle handle that was used last, or a new one."""
        idle = self._idle[origin]
        while idle and not fresh:
            try:
                handle = idle.pop()
            except IndexError:  # another thread took the last one
                break
            if handle.usable:
                return handle
            handle.close()
        for each in list(self._idle.values()):  # also those of origins that are no longer used
            _discard(each)
        return _Handle(
            {
                # Without these two libcurl would read the environment.
                pycurl.PROXY: self._proxies[origin.partition(":")[0]],
                pycurl.NOPROXY: self._no_proxy,
                pycurl.CAINFO: self._ca_file,
                pycurl.PROXY_CAINFO: self._ca_file,
            }
        )


@functools.cache
def default_transport() -> CurlTransport:
    """Return the process's own transport, without proxies and with the CAs of certifi."""
    return CurlTransport()


class _Call(NamedTuple):
    """A request in libcurl's terms, with its headers as lines.

    `limits_body`: the deadline ends the body, too.
    """

    method: str
    origin: str
    path: str
    header_lines: list[bytes]
    content: bytes
    deadline: Deadline
    idle_seconds: float
    max_body_bytes: int
    limits_body: bool = True


class _Handle:
    """A curl handle, its connection, and the response that comes over it."""

    def __init__(self, options: dict[int, str | bytes]) -> None:
        self._used_at = time.monotonic()
        self._closed = self.done = False
        self._timer = math.inf  # when libcurl wants to be called anyway
        self._watch: tuple[Deadline, Registration] | None = None
        self.lines: list[bytes] = []
        self.pieces: list[bytes] = []
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, 1)
        self._curl = pycurl.Curl()
        self._set_options(options)
        # After all that may fail, because nothing else would close the pipe.
        self._wake_fd, self._waker_fd = os.pipe()
        self._poll = select.poll()
        self._files: dict[int, int] = {}  # what _poll waits for
        self._watch_file(self._wake_fd, select.POLLIN)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self.on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self.on_timer)
        _handles.add(self)

    @property
    def usable(self) -> bool:
        """Whether it may be used again. libcurl itself notices if the vendor has closed."""
        idle = time.monotonic() - self._used_at
        return not self._closed and idle <= KEEP_ALIVE_SECONDS

    def send(self, call: _Call, *, expect: bool) -> None:
        """Send the request and wait for the head. Raises httpx.TransportError.

        With `expect`, send the body when the server asks for it.
        """
        self._deadline, self._idle_seconds = call.deadline, call.idle_seconds
        self._restart_idle_timeout()
        self.status, self.http_version = 0, b""
        self.header_lines: list[bytes] = []
        self.lines.clear()
        self.pieces.clear()
        self._head_bytes = 0
        self._in_body = self.done = False
        self._error = 0
        self._set_request(call, expect=expect)
        self._multi.add_handle(self._curl)
        self._act(pycurl.SOCKET_TIMEOUT, 0)
        self._watch_deadline(self._deadline)
        while not self._in_body and not self.done:
            self._step()
        if not call.limits_body:
            self._deadline = Deadline(math.inf)
        if not self._in_body:
            self._raise_if_failed()

    def read(self) -> list[bytes]:
        """Return the next pieces of the body, none at its end. Raises httpx.TransportError."""
        if not self.pieces and not self.done:
            self._step(resumed=True)
            while not self.pieces and not self.done:
                self._step()
        pieces = self.pieces.copy()
        self.pieces.clear()
        if not pieces:
            self._raise_if_failed()
        return pieces

    def raise_if_late(self) -> None:
        """Raise httpx.TimeoutException if the call has used up its time."""
        if self._deadline.used_up:
            raise transport_errors.timed_out(self._curl, self._deadline, in_body=self._in_body)

    def end(self, idle: "deque[_Handle]") -> None:
        """Put it into the pool; close it instead in the middle of a response or after an error."""
        deadline = self._deadline
        if not self.done or self._error or self._closed:
            self.close()
        else:
            self._keep(idle)
        # Flush held-back data: the caller may wait next without announcing it.
        deadline.waiting()

    def _watch_deadline(self, deadline: Deadline) -> None:
        """Let a cancel wake the call, until its end."""
        deadline.announces_waits = True
        watch = deadline.on_cancel(self._wake)
        watch.__enter__()
        self._watch = (deadline, watch)

    def _stop_watching(self) -> None:
        """Stop watching the deadline."""
        if self._watch:
            deadline, watch = self._watch
            self._watch = None
            watch.__exit__()
            deadline.announces_waits = False

    def _keep(self, idle: "deque[_Handle]") -> None:
        self._stop_watching()
        self._multi.remove_handle(self._curl)
        self._curl.setopt(pycurl.POSTFIELDS, b"")  # it may hold megabytes of the last request
        del self._deadline, self.header_lines
        self._used_at = time.monotonic()
        idle.append(self)
        _discard(idle)

    def close(self) -> None:
        """Close the connection, without waiting for a name lookup that hangs."""
        if self._closed:
            return
        self._closed = True
        self._stop_watching()
        with suppress(pycurl.error):  # the garbage collector may have closed them already
            looked_up = self._curl.getinfo(pycurl.NAMELOOKUP_TIME) > 0
            self._curl.close()
            if looked_up:
                self._multi.close()
            else:  # libcurl waits for the thread that looks up the name
                _in_background(self._multi.close)
        for fd in (self._wake_fd, self._waker_fd):
            os.close(fd)

    def disown(self) -> None:
        """Leave it to the parent process: closing it here would send bytes on its connection."""
        self._closed = True
        import ctypes  # here, because it takes 2 ms of a cold start

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    def _set_options(self, options: dict[int, str | bytes]) -> None:
        for option, value in {
            **options,
            pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_2TLS,
            pycurl.CONNECTTIMEOUT_MS: round(CONNECT_SECONDS * 1000),
            # libcurl asks for it in processes with threads.
            pycurl.NOSIGNAL: 1,
            # A signed path must arrive as it was signed.
            pycurl.PATH_AS_IS: 1,
            _SUPPRESS_CONNECT_HEADERS: 1,
            pycurl.USERAGENT: "",
            pycurl.BUFFERSIZE: BUFFER_BYTES,
            pycurl.UPLOAD_BUFFERSIZE: UPLOAD_BUFFER_BYTES,
            pycurl.ACCEPT_ENCODING: "",  # all that libcurl can decode
            pycurl.HEADERFUNCTION: self.lines.append,
            pycurl.WRITEFUNCTION: self.pieces.append,
        }.items():
            self._curl.setopt(option, value)

    def _set_request(self, call: _Call, *, expect: bool) -> None:
        curl, method = self._curl, call.method
        curl.setopt(pycurl.URL, call.origin + call.path)
        curl.setopt(pycurl.MAXFILESIZE_LARGE, call.max_body_bytes)
        curl.setopt(pycurl.NOBODY, method == "HEAD")
        curl.setopt(pycurl.CUSTOMREQUEST, method)
        if call.content or method in ("POST", "PUT", "PATCH"):
            curl.setopt(pycurl.POSTFIELDS, call.content)
        elif method != "HEAD":
            curl.setopt(pycurl.HTTPGET, 1)
        if b"\n" in (whole := b"".join(call.header_lines)) or b"\r" in whole or b"\0" in whole:
            raise httpx.LocalProtocolError(transport_errors.MALFORMED_HEADER)
        expected = b"Expect: 100-continue" if expect else b"Expect:"
        # A name alone keeps libcurl from adding its own header.
        lines = [*call.header_lines, expected, b"Accept:", b"Content-Type:"]
        curl.setopt(pycurl.HTTPHEADER, lines)

    def _step(self, *, resumed: bool = False) -> None:
        """Wait for the next event of the connection. Raises httpx.TimeoutException.

        `resumed`: nothing was read since the last call, for example because the client is slow, so
        the silence so far does not count.
        """
        again = self._deadline.waiting()
        now = time.monotonic()
        if resumed:
            self._idle_until = now + self._idle_seconds
        remaining = min(self._deadline.remaining(), self._idle_until - now)
        if remaining <= 0:
            raise transport_errors.timed_out(self._curl, self._deadline, in_body=self._in_body)
        seconds = max(0.0, min(remaining, again, self._timer - now, 86400.0))
        if waiter := self._deadline.waiter:
            events = waiter.wait(self._files, seconds)
        else:
            events = self._poll.poll(math.ceil(seconds * 1000))
        for fd, mask in events:
            if fd == self._wake_fd:
                os.read(fd, 64)
            else:
                # 0: libcurl checks by itself what the socket is ready for.
                self._act(fd, pycurl.CSELECT_IN if mask == select.POLLIN else 0)
        if self._timer < math.inf and time.monotonic() >= self._timer:
            self._timer = math.inf
            self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _restart_idle_timeout(self) -> None:
        """Start the time in which the server must send something."""
        self._idle_until = time.monotonic() + self._idle_seconds

    def _act(self, fd: int, mask: int) -> None:
        try:
            _, running = self._multi.socket_action(fd, mask)
        except pycurl.error as exc:
            raise transport_errors.unexpected(exc) from exc
        if not running and not self.done:
            _, _, failed = self._multi.info_read()
            self._error = failed[0][1] if failed else 0
            self.done = True
        if self.lines:
            self._restart_idle_timeout()
            self._parse_head()

    def _raise_if_failed(self) -> None:
        """Raise the error of a response that ended early."""
        if self._error:
            answered = self._head_bytes > 0
            raise transport_errors.translated(self._curl, self._error, answered=answered)
        if not self._in_body:  # libcurl accepts a truncated head as an answer
            raise httpx.RemoteProtocolError(transport_errors.CONNECTION_CLOSED)

    def _wake(self) -> None:
        os.write(self._waker_fd, b"\0")

    def on_socket(self, what: int, fd: int, multi: object, data: object) -> None:
        """Watch a socket for the events that libcurl asks for, or stop watching it."""
        if what == pycurl.POLL_REMOVE:
            self._poll.unregister(fd)
            del self._files[fd]
        else:
            self._watch_file(fd, _POLL_EVENTS[what])

    def _watch_file(self, fd: int, events: int) -> None:
        self._poll.register(fd, events)
        self._files[fd] = events

    def on_timer(self, milliseconds: int) -> None:
        """Set libcurl's timer; below 0: none."""
        self._timer = math.inf if milliseconds < 0 else time.monotonic() + milliseconds / 1000

    def _parse_head(self) -> None:
        """Take the lines of the head. Interim responses (1xx) come before it, trailers after it."""
        for line in self.lines:
            if self._in_body:
                break
            self._head_bytes += len(line)
            if self._head_bytes > MAX_HEAD_BYTES:
                raise httpx.RemoteProtocolError(transport_errors.HEAD_TOO_LARGE)
            if not self.status:
                self.http_version, self.status = _status(line)
            elif line in (b"\r\n", b"\n"):
                self._in_body = self.status >= 200
                if not self._in_body:
                    self.status, self.header_lines = 0, []
            else:
                self.header_lines.append(line)
        self.lines.clear()


class _Body(httpx.SyncByteStream):
    """The body of a response. Closing or garbage-collecting it early closes the connection."""

    def __init__(self, handle: _Handle, idle: "deque[_Handle]") -> None:
        self._handle: _Handle | None = handle
        self._idle = idle

    def __iter__(self) -> Iterator[bytes]:
        while (handle := self._handle) and (pieces := handle.read()):
            yield pieces[0]
            # There may be thousands: a compressed piece grows a thousandfold.
            for piece in pieces[1:]:
                if self._handle:
                    handle.raise_if_late()
                yield piece
        self.close()

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle:
            handle.end(self._idle)

    __del__ = close


def _in_background(work: Callable[[], object]) -> None:
    """Run `work` in a thread of its own, or in this one if the system allows no other."""
    try:
        threading.Thread(target=work, daemon=True).start()
    except RuntimeError:
        work()


def _call(request: httpx.Request) -> _Call:
    url, options = request.url, request.extensions
    timeout = options.get("timeout", {})
    connect, read = (
        math.inf if timeout.get(name) is None else timeout[name] for name in ("connect", "read")
    )
    deadline = options.get("deadline")
    return _Call(
        method=request.method,
        origin=f"{url.scheme}://{url.netloc.decode('ascii')}",
        path=url.raw_path.decode("ascii"),
        header_lines=_header_lines(request.headers.raw),
        content=request.read(),
        deadline=deadline or Deadline(connect + read),
        idle_seconds=read,
        max_body_bytes=options.get("max_body_bytes", MAX_BODY_BYTES),
        limits_body=deadline is not None,  # httpx's timeouts limit no whole body
    )


def _header_lines(headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the headers in libcurl's form, in which `Name;` is one without a value."""
    return [
        name + (b": " + value if value else b";")
        for name, value in headers
        if name.lower() not in _OWN_HEADERS or value == b"identity"
    ]


def _status(line: bytes) -> tuple[bytes, int]:
    """Parse a status line. Raises httpx.RemoteProtocolError."""
    try:
        version, status, *_ = line.split()
        return version, int(status)
    except ValueError:
        raise httpx.RemoteProtocolError(transport_errors.MALFORMED_ANSWER) from None


def _decoded(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the headers of a response without those of an encoding that libcurl has undone."""
    parts = [line.partition(b":") for line in lines]
    headers = [(name, value.strip()) for name, _, value in parts]
    if b"content-encoding" in {name.lower() for name, _ in headers}:
        return [each for each in headers if each[0].lower() not in _ENCODING_HEADERS]
    return headers


def _discard(idle: deque[_Handle], *, most: int | None = None) -> None:
    """Close idle handles that have expired or exceed the limit."""
    most = MAX_IDLE_HANDLES if most is None else most
    with suppress(IndexError):  # another thread took the last one
        while len(idle) > most or not idle[0].usable:
            idle.popleft().close()


_handles: WeakSet[_Handle] = WeakSet()


def _disown_all() -> None:
    for handle in list(_handles):
        handle.disown()


os.register_at_fork(after_in_child=_disown_all)
