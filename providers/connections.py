"""HTTP/1.1 connections that are kept, each step of which ends at a deadline (RFC 9112).

httptools, the parser of Node.js, reads what comes. All threads share the connections: whoever makes
a call takes one, and gives it back when the whole answer has been read.
"""

import functools
import os
import select
import socket
import ssl
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import certifi
import httptools

from providers.base import LOOK_SECONDS, Deadline

CONNECT_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 20.0
READ_BYTES = 64 * 1024
MAX_HEAD_BYTES = 64 * 1024


class Unreachable(OSError):
    """There is no connection to be had."""


class BrokenAnswer(OSError):
    """What came is no answer, or not the whole of one."""


class Origin(NamedTuple):
    """Whom a connection is with."""

    secure: bool
    host: str
    port: int


class Connection:
    """A socket, and the answer that is being read from it. One thread at a time has it.

    Raises TimeoutError at the end of a deadline, BrokenAnswer, or another OSError.
    """

    def __init__(self, sock: socket.socket, origin: Origin) -> None:
        self._sock = sock
        self._origin = origin
        self._answer = _Answer()
        self._used_at = time.monotonic()
        # When the running call has to be done.
        self.deadline = Deadline(0)
        # Of whoever forgets it, in a generator that is never read to its end, too.
        self.close = weakref.finalize(self, sock.close)

    @property
    def answered(self) -> bool:
        """Whether a byte of the answer has come: then the other side may have done its work."""
        return self._answer.begun

    @property
    def expired(self) -> bool:
        return time.monotonic() - self._used_at > KEEP_ALIVE_SECONDS

    @property
    def usable(self) -> bool:
        """Whether it may be used again: an idle one is readable when the other side closed it."""
        if self.expired:
            return False
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(0)

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Send a whole request, and have all that follows end at its deadline.

        That the other side takes no more of it is no error: it may have answered.
        """
        self._answer = _Answer()
        self.deadline = deadline
        rest = memoryview(data)
        while rest:
            self._limit()
            try:
                rest = rest[self._sock.send(rest) :]
            except TimeoutError:
                continue
            except ConnectionError:
                self._answer.final = True
                return

    def head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Wait for the answer's status and headers."""
        size = 0
        while not self._answer.in_body:
            size += self._receive()
            if size > MAX_HEAD_BYTES and not self._answer.in_body:
                raise BrokenAnswer("a head of that size is none")
        return self._answer.status, self._answer.headers

    def body(self) -> Iterator[bytes]:
        """The pieces of the body as they come."""
        between = 0
        while True:
            if pieces := self._answer.pieces:
                self._answer.pieces = []
                between = 0
                yield b"".join(pieces)
            elif self._answer.complete:
                return
            elif between > MAX_HEAD_BYTES:
                raise BrokenAnswer("what stands between the pieces is too long")
            else:
                between += self._receive()

    def keep(self) -> None:
        """Give it back, for the next call; or close it, where there was no whole answer."""
        if not self._answer.reusable:
            self.close()
            return
        self._used_at = time.monotonic()
        kept = _kept[self._origin]
        kept.append(self)
        with suppress(IndexError):  # another thread took the last
            while kept[0].expired:
                kept.popleft().close()

    def _receive(self) -> int:
        while True:
            self._limit()
            with suppress(TimeoutError):
                data = self._sock.recv(READ_BYTES)
                break
        self._answer.feed(data)
        return len(data)

    def _limit(self) -> None:
        seconds = _step(self.deadline)
        if seconds != self._sock.gettimeout():  # to ask is cheaper than to tell
            self._sock.settimeout(seconds)


class _Answer:
    """What httptools, which calls the methods without an underscore, tells of an answer."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.begun = self.in_body = self.complete = self.reusable = False
        # Whether the connection is of no use after it.
        self.final = False
        self._bounded = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take what was received; nothing is the end of the connection. Raises BrokenAnswer."""
        if not data:
            self._end()
            return
        self.begun = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self.reusable = False
            if not self.complete:
                raise BrokenAnswer(type(exc).__name__) from exc

    def _end(self) -> None:
        """An answer that does not say how long it is, is so long."""
        if not self.in_body or self._bounded:
            raise BrokenAnswer("the connection was closed before the end")
        self.complete = True

    def on_message_begin(self) -> None:
        if self.complete:
            raise BrokenAnswer("a second answer, for which nobody has asked")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_body:  # a trailer
            return
        self.headers.append((name, value))
        self._bounded |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.in_body = self.status >= 200

    def on_body(self, data: bytes) -> None:
        self.pieces.append(data)

    def on_message_complete(self) -> None:
        if self.in_body:
            self.complete = True
            self.reusable = self._parser.should_keep_alive() and not self.final
        else:  # of an interim answer (1xx), which the real one follows
            self.headers = []


def take(origin: Origin, deadline: Deadline, *, fresh: bool = False) -> Connection:
    """A kept connection, or a new one. Raises Unreachable, also at the deadline."""
    kept = _kept[origin]
    with suppress(IndexError):
        while not fresh:
            candidate = kept.pop()  # the one that was used last
            if candidate.usable:
                return candidate
            candidate.close()
    return Connection(_connected(origin, deadline), origin)


_kept: defaultdict[Origin, deque[Connection]] = defaultdict(deque)
# Two processes on one connection would read each other's answers.
os.register_at_fork(after_in_child=_kept.clear)


def _connected(origin: Origin, deadline: Deadline) -> socket.socket:
    """Try the host's addresses in turn, each for its share of the time that one would have."""
    addresses = _addresses(origin)
    budget = deadline.within(CONNECT_SECONDS)
    failure: Exception = Unreachable(f"{origin.host} has no address")
    for number, (family, address) in enumerate(addresses):
        share = budget.within(budget.remaining() / (len(addresses) - number))
        try:
            sock = _opened(family, address, share)
        except OSError as exc:
            failure = exc
        else:
            return _prepared(sock, origin, budget)
    raise Unreachable(str(failure)) from failure


def _addresses(origin: Origin) -> list[tuple[int, Any]]:
    """The name's addresses. Looking them up is left to the system, and to its own time limit."""
    try:
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise Unreachable(f"{origin.host} is unknown") from exc
    return list(dict.fromkeys((entry[0], entry[4]) for entry in found))


def _opened(family: int, address: Any, deadline: Deadline) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with suppress(BlockingIOError):  # it goes on by itself
            sock.connect(address)
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        while not poll.poll(_step(deadline) * 1000):
            pass
        if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))
    except OSError:
        sock.close()
        raise
    return sock


def _prepared(sock: socket.socket, origin: Origin, deadline: Deadline) -> socket.socket:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if origin.secure:
            sock = ssl_context().wrap_socket(
                sock, server_hostname=origin.host, do_handshake_on_connect=False
            )
            _shake_hands(sock, deadline)
    except OSError as exc:
        sock.close()
        raise Unreachable(str(exc)) from exc
    return sock


def _shake_hands(sock: ssl.SSLSocket, deadline: Deadline) -> None:
    while True:
        sock.settimeout(_step(deadline))
        with suppress(TimeoutError):
            return sock.do_handshake()


@functools.cache
def ssl_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certifi.where())


def _step(deadline: Deadline) -> float:
    """How long to wait, in seconds, before the deadline is looked at again, as none tells a socket
    that it was cancelled. Raises TimeoutError at its end.
    """
    if remaining := deadline.remaining():
        return min(remaining, LOOK_SECONDS)
    raise TimeoutError("deadline reached")
