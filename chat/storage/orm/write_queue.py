"""The queue of this process's writes to SQLite.

SQLite has one writer at a time, and lets the others poll in no order, so that some of many threads
starve. Here they queue, and only processes compete. The thread whose turn it is does the writes of
all that wait, in one transaction: they share its pages and its locks.

An interrupt, such as KeyboardInterrupt or GreenletExit, of a thread that waits or writes does not
stop the queue. Only one at the very instant in which a thread gets its turn may.
"""

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TypeVar, cast

from django.conf import settings

from chat.storage.errors import StorageUnavailable
from chat.storage.orm.connection import (
    WRITER_BUSY,
    disconnect_broken_writer,
    immediate_transaction,
    open_transaction,
    translate_errors,
    writer_connection,
)
from chat.storage.time_limit import spend_writer_seconds, writer_seconds

T = TypeVar("T")

# While many threads write, a write waits this long for others to share its transaction.
# PostgreSQL calls it commit_delay.
GROUP_SECONDS = 0.003

_queue: deque["_Turn"] = deque()
_writing = threading.Lock()
# The thread that wrote last, and when.
_last_write: tuple[int, float] = (0, 0.0)
# The threads that write or wait. The garbage collector may end a stream in one of them, whose
# record is a write, too: it would wait for its own thread.
_threads: set[int] = set()


def write(work: Callable[[sqlite3.Connection], T], *, wait: bool = True) -> T:
    """Run `work` in a transaction, and return its result.

    `work` gets the connection that all threads write on. It may run in any thread, and more than
    once: if one of several writes in a transaction fails, each runs again in its own. Within a
    transaction of Django's, it is part of that one.

    Raises StorageUnavailable if it cannot begin within the request's time limit, or if this thread
    is writing already. Without `wait`, it waits for no other thread, and LOCK_WAIT_MS for another
    process.
    """
    with translate_errors():
        if django_connection := open_transaction():
            return work(django_connection)
        own = _Write(work, wait=wait)
        try:
            own.wait()
            if not own.done:
                _write_all(own)
        finally:
            own.end()
        try:
            if own.error:
                raise own.error
            return cast(T, own.result)
        finally:
            own.error = None  # its traceback refers to it


@contextmanager
def write_queue(*, locked: bool = False) -> Iterator[sqlite3.Connection]:
    """Wait for a turn alone, and yield the connection that all threads write on.

    It is for long writes, and for those of the ORM outside of requests: it uses the thread's own
    connection, which waits SQLITE_BUSY_TIMEOUT for SQLite's lock. Within a transaction of Django's,
    yield its connection at once: it holds the lock, for which the first in the queue waits.

    With `locked`, yield it in a transaction. The turn and SQLite's lock then share a time limit.
    """
    with translate_errors():
        if django_connection := open_transaction():
            yield django_connection
            return
        turn = _Turn()
        try:
            turn.wait()
            connection = writer_connection()
            transaction = immediate_transaction(connection, turn.seconds_left())
            with transaction if locked else nullcontext():
                yield connection
        except Exception as exc:
            disconnect_broken_writer(exc)
            raise
        finally:
            turn.end()


class _Turn:
    """A place in the queue, of a thread that writes itself.

    `done`: another thread has done the write. `writes`: this thread may write, until `end`.
    """

    __slots__ = ("_began", "_end", "_woken", "done", "thread", "writes")

    def __init__(self, *, wait: bool = True) -> None:
        self.thread = threading.get_ident()
        if self.thread in _threads:
            raise StorageUnavailable(WRITER_BUSY)
        self.done = self.writes = False
        self._began = time.monotonic()
        self._end = self._began + (writer_seconds(settings.SQLITE_BUSY_TIMEOUT) if wait else 0.0)
        self._woken = threading.Lock()
        self._woken.acquire()

    def wait(self) -> None:
        """Wait until this thread may write, or until all is done. Raises StorageUnavailable."""
        _threads.add(self.thread)
        _queue.append(self)
        if _writing.acquire(blocking=False):
            self.writes = True
            if not self.done:  # by another thread, before this one had the lock
                _queue.remove(self)
            return
        woken = False
        try:
            woken = self._woken.acquire(timeout=self.seconds_left())
        finally:  # an interrupt, too, must not stop the queue
            left = not woken and self._leave()
        if left:
            raise StorageUnavailable(WRITER_BUSY)

    def _leave(self) -> bool:
        """Leave the queue; if another thread has just taken this turn, wait to be woken instead."""
        try:
            _queue.remove(self)
        except ValueError:
            if not self.done and not self.writes:
                self._woken.acquire()
            return False
        return True

    def end_wait(self, *, done: bool) -> None:
        """Wake the thread: its write is done, or it may write."""
        self.done, self.writes = done, not done
        self._woken.release()

    def end(self) -> None:
        """Let the next thread write if this one may, and count the time that it took."""
        try:
            if self.writes:
                self.writes = False
                _pass_on()
        finally:
            _threads.discard(self.thread)
        spend_writer_seconds(time.monotonic() - self._began)

    def seconds_left(self) -> float:
        return max(0.0, self._end - time.monotonic())


class _Write(_Turn):
    """A place in the queue, of a write that any thread may do."""

    __slots__ = ("error", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any], *, wait: bool) -> None:
        super().__init__(wait=wait)
        self.work = work
        self.result: Any = None
        # Until it is committed: the thread that does it may be interrupted.
        self.error: Exception | None = StorageUnavailable()


def _write_all(first: _Write) -> None:
    """Do this write, and those that wait."""
    _wait_for_others(first)
    writes = [first]
    try:
        _commit(writes, following=True)
    finally:
        for each in writes[1:]:
            each.end_wait(done=True)


def _wait_for_others(write: _Write) -> None:
    """Wait GROUP_SECONDS for more writes, if another thread began one just before."""
    global _last_write
    thread, at = _last_write
    busy = thread != write.thread and time.monotonic() - at < 2 * GROUP_SECONDS
    if busy and not _queue and write.seconds_left() > GROUP_SECONDS:
        time.sleep(GROUP_SECONDS)
    _last_write = write.thread, time.monotonic()


def _commit(writes: list[_Write], *, following: bool = False) -> None:
    """Do the writes in one transaction; if that fails, each in its own.

    `following`: add those that wait once SQLite's lock is held, which may take a while.
    """
    try:
        connection = writer_connection()
        with immediate_transaction(connection, writes[0].seconds_left()):
            if following:
                writes += _take_writes()
            for each in writes:
                each.result = each.work(connection)
        for each in writes:
            each.error = None
    except Exception as exc:
        disconnect_broken_writer(exc)
        if len(writes) == 1:
            writes[0].error = exc
        else:
            for each in writes:
                _commit([each])


def _take_writes() -> Iterator[_Write]:
    """Take writes from the queue, up to the next thread that writes itself."""
    with suppress(IndexError):  # the queue is empty
        while isinstance(turn := _queue.popleft(), _Write):
            yield turn
        _queue.appendleft(turn)


def _pass_on() -> None:
    """Give the next thread in the queue its turn."""
    _writing.release()
    # A thread that comes between these lines takes the turn, or is seen here.
    while _queue and _writing.acquire(blocking=False):
        with suppress(IndexError):  # the thread has given up
            _queue.popleft().end_wait(done=False)
            return
        _writing.release()


def _begin_anew() -> None:
    """Forget the threads of the parent process, which a forked one does not have."""
    global _writing
    _queue.clear()
    _threads.clear()
    _writing = threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)
