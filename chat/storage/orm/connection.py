"""Connections of the local store to SQLite."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from typing import cast

from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from chat.storage.errors import StorageUnavailable

WRITER_BUSY = "The storage is busy with other writes; try again."
# One wait of the writers' connection for SQLite's lock. A write repeats it until its time limit.
# Setting that limit on the connection each time would take as long as a small write.
LOCK_WAIT_MS = 50
DATABASE_ERRORS = (DatabaseError, sqlite3.Error)

# By process id: a forked process must neither use nor close its parent's connection.
_writers: dict[int, BaseDatabaseWrapper] = {}


class translate_errors(ContextDecorator):
    """Translate database errors into StorageUnavailable."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, DATABASE_ERRORS):
            if _is_locked(exc):
                raise StorageUnavailable(WRITER_BUSY) from exc
            raise StorageUnavailable from exc


@contextmanager
def immediate_transaction(connection: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """Lock the database for writing, then commit or roll back.

    Wait up to `seconds` for SQLite's lock, and LOCK_WAIT_MS more at most.
    """
    # A deferred transaction reads first. If another process then writes, it fails without waiting
    # (SQLITE_BUSY_SNAPSHOT).
    try:
        _begin(connection, seconds)
        yield
        connection.execute("COMMIT")
    # A KeyboardInterrupt, too, must not leave the shared connection in a transaction.
    except BaseException:
        connection.rollback()
        raise


def _begin(connection: sqlite3.Connection, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as exc:
            if not _is_locked(exc) or time.monotonic() >= end:
                raise


def thread_connection() -> sqlite3.Connection:
    """Return this thread's own connection, as Django has set it up.

    Its statements skip the layers of Django's cursor, which take longer than SQLite.
    """
    return _sqlite(connections[DEFAULT_DB_ALIAS])


def open_transaction() -> sqlite3.Connection | None:
    """Return this thread's own connection if it is in a transaction of Django's."""
    own = connections[DEFAULT_DB_ALIAS]
    return _sqlite(own) if own.in_atomic_block else None


def writer_connection() -> sqlite3.Connection:
    """Return the connection that all threads write on.

    Opening one per thread would cost half as much as a chat, and each would re-read pages that the
    others changed.
    """
    process = os.getpid()
    if process not in _writers:
        _writers[process] = connections.create_connection(DEFAULT_DB_ALIAS)
        _writers[process].inc_thread_sharing()
    writer = _writers[process]
    writer.close_if_unusable_or_obsolete()
    if writer.connection is None:
        _sqlite(writer).execute(f"PRAGMA busy_timeout = {LOCK_WAIT_MS}")
    return _sqlite(writer)


def disconnect_writer() -> None:
    """Close the writers' connection; the next writer opens another."""
    if writer := _writers.pop(os.getpid(), None):
        writer.close()


def disconnect_broken_writer(exc: Exception) -> None:
    """Disconnect after an error of the database, unless it was only locked."""
    if isinstance(exc, DATABASE_ERRORS) and not _is_locked(exc):
        disconnect_writer()


def _is_locked(exc: BaseException) -> bool:
    return "database is locked" in str(exc)


def _sqlite(wrapper: BaseDatabaseWrapper) -> sqlite3.Connection:
    wrapper.ensure_connection()
    return cast(sqlite3.Connection, wrapper.connection)
