"""Extend gunicorn's threaded worker to serve clients without a proxy in front.

Each override has its reason beside it. tests/chatproject/server/test_overrides.py fails when
gunicorn renames or changes one of them, so gunicorn's version is pinned in requirements/local.in.
"""

import errno
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from struct import pack
from typing import Any

import uuid_utils
from django.conf import settings
from django.db import connections
from django.http import HttpResponse
from gunicorn import arbiter, util
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers import gthread

from chat.api.exceptions import problem_response
from chat.errors import InternalError, Problem, ValidationFailed
from chat.http_transport import http_transport
from chat.telemetry.context import request_context
from chatproject.server import memory
from chatproject.server.threads import ElasticThreadPool
from chatproject.server.tuning import TunedWorker

# Seconds that a client may take for its next bytes, or to accept ours.
CLIENT_SECONDS = 10.0
# Seconds that a client may take to send a whole request.
REQUEST_SECONDS = 30.0
# The same while few threads are free.
CROWDED_SECONDS = 1.0
# Threads beyond those for the allowed requests: they refuse further requests, and answer
# health checks.
SPARE_THREADS = 8
# Idle connections to each vendor that are kept after a burst. Over TLS each holds 0.7 MB.
KEPT_CONNECTIONS = 8
# A worker that has grown by GROWN_BYTES ends after QUIET_SECONDS without a connection.
GROWN_BYTES = 24 * 1024 * 1024
QUIET_SECONDS = 10.0
# Seconds until a worker without a free file accepts again.
NO_FILES_SECONDS = 0.1
# Seconds that a thread waits for the first request of a connection.
FIRST_REQUEST_SECONDS = 0.02
# Seconds that a client may take to close its side of a connection closed by us.
LINGER_SECONDS = 2.0
# Seconds that a stopping worker keeps connections without a request.
STOP_SECONDS = 2.0
READ_BYTES = 64 * 1024
# Bytes of a refused body that are read, to keep the connection.
MAX_DRAINED_BYTES = 16 * 1024 * 1024
TOO_LONG = {LimitRequestLine: 414, LimitRequestHeaders: 431}
# A C struct timeval.
SEND_TIMEOUT = pack("ll", int(CLIENT_SECONDS), 0)
Application = Callable[..., Any]
STOP_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


class Arbiter(arbiter.Arbiter):  # type: ignore[misc]  # gunicorn has no types
    def spawn_worker(self) -> Any:
        """Block stop signals until the new worker handles them, in `Worker.init_signals`.

        gunicorn loses those that arrive before, and kills the worker after `graceful_timeout`:
        https://github.com/benoitc/gunicorn/issues/1910
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


class Worker(TunedWorker):
    alive: bool  # gunicorn ends the worker when this is false
    lingering: deque["Connection"]  # sorted by timeout

    def init_process(self) -> None:
        self.lingering = deque()
        self.bytes_at_start = memory.resident_bytes()
        self.busy_at = time.monotonic()
        super().init_process()

    def notify(self) -> None:
        """End after a burst, when no client is connected: the arbiter starts a new, small worker.

        Python and glibc keep a part of the memory that a burst took: 100 MB after 2,000 clients.
        gunicorn calls this at least once a second.
        """
        super().notify()
        now = time.monotonic()
        if self.nr_conns:
            self.busy_at = now
        elif self.alive and now - self.busy_at > QUIET_SECONDS and self._has_grown():
            self.log.info("worker ends to free the memory of a burst")
            self.alive = False

    def _has_grown(self) -> bool:
        return memory.resident_bytes() - self.bytes_at_start > GROWN_BYTES

    def accept(self, listener: Any) -> None:
        """Leave a client in the backlog while no file is free; gunicorn ends the worker instead."""
        try:
            super().accept(listener)
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self.log.error("cannot accept a client: %s", exc.strerror)
            time.sleep(NO_FILES_SECONDS)

    def get_thread_pool(self) -> ElasticThreadPool:
        """Start threads when they are needed, and end them when they are idle.

        gunicorn keeps all that it ever needed, with their connections to the database.
        """
        return ElasticThreadPool(
            self.cfg.threads + SPARE_THREADS,
            on_thread_end=connections.close_all,
            on_shrink=after_a_burst,
        )

    def handle(self, conn: "Connection") -> Any:
        """Give a client less time for its request while there are few threads for others."""
        crowded = self.tpool.free < SPARE_THREADS
        conn.request_seconds = CROWDED_SECONDS if crowded else REQUEST_SECONDS
        return super().handle(conn)

    def handle_request(self, req: Any, conn: "Connection") -> Any:
        """Answer, and then read what is left of a refused body, so that the client can go on.

        If its length is not allowed, a client that waits for `100 Continue` need not send it.
        """
        length = next((value for name, value in req.headers if name == "CONTENT-LENGTH"), "0")
        if req._expected_100_continue and int(length) > settings.MAX_BODY_BYTES:
            req._expected_100_continue = False
            req.force_close()
        return super().handle_request(req, conn) and not req.must_close

    def init_signals(self) -> None:
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def finish_request(self, conn: "Connection", fs: Any) -> None:
        """Wait in the poller for the client to close its side of a closed connection.

        gunicorn waits in the main thread, for up to 2 seconds in which no other connection is
        served: https://github.com/benoitc/gunicorn/pull/3590
        """
        super().finish_request(conn, fs)
        if conn.lingers:
            self.nr_conns += 1
            conn.timeout = time.monotonic() + LINGER_SECONDS
            self.lingering.append(conn)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._drain, conn))

    def _drain(self, conn: "Connection", sock: socket.socket) -> None:
        if conn.drained():
            self.lingering.remove(conn)
            self._close(conn)

    def _close(self, conn: "Connection") -> None:
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        """Close connections whose wait is over: without a request, or closed by us.

        A stopping worker waits less; gunicorn shortens the wait of kept-alive connections only.
        """
        if not self.alive:
            last = time.monotonic() + STOP_SECONDS
            for conn in self.pending_conns:
                conn.timeout = min(conn.timeout, last)
        super().murder_pending()
        while self.lingering and self.lingering[0].timeout < time.monotonic():
            self._close(self.lingering.popleft())

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answer errors in the shape of the API's errors.

        gunicorn answers with an HTML page: https://github.com/benoitc/gunicorn/issues/993
        """
        with request_context(str(uuid_utils.uuid7())) as context:
            response = self._error_response(exc)
        response["X-Request-ID"] = context.request_id
        head = f"HTTP/1.1 {response.status_code} {response.reason_phrase}\r\nConnection: close\r\n"
        fields = "".join(f"{name}: {value}\r\n" for name, value in response.items())
        length = f"Content-Length: {len(response.content)}\r\n\r\n"
        try:
            util.write_nonblock(client, (head + fields + length).encode() + response.content)
        except OSError:
            self.log.debug("client closed the connection before its error")

    def _error_response(self, exc: Exception) -> HttpResponse:
        problem: Problem = InternalError()
        if isinstance(exc, ParseException | LimitRequestLine | LimitRequestHeaders):
            problem = ValidationFailed("Malformed or oversized HTTP request.")
            problem.status = TOO_LONG.get(type(exc), problem.status)
            self.log.info("refused: %s", type(exc).__name__)
        else:
            self.log.error("failed: %s", type(exc).__name__, exc_info=exc)
        return problem_response(problem)


class Connection(gthread.TConn):  # type: ignore[misc]  # gunicorn has no types
    """A client's connection with timeouts, which gunicorn's threads do not have.

    https://github.com/benoitc/gunicorn/issues/2652
    """

    # Closed on our side, while the client may still be sending.
    lingers = False
    request_seconds = REQUEST_SECONDS

    def wait_for_data(self, timeout: float) -> Any:
        """Give the thread back sooner than gunicorn's 5 seconds if no request arrives."""
        return super().wait_for_data(FIRST_REQUEST_SECONDS)

    def init(self) -> None:
        """Start the time of a request; gunicorn calls this before each."""
        if not self.initialized:
            super().init()
            self.parser.unreader = DeadlineUnreader(self.sock)
        self.sock.settimeout(CLIENT_SECONDS)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, SEND_TIMEOUT)
        self.parser.unreader.deadline = time.monotonic() + self.request_seconds

    def close(self, graceful: bool = False) -> None:
        """Close the connection, or only our side of it while the client is still sending.

        A full close would then reset the connection, and the client would lose the answer
        (RFC 9112, 9.6).
        """
        if graceful:
            with suppress(OSError):  # either side may have closed it
                self.sock.setblocking(False)
                self.sock.shutdown(socket.SHUT_WR)
            self.lingers = not self.drained()
            if self.lingers:
                return
        super().close()

    def drained(self) -> bool:
        """Discard what the client has sent. Return whether it has closed its side."""
        try:
            return not self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return True


def drain(request: Any, response: Any) -> None:
    """Read the rest of a refused body; close the connection if it is too long, or does not arrive.

    gunicorn reads 64 KiB, and then closes a connection that it promised to keep.
    """
    if request.must_close or response is None or not response.headers_sent:
        return
    left = MAX_DRAINED_BYTES
    try:
        while left > 0 and (data := request.body.read(READ_BYTES)):
            left -= len(data)
    except (OSError, ParseException):
        left = 0
    if left <= 0:
        request.force_close()


def after_a_burst() -> None:
    """Release the memory and the connections of a burst of requests."""
    http_transport().close_idle(but=KEPT_CONNECTIONS)
    memory.trim()


def with_kernel_timeout(application: Application) -> Application:
    """Leave the timeout of writes to the kernel, once the request has been read.

    The kernel ends a write that makes no progress. Python's own timeout covers the whole body,
    which a steady client may take longer to read, and costs a thread switch for each token.
    """

    def wrapped(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        response = application(environ, start_response)
        environ["gunicorn.socket"].settimeout(None)
        return response

    return wrapped


class DeadlineUnreader(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """Reads of one request, which must end before `deadline`."""

    deadline: float

    def chunk(self, size_hint: int | None = None) -> Any:
        left = max(0.001, self.deadline - time.monotonic())
        self.sock.settimeout(min(left, CLIENT_SECONDS))
        return super().chunk(size_hint)


gthread.TConn = Connection  # `ThreadWorker.accept` makes them; gunicorn has no option for the class
