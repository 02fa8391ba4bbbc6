"""The cache on the local store, whose counters are exact."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from chat.storage.cache import OrmCache
from django.core.cache import BaseCache, caches

from chat.errors import StorageUnavailable
from chat.models import CacheEntry
from tests.cast import Clock, at_once


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(1_800_000_000.0)
    monkeypatch.setattr("chat.storage.cache.time", clock)
    monkeypatch.setattr("django.core.cache.backends.base.time", clock)
    return clock


@pytest.fixture
def cache(db: None, clock: Clock) -> BaseCache:
    """Another process's view of the cache."""
    return OrmCache("", {})


VALUES = [
    "text",
    "",
    b"\0bytes\xff",
    1.5,
    True,
    False,
    [1, "two", None],
    {"a": {"b": (1, 2)}},
    Decimal("0.000104"),
    datetime(2026, 1, 1),  # noqa: DTZ001
    "🦆" * 10_000,
]


@pytest.mark.parametrize("value", [0, 1, -1, 2**62, -(2**62), *VALUES])
def test_what_is_set_is_got(cache: BaseCache, value: Any) -> None:
    cache.set("key", value)
    got = cache.get("key")
    assert got == value
    assert type(got) is type(value)


def test_none_is_a_value(cache: BaseCache) -> None:
    cache.set("key", None)
    assert cache.get("key", "default") is None
    assert "key" in cache


def test_an_unknown_key_gives_the_default(cache: BaseCache) -> None:
    assert cache.get("key") is None
    assert cache.get("key", "default") == "default"
    assert "key" not in cache
    assert cache.get_many(["key", "other"]) == {}


def test_setting_again_replaces_value_kind_and_expiry(cache: BaseCache, clock: Clock) -> None:
    cache.set("key", 1, timeout=10)
    cache.set("key", "text", timeout=100)
    clock.now += 50
    assert cache.get("key") == "text"
    with pytest.raises(ValueError, match="not a counter"):
        cache.incr("key")
    cache.set("key", 7)
    assert cache.incr("key") == 8


def test_what_is_set_is_seen_by_other_processes(cache: BaseCache) -> None:
    caches["default"].set("key", "value")
    assert cache.get("key") == "value"


def test_keys_of_other_versions_are_other_keys(cache: BaseCache) -> None:
    cache.set("key", "one", version=1)
    cache.set("key", "two", version=2)
    assert (cache.get("key", version=1), cache.get("key", version=2)) == ("one", "two")
    assert cache.delete("key", version=1)
    assert (cache.get("key", version=1), cache.get("key", version=2)) == (None, "two")


@pytest.mark.parametrize("key", ["it's", '"', "%s", "%(a)s", "key;--", "schlüssel🦆"])
def test_keys_are_taken_as_they_are(cache: BaseCache, key: str) -> None:
    cache.set(key, "value")
    cache.set("other", "other value")
    assert cache.get(key) == "value"
    assert cache.delete(key)
    assert cache.get("other") == "other value"


def test_adding_succeeds_once(cache: BaseCache) -> None:
    assert cache.add("key", 1) is True
    assert cache.add("key", 2) is False
    assert cache.get("key") == 1


def test_what_has_expired_can_be_added_again(cache: BaseCache, clock: Clock) -> None:
    cache.add("key", 5, timeout=10)
    clock.now += 9
    assert cache.add("key", 1, timeout=10) is False
    clock.now += 1
    assert cache.add("key", 1, timeout=10) is True
    assert cache.incr("key") == 2


def test_counting_up_and_down(cache: BaseCache) -> None:
    cache.set("key", 5)
    assert cache.incr("key") == 6
    assert cache.incr("key", 10) == 16
    assert cache.decr("key") == 15
    assert cache.incr("key", -20) == -5
    assert cache.get("key") == -5


def test_counting_what_is_not_there_is_an_error(cache: BaseCache, clock: Clock) -> None:
    with pytest.raises(ValueError, match="'key' is not a counter"):
        cache.incr("key")
    cache.set("key", 1, timeout=10)
    clock.now += 10
    with pytest.raises(ValueError, match="'key' is not a counter"):
        cache.incr("key")
    assert cache.get("key") is None


def test_counting_keeps_the_expiry(cache: BaseCache, clock: Clock) -> None:
    cache.set("key", 1, timeout=10)
    clock.now += 9
    assert cache.incr("key") == 2
    clock.now += 1
    assert cache.get("key") is None


@pytest.mark.parametrize("value", ["text", 1])
def test_a_value_expires(cache: BaseCache, clock: Clock, value: Any) -> None:
    cache.set("key", value, timeout=10)
    clock.now += 9.9
    assert cache.get("key") == value
    assert cache.has_key("key")
    clock.now += 0.1
    assert cache.get("key") is None
    assert not cache.has_key("key")
    assert not cache.delete("key")
    assert not cache.touch("key", 10)
    assert cache.get("key") is None


def test_five_minutes_is_how_long_a_value_lives_by_default(cache: BaseCache, clock: Clock) -> None:
    cache.set("key", "value")
    clock.now += 299
    assert cache.get("key") == "value"
    clock.now += 1
    assert cache.get("key") is None


def test_a_value_may_live_forever(cache: BaseCache, clock: Clock) -> None:
    cache.set("key", "value", timeout=None)
    cache.add("counter", 1, timeout=None)
    clock.now += 10**9
    assert cache.add("another", 1) is True
    assert cache.get("key") == "value"
    assert cache.incr("counter") == 2
    assert cache.add("counter", 1) is False


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_value_may_have_expired_from_the_start(cache: BaseCache, timeout: int) -> None:
    cache.set("key", "value", timeout=60)
    cache.set("key", "value", timeout=timeout)
    assert cache.get("key") is None


def test_a_touch_gives_a_new_expiry(cache: BaseCache, clock: Clock) -> None:
    cache.set("key", "value", timeout=10)
    assert cache.touch("key", 100) is True
    clock.now += 99
    assert cache.get("key") == "value"
    assert cache.touch("key", None) is True
    clock.now += 10**6
    assert cache.get("key") == "value"
    assert cache.touch("other") is False
    assert cache.touch("key", 0) is True
    assert cache.get("key") is None


def test_deleting_says_whether_there_was_something(cache: BaseCache) -> None:
    cache.set("key", "value")
    assert cache.delete("key") is True
    assert cache.delete("key") is False
    assert cache.get("key") is None


def test_clearing_leaves_nothing(cache: BaseCache) -> None:
    cache.set_many({"a": 1, "b": "two", "c": None})
    assert cache.get_many(["a", "b", "c"]) == {"a": 1, "b": "two", "c": None}
    cache.clear()
    assert cache.get_many(["a", "b", "c"]) == {}
    assert CacheEntry.objects.count() == 0


def test_what_has_expired_is_swept_away_a_minute_later(cache: BaseCache, clock: Clock) -> None:
    for number in range(5):
        cache.add(f"short-{number}", 1, timeout=10)
    cache.add("long", 1, timeout=1000)
    clock.now += 59
    cache.add("new", 1, timeout=1000)
    assert CacheEntry.objects.count() == 7
    clock.now += 2
    cache.add("newer", 1, timeout=1000)
    assert CacheEntry.objects.count() == 3
    assert cache.get_many(["long", "new", "newer"]) == {"long": 1, "new": 1, "newer": 1}


@pytest.mark.django_db(transaction=True)
def test_no_count_is_lost_among_many() -> None:
    caches["default"].set("key", 0)
    counts = at_once(20, lambda number: [caches["default"].incr("key") for _ in range(10)])
    assert sorted(count for counted in counts for count in counted) == list(range(1, 201))
    assert caches["default"].get("key") == 200


@pytest.mark.django_db(transaction=True)
def test_of_many_that_add_at_once_one_succeeds() -> None:
    added = at_once(10, lambda number: caches["default"].add("key", number))
    assert sorted(added) == [False] * 9 + [True]
    assert caches["default"].get("key") == added.index(True)


@pytest.mark.django_db(transaction=True)
def test_of_many_that_add_what_has_expired_one_succeeds() -> None:
    caches["default"].set("key", 99, timeout=-1)
    added = at_once(10, lambda number: caches["default"].add("key", number))
    assert sorted(added) == [False] * 9 + [True]
    assert caches["default"].get("key") == added.index(True)


@pytest.mark.parametrize("call", ["get", "incr", "touch", "delete", "has_key"])
def test_a_database_out_of_reach_is_an_unavailable_storage(
    unreachable_database: None, call: str
) -> None:
    with pytest.raises(StorageUnavailable):
        getattr(caches["default"], call)("key")


@pytest.mark.parametrize("call", ["set", "add"])
def test_nothing_is_written_to_a_database_out_of_reach(
    unreachable_database: None, call: str
) -> None:
    with pytest.raises(StorageUnavailable):
        getattr(caches["default"], call)("key", 1)
