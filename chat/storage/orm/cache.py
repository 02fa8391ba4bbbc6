"""A Django cache on the local store whose counters are exact: one statement for each count.

Django's own caches are either private to a process, or count by reading and then writing, so that
two processes can both be the last one allowed.
"""

import pickle
import time
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from chat.storage.orm.connection import execute, translate_errors, writing

SWEEP_SECONDS = 60.0

ALIVE = "key = ? AND (expires_at IS NULL OR expires_at > ?)"
GET = f"SELECT counter, value FROM chat_cacheentry WHERE {ALIVE}"
SET = """
    INSERT INTO chat_cacheentry (key, counter, value, expires_at) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE
    SET counter = excluded.counter, value = excluded.value, expires_at = excluded.expires_at"""
ADD = f"{SET} WHERE chat_cacheentry.expires_at <= ? RETURNING key"
INCREMENT = f"UPDATE chat_cacheentry SET counter = counter + ? WHERE {ALIVE} RETURNING counter"
COUNT = """
    INSERT INTO chat_cacheentry (key, counter, expires_at) VALUES (?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET counter = counter + excluded.counter
    WHERE chat_cacheentry.expires_at > ? RETURNING counter"""
TOUCH = f"UPDATE chat_cacheentry SET expires_at = ? WHERE {ALIVE} RETURNING key"
DELETE = f"DELETE FROM chat_cacheentry WHERE {ALIVE} RETURNING key"
CLEAR = "DELETE FROM chat_cacheentry WHERE instr(key, ?) = 1"
SWEEP = "DELETE FROM chat_cacheentry WHERE expires_at <= ?"


class OrmCache(BaseCache):
    """Integers are kept as counters, all else is pickled. Raises StorageUnavailable."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._swept_at = time.time()

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        rows = _run(GET, self.make_and_validate_key(key, version), time.time())
        if not rows:
            return default
        counter, value = rows[0]
        return pickle.loads(value) if counter is None else counter  # noqa: S301  (our own pickle)

    def set(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> None:
        _run(SET, *self._row(key, value, timeout, version))

    def add(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        self._sweep()
        return bool(_run(ADD, *self._row(key, value, timeout, version), time.time()))

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        rows = _run(INCREMENT, delta, self.make_and_validate_key(key, version), time.time())
        if not rows or rows[0][0] is None:
            raise ValueError(f"{key!r} is not a counter")
        return int(rows[0][0])

    def touch(
        self,
        key: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        name = self.make_and_validate_key(key, version)
        return bool(_run(TOUCH, self.get_backend_timeout(timeout), name, time.time()))

    def delete(self, key: Any, version: int | None = None) -> bool:
        return bool(_run(DELETE, self.make_and_validate_key(key, version), time.time()))

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return bool(_run(GET, self.make_and_validate_key(key, version), time.time()))

    def clear(self) -> None:
        _run(CLEAR, f"{self.key_prefix}:")

    def _row(self, key: Any, value: Any, timeout: float | None, version: int | None) -> list[Any]:
        counter = value if type(value) is int else None
        pickled = None if counter is not None else pickle.dumps(value)
        name = self.make_and_validate_key(key, version)
        return [name, counter, pickled, self.get_backend_timeout(timeout)]

    def _sweep(self) -> None:
        """Forget what has expired, at most once a minute in each process."""
        now = time.time()
        if now - self._swept_at > SWEEP_SECONDS:
            self._swept_at = now
            _run(SWEEP, now)


class OrmCounters(OrmCache):
    """Counters that are all there, at zero, until they are counted; a count is one statement.

    So there is nothing to add: django-ratelimit, which adds a counter and increments the one that
    it finds, does one thing for each request. A counter lives for TIMEOUT from its first count.
    """

    def add(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        return False

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        self._sweep()
        name = self.make_and_validate_key(key, version)
        rows = _run(COUNT, name, delta, self.get_backend_timeout(), time.time())
        if rows:
            return int(rows[0][0])
        begun = super().add(key, delta, version=version)  # in the place of one that has expired
        return delta if begun else self.incr(key, delta, version)


def _run(sql: str, *params: Any) -> list[tuple[Any, ...]]:
    with translate_errors if sql is GET else writing:
        return execute(sql, params).fetchall()
