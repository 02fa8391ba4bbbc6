"""Records as JSON, in the log, in files, and back."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat.storage import backend
from chat.storage.base import ErrorInfo, InteractionRecord, Selection, Status
from chat.storage.jsonl import from_json, to_json, to_line
from providers.base import Usage
from providers.router import Attempt
from tests.chat.storage.contract import FULL_ANSWER
from tests.factories import ANSWERED, FAILED, PENDING


@pytest.mark.parametrize("record", [PENDING, ANSWERED, FAILED, FULL_ANSWER])
def test_a_record_comes_back_whole(record: InteractionRecord) -> None:
    assert from_json(json.loads(json.dumps(to_json(record)))) == record
    assert from_json(orjson.loads(to_line(record))) == record


@pytest.mark.parametrize(
    "name", ["expires_at", "ancestors", "tool_calls", "message", "extras", "key_id"]
)
def test_fields_that_an_older_version_lacks_are_absent(name: str) -> None:
    data = to_json(ANSWERED)
    del data[name]
    assert from_json(data) == ANSWERED


def test_a_cost_is_the_same_text_whatever_zeros_a_store_keeps() -> None:
    lines = {
        to_line(replace(ANSWERED, usage=Usage(cost_usd=Decimal(cost))))
        for cost in ("0.1", "0.100000000000", "1E-1")
    }
    assert len(lines) == 1
    assert b'"cost_usd":"0.1"' in lines.pop()


NAIVE = "2026-01-01T12:00:00"
EARLIER = to_json(FULL_ANSWER)["earlier"]
TRANSCRIPT = to_json(FULL_ANSWER)["transcript"]
BAD: dict[str, Any] = {
    "an unknown member": {"invented_later": 1},
    "an unknown member of usage": {"usage": {"invented_later": 1}},
    "an unknown member of an attempt": {
        "attempts": [{"provider": "a", "model": "b", "outcome": "ok", "latency_ms": 1, "new": 2}]
    },
    "an unknown member of the error": {"error": {"code": "a", "detail": "b", "new": 1}},
    "an id that is none": {"interaction_id": "7"},
    "an earlier record without an id": {"earlier": EARLIER | {"records": [""]}},
    "an earlier part without records": {"earlier": EARLIER | {"records": []}},
    "a root that is none": {"earlier": EARLIER | {"root": "7"}},
    "a negative number of earlier messages": {"earlier": EARLIER | {"messages": -1}},
    "an unknown member of the earlier part": {"earlier": EARLIER | {"new": 1}},
    "an unknown member of the transcript": {"transcript": TRANSCRIPT | {"new": 1}},
    "a digest that is none": {"transcript": TRANSCRIPT | {"digest": "7"}},
    "a text that is none": {"prompt": None},
    "a time that is none": {"created_at": "yesterday"},
    "a time without a zone": {"created_at": NAIVE},
    "a deadline without a zone": {"deadline_at": NAIVE},
    "an expiry without a zone": {"expires_at": NAIVE},
    "a status that is none": {"status": "invented_later"},
    "a number that is a text": {"latency_ms": "fast"},
    "a negative number": {"usage": {"total_tokens": -1}},
    "a number that is too large": {"usage": {"total_tokens": 2**63}},
    "a cost that is no number": {"usage": {"cost_usd": "NaN"}},
    "a cost below zero": {"usage": {"cost_usd": "-1"}},
    "a cost that is too fine": {"usage": {"cost_usd": "0.0000000000001"}},
    "a cost that is too large": {"usage": {"cost_usd": "1000000000000"}},
    "metadata that are no texts": {"metadata": {"a": 1}},
    "a conversation without a name": {"conversation_id": ""},
    "a user that there cannot be": {"user_id": "a/b"},
    "an owner that there cannot be": {"owner": ""},
    "a time beyond all times": {"created_at": "9999-12-31T23:59:59-14:00"},
    "an error without a name": {"error": {"code": "", "detail": "b"}},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_an_object_that_is_not_a_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        from_json({**to_json(ANSWERED), **change})


@pytest.mark.parametrize("data", [None, [], "text", 7, {}])
def test_a_line_without_an_object_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="not a record"):
        from_json(data)


@pytest.mark.parametrize("name", ["status", "prompt", "created_at"])
def test_required_fields_must_be_present(name: str) -> None:
    data = to_json(ANSWERED)
    del data[name]
    with pytest.raises(ValueError, match=name):
        from_json(data)


def test_fields_of_a_newer_version_are_named() -> None:
    with pytest.raises(ValueError, match="unknown to this version: invented_later; was it"):
        from_json({**to_json(ANSWERED), "invented_later": 1})


# --- Any record -----------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NAME = st.text("abcXYZ019._:@|+-", min_size=1, max_size=12).filter(lambda name: name.strip("."))
COUNT = st.none() | st.integers(0, 2**63 - 1)
NUMBER = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
TIME = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
EXPIRY = st.integers(1, 10**5).map(
    lambda hours: datetime.now(UTC).replace(microsecond=0) + timedelta(hours=hours)
)
RECORDS = st.builds(
    InteractionRecord,
    interaction_id=st.uuids().map(str),
    owner=NAME,
    user_id=NAME,
    prompt=TEXT,
    created_at=TIME,
    deadline_at=TIME,
    conversation_id=st.uuids().map(str),
    model=TEXT,
    provider=TEXT,
    request_id=NAME,
    request_hash=st.none() | NAME,
    key_id=st.none() | st.just("0123456789abcdef"),
    expires_at=st.none() | EXPIRY,
    previous_interaction_id=st.none() | st.uuids().map(str),
    ancestors=st.lists(st.uuids().map(str), max_size=3).map(tuple),
    system=st.none() | TEXT | st.just("long " * 500),
    parameters=st.dictionaries(TEXT, JSON, max_size=3),
    metadata=st.dictionaries(TEXT, TEXT, max_size=3),
    status=st.sampled_from(Status),
    response=st.none() | TEXT | st.just("Why is the sky blue? 🦆 " * 200),
    tool_calls=st.lists(st.dictionaries(TEXT, JSON, max_size=2), max_size=2).map(tuple),
    message=st.dictionaries(TEXT, JSON, max_size=3),
    extras=st.dictionaries(TEXT, JSON, max_size=3),
    finish_reason=st.none() | NAME,
    cached=st.booleans(),
    latency_ms=st.none() | st.integers(0, 2**31),
    usage=st.builds(
        Usage,
        prompt_tokens=COUNT,
        completion_tokens=st.none() | st.integers(0, 10**9),
        total_tokens=st.none() | st.integers(0, 10**9),
        cached_tokens=COUNT,
        reasoning_tokens=COUNT,
        # SQLite keeps 15 digits.
        cost_usd=st.none() | st.decimals(0, 999, places=12, allow_nan=False),
    ),
    error=st.none() | st.builds(ErrorInfo, code=NAME, detail=TEXT),
    attempts=st.lists(
        st.builds(Attempt, provider=TEXT, model=TEXT, outcome=NAME, latency_ms=st.integers(0, 9)),
        max_size=2,
    ).map(tuple),
)
PAST = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@given(record=RECORDS)
@settings(max_examples=200, **PAST)
def test_any_record_comes_back_whole(record: InteractionRecord) -> None:
    assert from_json(orjson.loads(to_line(record))) == record


@given(
    records=st.lists(RECORDS, min_size=1, max_size=8, unique_by=lambda each: each.interaction_id)
)
@settings(max_examples=20, **PAST)
def test_any_record_goes_from_store_to_store_whole(
    transactional_db: None, dynamodb: str, records: list[InteractionRecord]
) -> None:
    """SQLite, a file, DynamoDB, a file: the same lines. Counts are not summed beyond 2**63."""
    records = [replace(each, usage=replace(each.usage, prompt_tokens=7)) for each in records]
    backend("sqlite").bulk.import_records(records)
    first = lines_of("sqlite")
    backend("dynamodb").bulk.import_records([from_json(orjson.loads(each)) for each in first])
    assert lines_of("dynamodb") == first
    by_id = {each.interaction_id: each for each in records}
    found = [from_json(orjson.loads(each)) for each in first]
    assert {each.interaction_id: each for each in found} == by_id
    for name in ("sqlite", "dynamodb"):
        backend(name).bulk.purge(Selection(), limit=100)


def lines_of(storage: str) -> list[bytes]:
    return sorted(map(to_line, backend(storage).bulk.scan(Selection(), limit=100).records))
