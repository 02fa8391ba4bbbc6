"""The queue of this process's writes to SQLite.

SQLite has one writer at a time, and lets the others poll in no order, so that some of many threads
starve. Here they queue, and only processes compete. The thread whose turn it is does the writes of
all that wait, in one transaction: they share its pages and its locks.
"""

import os
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
from chat.storage.time_limit import spend_writer_seconds, writer_seconds

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
        try:
            own.wait()
            if not own.done:
                _write_all(own)
        finally:
            own.count_wait()
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
        try:
            turn.wait()
        finally:
            turn.count_wait()
        try:
            yield writer_connection(turn.seconds_left())
        except DATABASE_ERRORS:
            disconnect_writer()
            raise
        finally:
            _pass_on()


class _Turn:
    """A place in the queue, of a thread that writes itself."""

    __slots__ = ("_began", "_end", "_woken", "done", "woken")

    def __init__(self) -> None:
        self.done = self.woken = False
        self._began = time.monotonic()
        self._end = self._began + writer_seconds(settings.SQLITE_BUSY_TIMEOUT)
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
            return
        try:
            woken = self._woken.acquire(timeout=self.seconds_left())
        except BaseException:  # an interrupt must not stop the queue
            if not self._leave() and not self.done:
                _pass_on()
            raise
        if not woken and self._leave():
            raise StorageUnavailable(WRITER_BUSY)

    def _leave(self) -> bool:
        """Leave the queue; if another thread has just taken this turn, wait to be woken instead."""
        try:
            _queue.remove(self)
        except ValueError:
            if not self.woken:
                self._woken.acquire()
            return False
        return True

    def wake(self) -> None:
        self.woken = True
        self._woken.release()

    def count_wait(self) -> None:
        """Take the time since the beginning from what the request has for its waits."""
        spend_writer_seconds(time.monotonic() - self._began)

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


def _begin_anew() -> None:
    """Forget the threads of the parent process, which a forked one does not have."""
    global _writing
    _queue.clear()
    _writing = threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)
