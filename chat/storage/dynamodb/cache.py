"""A Django cache on DynamoDB with atomic counters: each increment is one UpdateItem.

Expiry is in whole seconds, as DynamoDB's TTL has it. TTL deletes days late, so expired items are
ignored here. An increment is retried when its response is lost or late, and may then count again.
"""

import math
import pickle
import time
from typing import Any

from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from chat.storage.dynamodb.client import client, translate_errors, write_if
from chat.storage.dynamodb.items import CacheItem, Item, state_key
from chat.storage.dynamodb.queries import delete_items, get_item, read_pages

UNEXPIRED = "(attribute_not_exists(expires_at) OR expires_at > :now)"
EXISTS = f"attribute_exists(pk) AND {UNEXPIRED}"
COUNT = "ADD #counter :delta SET expires_at = if_not_exists(expires_at, :expiry)"

Timeout = float | None


class DynamoCache(BaseCache):
    """Stores integers as counters and pickles all else. Raises StorageUnavailable."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        state = self._find(key, version)
        if state is None:
            return default
        if state.value is None:
            return state.counter
        return pickle.loads(state.value)  # noqa: S301  (our own pickle)

    def set(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        item = self._item(key, value, timeout, version)
        with translate_errors():
            client().call("PutItem", {"TableName": settings.STATE_TABLE_NAME, "Item": item})

    def add(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        item = self._item(key, value, timeout, version)
        free = "attribute_not_exists(pk) OR expires_at <= :now"
        return self._write("PutItem", {"Item": item}, free) is not None

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        counts = f"attribute_exists(#counter) AND {UNEXPIRED}"
        update = "ADD #counter :delta"
        counted = self._count(key, version, update, counts, {":delta": {"N": str(delta)}})
        if counted is None:
            raise ValueError(f"{key!r} is not a counter")
        return counted

    def touch(
        self, key: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        update, values = "REMOVE expires_at", {}
        if (expiry := self._expiry(timeout)) is not None:
            update, values = "SET expires_at = :expiry", {":expiry": {"N": str(expiry)}}
        request = {"Key": self._key(key, version), "UpdateExpression": update}
        return self._write("UpdateItem", request, EXISTS, values) is not None

    def delete(self, key: Any, version: int | None = None) -> bool:
        return self._write("DeleteItem", {"Key": self._key(key, version)}, EXISTS) is not None

    def clear(self) -> None:
        """Delete all entries of this cache. It scans the whole table."""
        request = {
            "TableName": settings.STATE_TABLE_NAME,
            "FilterExpression": "begins_with(pk, :prefix)",
            "ExpressionAttributeValues": {":prefix": {"S": f"{self.key_prefix}:"}},
            "ProjectionExpression": "pk",
        }
        with translate_errors():
            for items in read_pages(request, "Scan"):
                delete_items(settings.STATE_TABLE_NAME, items)

    def _find(self, key: Any, version: int | None) -> Any:
        with translate_errors():
            item = get_item(settings.STATE_TABLE_NAME, self._key(key, version))
        state = CacheItem.from_item(item or {})
        expired = state.expires_at and state.expires_at.timestamp() <= time.time()
        return None if item is None or expired else state

    def _count(
        self, key: Any, version: int | None, update: str, condition: str, values: Item
    ) -> int | None:
        """Return the counter after an update; None if the condition failed."""
        request = {
            "Key": self._key(key, version),
            "UpdateExpression": update,
            # COUNTER is a reserved word in DynamoDB's expressions.
            "ExpressionAttributeNames": {"#counter": "counter"},
            "ReturnValues": "UPDATED_NEW",
        }
        answer = self._write("UpdateItem", request, condition, values)
        return None if answer is None else int(answer["Attributes"]["counter"]["N"])

    def _write(
        self, operation: str, request: dict[str, Any], condition: str, values: Item | None = None
    ) -> dict[str, Any] | None:
        """Return the response to a write; None if its condition, which may use `:now`, failed."""
        whole = {
            "TableName": settings.STATE_TABLE_NAME,
            **request,
            "ConditionExpression": condition,
            "ExpressionAttributeValues": {":now": {"N": str(int(time.time()))}, **(values or {})},
        }
        return write_if(operation, whole)

    def _key(self, key: Any, version: int | None) -> Item:
        return state_key(self.make_and_validate_key(key, version))

    def _item(self, key: Any, value: Any, timeout: Timeout, version: int | None) -> Item:
        # Not isinstance(): True and False are pickled, and come back as they were.
        column = {"counter": value} if type(value) is int else {"value": pickle.dumps(value)}
        expiry = self._expiry(timeout)
        expires_at = {} if expiry is None else {"expires_at": {"N": str(expiry)}}
        return {**self._key(key, version), **CacheItem.to_item(column), **expires_at}

    def _expiry(self, timeout: Timeout = DEFAULT_TIMEOUT) -> int | None:
        at = self.get_backend_timeout(timeout)
        # Rounded up, so that no entry ends early.
        return None if at is None else math.ceil(at)


class DynamoCounters(DynamoCache):
    """Counters that start at zero without being added: a rate limit costs one call a request.

    django-ratelimit adds a counter before it increments it; `add` does nothing here. A counter
    expires TIMEOUT after its first increment.
    """

    def add(self, *args: Any, **options: Any) -> bool:
        return False

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        values = {":delta": {"N": str(delta)}, ":expiry": {"N": str(self._expiry() or 0)}}
        counted = self._count(key, version, COUNT, UNEXPIRED, values)
        if counted is not None:
            return counted
        restarted = super().add(key, delta, version=version)  # the counter had expired
        return delta if restarted else self.incr(key, delta, version)
