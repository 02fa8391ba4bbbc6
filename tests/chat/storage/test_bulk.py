"""What every store must do with many records at once, run against each."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from chat.storage import backend
from chat.storage.base import (
    CounterKind,
    Earlier,
    ImportResult,
    InteractionRecord,
    Selection,
    Status,
    UsageCounts,
)
from chat.storage.dynamodb.client import DynamoDBClient
from chat.storage.errors import RecordTooLarge, StorageUnavailable
from chat.storage.jsonl import from_json, to_line
from tests.chat.storage.contract import FULL, FULL_ANSWER, LATER, YESTERDAY
from tests.dynamodb_local import Calls, botocore_client
from tests.factories import ALICE, ANSWERED, BOB, FAILED, NOON, PENDING, converse, store_record

Configure = Callable[..., None]
KEY_ID = "0123456789abcdef"


def made(
    count: int, record: InteractionRecord = ANSWERED, **changes: Any
) -> list[InteractionRecord]:
    """So many records, a minute apart."""
    return [
        replace(
            record,
            interaction_id=str(uuid4()),
            created_at=record.created_at + timedelta(minutes=number),
            **changes,
        )
        for number in range(count)
    ]


def scanned(limit: int = 100, **chosen: Any) -> list[InteractionRecord]:
    """All that is found, page by page."""
    found: list[InteractionRecord] = []
    cursor = None
    while True:
        # Another process goes on from a cursor: it knows no more than that.
        batch = backend().bulk.scan(Selection(**chosen), limit=limit, cursor=cursor)
        found += batch.records
        cursor = batch.cursor
        if cursor is None:
            return found


def ids(records: Any) -> list[str]:
    return sorted(record.interaction_id for record in records)


def requests(owner: str = "default", by: CounterKind = CounterKind.MODEL) -> int:
    daily = backend().usage.daily(owner, by, date(2000, 1, 1), date(2100, 1, 1))
    return sum(counts.requests for counts in daily.values())


# --- Scanning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, 25, 26, 100])
def test_all_records_are_found_once_whatever_the_pages(each_storage: str, limit: int) -> None:
    records = made(25)
    backend().bulk.import_records(records)
    assert ids(scanned(limit)) == ids(records)


def test_records_of_the_same_moment_are_found_once(each_storage: str) -> None:
    records = [replace(each, created_at=NOON) for each in made(9)]
    backend().bulk.import_records(records)
    assert ids(scanned(2)) == ids(records)
    assert ids(scanned(2, owner="default", user=ALICE)) == ids(records)


def test_records_come_as_they_were_written(each_storage: str) -> None:
    answer = replace(FULL_ANSWER, interaction_id=str(uuid4()))
    records = [FULL, answer, *made(1, FAILED), *made(1, PENDING)]
    backend().bulk.import_records(records)
    found = {record.interaction_id: record for record in scanned()}
    assert found == {record.interaction_id: record for record in records}


def test_a_selection_limits_time_owner_and_user(each_storage: str) -> None:
    records = made(10)
    others = [*made(3, user_id=BOB), *made(3, owner="team:blue"), *made(1, owner="team:blue")]
    backend().bulk.import_records([*records, *others])
    since, before = NOON + timedelta(minutes=2), NOON + timedelta(minutes=5)
    assert ids(scanned(2, owner="default", user=ALICE)) == ids(records)
    assert len(scanned(3, owner="team:blue")) == 4
    assert len(scanned(3, user=ALICE)) == 14
    for user in ({}, {"owner": "default", "user": ALICE}):
        found = scanned(2, since=since, before=before, **user)
        mine = [record for record in found if record.owner == "default" and record.user_id == ALICE]
        assert ids(mine) == ids(records[2:5])
    assert scanned(since=NOON + timedelta(days=1)) == []


def test_expired_records_are_not_found(each_storage: str) -> None:
    store_record(replace(ANSWERED, expires_at=YESTERDAY))
    assert scanned() == scanned(owner="default", user=ALICE) == []


def test_the_estimate_is_the_number_of_records(each_storage: str) -> None:
    assert not backend().bulk.estimate(Selection())
    backend().bulk.import_records(made(12))
    assert backend().bulk.estimate(Selection()) == 12


# --- Adding ---------------------------------------------------------------------------------------


def test_a_repeated_import_changes_nothing(each_storage: str) -> None:
    records = [*made(30), *made(3, PENDING), *made(3, FAILED, key_id=KEY_ID)]
    assert backend().bulk.import_records(records) == ImportResult(new=36)
    counted = requests()
    assert backend().bulk.import_records(records[::-1]) == ImportResult()
    assert backend().bulk.import_records([*records, *made(2)]) == ImportResult(new=2)
    assert (counted, requests()) == (33, 35)
    assert len(scanned()) == 38


def test_an_empty_import_adds_nothing(each_storage: str) -> None:
    assert backend().bulk.import_records([]) == ImportResult()


def test_imported_records_are_counted_like_settled_ones(each_storage: str) -> None:
    chance = random.Random(7)
    records = [
        replace(
            each,
            model=chance.choice(["m1", "m2"]),
            user_id=f"user{chance.randrange(40)}",
            owner=chance.choice(["default", "team:blue"]),
            key_id=chance.choice([None, KEY_ID]),
            created_at=NOON + timedelta(days=chance.randrange(60)),
        )
        for each in [*made(80), *made(10, FAILED)]
    ]
    backend().bulk.import_records([*records, *made(5, PENDING)])
    for owner in ("default", "team:blue"):
        sums: dict[tuple[date, str], UsageCounts] = {}
        for record in records:
            if record.owner == owner:
                key = (record.created_at.date(), record.model)
                sums[key] = sums.get(key, UsageCounts()) + UsageCounts.of(record)
        assert (
            backend().usage.daily(owner, CounterKind.MODEL, NOON.date(), date(2027, 1, 1)) == sums
        )
        page = backend().usage.users(owner, NOON.date(), date(2027, 1, 1), limit=100)
        assert len(page.users) == len({each.user_id for each in records if each.owner == owner})
        mine = [each for each in records if each.owner == owner and each.key_id]
        assert requests(owner, CounterKind.KEY) == len(mine)


def test_import_replaces_a_claim_by_its_outcome(each_storage: str) -> None:
    backend().interactions.claim(PENDING)
    assert backend().bulk.import_records([ANSWERED]) == ImportResult(replaced=1)
    assert backend().interactions.get(PENDING.interaction_id) == ANSWERED
    assert backend().bulk.import_records([PENDING]) == ImportResult()
    assert backend().interactions.get(PENDING.interaction_id) == ANSWERED
    assert requests() == 1


def test_import_never_replaces_an_answer(each_storage: str) -> None:
    store_record(ANSWERED)
    later = replace(ANSWERED, deadline_at=NOON + timedelta(hours=1), response="another")
    assert backend().bulk.import_records([later]) == ImportResult()
    assert backend().interactions.get(ANSWERED.interaction_id) == ANSWERED


def test_import_replaces_a_failure_by_the_next_attempt(each_storage: str) -> None:
    store_record(FAILED)
    answer = replace(LATER, status=Status.OK, response="Olá!")
    assert backend().bulk.import_records([answer]) == ImportResult(replaced=1)
    assert backend().bulk.import_records([FAILED]) == ImportResult()
    assert backend().interactions.get(FAILED.interaction_id) == answer
    assert requests() == 2


def test_import_keeps_the_claim_of_a_later_attempt(each_storage: str) -> None:
    backend().interactions.claim(LATER)
    assert backend().bulk.import_records([FAILED]) == ImportResult()
    assert backend().interactions.get(LATER.interaction_id) == LATER
    assert requests() == 0


def test_import_keeps_the_outcome_of_a_repeated_id(each_storage: str) -> None:
    assert backend().bulk.import_records([PENDING, ANSWERED, PENDING]) == ImportResult(new=1)
    assert scanned() == [ANSWERED]


def test_an_id_whose_holder_has_expired_is_free(each_storage: str) -> None:
    store_record(replace(ANSWERED, expires_at=YESTERDAY))
    assert backend().bulk.import_records([FAILED]) == ImportResult(new=1)
    assert backend().interactions.get(FAILED.interaction_id) == FAILED


def test_a_record_lives_as_long_as_it_says(each_storage: str) -> None:
    expires_at = YESTERDAY + timedelta(days=9)
    backend().bulk.import_records([replace(ANSWERED, expires_at=expires_at)])
    [record] = scanned()
    assert record.expires_at == expires_at


# --- Purging --------------------------------------------------------------------------------------


def purged(limit: int = 100, *, dry_run: bool = False, **chosen: Any) -> int:
    records, cursor = 0, None
    while True:
        selection = Selection(**chosen)
        done = backend().bulk.purge(selection, limit=limit, cursor=cursor, dry_run=dry_run)
        records += done.records
        cursor = done.cursor
        if cursor is None:
            return records


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_purged_records_stay_counted(each_storage: str, limit: int) -> None:
    records = [*made(8), *made(2, PENDING, user_id=BOB)]
    backend().bulk.import_records(records)
    before = NOON + timedelta(minutes=3)
    assert purged(limit, before=before, dry_run=True) == 5
    assert len(scanned()) == 10
    assert purged(limit, before=before) == 5
    assert ids(scanned()) == ids(records[3:8])
    assert requests() == 8
    assert purged(before=before) == 0


def test_purging_may_be_of_an_owner_or_a_user(each_storage: str) -> None:
    backend().bulk.import_records([*made(4), *made(2, user_id=BOB), *made(2, owner="team:blue")])
    before = NOON + timedelta(days=1)
    assert purged(3, before=before, owner="team:blue") == 2
    assert purged(3, before=before, owner="default", user=BOB) == 2
    assert len(scanned()) == 4


# --- Out of reach ---------------------------------------------------------------------------------

CALLS: list[Callable[[], Any]] = [
    lambda: backend().bulk.estimate(Selection()),
    lambda: backend().bulk.scan(Selection(), limit=1),
    lambda: backend().bulk.import_records([ANSWERED]),
    lambda: backend().bulk.purge(Selection(), limit=1),
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


# --- SQLite's own ---------------------------------------------------------------------------------


def test_records_of_the_local_store_come_in_the_order_of_their_creation(db: None) -> None:
    records = made(9)
    backend().bulk.import_records(records[::-1])
    assert scanned(2) == records


# --- DynamoDB's own -------------------------------------------------------------------------------


@pytest.fixture
def on_dynamodb(dynamodb: str, change_settings: Configure) -> Iterator[None]:
    change_settings(STORAGE="dynamodb")
    return


def noise(size: int) -> str:
    return random.Random(size).randbytes(size // 2).hex()


def test_long_answers_are_imported_and_read_whole(on_dynamodb: None) -> None:
    records = [
        replace(each, response=noise(size))
        for each, size in zip(made(5), [600_000, 1_500_000, 7, 2_500_000, 900_000], strict=True)
    ]
    assert backend().bulk.import_records(records) == ImportResult(new=5)
    found = {record.interaction_id: record for record in scanned(2)}
    assert found == {record.interaction_id: record for record in records}
    assert requests() == 5


def test_records_larger_than_a_transaction_are_imported_and_purged(on_dynamodb: None) -> None:
    records = made(2, prompt=noise(6_000_000), response=noise(6_000_000))
    assert backend().bulk.import_records(records) == ImportResult(new=2)
    assert backend().bulk.import_records(records) == ImportResult()
    assert sorted(scanned(2), key=repr) == sorted(records, key=repr)
    assert purged(before=datetime.now(UTC)) == 2
    assert scan_raw() == []


def test_import_and_purge_delete_the_parts_of_replaced_answers(on_dynamodb: None) -> None:
    store_record(replace(FAILED, response=noise(1_000_000)))
    backend().bulk.import_records([replace(LATER, status=Status.OK, response=noise(1_500_000))])
    backend().bulk.import_records(made(1, response=noise(1_000_000)))
    assert purged(before=datetime.now(UTC)) == 2
    assert scan_raw() == []


def scan_raw() -> list[Any]:
    from chat.storage.dynamodb.tables import InteractionTable

    found: list[Any] = botocore_client().scan(TableName=InteractionTable.Meta.table_name)["Items"]
    return found


def test_a_record_that_does_not_fit_is_named_and_nothing_is_written(on_dynamodb: None) -> None:
    records = [*made(2), *made(1, prompt=noise(6_400_000))]
    with pytest.raises(RecordTooLarge, match=records[2].interaction_id):
        backend().bulk.import_records(records)
    assert scanned() == []


def test_a_batch_reports_its_read_units(on_dynamodb: None) -> None:
    backend().bulk.import_records(made(20))
    whole = backend().bulk.scan(Selection(), limit=100)
    listed = backend().bulk.scan(Selection(owner="default", user=ALICE), limit=100)
    assert whole.read_units > 0
    assert listed.read_units >= 20 * 0.5


def test_a_user_is_read_by_the_index(on_dynamodb: None, calls: Calls) -> None:
    backend().bulk.import_records(made(3))
    calls.clear()
    backend().bulk.scan(Selection(owner="default", user=ALICE), limit=100)
    assert [operation for operation, _ in calls] == ["Query", "BatchGetItem"]


def test_many_records_are_written_in_few_calls(on_dynamodb: None, calls: Calls) -> None:
    backend().bulk.import_records(made(200))
    made_calls = [operation for operation, _ in calls]
    assert made_calls.count("TransactWriteItems") == 3
    assert requests() == 200


def test_an_item_without_a_write_id_is_replaced(on_dynamodb: None) -> None:
    from chat.storage.dynamodb.tables import InteractionTable

    backend().interactions.claim(PENDING)
    key = {"interaction_id": {"S": PENDING.interaction_id}}
    botocore_client().update_item(
        TableName=InteractionTable.Meta.table_name, Key=key, UpdateExpression="REMOVE write_id"
    )
    assert backend().bulk.import_records([ANSWERED]) == ImportResult(replaced=1)


def failing(monkeypatch: pytest.MonkeyPatch, times: int, code: str, reason: str = "") -> None:
    """The next so many writes are refused."""
    call, left = DynamoDBClient._call, [times]

    def refuse(self: DynamoDBClient, operation: str, *rest: Any, **options: Any) -> dict[str, Any]:
        if operation == "TransactWriteItems" and left[0]:
            left[0] -= 1
            error: Any = {
                "Error": {"Code": code, "Message": ""},
                "ResponseMetadata": {"HTTPStatusCode": 400},
                "CancellationReasons": [{"Code": "None"}, {"Code": reason or "None"}],
            }
            raise ClientError(error, operation)
        return call(self, operation, *rest, **options)

    monkeypatch.setattr(DynamoDBClient, "_call", refuse)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("ProvisionedThroughputExceededException", ""),
        ("TransactionCanceledException", "ThrottlingError"),
        ("TransactionCanceledException", "TransactionConflict"),
        ("TransactionCanceledException", "ConditionalCheckFailed"),
    ],
)
def test_throttled_writes_are_retried(
    on_dynamodb: None, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    failing(monkeypatch, 2, code, reason)
    assert backend().bulk.import_records(made(3)) == ImportResult(new=3)
    assert (len(scanned()), requests()) == (3, 3)


@pytest.mark.parametrize("reason", ["TransactionConflict", "ConditionalCheckFailed", "other"])
def test_endlessly_throttled_writes_raise_storage_unavailable(
    on_dynamodb: None, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    failing(monkeypatch, 1000, "TransactionCanceledException", reason)
    with pytest.raises(StorageUnavailable):
        backend().bulk.import_records(made(3))
    assert (scanned(), requests()) == ([], 0)


def test_a_lost_response_to_a_settlement_counts_nothing_twice(
    on_dynamodb: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, lost = DynamoDBClient._exchange, []

    def lose_one(self: DynamoDBClient, operation: str, *rest: Any) -> tuple[int, bytes]:
        answer = exchange(self, operation, *rest)
        if not lost and operation == "TransactWriteItems":
            lost.append(answer)
            raise ReadTimeoutError(endpoint_url="")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(DynamoDBClient, "_exchange", lose_one)
        assert backend().bulk.import_records(made(5)) == ImportResult(new=5)
    assert lost
    assert (len(scanned()), requests()) == (5, 5)


def test_a_concurrently_changed_record_is_planned_again(
    on_dynamodb: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the write a request settles its claim itself."""
    call, settled = DynamoDBClient.call, []
    backend().interactions.claim(PENDING)

    def settle_first(self: DynamoDBClient, operation: str, arguments: Any) -> dict[str, Any]:
        if operation == "TransactWriteItems" and not settled:
            settled.append(True)
            assert backend().interactions.settle(ANSWERED)
        return call(self, operation, arguments)

    monkeypatch.setattr(DynamoDBClient, "call", settle_first)
    other = made(1)
    assert backend().bulk.import_records(
        [replace(ANSWERED, response="as imported"), *other]
    ) == ImportResult(new=1)
    assert backend().interactions.get(PENDING.interaction_id) == ANSWERED
    assert requests() == 2


# --- Conversations that are sent whole ------------------------------------------------------------


def kept_messages(user_id: str = ALICE) -> list[int]:
    """How many messages each record keeps, oldest first."""
    page = backend().interactions.list_by_user("default", user_id, limit=100)
    return [len(record.parameters["messages"]) for record in page.records[::-1]]


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_scanned_records_are_whole(each_storage: str, limit: int) -> None:
    turns = converse(backend().interactions, 25)
    by_id = {turn.interaction_id: turn for turn in turns}
    assert {record.interaction_id: record for record in scanned(limit)} == by_id
    later = scanned(limit, since=turns[20].created_at)
    assert {record.interaction_id: record for record in later} == {
        turn.interaction_id: turn for turn in turns[20:]
    }


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_imported_records_keep_what_is_new(each_storage: str, at_once: int) -> None:
    turns = converse(backend().interactions, 25)
    lines = list(map(to_line, turns))
    backend().interactions.delete_by_user("default", ALICE, limit=100)
    for start in range(0, len(lines), at_once):
        records = [from_json(orjson.loads(line)) for line in lines[start : start + at_once]]
        backend().bulk.import_records(records[::-1])
    assert kept_messages() == [1] * 25
    found = backend().interactions.get_many([turn.interaction_id for turn in turns])
    assert found == {turn.interaction_id: turn for turn in turns}
    last = turns[-1].transcript
    assert last
    assert backend().interactions.find_turn(last.digest)


def test_records_that_are_imported_before_the_earlier_ones_are_kept_whole(
    each_storage: str,
) -> None:
    turns = converse(backend().interactions, 4)
    backend().interactions.delete_by_user("default", ALICE, limit=100)
    for turn in turns[::-1]:
        backend().bulk.import_records([turn])
    assert kept_messages() == [1, 3, 5, 7]
    assert backend().bulk.import_records(turns) == ImportResult()
    assert all(backend().interactions.get(turn.interaction_id) == turn for turn in turns)


def test_a_gap_survives_an_export(each_storage: str) -> None:
    turns = converse(backend().interactions, 4)
    backend().bulk.purge(Selection(before=turns[2].created_at), limit=100)
    found = [from_json(orjson.loads(to_line(record))) for record in scanned()]
    assert [record.earlier.messages for record in found if record.earlier] == [4, 4]
    backend().interactions.delete_by_user("default", ALICE, limit=100)
    backend().bulk.import_records(found)
    assert {record.interaction_id: record for record in scanned()} == {
        record.interaction_id: record for record in found
    }
    backend().bulk.import_records(turns[:2])
    assert all(backend().interactions.get(turn.interaction_id) == turn for turn in turns)


def test_a_circle_of_records_is_read(each_storage: str) -> None:
    """Only an edited file has one."""
    turns = converse(backend().interactions, 2)
    backend().interactions.delete_by_user("default", ALICE, limit=100)
    digest = turns[1].transcript and turns[1].transcript.digest
    records = [
        replace(
            turn,
            earlier=Earlier(
                messages=1,
                root=other.interaction_id,
                records=(other.interaction_id,),
                digest=str(digest),
                own_answer=False,
                own_parameters=True,
                first_expiry=None,
            ),
            transcript=turns[1].transcript,
        )
        for turn, other in (turns, turns[::-1])
    ]
    backend().bulk.import_records(records)
    assert len(scanned()) == 2
    assert all(record.earlier for record in scanned())


def test_two_records_with_one_digest_are_imported(each_storage: str) -> None:
    turns = [*converse(backend().interactions, 2), *converse(backend().interactions, 2)]
    backend().interactions.delete_by_user("default", ALICE, limit=100)
    assert backend().bulk.import_records(turns) == ImportResult(new=4)
    assert len(scanned()) == 4
