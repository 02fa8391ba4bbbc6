"""A Django cache on DynamoDB whose counters are exact: one UpdateItem for each count.

Times are whole seconds, as DynamoDB's own expiry has them; that deletes days late, so what has
expired is passed over here. A write whose answer was lost is tried again, and may count twice.
"""

import math
import pickle
import time
from datetime import UTC, datetime
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from pynamodb.expressions.condition import Condition

from chat.storage.dynamodb_tables import State, client, condition_held, dynamodb_errors

# PynamoDB would put them together anew for each count, in longer than the call takes.
COUNT = "ADD #counter :delta SET expires_at = if_not_exists(expires_at, :expiry)"
ALIVE = "attribute_not_exists(expires_at) OR expires_at > :now"


class DynamoCache(BaseCache):
    """Integers are kept as counters, all else is pickled. Raises StorageUnavailable."""

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
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> None:
        with dynamodb_errors():
            self._state(key, value, timeout, version).save()

    def add(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        state = self._state(key, value, timeout, version)
        free = State.pk.does_not_exist() | (State.expires_at <= _now())
        return condition_held(lambda: state.save(free))

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        state = State(self.make_and_validate_key(key, version))
        counts = State.counter.exists() & _alive()
        if not condition_held(lambda: state.update([State.counter.add(delta)], counts)):
            raise ValueError(f"{key!r} is not a counter")
        return int(state.counter)

    def touch(
        self,
        key: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        state = State(self.make_and_validate_key(key, version))
        expiry = self._expiry(timeout)
        action = State.expires_at.remove() if expiry is None else State.expires_at.set(expiry)
        return condition_held(lambda: state.update([action], State.pk.exists() & _alive()))

    def delete(self, key: Any, version: int | None = None) -> bool:
        state = State(self.make_and_validate_key(key, version))
        return condition_held(lambda: state.delete(State.pk.exists() & _alive()))

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return self._find(key, version) is not None

    def clear(self) -> None:
        """Delete all that is in this cache. It reads the whole table."""
        with dynamodb_errors():
            for state in State.scan(State.pk.startswith(f"{self.key_prefix}:")):
                state.delete()

    def _find(self, key: Any, version: int | None) -> State | None:
        with dynamodb_errors():
            try:
                state = State.get(self.make_and_validate_key(key, version), consistent_read=True)
            except State.DoesNotExist:
                return None
        return None if state.expires_at and state.expires_at <= _now() else state

    def _state(self, key: Any, value: Any, timeout: float | None, version: int | None) -> State:
        name, expiry = self.make_and_validate_key(key, version), self._expiry(timeout)
        if type(value) is int:
            return State(name, counter=value, expires_at=expiry)
        return State(name, value=pickle.dumps(value), expires_at=expiry)

    def _expiry(self, timeout: float | None = DEFAULT_TIMEOUT) -> datetime | None:
        at = self.get_backend_timeout(timeout)
        return None if at is None else datetime.fromtimestamp(math.ceil(at), UTC)


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
        counted: list[dict[str, Any]] = []
        request = {
            "TableName": State.Meta.table_name,
            "Key": {"pk": {"S": self.make_and_validate_key(key, version)}},
            "UpdateExpression": COUNT,
            "ConditionExpression": ALIVE,
            "ExpressionAttributeNames": {"#counter": "counter"},
            "ExpressionAttributeValues": {
                ":delta": {"N": str(delta)},
                ":expiry": {"N": str(math.ceil(self.get_backend_timeout() or 0))},
                ":now": {"N": str(int(time.time()))},
            },
            "ReturnValues": "UPDATED_NEW",
        }
        if condition_held(lambda: counted.append(client().call("UpdateItem", request))):
            return int(counted[0]["Attributes"]["counter"]["N"])
        begun = super().add(key, delta, version=version)  # in the place of one that has expired
        return delta if begun else self.incr(key, delta, version)


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def _alive() -> Condition:
    alive: Condition = State.expires_at.does_not_exist() | (State.expires_at > _now())
    return alive
