"""GET /v1/usage: the usage of the caller's owner, by date, model or user."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from chat import api_keys as managed
from providers.base import Usage
from tests.client import ApiClient, field_errors, status_and_code
from tests.factories import ALICE, ANSWERED, BOB, FAILED, KEY, NOON, store_record

PERIOD = "from=2026-01-01&to=2026-01-31"
NOTHING = {
    "requests": 0,
    "errors": 0,
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "total_tokens": 0,
    "cost_usd": "0",
}
ONE = {
    "requests": 1,
    "errors": 0,
    "prompt_tokens": 9,
    "completion_tokens": 41,
    "total_tokens": 50,
    "cost_usd": "0.000104",
}
FAILURE = {**NOTHING, "requests": 1, "errors": 1}
BOTH = {**ONE, "requests": 2, "errors": 1}


def store_copy(record: Any = ANSWERED, **changes: Any) -> None:
    store_record(replace(record, interaction_id=str(uuid4()), **changes))


def usage(api: ApiClient, query: str = PERIOD, headers: dict[str, str] | None = None) -> Any:
    answer = api.get(f"/v1/usage?{query}", headers=headers)
    assert answer.status_code == 200
    return answer.json()


def test_usage_is_empty_at_first(api: ApiClient, each_storage: str) -> None:
    for group in ("date", "model", "user"):
        found = usage(api, f"group_by={group}")
        assert found == {"items": [], "total": NOTHING, "next_cursor": None}


def test_usage_is_grouped_by_date_model_or_user(api: ApiClient, each_storage: str) -> None:
    store_copy()
    store_copy(FAILED, created_at=NOON + timedelta(days=1), user_id=BOB)
    assert usage(api) == {
        "items": [{"date": "2026-01-01", **ONE}, {"date": "2026-01-02", **FAILURE}],
        "total": BOTH,
        "next_cursor": None,
    }
    by_model = usage(api, f"{PERIOD}&group_by=model")
    assert by_model["items"] == [
        {"model": "model-1", **FAILURE},
        {"model": "model-1-of-today", **ONE},
    ]
    by_user = usage(api, f"{PERIOD}&group_by=user")
    assert by_user["items"] == [{"user": ALICE, **ONE}, {"user": BOB, **FAILURE}]
    assert by_model["total"] == by_user["total"] == BOTH


def test_a_chat_is_counted(api: ApiClient, each_storage: str) -> None:
    answer = api.chat().json()
    api.chat("mock:fail")
    [item] = usage(api, "")["items"]
    assert item.pop("date") == answer["timestamp"][:10]
    assert (item["requests"], item["errors"]) == (2, 1)
    assert item["total_tokens"] == answer["usage"]["total_tokens"]


def test_a_cached_answer_counts_as_a_request_at_no_cost(
    api: ApiClient, each_storage: str, change_settings: Callable[..., None]
) -> None:
    change_settings(ENABLE_CACHE=True)
    assert [api.chat().json()["cached"] for _ in range(2)] == [False, True]
    assert usage(api, "")["total"]["requests"] == 2


def test_a_replay_does_not_count_as_a_request(api: ApiClient, each_storage: str) -> None:
    for _ in range(2):
        assert api.chat(headers={"Idempotency-Key": "1"}).status_code == 200
    assert usage(api, "")["total"]["requests"] == 1


def test_the_default_period_is_the_last_thirty_days(api: ApiClient, each_storage: str) -> None:
    today = datetime.now(UTC)
    for days in (0, 29, 30):
        store_copy(created_at=today - timedelta(days=days))
    dates = [item["date"] for item in usage(api, "")["items"]]
    assert dates == [(today - timedelta(days=days)).date().isoformat() for days in (29, 0)]


@pytest.mark.parametrize(
    ("query", "dates"),
    [
        ("from=2026-01-02&to=2026-01-03", ["2026-01-02", "2026-01-03"]),
        ("from=2026-01-03&to=2026-01-03", ["2026-01-03"]),
        ("to=2026-01-02", ["2026-01-01", "2026-01-02"]),
        ("from=2025-02-01&to=2026-02-01", ["2026-01-01", "2026-01-02", "2026-01-03"]),
    ],
)
def test_a_period_can_be_given(
    api: ApiClient, each_storage: str, query: str, dates: list[str]
) -> None:
    for days in range(3):
        store_copy(created_at=NOON + timedelta(days=days))
    found = usage(api, query)
    assert [item["date"] for item in found["items"]] == dates
    assert found["total"]["requests"] == len(dates)


def test_users_are_paged_and_the_total_covers_all(api: ApiClient, each_storage: str) -> None:
    for user in "abcde":
        store_copy(user_id=user)
    query, found = f"{PERIOD}&group_by=user&limit=2", []
    cursor = ""
    for _ in range(3):
        page = usage(api, query + cursor)
        assert page["total"]["requests"] == 5
        found.append([item["user"] for item in page["items"]])
        cursor = f"&cursor={page['next_cursor']}"
    assert found == [["a", "b"], ["c", "d"], ["e"]]
    assert page["next_cursor"] is None


def test_a_caller_sees_its_owner_s_usage(
    api: ApiClient, each_storage: str, require_api_key: list[str]
) -> None:
    _, key = managed.create(owner="team:blue", name="app")
    _, stranger = managed.create(owner="team:red", name="app")
    store_copy(owner="team:blue")
    store_copy(FAILED)
    assert usage(api, headers={"X-API-Key": key})["total"] == ONE
    assert usage(api, headers={"X-API-Key": stranger})["total"] == NOTHING
    assert usage(api, headers={"X-API-Key": KEY})["total"] == FAILURE


def test_a_cursor_is_valid_for_one_owner(
    api: ApiClient, each_storage: str, require_api_key: list[str]
) -> None:
    for user in "ab":
        store_copy(user_id=user)
    _, key = managed.create(owner="team:blue", name="app")
    query = f"{PERIOD}&group_by=user&limit=1"
    cursor = usage(api, query, {"X-API-Key": KEY})["next_cursor"]
    answer = api.get(f"/v1/usage?{query}&cursor={cursor}", headers={"X-API-Key": key})
    assert field_errors(answer) == [("cursor", "invalid")]


def test_an_api_key_is_required(api: ApiClient, require_api_key: list[str]) -> None:
    assert status_and_code(api.get("/v1/usage")) == (401, "missing_api_key")
    assert status_and_code(api.get("/v1/usage?from=x")) == (401, "missing_api_key")


@pytest.mark.parametrize(
    ("query", "faults"),
    [
        ("from=x", [("from", "invalid")]),
        ("to=2026-13-01", [("to", "invalid")]),
        ("from=2026-01-02T00:00", [("from", "invalid")]),
        ("from=0001-01-01", [("from", "min_value")]),
        ("to=0001-01-01", [("to", "min_value")]),
        ("from=2026-01-02&to=2026-01-01", [("", "order")]),
        ("from=2025-01-01&to=2026-01-02", [("", "length")]),
        ("from=9999-12-31", [("", "order")]),
        ("group_by=key", [("group_by", "invalid_choice")]),
        ("group_by=", [("group_by", "invalid_choice")]),
        ("limit=0", [("limit", "min_value")]),
        ("limit=1001", [("limit", "max_value")]),
        ("limit=x", [("limit", "invalid")]),
        ("group_by=user&cursor=x", [("cursor", "invalid")]),
        ("group_by=user&cursor=%00", [("cursor", "null_characters_not_allowed")]),
    ],
)
def test_an_invalid_query_names_the_field(
    api: ApiClient, query: str, faults: list[tuple[str, str]]
) -> None:
    assert field_errors(api.get(f"/v1/usage?{query}")) == faults


def test_usage_without_storage_is_a_503(handler: Any, unreachable_database: None) -> None:
    assert status_and_code(ApiClient(handler).get("/v1/usage")) == (503, "storage_unavailable")


def test_cost_is_written_as_a_plain_decimal(api: ApiClient, each_storage: str) -> None:
    store_copy(usage=Usage(cost_usd=Decimal("100")))
    assert usage(api)["total"]["cost_usd"] == "100"
