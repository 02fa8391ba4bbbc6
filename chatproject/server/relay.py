"""Relay many streams in one thread per process, with a greenlet for each (on Linux).

With a thread for each stream, every token switches threads several times. In addition each of these
threads waits for the interpreter's lock behind all others, those of new requests among them.
"""

import ctypes
import math
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context
from typing import Any

from greenlet import getcurrent, greenlet

from chat.api.server_context import RELAY
from chatproject.server.once import once_per_process
from chatproject.server.worker import CLIENT_SECONDS
from providers.deadline import Waiter

Work = Callable[[Waiter], None]


def with_relay(application: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a WSGI application of gunicorn: its environment gets RELAY where that can be used."""
    if sys.platform != "linux":
        return application

    def wrapped(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["SERVER_PROTOCOL"] == "HTTP/1.1":  # else the body has no chunks
            with suppress(OSError, RuntimeError):  # the system refuses the relay's thread
                environ[RELAY] = ClientRelay(environ["gunicorn.socket"])
        return application(environ, start_response)

    return wrapped


class ClientRelay:
    """A `Relay` for the chunked response of one client."""

    def __init__(self, client: socket.socket) -> None:
        self._thread = _relay_thread()
        self._client = client
        self._unsent = b""
        self._slow_since = math.inf  # the client has taken nothing of what is unsent
        self._has_timed_out = False

    def run(self, work: Work, context: Context) -> None:
        self._thread.run(work, context)
        if self._has_timed_out:
            raise TimeoutError
        if self._unsent:
            unsent, self._unsent = self._unsent, b""
            self._client.sendall(unsent)

    def send(self, data: bytes) -> bool:
        now = time.monotonic()
        if not self._unsent:
            self._slow_since = now
        if data:
            self._unsent += b"%x\r\n%b\r\n" % (len(data), data)
        if self._unsent:
            if sent := _send_now(self._client.fileno(), self._unsent):
                self._unsent, self._slow_since = self._unsent[sent:], now
            elif now - self._slow_since > CLIENT_SECONDS:
                self._has_timed_out = True
                raise TimeoutError
        return not self._unsent


# Unlike `socket.send`, this keeps the interpreter's lock: getting it back takes milliseconds while
# a crowd arrives. The call does not block, and takes a few microseconds.
_send = ctypes.PyDLL(None).send
_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_send.restype = ctypes.c_ssize_t


def _send_now(descriptor: int, data: bytes) -> int:
    """Send what a socket takes at once. Return the number of bytes, 0 after an error."""
    sent: int = _send(descriptor, data, len(data), socket.MSG_DONTWAIT)
    return max(0, sent)


class _RelayThread:
    """The thread, and the streams that wait for it or in it."""

    def __init__(self) -> None:
        self._new: deque[_Job] = deque()
        self._by_file: dict[int, _StreamWaiter] = {}
        self._waiters: set[_StreamWaiter] = set()
        self._next_timeout = math.inf  # that of a waiter, or earlier
        self._epoll = select.epoll()
        woken, waker = os.pipe()
        # Objects, which close the pipe if the thread cannot start.
        self._woken, self._waker = os.fdopen(woken, "rb", 0), os.fdopen(waker, "wb", 0)
        self._epoll.register(self._woken.fileno(), select.EPOLLIN)
        threading.Thread(target=self._run, name="relay", daemon=True).start()

    def run(self, work: Work, context: Context) -> None:
        """Do the work in a greenlet of the thread, and wait for its end."""
        job = _Job(work, context)
        self._new.append(job)
        self._waker.write(b"\0")
        job.ended.acquire()
        if job.error:
            raise job.error

    def wait(self, waiter: "_StreamWaiter") -> list[tuple[int, int]]:
        """Let the other greenlets run until an event or the timeout of this one."""
        self._next_timeout = min(self._next_timeout, waiter.timeout)
        events: list[tuple[int, int]] = self._main.switch()
        return events

    def watch(self, waiter: "_StreamWaiter", files: Mapping[int, int]) -> None:
        """Wake the waiter for events of these files."""
        self._waiters.add(waiter)
        for fd, events in files.items():
            self._epoll.register(fd, events)
            self._by_file[fd] = waiter

    def forget(self, waiter: "_StreamWaiter", files: Mapping[int, int]) -> None:
        """End `watch`."""
        self._waiters.discard(waiter)
        for fd in files:
            self._by_file.pop(fd, None)
            with suppress(OSError):  # it is closed, or was refused
                self._epoll.unregister(fd)

    def _run(self) -> None:
        self._main = getcurrent()
        while True:
            seconds = min(max(0.0, self._next_timeout - time.monotonic()), 3600.0)
            for fd, events in self._epoll.poll(seconds):
                if fd == self._woken.fileno():
                    self._woken.read(4096)
                elif waiter := self._by_file.get(fd):
                    waiter.greenlet.switch([(fd, events)])
            if self._next_timeout <= time.monotonic():
                self._end_waits()
            # Last: a new file may have the number of one that was closed since `poll`.
            self._begin_new()

    def _begin_new(self) -> None:
        while self._new:
            job = self._new.popleft()
            begun = greenlet(self._do)
            begun.gr_context = job.context
            begun.switch(job)

    def _do(self, job: "_Job") -> None:
        waiter = _StreamWaiter(self)
        try:
            job.work(waiter)
        except BaseException as exc:
            job.error = exc
        finally:
            waiter.end()
            job.ended.release()

    def _end_waits(self) -> None:
        """Wake those whose time is up."""
        now = time.monotonic()
        for waiter in [each for each in self._waiters if each.timeout <= now]:
            waiter.greenlet.switch([])
        self._next_timeout = min((each.timeout for each in self._waiters), default=math.inf)


class _Job:
    """Work for the thread; `ended` is released when it is done."""

    def __init__(self, work: Work, context: Context) -> None:
        self.work = work
        self.context = context
        self.error: BaseException | None = None
        self.ended = threading.Lock()
        self.ended.acquire()


class _StreamWaiter:
    """A `Waiter` that lets the thread relay other streams meanwhile."""

    def __init__(self, thread: _RelayThread) -> None:
        self.greenlet = getcurrent()
        self.timeout = math.inf
        self._thread = thread
        self._files: dict[int, int] = {}

    def wait(self, files: Mapping[int, int], seconds: float) -> list[tuple[int, int]]:
        if files != self._files:
            self.end()
            self._files = dict(files)
            self._thread.watch(self, self._files)
        self.timeout = time.monotonic() + seconds
        return self._thread.wait(self)

    def end(self) -> None:
        self._thread.forget(self, self._files)


_relay_thread = once_per_process(_RelayThread)
