"""The store on DynamoDB, against DynamoDB Local; and what it does when DynamoDB is in trouble."""

import json
import os
import random
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Event
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from chat.storage import time_limit
from chat.storage.base import (
    CounterKind,
    InteractionRecord,
    InteractionStore,
    Reservation,
    Status,
    UsageCounts,
)
from chat.storage.dynamodb.client import DynamoDBClient, client, new_client
from chat.storage.dynamodb.interactions import DynamoInteractionStore
from chat.storage.dynamodb.tables import InteractionTable
from chat.storage.dynamodb.usage import DynamoUsageStore
from chat.storage.errors import BudgetSpent, RecordTooLarge, StorageUnavailable
from chat.storage.time_limit import storage_deadline, storage_seconds
from providers.deadline import Deadline
from providers.sigv4 import Keys
from tests.chat.storage.contract import (
    FULL,
    FULL_ANSWER,
    ID,
    LATER,
    YESTERDAY,
    InteractionStoreContract,
)
from tests.dynamodb_local import Calls, botocore_client
from tests.dynamodb_proxy import DynamoDBProxy
from tests.factories import ALICE, ANSWERED, FAILED, NOON, PENDING, run_concurrently
from tests.stub_vendor import StubVendor

NOBODY_LISTENS = "http://127.0.0.1:9"


class TestDynamoStore(InteractionStoreContract):
    @pytest.fixture
    def store(self, dynamodb: str) -> InteractionStore:
        return DynamoInteractionStore()

    @pytest.fixture
    def unreachable_store(self, dynamodb_at: Callable[[str], None]) -> InteractionStore:
        dynamodb_at(NOBODY_LISTENS)
        return DynamoInteractionStore()


@pytest.fixture
def store(dynamodb: str) -> DynamoInteractionStore:
    return DynamoInteractionStore()


def item(interaction_id: str = ID) -> dict[str, dict[str, Any]]:
    """What DynamoDB itself has."""
    found = botocore_client().get_item(
        TableName=InteractionTable.Meta.table_name, Key={"interaction_id": {"S": interaction_id}}
    )
    return dict(found["Item"])


def noise(size: int) -> str:
    """So many bytes of text, which cannot be compressed to less than three quarters."""
    return random.Random(size).randbytes(size // 2 + 1).hex()[:size]


# --- Items ----------------------------------------------------------------------------------------


def text(value: Any) -> str:
    """Return compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


FULL_ITEM = {
    "interaction_id": {"S": ID},
    "schema": {"N": "1"},
    "owner": {"S": FULL.owner},
    "user_id": {"S": FULL.user_id},
    "owner_user": {"S": f"{FULL.owner}#{FULL.user_id}"},
    "created_at": {"S": "2026-01-01T12:00:00.123456Z"},
    "deadline_at": {"S": "2026-01-01T12:00:24.123457Z"},
    "expires_at": {"N": "4922899200"},
    "request_id": {"S": "request-1"},
    "request_hash": {"S": "0123456789abcdef" * 4},
    "key_id": {"S": "fedcba9876543210"},
    "conversation_id": {"S": FULL.conversation_id},
    "previous_interaction_id": {"S": FULL.previous_interaction_id},
    "ancestors": {"S": "[]"},
    "tool_calls": {"S": text(FULL_ANSWER.tool_calls)},
    "message": {"S": text(FULL_ANSWER.message)},
    "extras": {"S": text(FULL_ANSWER.extras)},
    "prompt": {"S": FULL.prompt},
    "system": {"S": " Be brief. "},
    "parameters": {
        "S": '{"temperature":0.1,"top_p":1e-9,"max_tokens":7,"stop":["END","\\n","🦆"],'
        '"messages":[{"role":"user","content":[{"type":"text","text":"?"},'
        '{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]}]}'
    },
    "metadata": {"S": '{"ticket":"7","":"","chave ç":"valor 🦆"}'},
    "status": {"S": "ok"},
    "provider": {"S": "openrouter"},
    "model": {"S": "vendor/model-1:free"},
    "response": {"S": FULL_ANSWER.response},
    "finish_reason": {"S": "content_filter"},
    "cached": {"BOOL": True},
    "latency_ms": {"N": "24999"},
    "attempts": {
        "S": '[{"provider":"openai","model":"model-1","outcome":"provider_error",'
        '"latency_ms":5},{"provider":"openrouter","model":"vendor/model-1",'
        '"outcome":"ok","latency_ms":24900}]'
    },
    "prompt_tokens": {"N": "9"},
    "completion_tokens": {"N": "41"},
    "total_tokens": {"N": "50"},
    "cached_tokens": {"N": "4"},
    "reasoning_tokens": {"N": "30"},
    "cost_usd": {"S": "0.10"},
    "earlier": {"S": text(asdict(FULL.earlier))},
    "digest": {"S": FULL_ANSWER.transcript.digest},
    "transcript": {"S": text(asdict(FULL_ANSWER.transcript))},
}


def test_an_item_has_every_attribute(store: DynamoInteractionStore) -> None:
    store.claim(FULL)
    store.settle(replace(FULL_ANSWER, usage=replace(FULL_ANSWER.usage, cost_usd=Decimal("0.10"))))
    kept = item()
    assert len(kept.pop("write_id")["S"]) == 32
    assert kept == FULL_ITEM


def test_an_absent_value_has_no_attribute(store: DynamoInteractionStore) -> None:
    store.claim(PENDING)
    absent = {"expires_at", "request_hash", "system", "response", "latency_ms", "cost_usd"}
    absent |= {"message", "extras"}
    assert not absent & item().keys()


def test_each_operation_is_one_call(store: DynamoInteractionStore, calls: Calls) -> None:
    store.claim(PENDING)
    store.claim(PENDING)
    store.settle(FAILED)
    store.settle(FAILED)
    store.take_over(LATER, FAILED)
    store.get(ID)
    made = [operation for operation, _ in calls]
    settle = "TransactWriteItems"
    assert made == ["PutItem", "PutItem", settle, settle, "PutItem", "GetItem"]


def test_reads_are_consistent(store: DynamoInteractionStore, calls: Calls) -> None:
    store.get(ID)
    assert [arguments["ConsistentRead"] for _, arguments in calls] == [True]


@pytest.mark.parametrize("index", ["user-index", "conversation-index"])
def test_an_index_finds_a_record_by_time(store: DynamoInteractionStore, index: str) -> None:
    store.claim(FULL)
    keys = {
        "user-index": f"{FULL.owner}#{FULL.user_id}",
        "conversation-index": FULL.conversation_id,
    }
    found = list(InteractionTable.query(keys[index], index_name=index, scan_index_forward=False))
    assert [(each.interaction_id, each.created_at) for each in found] == [(ID, NOON)]


def test_an_older_item_without_most_attributes_is_read(store: DynamoInteractionStore) -> None:
    botocore_client().put_item(
        TableName=InteractionTable.Meta.table_name,
        Item={
            "interaction_id": {"S": ID},
            "owner": {"S": "default"},
            "created_at": {"S": "2025-12-31T21:00:00-03:00"},
            "prompt": {"S": "Olá!"},
        },
    )
    midnight = NOON.replace(hour=0, microsecond=0)
    assert store.get(ID) == InteractionRecord(
        interaction_id=ID,
        owner="default",
        user_id="",
        prompt="Olá!",
        created_at=midnight,
        deadline_at=midnight,
        conversation_id=ID,
        model="",
        provider="",
        status=Status.ABORTED,
    )


ODD: list[dict[str, dict[str, Any]]] = [
    {"schema": {"N": "99"}, "invented_later": {"M": {"a": {"SS": ["b"]}}}},
    {"attempts": {"S": '[{"provider": "a", "invented_later": 1}]'}},
    {"attempts": {"S": '[1, null, "x"]'}},
    {"attempts": {"S": "not JSON"}},
    {"parameters": {"S": "[]"}},
    {"metadata": {"M": {}}},
    {"created_at": {"S": "yesterday"}},
    {"deadline_at": {"NULL": True}},
    {"expires_at": {"S": "never"}},
    {"status": {"S": "invented_later"}},
    {"prompt": {"B": b"not zlib"}},
    {"prompt": {"N": "7"}},
    {"latency_ms": {"S": "fast"}},
    {"cost_usd": {"S": "much"}},
    {"cached": {"S": "perhaps"}},
    {"response_parts": {"N": "2"}},
    {"message_parts": {"N": "1"}},
    {"prompt_parts": {"S": "two"}},
    {"prompt_parts": {"N": "1.5"}},
    {"message": {"S": "[]"}},
    {"extras": {"B": b"not zlib"}},
]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_an_item_with_invalid_attributes_is_readable(
    store: DynamoInteractionStore, odd: dict[str, dict[str, Any]]
) -> None:
    store.claim(PENDING)
    botocore_client().put_item(TableName=InteractionTable.Meta.table_name, Item={**item(), **odd})
    kept = store.get(ID)
    assert kept is not None
    assert (kept.interaction_id, kept.owner) == (ID, "default")
    assert store.claim(PENDING) == kept


# --- The size of items ----------------------------------------------------------------------------


def test_a_long_text_is_compressed(store: DynamoInteractionStore) -> None:
    prompt = "Why is the sky blue, and the sea? " * 900
    store.claim(replace(PENDING, prompt=prompt, system="short"))
    kept = item()
    assert len(kept["prompt"]["B"]) < 1000
    assert kept["system"] == {"S": "short"}
    record = store.get(ID)
    assert record is not None
    assert record.prompt == prompt


def last(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The last number for which it holds, found by halving."""
    assert holds(low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def forget(interaction_id: str = ID) -> None:
    key = {"interaction_id": {"S": interaction_id}}
    botocore_client().delete_item(TableName=InteractionTable.Meta.table_name, Key=key)


def test_a_question_in_one_item_leaves_room_for_the_outcome(store: DynamoInteractionStore) -> None:
    def fits(size: int) -> bool:
        forget()
        assert store.claim(replace(PENDING, prompt=noise(size))) is None
        return "prompt_parts" not in item()

    fitting = last(500_000, 900_000, fits)
    assert fitting > 600_000
    attempt = replace(ANSWERED.attempts[0], model="m" * 256)
    for size in (fitting, fitting + 1):
        forget()
        claim = replace(PENDING, prompt=noise(size))
        outcome = replace(ANSWERED, prompt=claim.prompt, attempts=(attempt,) * 100)
        store.claim(claim)
        assert store.settle(outcome) is True
        assert store.get(ID) == outcome


IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{noise(2_000_000)}"}}
LONG_QUESTIONS: list[dict[str, Any]] = [
    {"prompt": noise(2_000_000)},
    {"system": noise(900_000)},
    {"parameters": {"messages": [{"role": "user", "content": [IMAGE, IMAGE, IMAGE]}]}},
    {"prompt": noise(500_000), "system": noise(500_001), "parameters": {"a": noise(500_002)}},
    {"prompt": noise(690_000), "system": noise(80_000)},
    {"metadata": {f"key{number}": "é" * 512 for number in range(16)}, "prompt": noise(900_000)},
]


@pytest.mark.parametrize("answer", [10, 900_000, 6_000_000], ids=["short", "long", "longest"])
@pytest.mark.parametrize("fields", LONG_QUESTIONS, ids=lambda fields: "-".join(fields))
def test_a_long_question_is_kept_in_parts(
    store: DynamoInteractionStore, fields: dict[str, Any], answer: int
) -> None:
    claim = replace(PENDING, **fields)
    outcome = replace(ANSWERED, response=noise(answer), **fields)
    assert store.claim(claim) is None
    assert store.get(ID) == claim
    assert store.claim(claim) == claim
    assert store.settle(outcome) is True
    assert store.get(ID) == outcome
    assert store.get_many([ID]) == {ID: outcome}
    assert store.list_by_user("default", ALICE, limit=2).records == (outcome,)
    assert store.delete_by_user("default", ALICE, limit=2) == 1
    assert list(InteractionTable.scan()) == []


def test_a_question_over_the_limit_is_refused(store: DynamoInteractionStore) -> None:
    assert store.claim(replace(PENDING, prompt=noise(6_000_000))) is None
    store.delete_by_user("default", ALICE, limit=2)
    with pytest.raises(RecordTooLarge):
        store.claim(replace(PENDING, prompt=noise(6_400_000)))
    assert list(InteractionTable.scan()) == []


def test_a_page_of_large_records_is_read(store: DynamoInteractionStore) -> None:
    records = [
        replace(PENDING, interaction_id=str(uuid4()), prompt="x", system=noise(600_000 + number))
        for number in range(45)
    ]
    for record in records:
        store.claim(record)
    page = store.list_by_user("default", ALICE, limit=100)
    assert {record.interaction_id: record for record in page.records} == {
        record.interaction_id: record for record in records
    }


def test_a_page_of_records_in_parts_ends_early(store: DynamoInteractionStore) -> None:
    ids = [str(uuid4()) for _ in range(25)]
    for number, id_ in enumerate(ids):
        created_at = NOON + timedelta(seconds=number)
        text = noise(1_500_000 if number < 22 else 10)
        claim = replace(PENDING, interaction_id=id_, created_at=created_at, prompt="x", system=text)
        store.claim(claim)
    sizes, found, cursor = [], [], None
    while cursor or not sizes:
        page = store.list_by_user("default", ALICE, limit=24, cursor=cursor)
        sizes.append(len(page.records))
        found += [record.interaction_id for record in page.records]
        cursor = page.next_cursor
    assert found == ids[::-1]
    assert sizes[0] < 20


def test_a_record_is_deleted_with_its_parts(store: DynamoInteractionStore) -> None:
    assert store.claim(replace(PENDING, prompt=noise(900_000))) is None
    store.delete(ID)
    assert list(InteractionTable.scan()) == []


def test_an_erased_question_in_parts_stays_erased(store: DynamoInteractionStore) -> None:
    claim = replace(PENDING, prompt=noise(2_000_000))
    store.claim(claim)
    store.delete_by_user("default", ALICE, limit=2)
    assert store.settle(replace(ANSWERED, prompt=claim.prompt)) is False
    assert list(InteractionTable.scan()) == []


def test_a_take_over_keeps_the_question_and_deletes_the_other_parts(
    store: DynamoInteractionStore,
) -> None:
    asked, broken_off = noise(2_000_000), noise(1_000_000)
    store.claim(replace(PENDING, prompt=asked, system=noise(900_000)))
    holder = replace(
        ANSWERED,
        status=Status.ABORTED,
        prompt=asked,
        system=noise(900_000),
        response=broken_off,
    )
    assert store.settle(holder) is True
    again = replace(LATER, prompt=asked)
    assert store.take_over(again, holder) is True
    assert store.get(ID) == again
    assert store.settle(replace(again, status=Status.OK, response="Hi.")) is True
    assert store.get(ID) == replace(again, status=Status.OK, response="Hi.")
    parts = int(item()["prompt_parts"]["N"])
    assert len(list(InteractionTable.scan())) == 1 + parts


def test_a_take_over_deletes_the_other_parts_of_a_column_that_lost_one(
    store: DynamoInteractionStore,
) -> None:
    store.claim(PENDING)
    failed = replace(ANSWERED, status=Status.ABORTED, response=noise(2_000_000))
    assert store.settle(failed) is True
    forget(f"{ID}#response-0")
    holder = store.claim(LATER)
    assert holder == replace(failed, response=None)
    assert store.take_over(LATER, holder) is True
    assert store.get(ID) == LATER
    assert len(list(InteractionTable.scan())) == 1


def test_a_take_over_deletes_parts_that_only_a_reservation_made_necessary(
    store: DynamoInteractionStore,
) -> None:
    until = datetime.now(UTC) + timedelta(minutes=1)
    budget = Reservation(by=CounterKind.KEY, name="k", limit=9, amount=0, until=until)

    def fits(size: int) -> bool:
        forget()
        assert store.claim(replace(PENDING, prompt=noise(size)), budget) is None
        return "prompt_parts" not in item()

    claim = replace(PENDING, prompt=noise(last(500_000, 900_000, fits) + 1))
    forget()
    store.claim(claim, budget)
    assert "prompt_parts" in item()
    again = replace(LATER, prompt=claim.prompt)
    assert store.take_over(again, claim) is True
    assert store.get(ID) == again
    assert len(list(InteractionTable.scan())) == 1


@pytest.mark.parametrize("size", [600_000, 2_000_000, 6_000_000])
def test_an_answer_of_any_length_is_kept(store: DynamoInteractionStore, size: int) -> None:
    answer = replace(ANSWERED, response=noise(size))
    store.claim(PENDING)
    assert store.settle(answer) is True
    assert store.get(ID) == answer
    assert store.claim(PENDING) == answer


PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{noise(1_400_000)}"}}
LONG_ANSWERS: list[dict[str, Any]] = [
    {"response": "", "message": {"images": [PICTURE]}},
    {"message": {"images": [PICTURE]}, "response": noise(900_000)},
    {"message": {"reasoning_content": noise(900_000)}},
    {"tool_calls": ({"function": {"name": "f", "arguments": noise(900_000)}},)},
    {"extras": {"logprobs": {"content": [{"token": noise(900_000)}]}}},
    {name: noise(500_000) for name in ("response",)}
    | {name: {"a": noise(500_000)} for name in ("message", "extras")},
]


@pytest.mark.parametrize("fields", LONG_ANSWERS, ids=lambda fields: "-".join(fields))
def test_an_answer_is_kept_in_parts_whatever_makes_it_long(
    store: DynamoInteractionStore, fields: dict[str, Any]
) -> None:
    answer = replace(ANSWERED, **fields)
    store.claim(PENDING)
    assert store.settle(answer) is True
    assert store.get(ID) == answer
    assert store.list_by_user("default", ALICE, limit=2).records == (answer,)
    assert store.delete_by_user("default", ALICE, limit=2) == 1
    assert list(InteractionTable.scan()) == []


def test_columns_that_fit_are_not_split(store: DynamoInteractionStore) -> None:
    store.claim(PENDING)
    store.settle(replace(ANSWERED, message={"images": [PICTURE]}))
    kept = item()
    assert kept["response"] == {"S": ANSWERED.response}
    assert "message" not in kept
    assert "response_parts" not in kept


def test_the_last_byte_that_fits_beside_the_question(store: DynamoInteractionStore) -> None:
    def fits(size: int) -> bool:
        forget()
        answer = replace(ANSWERED, response=noise(size))
        store.claim(PENDING)
        assert store.settle(answer) is True
        assert store.get(ID) == answer
        return "response_parts" not in item()

    size = last(600_000, 900_000, fits)
    for near in range(size - 5, size + 5):
        fits(near)


def test_parts_are_all_or_nothing(store: DynamoInteractionStore) -> None:
    store.claim(PENDING)
    store.take_over(LATER, PENDING)
    assert store.settle(replace(ANSWERED, response=noise(2_000_000))) is False
    assert store.get(ID) == LATER
    assert len(list(InteractionTable.scan())) == 1


def test_one_of_concurrent_answers_in_parts_is_written(store: DynamoInteractionStore) -> None:
    store.claim(PENDING)
    answers = [replace(ANSWERED, response=noise(1_000_000 + number)) for number in range(4)]
    settled = run_concurrently(4, lambda number: store.settle(answers[number]))
    assert settled.count(True) <= 1  # DynamoDB may refuse all that are in each other's way
    kept = store.get(ID)
    assert kept == (answers[settled.index(True)] if True in settled else PENDING)


def test_parts_live_as_long_as_their_record_and_are_in_no_index(
    store: DynamoInteractionStore,
) -> None:
    expires_at = YESTERDAY + timedelta(days=2)
    store.claim(replace(PENDING, expires_at=expires_at))
    store.settle(replace(ANSWERED, expires_at=expires_at, response=noise(2_000_000)))
    parts = item()["response_parts"]["N"]
    stored = list(InteractionTable.scan())
    assert len(stored) == 1 + int(parts)
    assert {each.expires_at for each in stored} == {expires_at}
    assert len(list(InteractionTable.query("default#alice", index_name="user-index"))) == 1


def test_an_answer_that_an_older_version_kept_in_parts_is_read(
    store: DynamoInteractionStore,
) -> None:
    store.claim(PENDING)
    store.settle(replace(ANSWERED, response=""))
    kept = item()
    del kept["response"]
    text = zlib.compress(b"The sky is blue.")
    half = len(text) // 2
    parts = [
        {"interaction_id": {"S": f"{ID}#response-{number}"}, "part": {"B": part}}
        for number, part in enumerate((text[:half], text[half:]))
    ]
    for each in ({**kept, "response_parts": {"N": "2"}}, *parts):
        botocore_client().put_item(TableName=InteractionTable.Meta.table_name, Item=each)
    assert store.get(ID) == replace(ANSWERED, response="The sky is blue.")


def test_a_take_over_deletes_the_parts_of_the_answer(store: DynamoInteractionStore) -> None:
    message = {"reasoning_content": noise(500_000)}
    broken_off = replace(
        ANSWERED, status=Status.ABORTED, response=noise(2_000_000), message=message
    )
    store.claim(PENDING)
    store.settle(broken_off)
    assert len(list(InteractionTable.scan())) > 1
    assert store.take_over(LATER, broken_off) is True
    assert len(list(InteractionTable.scan())) == 1
    assert store.get(ID) == LATER


LARGEST = noise(8_300_000)
WITHOUT_ANSWER = replace(ANSWERED, response=None)


def test_an_answer_over_the_transaction_limit_is_refused_and_the_rest_is_settled(
    store: DynamoInteractionStore,
) -> None:
    store.claim(PENDING)
    with pytest.raises(RecordTooLarge):
        store.settle(replace(ANSWERED, response=LARGEST, message={"reasoning_content": "Why?"}))
    assert store.get(ID) == WITHOUT_ANSWER
    assert store.get(ID).lacks_content
    today = PENDING.created_at.date()
    counted = DynamoUsageStore().month("default", CounterKind.USER, ALICE, today)
    assert counted == UsageCounts.of(ANSWERED)


def test_a_repeated_try_of_an_answer_that_is_too_large_says_so(
    store: DynamoInteractionStore,
) -> None:
    store.claim(PENDING)
    for _ in range(2):  # the response of the first one may have been lost
        with pytest.raises(RecordTooLarge):
            store.settle(replace(ANSWERED, response=LARGEST))
    assert store.get(ID) == WITHOUT_ANSWER


def test_a_long_question_stays_when_its_answer_is_too_large(store: DynamoInteractionStore) -> None:
    question = {"prompt": noise(900_000)}
    store.claim(replace(PENDING, **question))
    with pytest.raises(RecordTooLarge):
        store.settle(replace(ANSWERED, response=LARGEST, **question))
    assert store.get(ID) == replace(WITHOUT_ANSWER, **question)


def test_an_answer_too_large_for_a_claim_that_is_gone_is_no_record(
    store: DynamoInteractionStore,
) -> None:
    store.claim(PENDING)
    store.take_over(LATER, PENDING)
    assert store.settle(replace(ANSWERED, response=LARGEST)) is False
    assert store.get(ID) == LATER


def test_a_conversation_is_not_continued_by_an_answer_that_was_too_large(
    store: DynamoInteractionStore,
) -> None:
    answer = replace(FULL_ANSWER, response=LARGEST)
    store.claim(FULL)
    with pytest.raises(RecordTooLarge):
        store.settle(answer)
    assert answer.transcript
    assert store.find_turn(answer.transcript.digest) is None


# --- Trouble --------------------------------------------------------------------------------------

CALLS: list[Callable[[DynamoInteractionStore], Any]] = [
    lambda store: store.claim(PENDING),
    lambda store: store.take_over(LATER, FAILED),
    lambda store: store.settle(ANSWERED),
    lambda store: store.get(ID),
    lambda store: store.check(),
]
IDS = ["claim", "take over", "settle", "get", "ping"]


def refuses(store: DynamoInteractionStore, call: Callable[[DynamoInteractionStore], Any]) -> float:
    """The seconds after which the store says that it is unavailable."""
    began = time.monotonic()
    with pytest.raises(StorageUnavailable) as caught:
        call(store)
    assert caught.value.__cause__ is not None
    return time.monotonic() - began


@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_a_refused_connection_fails_at_once(
    dynamodb_at: Callable[[str], None], call: Callable[[DynamoInteractionStore], Any]
) -> None:
    dynamodb_at(NOBODY_LISTENS)
    assert refuses(DynamoInteractionStore(), call) < 3


@pytest.mark.parametrize("call", [CALLS[0], CALLS[3]], ids=["claim", "get"])
def test_silence_is_noticed_in_seconds(
    dynamodb_at: Callable[[str], None], call: Callable[[DynamoInteractionStore], Any]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dynamodb_at(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert refuses(DynamoInteractionStore(), call) < 8


THROTTLED = "ProvisionedThroughputExceededException"


@pytest.fixture
def out_of_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The deadline of the request has passed, and little time is left to settle."""
    monkeypatch.setattr(time_limit, "SETTLE_SECONDS", 0.3)
    with storage_deadline(Deadline(0)):
        yield


@pytest.mark.usefixtures("out_of_time")
@pytest.mark.parametrize(
    ("status", "code", "retried"),
    [
        (400, THROTTLED, True),
        (400, "ThrottlingException", True),
        (400, "RequestLimitExceeded", True),
        (500, "InternalServerError", True),
        (503, "ServiceUnavailable", True),
        (400, "AccessDeniedException", False),
        (400, "ResourceNotFoundException", False),
        (400, "UnrecognizedClientException", False),
        (400, "ValidationException", False),
    ],
)
@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_a_refusal_raises_storage_unavailable(
    dynamodb_at: Callable[[str], None],
    call: Callable[[DynamoInteractionStore], Any],
    status: int,
    code: str,
    retried: bool,
) -> None:
    with StubVendor() as dynamodb:
        dynamodb.reply({"__type": f"com.amazonaws.dynamodb.v20120810#{code}"}, status=status)
        dynamodb_at(dynamodb.url)
        with storage_deadline(Deadline(0)):  # anew, because the stub takes time to start
            assert refuses(DynamoInteractionStore(), call) < 3
        assert (len(dynamodb.requests) > 1) is retried


@pytest.mark.usefixtures("out_of_time")
@pytest.mark.parametrize("body", [b"<html>", b"", b'"'])
def test_a_garbled_response_raises_storage_unavailable(
    dynamodb_at: Callable[[str], None], body: bytes
) -> None:
    with StubVendor() as dynamodb:
        dynamodb.reply(body, status=502)
        dynamodb_at(dynamodb.url)
        for call in CALLS:
            refuses(DynamoInteractionStore(), call)


def test_a_missing_table_raises_storage_unavailable(dynamodb: str, settings: Settings) -> None:
    settings.TABLE_NAME = "tests-no-such-table"
    for call in CALLS:
        refuses(DynamoInteractionStore(), call)


def test_the_check_fails_without_the_state_table(dynamodb: str, settings: Settings) -> None:
    settings.STATE_TABLE_NAME = "tests-no-such-table"
    refuses(DynamoInteractionStore(), lambda store: store.check())


def test_without_a_region_there_is_no_store(
    dynamodb_at: Callable[[str], None], settings: Settings
) -> None:
    dynamodb_at(NOBODY_LISTENS)
    settings.AWS_REGION = ""
    del os.environ["AWS_DEFAULT_REGION"]  # `dynamodb_at` has set it
    with pytest.raises(ImproperlyConfigured, match="AWS_REGION"):
        DynamoInteractionStore()


def test_without_credentials_there_is_no_store(
    dynamodb_at: Callable[[str], None], settings: Settings
) -> None:
    dynamodb_at(NOBODY_LISTENS)
    settings.AWS_KEYS = Keys("", "", "")
    del os.environ["AWS_ACCESS_KEY_ID"]  # `dynamodb_at` has set it
    with pytest.raises(ImproperlyConfigured, match="credentials"):
        DynamoInteractionStore()


def throttled(*reasons: str) -> bytes:
    """The body of a refusal: of a call, or with reasons of a transaction."""
    code = "TransactionCanceledException" if reasons else THROTTLED
    answer: dict[str, Any] = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}"}
    if reasons:
        answer["CancellationReasons"] = [{"Code": reason} for reason in reasons]
    return json.dumps(answer).encode()


class TroubledDynamoDB(DynamoDBProxy):
    """A DynamoDB that refuses its first calls, then loses answers, then sends some late.

    It closes the connection of the `dead` operation, and keeps that of the `silent` one without an
    answer.
    """

    def __init__(
        self,
        dynamodb: str,
        *,
        lost: int = 0,
        slow: int = 0,
        seconds: float = 0.0,
        refusals: Sequence[bytes] = (),
        dead: str = "none",
        silent: str = "none",
    ) -> None:
        super().__init__(dynamodb)
        self.lost, self.slow, self.seconds = lost, slow, seconds
        self.refusals, self.dead, self.silent = list(refusals), dead, silent
        self.stopped = Event()

    def __exit__(self, *exc: object) -> None:
        self.stopped.set()
        super().__exit__(*exc)

    def answer(
        self, target: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes] | None:
        if self.refusals:
            return 400, self.refusals.pop(0)
        operation = target.rpartition(".")[2]
        if operation == self.silent:
            self.stopped.wait(60)
        if operation in (self.dead, self.silent):
            return None
        answer = self.forward(body, headers)
        if self.lost:
            self.lost -= 1
            return None
        if self.slow:
            self.slow -= 1
            time.sleep(self.seconds)
        return answer


@pytest.mark.parametrize("size", [10, 2_000_000], ids=["small", "in parts"])
def test_a_retried_write_detects_its_first_attempt(
    dynamodb: str, dynamodb_at: Callable[[str], None], size: int
) -> None:
    answer = replace(ANSWERED, response=noise(size))
    with TroubledDynamoDB(dynamodb, lost=1) as proxy:
        dynamodb_at(proxy.url)
        assert DynamoInteractionStore().claim(PENDING) is None
        assert DynamoInteractionStore().claim(PENDING) == PENDING
    with TroubledDynamoDB(dynamodb, lost=1) as proxy:
        dynamodb_at(proxy.url)
        assert DynamoInteractionStore().settle(answer) is True
        assert DynamoInteractionStore().get(ID) == answer
        assert DynamoInteractionStore().settle(answer) is False


def test_a_reservation_that_is_not_released_ends_at_its_time(
    dynamodb: str, dynamodb_at: Callable[[str], None]
) -> None:
    until = datetime.now(UTC) + timedelta(seconds=2)
    budget = Reservation(by=CounterKind.KEY, name="k", limit=9, amount=9, until=until)
    store, ids = DynamoInteractionStore(), (str(uuid4()) for _ in range(3))
    first, second, third = (replace(PENDING, interaction_id=each) for each in ids)
    assert store.claim(first, budget) is None
    with TroubledDynamoDB(dynamodb, dead="UpdateItem") as proxy:
        dynamodb_at(proxy.url)
        assert DynamoInteractionStore().settle(replace(first, status=Status.OK), budget)
    dynamodb_at(dynamodb)
    with pytest.raises(BudgetSpent):
        store.claim(second, budget)
    Deadline(2).sleep(2)
    later = budget._replace(until=until + timedelta(minutes=1))
    assert store.claim(second, later) is None
    with pytest.raises(BudgetSpent):
        store.claim(third, later)


def test_a_settlement_after_the_deadline_ends_in_time_with_its_releases(
    dynamodb: str, dynamodb_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    until = datetime.now(UTC) + timedelta(minutes=1)
    both = [
        Reservation(by=by, name="k", limit=9, amount=1, until=until)
        for by in (CounterKind.KEY_USER, CounterKind.KEY)
    ]
    assert DynamoInteractionStore().claim(PENDING, *both) is None
    monkeypatch.setattr(time_limit, "SETTLE_SECONDS", 6.0)
    with TroubledDynamoDB(dynamodb, slow=1, seconds=2.5, silent="UpdateItem") as proxy:
        dynamodb_at(proxy.url)
        deadline = Deadline(time_limit.SETTLE_SECONDS)
        with storage_deadline(Deadline(0)):
            assert DynamoInteractionStore().settle(ANSWERED, *both) is True
        assert not deadline.expired


def test_a_call_that_is_not_repeated_is_no_longer_than_a_try(
    dynamodb: str, dynamodb_at: Callable[[str], None]
) -> None:
    """After the deadline there is time for short calls only, or the answer would be late."""
    with TroubledDynamoDB(dynamodb, slow=1, seconds=1.5) as proxy, storage_deadline(Deadline(0)):
        dynamodb_at(proxy.url)
        with pytest.raises(ReadTimeoutError):
            client().call_once("ListTables", {})


def test_a_narrower_limit_ends_with_the_one_around_it() -> None:
    with storage_deadline(Deadline(2)):
        with storage_deadline(Deadline(5), narrow=True):
            assert storage_seconds(60) <= 2
        with storage_deadline(Deadline(5)):
            assert storage_seconds(60) > 2
    with storage_deadline(Deadline(5), narrow=True):
        assert storage_seconds(60) <= 5


@pytest.mark.parametrize("call", [DynamoDBClient.call, DynamoDBClient.call_once])
def test_a_call_without_time_left_is_not_sent(
    dynamodb_at: Callable[[str], None],
    call: Callable[[DynamoDBClient, str, Mapping[str, Any]], Any],
) -> None:
    """Otherwise a write could succeed after its caller has given up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        dynamodb_at(f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ConnectTimeoutError):
            call(new_client(call_seconds=0), "PutItem", {})
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_slow_write_is_waited_for_within_the_deadline(
    dynamodb: str, dynamodb_at: Callable[[str], None]
) -> None:
    with TroubledDynamoDB(dynamodb, slow=2, seconds=2.5) as proxy, storage_deadline(Deadline(60)):
        dynamodb_at(proxy.url)
        store = DynamoInteractionStore()
        assert store.claim(PENDING) is None
    with TroubledDynamoDB(dynamodb, slow=2, seconds=2.5) as proxy, storage_deadline(Deadline(60)):
        dynamodb_at(proxy.url)
        assert DynamoInteractionStore().settle(ANSWERED) is True
        assert DynamoInteractionStore().get(ID) == ANSWERED


@pytest.mark.parametrize(
    "reasons",
    [(), ("None", "ThrottlingError"), ("None", "None", "ProvisionedThroughputExceeded")],
    ids=lambda reasons: "-".join(reasons) or "call",
)
def test_throttled_writes_are_retried_within_the_deadline(
    dynamodb: str, dynamodb_at: Callable[[str], None], reasons: Sequence[str]
) -> None:
    refusals = [throttled(*reasons)] * 6
    with storage_deadline(Deadline(60)):
        with TroubledDynamoDB(dynamodb, refusals=refusals) as proxy:
            dynamodb_at(proxy.url)
            assert DynamoInteractionStore().claim(PENDING) is None
        with TroubledDynamoDB(dynamodb, refusals=refusals) as proxy:
            dynamodb_at(proxy.url)
            assert DynamoInteractionStore().settle(ANSWERED) is True
            assert DynamoInteractionStore().get(ID) == ANSWERED


def test_silence_after_the_deadline_leaves_seconds_to_settle(
    dynamodb_at: Callable[[str], None],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, storage_deadline(Deadline(0)):
        dynamodb_at(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert refuses(DynamoInteractionStore(), lambda store: store.settle(ANSWERED)) < 6


def test_the_store_recovers_after_lost_responses(
    dynamodb: str, dynamodb_at: Callable[[str], None]
) -> None:
    with TroubledDynamoDB(dynamodb, lost=3) as proxy:
        dynamodb_at(proxy.url)
        store = DynamoInteractionStore()
        refuses(store, lambda store: store.claim(PENDING))
        assert store.claim(PENDING) == PENDING


# --- What is imported -----------------------------------------------------------------------------

IMPORTED = """
import sys, django
django.setup()
from chat.storage import backend
from django.core.cache import caches
backend().interactions, caches["counters"]
print(*sorted(sys.modules))
"""


def imported(storage: str) -> set[str]:
    environment = {
        "DJANGO_SETTINGS_MODULE": "chatproject.settings",
        "ENV_FILE": "/dev/null",
        "SECRET_KEY": "tests",
        "STORAGE": storage,
        "AWS_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    command = [sys.executable, "-c", IMPORTED]
    ran = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return set(ran.stdout.split())


def test_only_the_configured_backend_is_imported() -> None:
    sqlite, dynamodb = imported("sqlite"), imported("dynamodb")
    assert {
        "chat.storage.orm.interactions",
        "chat.storage.orm.cache",
        "chat.models",
    } <= sqlite - dynamodb
    assert {"chat.storage.dynamodb.interactions", "pynamodb", "botocore"} <= dynamodb - sqlite
    assert not {"sqlite3", "django.contrib.admin", "django.contrib.auth.models"} & dynamodb


def test_erasing_deletes_the_parts_of_long_answers(store: DynamoInteractionStore) -> None:
    store.claim(PENDING)
    noise = random.Random(7).randbytes(600_000).hex()
    assert store.settle(replace(ANSWERED, response=noise))
    assert len(botocore_client().scan(TableName=InteractionTable.Meta.table_name)["Items"]) > 1
    assert store.delete_by_user(PENDING.owner, PENDING.user_id, limit=9) == 1
    assert botocore_client().scan(TableName=InteractionTable.Meta.table_name)["Items"] == []


def test_unprocessed_items_of_a_batch_are_requested_again(
    store: DynamoInteractionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        store.claim(replace(PENDING, interaction_id=f"{ID[:-2]}{number:02}"))
    call, refused = DynamoDBClient.call, set()

    def reluctant(self: DynamoDBClient, operation: str, arguments: Any) -> dict[str, Any]:
        if operation.startswith("Batch") and operation not in refused:
            refused.add(operation)
            left = "UnprocessedKeys" if operation == "BatchGetItem" else "UnprocessedItems"
            return {"Responses": {}, left: arguments["RequestItems"]}
        return call(self, operation, arguments)

    monkeypatch.setattr(DynamoDBClient, "call", reluctant)
    assert store.delete_by_user(PENDING.owner, PENDING.user_id, limit=30) == 30
    assert refused == {"BatchGetItem", "BatchWriteItem"}
    assert store.list_by_user(PENDING.owner, PENDING.user_id, limit=5).records == ()


def test_an_endless_batch_raises_storage_unavailable(
    store: DynamoInteractionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.claim(PENDING)
    call = DynamoDBClient.call

    def stubborn(self: DynamoDBClient, operation: str, arguments: Any) -> dict[str, Any]:
        if operation == "BatchWriteItem":
            return {"UnprocessedItems": arguments["RequestItems"]}
        return call(self, operation, arguments)

    monkeypatch.setattr(DynamoDBClient, "call", stubborn)
    with pytest.raises(StorageUnavailable):
        store.delete_by_user(PENDING.owner, PENDING.user_id, limit=9)
