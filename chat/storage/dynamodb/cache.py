"""A Django cache on DynamoDB whose counters are exact: one UpdateItem for each count.

Times are whole seconds, as DynamoDB's own expiry has them; that deletes days late, so what has
expired is passed over here. A write whose answer was lost is tried again, and may count twice.
"""

import math
import pickle
import time
from typing import Any

from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from chat.storage.dynamodb.client import client, condition_held, translate_errors
from chat.storage.dynamodb.items import CacheItem, Item
from chat.storage.dynamodb.queries import delete_items, get_item, scan

ALIVE = "(attribute_not_exists(expires_at) OR expires_at > :now)"
THERE = f"attribute_exists(pk) AND {ALIVE}"
COUNT = "ADD #counter :delta SET expires_at = if_not_exists(expires_at, :expiry)"


class DynamoCache(BaseCache):
    """Integers are kept as counters, all else is pickled. Raises StorageUnavailable."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        state = self._find(key, version)
        if state is None:
            return default
        return state.counter if state.value is None else _unpickled(state.value)

    def set(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> None:
        item = self._item(key, value, timeout, version)
        with translate_errors():
            client().call("PutItem", {"TableName": settings.STATE_TABLE_NAME, "Item": item})

    def add(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        item = self._item(key, value, timeout, version)
        free = "attribute_not_exists(pk) OR expires_at <= :now"
        return self._write("PutItem", {"Item": item}, free) is not None

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        counts = f"attribute_exists(#counter) AND {ALIVE}"
        update = "ADD #counter :delta"
        counted = self._count(key, version, update, counts, {":delta": {"N": str(delta)}})
        if counted is None:
            raise ValueError(f"{key!r} is not a counter")
        return counted

    def touch(
        self,
        key: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        update, values = "REMOVE expires_at", {}
        if (expiry := self._expiry(timeout)) is not None:
            update, values = "SET expires_at = :expiry", {":expiry": {"N": str(expiry)}}
        request = {"Key": self._key(key, version), "UpdateExpression": update}
        return self._write("UpdateItem", request, THERE, values) is not None

    def delete(self, key: Any, version: int | None = None) -> bool:
        return self._write("DeleteItem", {"Key": self._key(key, version)}, THERE) is not None

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return self._find(key, version) is not None

    def clear(self) -> None:
        """Delete all that is in this cache. It reads the whole table."""
        ours = {
            "TableName": settings.STATE_TABLE_NAME,
            "FilterExpression": "begins_with(pk, :prefix)",
            "ExpressionAttributeValues": {":prefix": {"S": f"{self.key_prefix}:"}},
            "ProjectionExpression": "pk",
        }
        with translate_errors():
            for items in scan(ours):
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
        """The counter as the update leaves it; None where the condition did not hold."""
        request = {
            "Key": self._key(key, version),
            "UpdateExpression": update,
            "ExpressionAttributeNames": {"#counter": "counter"},
            "ReturnValues": "UPDATED_NEW",
        }
        answer = self._write("UpdateItem", request, condition, values)
        return None if answer is None else int(answer["Attributes"]["counter"]["N"])

    def _write(
        self, operation: str, request: dict[str, Any], condition: str, values: Item | None = None
    ) -> dict[str, Any] | None:
        """DynamoDB's answer to a write; None where its condition, which knows `:now`, fails."""
        answers: list[dict[str, Any]] = []
        whole = {
            "TableName": settings.STATE_TABLE_NAME,
            **request,
            "ConditionExpression": condition,
            "ExpressionAttributeValues": {":now": {"N": str(int(time.time()))}, **(values or {})},
        }
        held = condition_held(lambda: answers.append(client().call(operation, whole)))
        return answers[0] if held else None

    def _key(self, key: Any, version: int | None) -> Item:
        return {"pk": {"S": self.make_and_validate_key(key, version)}}

    def _item(self, key: Any, value: Any, timeout: float | None, version: int | None) -> Item:
        column = {"counter": value} if type(value) is int else {"value": pickle.dumps(value)}
        expiry = self._expiry(timeout)
        expires_at = {} if expiry is None else {"expires_at": {"N": str(expiry)}}
        return {**self._key(key, version), **CacheItem.to_item(column), **expires_at}

    def _expiry(self, timeout: float | None = DEFAULT_TIMEOUT) -> int | None:
        at = self.get_backend_timeout(timeout)
        return None if at is None else math.ceil(at)


class DynamoCounters(DynamoCache):
    """Counters that are all there, at zero, until they are counted; a count is one UpdateItem.

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
        values = {":delta": {"N": str(delta)}, ":expiry": {"N": str(self._expiry() or 0)}}
        counted = self._count(key, version, COUNT, ALIVE, values)
        if counted is not None:
            return counted
        begun = super().add(key, delta, version=version)  # in the place of one that has expired
        return delta if begun else self.incr(key, delta, version)


def _unpickled(value: bytes) -> Any:
    return pickle.loads(value)  # noqa: S301  (our own pickle)
