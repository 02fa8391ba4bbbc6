"""A Django cache on SQLite with atomic counters: each increment is one statement.

Django's own caches are private to a process, or increment by a read and a write, so that two
processes can both get the last request of a rate limit.
"""

import pickle
import time
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from chat.storage.orm.connection import thread_connection, translate_errors
from chat.storage.orm.write_queue import write

UNEXPIRED = "key = ? AND (expires_at IS NULL OR expires_at > ?)"
GET = f"SELECT counter, value FROM chat_cacheentry WHERE {UNEXPIRED}"
SET = """
    INSERT INTO chat_cacheentry (key, counter, value, expires_at) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE
    SET counter = excluded.counter, value = excluded.value, expires_at = excluded.expires_at"""
ADD = f"{SET} WHERE chat_cacheentry.expires_at <= ? RETURNING key"
INCREMENT = f"UPDATE chat_cacheentry SET counter = counter + ? WHERE {UNEXPIRED} RETURNING counter"
COUNT = """
    INSERT INTO chat_cacheentry (key, counter, expires_at) VALUES (?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET counter = counter + excluded.counter
    WHERE chat_cacheentry.expires_at > ? RETURNING counter"""
TOUCH = f"UPDATE chat_cacheentry SET expires_at = ? WHERE {UNEXPIRED} RETURNING key"
DELETE = f"DELETE FROM chat_cacheentry WHERE {UNEXPIRED} RETURNING key"
CLEAR = "DELETE FROM chat_cacheentry WHERE instr(key, ?) = 1"

Timeout = float | None


class OrmCache(BaseCache):
    """Stores integers as counters and pickles all else. Raises StorageUnavailable.

    `OrmInteractionStore` deletes what has expired.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        rows = _read(GET, self.make_and_validate_key(key, version), time.time())
        if not rows:
            return default
        counter, value = rows[0]
        return pickle.loads(value) if counter is None else counter  # noqa: S301  (our own pickle)

    def set(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        _write(SET, *self._row(key, value, timeout, version))

    def add(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        return bool(_write(ADD, *self._row(key, value, timeout, version), time.time()))

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        rows = _write(INCREMENT, delta, self.make_and_validate_key(key, version), time.time())
        if not rows or rows[0][0] is None:
            raise ValueError(f"{key!r} is not a counter")
        return int(rows[0][0])

    def touch(
        self, key: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        name = self.make_and_validate_key(key, version)
        return bool(_write(TOUCH, self.get_backend_timeout(timeout), name, time.time()))

    def delete(self, key: Any, version: int | None = None) -> bool:
        return bool(_write(DELETE, self.make_and_validate_key(key, version), time.time()))

    def clear(self) -> None:
        _write(CLEAR, f"{self.key_prefix}:")

    def _row(self, key: Any, value: Any, timeout: Timeout, version: int | None) -> list[Any]:
        # Not isinstance(): True and False are pickled, and come back as they were.
        counter = value if type(value) is int else None
        pickled = None if counter is not None else pickle.dumps(value)
        name = self.make_and_validate_key(key, version)
        return [name, counter, pickled, self.get_backend_timeout(timeout)]


class OrmCounters(OrmCache):
    """Counters that start at zero without being added: a rate limit costs one statement a request.

    django-ratelimit adds a counter before it increments it; `add` does nothing here. A counter
    expires TIMEOUT after its first increment.
    """

    def add(self, *args: Any, **options: Any) -> bool:
        return False

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        name = self.make_and_validate_key(key, version)
        rows = _write(COUNT, name, delta, self.get_backend_timeout(), time.time())
        if rows:
            return int(rows[0][0])
        restarted = super().add(key, delta, version=version)  # the counter had expired
        return delta if restarted else self.incr(key, delta, version)


def _read(sql: str, *params: Any) -> list[tuple[Any, ...]]:
    with translate_errors():
        return thread_connection().execute(sql, params).fetchall()


def _write(sql: str, *params: Any) -> list[tuple[Any, ...]]:
    return write(lambda connection: connection.execute(sql, params).fetchall())
