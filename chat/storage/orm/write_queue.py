"""The queue of this process's writes to SQLite.

SQLite has one writer at a time, and lets the others poll in no order, so that some of many threads
starve. Here they queue, and only processes compete. The thread whose turn it is does the writes of
all that wait, in one transaction: they share its pages and its locks.
"""

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

from django.conf import settings

from chat.storage.errors import StorageUnavailable
from chat.storage.orm.connection import (
    DATABASE_ERRORS,
    WRITER_BUSY,
    disconnect_writer,
    immediate_transaction,
    open_transaction,
    translate_errors,
    writer_connection,
)
from chat.storage.time_limit import writer_seconds

T = TypeVar("T")

# Plain locks and atomic operations of the deque: the garbage collector may begin another write
# anywhere in this module.
_queue: deque["_Turn"] = deque()
_writing = threading.Lock()


def write(work: Callable[[sqlite3.Connection], T]) -> T:
    """Run `work` in a transaction, which it may share with the writes of other threads.

    It gets the connection that all threads write on, may run in any thread, and more than once: if
    one of several fails, each is run again in a transaction of its own.

    Within a transaction of Django's, it is part of that one.
    """
    with translate_errors():
        if django_connection := open_transaction():
            return work(django_connection)
        own = _Write(work)
        own.wait()
        if not own.done:
            _write_all(own)
        try:
            if own.error:
                raise own.error
            return cast(T, own.result)
        finally:
            own.error = None  # its traceback refers to it


@contextmanager
def write_queue() -> Iterator[sqlite3.Connection]:
    """Wait for a turn alone, and yield the connection that all threads write on.

    It is for writes of the ORM, which uses the thread's own connection, and for long ones. Within a
    transaction of Django's, yield its connection at once: it holds SQLite's lock, for which the
    first in the queue waits.
    """
    with translate_errors():
        if django_connection := open_transaction():
            yield django_connection
            return
        turn = _Turn()
        turn.wait()
        try:
            yield writer_connection(turn.seconds_left())
        except DATABASE_ERRORS:
            disconnect_writer()
            raise
        finally:
            _pass_on()


class _Turn:
    """A place in the queue, of a thread that writes itself."""

    __slots__ = ("_end", "_woken", "done")

    def __init__(self) -> None:
        self.done = False
        self._end = time.monotonic() + writer_seconds(settings.SQLITE_BUSY_TIMEOUT)
        self._woken = threading.Lock()
        self._woken.acquire()

    def wait(self) -> None:
        """Wait until this thread may write, or until all is done. Raises StorageUnavailable."""
        _queue.append(self)
        if _writing.acquire(blocking=False):
            if self.done:  # by another thread, between these two lines
                _pass_on()
            else:
                _queue.remove(self)
        elif not self._woken.acquire(timeout=self.seconds_left()):
            try:
                _queue.remove(self)
            except ValueError:  # another thread has just taken it from the queue
                self._woken.acquire()
            else:
                raise StorageUnavailable(WRITER_BUSY)

    def wake(self) -> None:
        self._woken.release()

    def seconds_left(self) -> float:
        return max(0.0, self._end - time.monotonic())


class _Write(_Turn):
    """A place in the queue, of a write that any thread may do."""

    __slots__ = ("error", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        super().__init__()
        self.work = work
        self.result: Any = None
        # Until it is committed: the thread that does it may be interrupted.
        self.error: Exception | None = StorageUnavailable()


def _write_all(first: _Write) -> None:
    """Do this write, and those that wait."""
    writes = [first]
    try:
        _commit(writes, following=True)
    finally:
        for each in writes[1:]:
            each.done = True
            each.wake()
        _pass_on()


def _commit(writes: list[_Write], *, following: bool = False) -> None:
    """Do the writes in one transaction; if that fails, each in its own.

    `following`: add those that wait once SQLite's lock is held, which may take a while.
    """
    try:
        connection = writer_connection(writes[0].seconds_left())
        with immediate_transaction(connection):
            if following:
                writes += _take_writes()
            for each in writes:
                each.result = each.work(connection)
        for each in writes:
            each.error = None
    except Exception as exc:
        if isinstance(exc, DATABASE_ERRORS):
            disconnect_writer()
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
            _queue.popleft().wake()
            return
        _writing.release()
