"""Cancel the deadline of a request when its client disconnects.

One thread per process watches the sockets of all clients that wait for a response.
"""

import functools
import logging
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from chat.api.server_context import CANCEL_ON_DISCONNECT
from chatproject.server.once import once_per_process
from providers.deadline import Deadline

logger = logging.getLogger(__name__)


def with_disconnects(application: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a WSGI application of gunicorn: its environment gets CANCEL_ON_DISCONNECT."""

    def wrapped(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        client = environ["gunicorn.socket"]
        environ[CANCEL_ON_DISCONNECT] = functools.partial(cancel_on_disconnect, client)
        return application(environ, start_response)

    return wrapped


@contextmanager
def cancel_on_disconnect(client: socket.socket, deadline: Deadline) -> Iterator[None]:
    """Cancel the deadline if the client disconnects within the context.

    A client that has only closed its sending side counts as disconnected: the server cannot tell
    the two apart.
    """
    descriptor = client.fileno()
    if descriptor < 0:  # closed
        deadline.cancel()
        yield
        return
    try:
        watcher = _watcher()
    except (OSError, RuntimeError) as exc:  # the system refuses its thread
        logger.warning("client not watched for a disconnect: %s", exc)
        yield
        return
    watcher.add(descriptor, deadline)
    try:
        yield
    finally:
        watcher.remove(descriptor)


if sys.platform == "linux":

    class _Selector:
        """Wait until a client closes its sending side; data it sends early is ignored."""

        def __init__(self) -> None:
            self._epoll = select.epoll()

        def add(self, descriptor: int) -> None:
            # One-shot: a client that has gone would otherwise wake the thread for ever.
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
        """Wait until a client closes its sending side, with kqueue."""

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
        """Watch a client. If the system refuses, the request is served without a watch."""
        with self._lock:
            try:
                self._selector.add(descriptor)
            except OSError as exc:
                logger.warning("client not watched for a disconnect: %s", exc.strerror)
                return
            self._deadlines[descriptor] = deadline

    def remove(self, descriptor: int) -> None:
        with self._lock:
            if self._deadlines.pop(descriptor, None):
                with suppress(OSError):  # the server has closed the socket
                    self._selector.remove(descriptor)

    def _run(self) -> None:
        while True:
            for descriptor in self._selector.wait():
                try:
                    self._cancel(descriptor)
                except Exception:  # of a callback of this deadline; the others need the thread
                    logger.exception("cancelling a request failed")

    def _cancel(self, descriptor: int) -> None:
        # The event may be of a closed socket whose descriptor another client has now.
        with self._lock:
            deadline = self._deadlines.get(descriptor)
            # Cancelled under the lock, so that nothing is cancelled after `remove` has returned.
            if deadline and self._selector.still_hung_up(descriptor):
                deadline.cancel()


_watcher = once_per_process(_Watcher)
