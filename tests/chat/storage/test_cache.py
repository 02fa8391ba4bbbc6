"""The caches of both storages, whose counters are exact."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from django.core.cache import BaseCache
from django.http import HttpRequest
from django.test import RequestFactory
from django_ratelimit.core import get_usage

from chat.storage.dynamodb import cache as dynamodb_cache
from chat.storage.dynamodb.cache import DynamoCache, DynamoCounters
from chat.storage.dynamodb.tables import StateTable
from chat.storage.errors import StorageUnavailable
from chat.storage.orm import cache as orm_cache
from chat.storage.orm.cache import OrmCache, OrmCounters
from tests.dynamodb_local import Calls, variables
from tests.factories import Clock, run_concurrently

CACHES: dict[str, type[BaseCache]] = {"sqlite": OrmCache, "dynamodb": DynamoCache}
COUNTERS: dict[str, type[BaseCache]] = {"sqlite": OrmCounters, "dynamodb": DynamoCounters}
SQLITE = pytest.param("sqlite", marks=pytest.mark.django_db(transaction=True))


@pytest.fixture(params=[SQLITE, "dynamodb"])
def storage(request: pytest.FixtureRequest) -> str:
    if request.param == "dynamodb":
        request.getfixturevalue("dynamodb")
    return str(request.param)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(1_800_000_000.0)
    for module in (orm_cache, dynamodb_cache):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr("django.core.cache.backends.base.time", clock)
    monkeypatch.setattr("django_ratelimit.core.time", clock)
    return clock


@pytest.fixture
def cache(storage: str, clock: Clock) -> BaseCache:
    return CACHES[storage]("", {"KEY_PREFIX": "cache"})


@pytest.fixture
def other(storage: str, cache: BaseCache) -> BaseCache:
    """Another process's view of the cache."""
    return CACHES[storage]("", {"KEY_PREFIX": "cache"})


@pytest.fixture
def counters(storage: str, clock: Clock) -> BaseCache:
    return COUNTERS[storage]("", {"KEY_PREFIX": "count", "TIMEOUT": 120})


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
def test_a_set_value_is_returned(cache: BaseCache, value: Any) -> None:
    cache.set("key", value)
    got = cache.get("key")
    assert got == value
    assert type(got) is type(value)


def test_none_can_be_cached(cache: BaseCache) -> None:
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


def test_other_processes_see_a_set_value(cache: BaseCache, other: BaseCache) -> None:
    other.set("key", "value")
    assert cache.get("key") == "value"


def test_keys_of_other_versions_are_other_keys(cache: BaseCache) -> None:
    cache.set("key", "one", version=1)
    cache.set("key", "two", version=2)
    assert (cache.get("key", version=1), cache.get("key", version=2)) == ("one", "two")
    assert cache.delete("key", version=1)
    assert (cache.get("key", version=1), cache.get("key", version=2)) == (None, "two")


@pytest.mark.parametrize("key", ["it's", '"', "%s", "%(a)s", "key;--", "schlüssel🦆"])
def test_keys_are_stored_unchanged(cache: BaseCache, key: str) -> None:
    cache.set(key, "value")
    cache.set("other", "other value")
    assert cache.get(key) == "value"
    assert cache.delete(key)
    assert cache.get("other") == "other value"


def test_adding_succeeds_once(cache: BaseCache) -> None:
    assert cache.add("key", 1) is True
    assert cache.add("key", 2) is False
    assert cache.get("key") == 1


def test_an_expired_key_can_be_added_again(cache: BaseCache, clock: Clock) -> None:
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


def test_incrementing_an_unknown_key_is_an_error(cache: BaseCache, clock: Clock) -> None:
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


def test_a_value_expires_after_five_minutes_by_default(cache: BaseCache, clock: Clock) -> None:
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


def test_no_count_is_lost_among_many(cache: BaseCache) -> None:
    cache.set("key", 0)
    counts = run_concurrently(20, lambda number: [cache.incr("key") for _ in range(10)])
    assert sorted(count for counted in counts for count in counted) == list(range(1, 201))
    assert cache.get("key") == 200


def test_one_of_concurrent_adds_succeeds(cache: BaseCache) -> None:
    added = run_concurrently(10, lambda number: cache.add("key", number))
    assert sorted(added) == [False] * 9 + [True]
    assert cache.get("key") == added.index(True)


def test_one_of_concurrent_adds_of_an_expired_key_succeeds(cache: BaseCache) -> None:
    cache.set("key", 99, timeout=-1)
    added = run_concurrently(10, lambda number: cache.add("key", number))
    assert sorted(added) == [False] * 9 + [True]
    assert cache.get("key") == added.index(True)


# --- Counters -------------------------------------------------------------------------------------


def test_a_counter_needs_no_add(counters: BaseCache) -> None:
    assert counters.add("key", 7) is False
    assert [counters.incr("key") for _ in range(3)] == [1, 2, 3]
    assert counters.incr("key", 10) == 13
    assert counters.get("key") == 13
    assert counters.get("another") is None


def test_a_counter_lives_from_its_first_count(counters: BaseCache, clock: Clock) -> None:
    counters.incr("key")
    clock.now += 119
    assert counters.incr("key") == 2
    clock.now += 1
    assert counters.get("key") is None
    assert counters.incr("key") == 1
    clock.now += 119
    assert counters.incr("key") == 2


def test_no_first_count_is_lost_among_many(counters: BaseCache) -> None:
    counts = run_concurrently(20, lambda number: counters.incr("key"))
    assert sorted(counts) == list(range(1, 21))


def test_no_increment_of_an_expired_counter_is_lost(counters: BaseCache, clock: Clock) -> None:
    counters.incr("key")
    clock.now += 200
    counts = run_concurrently(20, lambda number: counters.incr("key"))
    assert sorted(counts) == list(range(1, 21))


def test_counters_and_values_do_not_touch_each_other(cache: BaseCache, counters: BaseCache) -> None:
    cache.set("key", "value")
    counters.incr("key")
    cache.clear()
    assert (cache.get("key"), counters.get("key")) == (None, 1)


@pytest.fixture
def request_counted(
    storage: str, monkeypatch: pytest.MonkeyPatch, counters: BaseCache
) -> Callable[[], dict[str, Any]]:
    """Count a request by django-ratelimit, two of which are allowed in a minute."""
    monkeypatch.setattr("django_ratelimit.core.caches", {"counters": counters})
    request: HttpRequest = RequestFactory().get("/")

    def count() -> dict[str, Any]:
        usage = get_usage(request, group="chat", key=lambda *_: "a", rate="2/m", increment=True)
        return dict(usage)

    return count


def test_a_request_is_counted_exactly(request_counted: Callable[[], dict[str, Any]]) -> None:
    usages = [request_counted() for _ in range(4)]
    assert [(usage["count"], usage["should_limit"]) for usage in usages] == [
        (1, False),
        (2, False),
        (3, True),
        (4, True),
    ]


@pytest.mark.parametrize("storage", ["dynamodb"], indirect=True)
def test_a_rate_limit_costs_one_call(
    request_counted: Callable[[], dict[str, Any]], calls: Calls
) -> None:
    for _ in range(3):
        request_counted()
    assert [operation for operation, _ in calls] == ["UpdateItem"] * 3


COUNT = """
import json, os, sys, django
django.setup()
from django.test import RequestFactory
from django_ratelimit.core import get_usage
requests, limit = int(sys.argv[1]), sys.argv[2]
sys.stdin.readline()
def allowed():
    usage = get_usage(request, group="chat", key=lambda *_: "a", rate=f"{limit}/d", increment=True)
    return not usage["should_limit"]
request = RequestFactory().get("/")
print(json.dumps(sum(allowed() for _ in range(requests))))
"""


def test_processes_share_a_counter(dynamodb: str) -> None:
    environment = {
        **variables(dynamodb),
        "PATH": os.environ["PATH"],
        "DJANGO_SETTINGS_MODULE": "chatproject.settings",
        "ENV_FILE": os.devnull,
        "SECRET_KEY": "tests",
        "STORAGE": "dynamodb",
        "STATE_TABLE_NAME": StateTable.Meta.table_name,
    }
    counting = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT, "100", "150"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in counting:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    allowed = [json.loads(process.communicate()[0]) for process in counting]
    assert sum(allowed) == 150


# --- Out of reach ---------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "dynamodb"])
def unreachable(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        request.getfixturevalue("unreachable_database")
    else:
        request.getfixturevalue("dynamodb_at")("http://127.0.0.1:9")
    return str(request.param)


@pytest.mark.parametrize("call", ["get", "incr", "touch", "delete", "has_key"])
def test_an_unreachable_cache_raises_storage_unavailable(unreachable: str, call: str) -> None:
    with pytest.raises(StorageUnavailable):
        getattr(CACHES[unreachable]("", {}), call)("key")


@pytest.mark.parametrize("call", ["set", "add"])
def test_an_unreachable_cache_writes_nothing(unreachable: str, call: str) -> None:
    with pytest.raises(StorageUnavailable):
        getattr(CACHES[unreachable]("", {}), call)("key", 1)


def test_unreachable_counters_raise_storage_unavailable(unreachable: str) -> None:
    with pytest.raises(StorageUnavailable):
        COUNTERS[unreachable]("", {}).incr("key")
