"""What every store of keys must do, run against each."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction

from chat.storage import backend
from chat.storage.base import ApiKey
from chat.storage.errors import StorageUnavailable
from tests.dynamodb_local import Calls, botocore_client
from tests.factories import NOON, run_concurrently

NOBODY_LISTENS = "http://127.0.0.1:9"
ID = "0123456789abcdef"
LEAST = ApiKey(key_id=ID, owner="default", name="app", digest="d" * 64, created_at=NOON)
FULL = ApiKey(
    key_id=ID,
    owner="team:blue",
    name="Aplicação 🦆",
    digest="e" * 64,
    created_at=NOON,
    expires_at=NOON + timedelta(days=90, microseconds=1),
    revoked_at=NOON + timedelta(days=1),
    last_used_at=NOON + timedelta(hours=1),
    previous_digest="f" * 64,
    previous_until=NOON + timedelta(hours=2),
    rate_limit=0,
    monthly_budget_usd=Decimal("12.500000000001"),
    allowed_models=("openai:model-1", "model-2"),
)


@pytest.mark.parametrize("key", [LEAST, FULL], ids=["least", "full"])
def test_a_key_is_kept_whole(each_storage: str, key: ApiKey) -> None:
    assert backend().api_keys.add(key) is True
    assert backend().api_keys.get(ID) == key


def test_an_expired_key_is_still_stored(each_storage: str) -> None:
    backend().api_keys.add(LEAST._replace(expires_at=NOON))
    assert backend().api_keys.get(ID) == LEAST._replace(expires_at=NOON)


@pytest.mark.parametrize("each_storage", ["dynamodb"], indirect=True)
def test_dynamodb_deletes_no_expired_key(each_storage: str) -> None:
    """Its TTL is `expires_at`. Keys of earlier releases have the other name, too."""
    backend().api_keys.add(FULL)
    items = botocore_client().scan(TableName=settings.STATE_TABLE_NAME)["Items"]
    [item] = [each for each in items if each["pk"]["S"].endswith(ID)]
    assert "expires_at" not in item
    assert item["valid_until"] == {"S": "2026-04-01T12:00:00.123457Z"}


def test_a_key_id_is_added_once(each_storage: str) -> None:
    backend().api_keys.add(LEAST)
    assert backend().api_keys.add(FULL) is False
    assert backend().api_keys.get(ID) == LEAST


def test_an_unknown_id_has_no_key(each_storage: str) -> None:
    assert backend().api_keys.get("f" * 16) is None


@pytest.mark.parametrize("before", [LEAST, FULL], ids=["least", "full"])
def test_a_key_is_replaced_as_a_whole(each_storage: str, before: ApiKey) -> None:
    backend().api_keys.add(before)
    after = before._replace(revoked_at=NOON, previous_digest="a" * 64)
    assert backend().api_keys.replace(before, after) is True
    assert backend().api_keys.get(ID) == after


@pytest.mark.parametrize("change", [{"digest": "a" * 64}, {"revoked_at": NOON}])
def test_a_changed_key_is_not_replaced(each_storage: str, change: dict[str, Any]) -> None:
    backend().api_keys.add(LEAST)
    changed = LEAST._replace(**change)
    backend().api_keys.replace(LEAST, changed)
    assert backend().api_keys.replace(LEAST, LEAST._replace(name="another")) is False
    assert backend().api_keys.get(ID) == changed


def test_one_of_concurrent_replacements_of_a_key_succeeds(each_storage: str) -> None:
    backend().api_keys.add(LEAST)
    rotated = [LEAST._replace(digest=f"{number:064x}") for number in range(8)]
    done = run_concurrently(8, lambda number: backend().api_keys.replace(LEAST, rotated[number]))
    assert sorted(done) == [False] * 7 + [True]
    assert backend().api_keys.get(ID) == rotated[done.index(True)]


def test_a_missing_key_is_not_replaced(each_storage: str) -> None:
    assert backend().api_keys.replace(LEAST, FULL) is False
    assert backend().api_keys.get(ID) is None


def test_the_last_use_is_noted_and_nothing_else(each_storage: str) -> None:
    used_at = datetime.now(UTC)
    backend().api_keys.add(FULL)
    backend().api_keys.touch(ID, used_at)
    assert backend().api_keys.get(ID) == FULL._replace(last_used_at=used_at)


def test_touching_an_unknown_key_creates_none(each_storage: str) -> None:
    backend().api_keys.touch(ID, NOON)
    assert backend().api_keys.get(ID) is None


def test_all_keys_are_listed_the_oldest_first(each_storage: str) -> None:
    assert list(backend().api_keys.all()) == []
    keys = [
        FULL._replace(key_id=f"{number:016x}", created_at=NOON - timedelta(days=number))
        for number in range(3)
    ]
    for key in keys:
        backend().api_keys.add(key)
    assert list(backend().api_keys.all()) == keys[::-1]


CALLS: list[Callable[[Any], Any]] = [
    lambda store: store.add(LEAST),
    lambda store: store.get(ID),
    lambda store: store.replace(LEAST, FULL),
    lambda store: store.touch(ID, NOON),
    lambda store: store.all(),
]


@pytest.mark.parametrize("call", CALLS)
def test_an_unreachable_database_raises_storage_unavailable(
    unreachable_database: None, call: Callable[[Any], Any]
) -> None:
    with pytest.raises(StorageUnavailable):
        call(backend().api_keys)


@pytest.mark.parametrize("call", CALLS)
def test_an_unreachable_dynamodb_raises_storage_unavailable(
    change_settings: Callable[..., None],
    dynamodb_at: Callable[[str], None],
    call: Callable[[Any], Any],
) -> None:
    change_settings(STORAGE="dynamodb")
    dynamodb_at(NOBODY_LISTENS)
    with pytest.raises(StorageUnavailable):
        call(backend().api_keys)


def test_a_key_is_found_by_one_consistent_read(
    dynamodb: str, change_settings: Callable[..., None], calls: Calls
) -> None:
    change_settings(STORAGE="dynamodb")
    backend().api_keys.get(ID)
    [(operation, arguments)] = calls
    assert (operation, arguments["ConsistentRead"]) == ("GetItem", True)


def test_no_key_has_the_ttl_attribute(dynamodb: str, change_settings: Callable[..., None]) -> None:
    from chat.storage.dynamodb.tables import StateTable
    from tests.dynamodb_local import botocore_client

    change_settings(STORAGE="dynamodb")
    backend().api_keys.add(FULL)
    [item] = botocore_client().scan(TableName=StateTable.Meta.table_name)["Items"]
    assert "expires_at" not in item


@pytest.mark.parametrize("after", [FULL, LEAST._replace(revoked_at=NOON)], ids=["new", "revoked"])
def test_a_retried_key_write_detects_its_first_attempt(
    dynamodb: str,
    change_settings: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    after: ApiKey,
) -> None:
    from botocore.exceptions import ReadTimeoutError

    from chat.storage.dynamodb.client import DynamoDBClient

    change_settings(STORAGE="dynamodb")
    exchange, lost = DynamoDBClient._exchange, []

    def lose(self: DynamoDBClient, operation: str, *rest: Any) -> tuple[int, bytes]:
        answer = exchange(self, operation, *rest)
        if operation == "PutItem" and len(lost) % 2 == 0:
            lost.append(answer)
            raise ReadTimeoutError(endpoint_url="")
        lost.append(answer)
        return answer

    monkeypatch.setattr(DynamoDBClient, "_exchange", lose)
    assert backend().api_keys.add(LEAST) is True
    lost.clear()
    assert backend().api_keys.replace(LEAST, after) is True
    assert backend().api_keys.get(ID) == after


def test_a_write_in_a_transaction_does_not_queue(transactional_db: None) -> None:
    """The first in the queue waits for SQLite's lock, which the transaction has."""
    from chat.storage.orm.write_queue import write_queue

    queued, done = threading.Event(), threading.Event()

    def hold() -> None:
        with write_queue():
            queued.set()
            done.wait(10)

    with ThreadPoolExecutor(1) as thread:
        holding = thread.submit(hold)
        assert queued.wait(5)
        with transaction.atomic():
            assert backend().api_keys.add(LEAST) is True
            assert not holding.done()
        done.set()
