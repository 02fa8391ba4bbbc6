"""What every store must count, run against each."""

import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from chat.storage import backend
from chat.storage.base import CounterKind, InteractionRecord, Status, UsageCounts, UserPage
from chat.storage.dynamodb.client import DynamoDBClient
from chat.storage.dynamodb.tables import StateTable
from chat.storage.dynamodb.usage import CONFLICT_TRIES
from chat.storage.errors import StorageUnavailable
from providers.base import Usage
from tests.dynamodb_local import Calls, botocore_client
from tests.factories import (
    ALICE,
    ANSWERED,
    BOB,
    FAILED,
    NOON,
    PENDING,
    run_concurrently,
    store_record,
)
from tests.server_process import ROOT, base_environment

Configure = Callable[..., None]
DAY = NOON.date()
KEY_ID = "0123456789abcdef"
ONE = UsageCounts(
    requests=1, prompt_tokens=9, completion_tokens=41, total_tokens=50, cost=104 * 10**6
)
MODEL = ANSWERED.model


def again(record: InteractionRecord = ANSWERED, **changes: Any) -> InteractionRecord:
    """Keep one more like it."""
    return store_record(replace(record, interaction_id=str(uuid4()), **changes))


def daily(by: CounterKind = CounterKind.MODEL, owner: str = "default", days: int = 0) -> Any:
    return backend().usage.daily(owner, by, DAY - timedelta(days), DAY + timedelta(days))


def users(**options: Any) -> UserPage:
    return backend().usage.users("default", DAY, DAY, **{"limit": 100, **options})


# --- What is counted ------------------------------------------------------------------------------


def test_nothing_was_used_at_first(each_storage: str) -> None:
    assert daily() == daily(CounterKind.KEY) == {}
    assert users() == UserPage(users={})
    assert backend().usage.month("default", CounterKind.KEY, KEY_ID, DAY) == UsageCounts()


def test_a_settled_record_is_counted_by_model_user_and_key(each_storage: str) -> None:
    again(key_id=KEY_ID)
    assert daily() == {(DAY, MODEL): ONE}
    assert daily(CounterKind.KEY) == {(DAY, KEY_ID): ONE}
    assert users() == UserPage(users={ALICE: ONE})
    assert backend().usage.month("default", CounterKind.KEY, KEY_ID, DAY) == ONE


def test_a_request_without_a_managed_key_has_no_key_counter(each_storage: str) -> None:
    again()
    assert daily(CounterKind.KEY) == {}


def test_a_claim_is_not_counted_until_it_is_settled(each_storage: str) -> None:
    backend().interactions.claim(PENDING)
    assert daily() == {}


def test_unknown_usage_adds_nothing(each_storage: str) -> None:
    again()
    again(usage=Usage(prompt_tokens=1))
    assert daily() == {(DAY, MODEL): ONE + UsageCounts(requests=1, prompt_tokens=1)}


def test_a_failure_is_a_request_and_an_error(each_storage: str) -> None:
    again(FAILED)
    assert daily() == {(DAY, FAILED.model): UsageCounts(requests=1, errors=1)}


def test_an_aborted_request_counts_with_its_usage(each_storage: str) -> None:
    again(status=Status.ABORTED)
    assert daily() == {(DAY, MODEL): ONE}


def test_a_settle_that_comes_too_late_is_not_counted(each_storage: str) -> None:
    store_record(ANSWERED)
    assert backend().interactions.settle(ANSWERED) is False
    assert backend().interactions.settle(replace(ANSWERED, interaction_id=str(uuid4()))) is False
    assert daily() == {(DAY, MODEL): ONE}


def test_a_failed_attempt_and_the_next_one_are_two_requests(each_storage: str) -> None:
    store_record(replace(FAILED, usage=Usage(total_tokens=5)))
    later = replace(PENDING, deadline_at=NOON + timedelta(hours=1))
    assert backend().interactions.take_over(later, FAILED)
    assert backend().interactions.settle(replace(ANSWERED, deadline_at=later.deadline_at))
    counts = sum(daily().values(), UsageCounts())
    assert counts == ONE + UsageCounts(requests=1, errors=1, total_tokens=5)


def test_what_a_claim_spent_counts_after_another_took_it_over(each_storage: str) -> None:
    store = backend().interactions
    store.claim(PENDING)
    later = replace(PENDING, deadline_at=NOON + timedelta(hours=1))
    assert store.take_over(later, PENDING)
    assert store.settle(ANSWERED) is False
    assert daily() == {(DAY, MODEL): ONE}
    assert store.settle(replace(ANSWERED, deadline_at=later.deadline_at)) is True
    assert sum(daily().values(), UsageCounts()) == ONE + ONE


@pytest.mark.parametrize("cost", ["0.000000000001", "123456.789012345678", "1000000", "0.30"])
def test_costs_add_up_to_the_last_digit(each_storage: str, cost: str) -> None:
    for _ in range(3):
        again(usage=Usage(cost_usd=Decimal(cost)))
    assert daily()[DAY, MODEL].cost_usd == 3 * Decimal(cost)


def test_the_day_is_that_of_the_acceptance_in_utc(each_storage: str) -> None:
    zone = timezone(timedelta(hours=-3))
    again(created_at=datetime(2025, 12, 31, 22, 30, tzinfo=zone))
    again(created_at=datetime(2025, 12, 31, 20, 30, tzinfo=zone))
    assert daily(days=1) == {(date(2026, 1, 1), MODEL): ONE, (date(2025, 12, 31), MODEL): ONE}


def test_days_are_apart_and_the_period_is_inclusive(each_storage: str) -> None:
    days = [date(2025, 12, 31), date(2026, 1, 1), date(2026, 1, 31), date(2026, 2, 1)]
    for day in days:
        again(created_at=datetime(day.year, day.month, day.day, tzinfo=UTC), key_id=KEY_ID)
    found = backend().usage.daily("default", CounterKind.MODEL, days[1], days[2])
    assert found == {(days[1], MODEL): ONE, (days[2], MODEL): ONE}
    assert backend().usage.month("default", CounterKind.KEY, KEY_ID, days[2]) == ONE + ONE


@pytest.mark.parametrize("model", ["vendor/model#7", "#", "#2026-01#0", "modèle 🦆 " * 25])
def test_a_model_may_have_any_name(each_storage: str, model: str) -> None:
    again(model=model)
    again(model="another")
    assert daily() == {(DAY, model[:256]): ONE, (DAY, "another"): ONE}


def test_owners_are_apart(each_storage: str) -> None:
    again()
    again(owner="team:blue", key_id=KEY_ID)
    assert daily(owner="team:blue") == {(DAY, MODEL): ONE}
    assert daily(owner="team") == {}
    assert users() == UserPage(users={ALICE: ONE})
    assert backend().usage.month("default", CounterKind.KEY, KEY_ID, DAY) == UsageCounts()


# --- Users ----------------------------------------------------------------------------------------


def test_users_come_in_pages_in_the_order_of_their_ids(each_storage: str) -> None:
    names = ["a", "a+b", "a.b", "ab", "a|b", "b", "A", "a-", "é", "🦆", "a&"]
    names += ["a b", "a!", 'a"', "a#", "a#2026-01#0", "a$", "a%", "a%0", "a ", " "]
    for name in [*names, "a"]:
        again(user_id=name)
    found: list[tuple[str, int]] = []
    page, pages = users(limit=3), 1
    while True:
        found += [(name, counts.requests) for name, counts in page.users.items()]
        if page.next_after is None:
            break
        page, pages = users(limit=3, after=page.next_after), pages + 1
    assert found == [(name, 2 if name == "a" else 1) for name in sorted(names)]
    assert pages == 7


def test_only_users_of_the_period_are_listed(each_storage: str) -> None:
    again()
    again(user_id="earlier", created_at=NOON - timedelta(days=3))
    again(user_id="later-in-the-month", created_at=NOON + timedelta(days=9))
    assert dict(users().users) == {ALICE: ONE}


def test_erasing_a_user_deletes_the_user_counters(each_storage: str) -> None:
    for user in (ALICE, BOB, "alice2"):
        again(user_id=user)
        again(user_id=user, created_at=NOON + timedelta(days=40))
    again(owner="team:blue")
    assert backend().interactions.delete_by_user("default", ALICE, limit=9) == 2
    assert set(users().users) == {BOB, "alice2"}
    later = DAY + timedelta(days=40)
    page = backend().usage.users("default", later, later, limit=9)
    assert set(page.users) == {BOB, "alice2"}
    assert set(backend().usage.users("team:blue", DAY, DAY, limit=9).users) == {ALICE}
    assert daily()[DAY, MODEL].requests == 3


@pytest.mark.parametrize("other", [f"{ALICE}#", f"{ALICE}#2026-01#0", f"{ALICE} "])
def test_erasing_a_user_leaves_one_whose_id_begins_likewise(each_storage: str, other: str) -> None:
    again()
    again(user_id=other)
    assert backend().interactions.delete_by_user("default", ALICE, limit=9) == 1
    assert dict(users().users) == {other: ONE}
    assert backend().usage.month("default", CounterKind.USER, other, DAY) == ONE


def test_user_counters_expire_with_the_records(each_storage: str) -> None:
    past = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=5)
    again(expires_at=past)
    again(user_id=BOB, expires_at=past + timedelta(days=1))
    again(user_id="for-ever")
    assert set(users().users) == {BOB, "for-ever"}
    assert daily()[DAY, MODEL].requests == 3


# --- Exactly --------------------------------------------------------------------------------------


def test_concurrent_settlements_are_all_counted(each_storage: str) -> None:
    run_concurrently(16, lambda _: [again(key_id=KEY_ID) for _ in range(5)])
    assert daily()[DAY, MODEL] == sum([ONE] * 80, UsageCounts())
    assert users().users[ALICE] == sum([ONE] * 80, UsageCounts())


def test_the_counters_are_the_sums_over_the_records(each_storage: str) -> None:
    chance = random.Random(7)
    sums: dict[tuple[date, str], UsageCounts] = defaultdict(UsageCounts)
    for _ in range(60):
        record = again(
            chance.choice([ANSWERED, FAILED]),
            model=chance.choice(["m1", "m2"]),
            created_at=NOON + timedelta(days=chance.randrange(40)),
            usage=Usage(
                prompt_tokens=chance.choice([None, chance.randrange(10**6)]),
                total_tokens=chance.randrange(10**6),
                cost_usd=chance.choice([None, Decimal(chance.randrange(10**15)).scaleb(-12)]),
            ),
        )
        sums[record.created_at.date(), record.model] += UsageCounts.of(record)
    assert daily(days=40) == sums


@pytest.mark.parametrize("storage", ["sqlite", "dynamodb"])
def test_settlements_of_concurrent_processes_are_all_counted(
    storage: str, dynamodb_url: str
) -> None:
    command = [sys.executable, "-m", "benchmarks.counters", storage]
    sizes = ["--processes", "4", "--interactions", "100"]
    environment = {**base_environment(), "AWS_ENDPOINT_URL_DYNAMODB": dynamodb_url}
    ran = subprocess.run(
        [*command, *sizes], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "100 records" in ran.stdout


# --- Out of reach ---------------------------------------------------------------------------------

CALLS: list[Callable[[], Any]] = [
    daily,
    users,
    lambda: backend().usage.month("default", CounterKind.KEY, KEY_ID, DAY),
]


@pytest.mark.parametrize("call", CALLS)
def test_an_unreachable_database_raises_storage_unavailable(
    unreachable_database: None, call: Callable[[], Any]
) -> None:
    with pytest.raises(StorageUnavailable):
        call()


@pytest.mark.parametrize("call", CALLS)
def test_an_unreachable_dynamodb_raises_storage_unavailable(
    change_settings: Configure, dynamodb_at: Callable[[str], None], call: Callable[[], Any]
) -> None:
    change_settings(STORAGE="dynamodb")
    dynamodb_at("http://127.0.0.1:9")
    with pytest.raises(StorageUnavailable):
        call()


# --- DynamoDB's own -------------------------------------------------------------------------------


@pytest.fixture
def on_dynamodb(dynamodb: str, change_settings: Configure) -> None:
    change_settings(STORAGE="dynamodb")


def crowded(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The next so many transactions meet another one."""
    call, left = DynamoDBClient.call, [times]

    def meet(self: DynamoDBClient, operation: str, arguments: Any) -> dict[str, Any]:
        if operation == "TransactWriteItems" and left[0]:
            left[0] -= 1
            reasons = [{"Code": "None"}, {"Code": "TransactionConflict"}, {"Code": "None"}]
            error = {"Code": "TransactionCanceledException", "Message": ""}
            raise ClientError({"Error": error, "CancellationReasons": reasons}, operation)  # type: ignore[typeddict-unknown-key]
        return call(self, operation, arguments)

    monkeypatch.setattr(DynamoDBClient, "call", meet)


MALFORMED: list[dict[str, Any]] = [
    {"r01": {"S": "many"}},
    {"r01": {"N": "1.5"}},
    {"t32": {"N": "1"}},
    {"expires_at": {"S": "never"}},
    {"pk": {"S": "usage#default#user#mallory#2026-13#0"}, "r01": {"N": "1"}},
    {"pk": {"S": "usage#default#user#mallory"}},
    {"pk": {"S": "usage#default#user#mallory#soon#0"}},
]


@pytest.mark.parametrize("odd", MALFORMED, ids=str)
def test_a_malformed_counter_hides_no_others(
    on_dynamodb: None, caplog: pytest.LogCaptureFixture, odd: dict[str, Any]
) -> None:
    again()
    item = {
        "pk": {"S": "usage#default#user#mallory#2026-01#0"},
        "listed_in": {"S": "usage#default#user"},
        **odd,
    }
    botocore_client().put_item(TableName=StateTable.Meta.table_name, Item=item)
    assert users().users == {ALICE: ONE}
    assert daily(CounterKind.USER) == {(DAY, ALICE): ONE}
    logged = {(each.levelname, each.getMessage()) for each in caplog.records}
    # A month that does not exist is in no period.
    assert logged <= {("ERROR", "malformed usage counter left out")}
    assert logged or "2026-13" in str(odd)
    assert "mallory" not in caplog.text
    backend().interactions.delete_by_user("default", "mallory", limit=9)
    assert users().users == {ALICE: ONE}
    kept = botocore_client().scan(TableName=StateTable.Meta.table_name)["Items"]
    assert "mallory" not in str(kept)


def test_an_erasure_leaves_counters_of_similar_names(on_dynamodb: None) -> None:
    similar = ["mallory ", "mallory!", "mallory#2026-01", "mallory$", "mallory%", "mallory2"]
    for name in ("mallory", *similar):
        again(user_id=name)
    backend().interactions.delete_by_user("default", "mallory", limit=9)
    assert list(users().users) == similar


def test_a_record_is_settled_and_counted_in_one_call(on_dynamodb: None, calls: Calls) -> None:
    again(key_id=KEY_ID)
    assert [operation for operation, _ in calls] == ["PutItem", "TransactWriteItems"]
    assert len(calls[1][1]["TransactItems"]) == 4


def test_conflicting_transactions_use_another_shard(
    on_dynamodb: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    again()
    crowded(monkeypatch, 3)
    again()
    assert daily() == {(DAY, MODEL): ONE + ONE}
    assert users().users == {ALICE: ONE + ONE}
    assert backend().interactions.delete_by_user("default", ALICE, limit=9) == 2
    assert users().users == {}


def test_endless_conflicts_raise_storage_unavailable_and_count_nothing(
    on_dynamodb: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend().interactions.claim(PENDING)
    crowded(monkeypatch, CONFLICT_TRIES + 1)
    with pytest.raises(StorageUnavailable):
        backend().interactions.settle(ANSWERED)
    assert daily() == {}
    assert backend().interactions.settle(ANSWERED) is True
    assert daily() == {(DAY, MODEL): ONE}


def test_a_lost_response_to_an_import_counts_nothing_twice(
    on_dynamodb: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend().interactions.claim(PENDING)
    exchange, lost = DynamoDBClient._exchange, []

    def lose_the_first(self: DynamoDBClient, *request: Any) -> tuple[int, bytes]:
        answer = exchange(self, *request)
        if not lost:
            lost.append(answer)
            raise ReadTimeoutError(endpoint_url="")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(DynamoDBClient, "_exchange", lose_the_first)
        assert backend().interactions.settle(ANSWERED) is True
    assert lost
    assert daily() == {(DAY, MODEL): ONE}


def test_the_cost_of_a_read_does_not_depend_on_the_number_of_records(
    on_dynamodb: None, calls: Calls
) -> None:
    for _ in range(2):
        again()
    calls.clear()
    daily()
    few = [operation for operation, _ in calls]
    for _ in range(50):
        again()
    calls.clear()
    daily()
    assert [operation for operation, _ in calls] == few == ["Query", "BatchGetItem"]


def test_the_item_of_a_month_is_small(on_dynamodb: None) -> None:
    from chat.storage.dynamodb.tables import StateTable

    for day in range(31):
        again(created_at=NOON + timedelta(days=day))
    items = botocore_client().scan(TableName=StateTable.Meta.table_name)["Items"]
    assert len(items) == 2
    assert max(len(str(item)) for item in items) < 5000
