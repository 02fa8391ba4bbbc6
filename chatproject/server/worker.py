"""gunicorn, with what a public address needs beside threads.

Clients that stop sending are let go, those that are slow keep nobody else waiting, and what is
refused before Django sees it (a header that is none, or too long) is answered in the shape of all
our errors.
"""

import os
import select
import selectors
import signal
import socket
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from functools import partial
from multiprocessing.sharedctypes import RawArray
from typing import Any

from django.conf import settings
from gunicorn import arbiter, util
from gunicorn.glogging import Logger
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

from chat.api.exceptions import problem_response
from chat.errors import InternalError, Problem, ValidationFailed

# How long a client may keep a thread waiting for its next bytes, or for taking ours.
CLIENT_SECONDS = 10.0
# How long it may take to send a whole request, however little at a time.
REQUEST_SECONDS = 30.0
# How long a thread waits for a request: the first of a new connection, or the next of one that it
# has just served. Later ones find a thread when they come.
KEEPALIVE_WAIT = 0.02
# How long a connection that we have closed is kept for what its client is still sending: to meet
# nobody there would cost the client the answer (RFC 9112, 9.6).
LINGER_SECONDS = 2.0
READ_BYTES = 64 * 1024
# How much later a process takes a connection for each that it has more than another.
ACCEPT_BACKOFF = 0.001
MAX_ACCEPT_BACKOFF = 0.003
TOO_LONG = {LimitRequestLine: 414, LimitRequestHeaders: 431}

# What gunicorn logs of a client that stops, too.
SOCKET_ERROR = "Socket error processing request."

# What a process is told to stop with.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)

# How many connections there are in each place, of which every process has one; they share this.
CONNECTION_COUNTS = RawArray("i", settings.WEB_CONCURRENCY)
# What a place has that no process has.
UNAVAILABLE = 2**31 - 1


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Leaves logging to our settings; it has no access log, as each request has a line of ours."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        if msg == SOCKET_ERROR and isinstance(sys.exception(), TimeoutError):
            self.info("a client was too slow")
        else:
            super().exception(msg, *args, **kwargs)


class Arbiter(arbiter.Arbiter):  # type: ignore[misc]  # gunicorn has no types
    def spawn_worker(self) -> Any:
        """Have signals wait until the new process handles them (`Worker.init_signals`).

        It dropped those that came before: it went on until it was killed, half a minute later.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def assign_slot(arbiter: Any, worker: "Worker") -> None:
    """Give a new process the place that the fewest have."""
    taken = Counter(other.place for other in arbiter.WORKERS.values())
    worker.place = min(range(len(CONNECTION_COUNTS)), key=taken.__getitem__)
    worker.nr_conns = 0


def release_slot(arbiter: Any, worker: "Worker") -> None:
    """Have nobody wait for a process that has ended."""
    if all(other.place != worker.place for other in arbiter.WORKERS.values()):
        CONNECTION_COUNTS[worker.place] = UNAVAILABLE


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    # Chosen when it has been made, before it is forked.
    place: int | None = None

    def init_process(self) -> None:
        """Stay on one core, where there is a process for each.

        One of a process's threads runs at a time. Spread over the cores, each finds its data in the
        cache of another: the same request took a third more CPU.
        """
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if self.place is not None and 0 < len(cores) <= len(CONNECTION_COUNTS):
            with suppress(OSError):  # it may have been taken from us since
                os.sched_setaffinity(0, {cores[self.place % len(cores)]})
        self.lingering: deque[Connection] = deque()
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    @property
    def nr_conns(self) -> int:
        """How many connections this process has, as gunicorn calls it."""
        return self._connections

    @nr_conns.setter
    def nr_conns(self, number: int) -> None:
        self._connections = number
        if self.place is not None:
            CONNECTION_COUNTS[self.place] = number

    def accept(self, listener: Any) -> None:
        """Leave a connection to a process that has fewer, for the moment that this takes.

        All wait for the next one, and the system wakes the same process again and again: of 50
        connections it had up to 47, and one core did all the work.
        """
        more = self.nr_conns - min(CONNECTION_COUNTS)
        if more > 0:
            time.sleep(min(more * ACCEPT_BACKOFF, MAX_ACCEPT_BACKOFF))
        with suppress(BlockingIOError, ConnectionAbortedError):
            sock, address = listener.accept()
            self.nr_conns += 1
            self.enqueue_req(Connection(self.cfg, sock, address, listener.getsockname()))

    def handle(self, conn: TConn) -> Any:
        """Serve a connection as long as one request follows the other.

        gunicorn's own thread gives it back after each, to one that waits for all connections and
        wakes another for the next request: that was a third of the CPU of a short request.
        """
        while (served := super().handle(conn)) is True and self._followed(conn):
            pass
        return served

    def _followed(self, conn: TConn) -> bool:
        """Whether the next request comes at once, and nobody else is waiting for the thread."""
        if not self.alive or self.tpool._work_queue.qsize():
            return False
        if conn.parser.unreader.buf.getvalue():
            return True
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(KEEPALIVE_WAIT * 1000))

    def finish_request(self, conn: "Connection", fs: Any) -> None:
        super().finish_request(conn, fs)
        if conn.lingers:
            self.nr_conns += 1
            self.lingering.append(conn)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._drain, conn))

    def _drain(self, conn: "Connection", sock: Any) -> None:
        if conn.drained():
            self.lingering.remove(conn)
            self._let_go(conn)

    def murder_pending(self) -> None:
        """Close what has waited for too long, as gunicorn calls it; at the end, sooner."""
        if not self.alive:
            last = time.monotonic() + LINGER_SECONDS
            for conn in self.pending_conns:
                conn.timeout = min(conn.timeout, last)
        super().murder_pending()
        while self.lingering and self.lingering[0].timeout < time.monotonic():
            self._let_go(self.lingering.popleft())

    def _let_go(self, conn: "Connection") -> None:
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answer what is no HTTP, or not served here."""
        problem: Problem = InternalError()
        if isinstance(exc, ParseException | LimitRequestLine | LimitRequestHeaders):
            problem = ValidationFailed("The request is no HTTP that is served here.")
            problem.status = TOO_LONG.get(type(exc), problem.status)
            self.log.info("refused: %s", type(exc).__name__)
        else:
            self.log.error("failed: %s", type(exc).__name__, exc_info=exc)
        answer = problem_response(problem)
        head = f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}\r\nConnection: close\r\n"
        fields = "".join(f"{name}: {value}\r\n" for name, value in answer.items())
        length = f"Content-Length: {len(answer.content)}\r\n\r\n"
        try:
            util.write_nonblock(client, (head + fields + length).encode() + answer.content)
        except OSError:
            self.log.debug("a refusal could not be sent")


class Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """A client's connection, on which nothing lasts for ever: gunicorn lets reads and writes."""

    # Whether it is closed but for what its client is still sending.
    lingers = False

    def wait_for_data(self, timeout: float) -> Any:
        """gunicorn would have a thread wait for five seconds, and others for the thread."""
        return super().wait_for_data(KEEPALIVE_WAIT)

    def init(self) -> None:
        super().init()  # of the first request alone; the time is of each
        self.sock.settimeout(CLIENT_SECONDS)
        end = time.monotonic() + REQUEST_SECONDS
        unreader = self.parser.unreader

        def chunk(size_hint: int | None = None) -> Any:
            left = max(0.001, end - time.monotonic())
            if left < CLIENT_SECONDS:
                self.sock.settimeout(left)
            return SocketUnreader.chunk(unreader, size_hint)

        unreader.chunk = chunk

    def close(self, graceful: bool = False) -> None:
        """Close it, or only our side of it: gunicorn has all others wait until its client does."""
        if graceful:
            with suppress(OSError):  # it may be closed already, here or there
                self.sock.setblocking(False)
                self.sock.shutdown(socket.SHUT_WR)
            self.timeout = time.monotonic() + LINGER_SECONDS
            self.lingers = not self.drained()
            if self.lingers:
                return
        super().close()

    def drained(self) -> bool:
        """Whether nothing more comes; what does is thrown away."""
        try:
            return not self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return True
