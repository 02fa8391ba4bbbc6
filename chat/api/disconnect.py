"""Cancel the deadline of a request when its client disconnects.

One thread per process waits for the sockets of all clients that wait for a response.
"""

import functools
import os
import select
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from providers.deadline import Deadline


@contextmanager
def cancel_on_disconnect(environ: Mapping[str, Any], deadline: Deadline) -> Iterator[None]:
    """Cancel the deadline if the client disconnects within the context.

    A client that has only closed its sending side counts as disconnected: the server cannot tell
    the two apart. Servers other than gunicorn do not show the socket; then nothing happens.
    """
    client: socket.socket | None = environ.get("gunicorn.socket")
    if client is None:
        yield
        return
    watcher, descriptor = _watcher(), client.fileno()
    if descriptor < 0:  # closed
        deadline.cancel()
        yield
        return
    watcher.add(descriptor, deadline)
    try:
        yield
    finally:
        watcher.remove(descriptor)


if sys.platform == "linux":

    class _Selector:
        """Bytes that a client sends ahead are no event; the end of its sending is."""

        def __init__(self) -> None:
            self._epoll = select.epoll()

        def add(self, descriptor: int) -> None:
            self._epoll.register(descriptor, select.EPOLLRDHUP | select.EPOLLONESHOT)

        def remove(self, descriptor: int) -> None:
            self._epoll.unregister(descriptor)

        def wait(self) -> list[int]:
            return [descriptor for descriptor, _ in self._epoll.poll()]

        def still_hung_up(self, descriptor: int) -> bool:
            poll = select.poll()
            poll.register(descriptor, select.POLLRDHUP)
            return bool(poll.poll(0))

else:  # macOS and BSD

    class _Selector:
        """The same by kqueue."""

        def __init__(self) -> None:
            self._queue = select.kqueue()

        def add(self, descriptor: int) -> None:
            self._change(descriptor, select.KQ_EV_ADD | select.KQ_EV_CLEAR)

        def remove(self, descriptor: int) -> None:
            self._change(descriptor, select.KQ_EV_DELETE)

        def wait(self) -> list[int]:
            events = self._queue.control(None, 64)
            return [event.ident for event in events if event.flags & select.KQ_EV_EOF]

        def still_hung_up(self, descriptor: int) -> bool:
            return True

        def _change(self, descriptor: int, flags: int) -> None:
            self._queue.control([select.kevent(descriptor, select.KQ_FILTER_READ, flags)], 0)


class _Watcher:
    """The thread, the sockets of waiting clients, and the deadlines to cancel."""

    def __init__(self) -> None:
        self._deadlines: dict[int, Deadline] = {}
        self._selector = _Selector()
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="disconnects", daemon=True).start()

    def add(self, descriptor: int, deadline: Deadline) -> None:
        with self._lock:
            self._deadlines[descriptor] = deadline
            self._selector.add(descriptor)

    def remove(self, descriptor: int) -> None:
        with self._lock:
            del self._deadlines[descriptor]
            with suppress(OSError):  # the server has closed the socket
                self._selector.remove(descriptor)

    def _run(self) -> None:
        while True:
            for descriptor in self._selector.wait():
                # The event may be of a socket that was closed since, whose number another has now.
                with self._lock:
                    deadline = self._deadlines.get(descriptor)
                    if deadline and self._selector.still_hung_up(descriptor):
                        deadline.cancel()


_making = threading.Lock()


@functools.cache
def _made() -> _Watcher:
    return _Watcher()


def _watcher() -> _Watcher:
    with _making:
        return _made()


os.register_at_fork(after_in_child=_made.cache_clear)
