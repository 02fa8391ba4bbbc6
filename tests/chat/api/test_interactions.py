"""GET /v1/interactions/{interaction_id}: one record."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from unittest.mock import ANY

import pytest

from chat.storage.base import InteractionRecord
from providers.base import Usage
from tests.client import ApiClient, problem, status_and_code
from tests.factories import ANSWERED, FAILED, PENDING, store_record

ID = PENDING.interaction_id
REQUEST = {
    "interaction_id": ID,
    "userId": "alice",
    "prompt": "Olá!",
    "model": "model-1",
    "timestamp": "2026-01-01T12:00:00.123456Z",
    "reasoning": None,
    "conversation_id": ID,
    "previous_interaction_id": None,
    "provider": "openai",
    "cached": False,
    "metadata": {},
}
UNKNOWN_USAGE = {
    "prompt_tokens": None,
    "completion_tokens": None,
    "total_tokens": None,
    "cached_tokens": None,
    "reasoning_tokens": None,
    "cost_usd": None,
}


def pending(*, past: timedelta) -> InteractionRecord:
    """Store an unsettled claim whose deadline passed this long ago."""
    now = datetime.now(UTC)
    return replace(PENDING, created_at=now - past - timedelta(25), deadline_at=now - past)


def test_an_answer_can_be_read_by_its_id(api: ApiClient) -> None:
    answer = api.chat("Olá!", metadata={"ticket": "7"}).json()
    response = api.get(f"/v1/interactions/{answer['interaction_id']}")
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert response.json() == answer | {
        "status": "ok",
        "error": None,
        "attempts": [
            {
                "provider": "mock",
                "model": "mock-1",
                "outcome": "ok",
                "latency_ms": ANY,
                "usage": answer["usage"],
            }
        ],
    }


def test_a_record_has_every_field(api: ApiClient) -> None:
    store_record(
        replace(ANSWERED, metadata={"ticket": "7"}, previous_interaction_id=ID, cached=True)
    )
    assert api.get(f"/v1/interactions/{ID}").json() == REQUEST | {
        "status": "ok",
        "response": "Olá! Como posso ajudar?",
        "model": "model-1-of-today",
        "finish_reason": "stop",
        "cached": True,
        "latency_ms": 812,
        "previous_interaction_id": ID,
        "metadata": {"ticket": "7"},
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 41,
            "total_tokens": 50,
            "cached_tokens": 4,
            "reasoning_tokens": 30,
            "cost_usd": "0.000104",
        },
        "error": None,
        "attempts": [
            {"provider": "openai", "model": "model-1", "outcome": "ok", "latency_ms": 805}
        ],
    }


def test_a_failure_s_record_says_why_there_is_no_answer(api: ApiClient) -> None:
    store_record(FAILED)
    assert api.get(f"/v1/interactions/{ID}").json() == REQUEST | {
        "status": "error",
        "response": None,
        "finish_reason": None,
        "latency_ms": 7,
        "usage": UNKNOWN_USAGE,
        "error": {"code": "provider_error", "detail": "The provider failed."},
        "attempts": [
            {"provider": "openai", "model": "model-1", "outcome": "provider_error", "latency_ms": 6}
        ],
    }


def test_a_failed_request_s_record_is_found_by_the_id_in_the_log(
    api: ApiClient, log_lines: Callable[[], list[dict[str, str]]]
) -> None:
    assert status_and_code(api.chat("mock:filter")) == (422, "content_filtered")
    interaction_id = log_lines()[-1]["interaction_id"]
    assert api.get(f"/v1/interactions/{interaction_id}").json()["status"] == "error"


@pytest.mark.parametrize(
    ("past", "status"), [(-20, "pending"), (0, "pending"), (4, "pending"), (6, "aborted")]
)
def test_an_unsettled_claim_is_aborted_five_seconds_after_its_deadline(
    api: ApiClient, past: int, status: str
) -> None:
    record = store_record(pending(past=timedelta(seconds=past)))
    assert api.get(f"/v1/interactions/{ID}").json() == REQUEST | {
        "timestamp": record.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "status": status,
        "response": None,
        "finish_reason": None,
        "latency_ms": None,
        "usage": UNKNOWN_USAGE,
        "error": None,
        "attempts": [],
    }


@pytest.mark.parametrize("record", [ANSWERED, FAILED], ids=["ok", "error"])
def test_a_settled_record_keeps_its_status_after_its_deadline(
    api: ApiClient, record: InteractionRecord
) -> None:
    store_record(record)
    assert api.get(f"/v1/interactions/{ID}").json()["status"] == record.status


def test_another_owner_s_record_is_not_found(api: ApiClient) -> None:
    store_record(replace(ANSWERED, owner="somebody-else"))
    response = api.get(f"/v1/interactions/{ID}")
    assert status_and_code(response) == (404, "not_found")
    unknown = api.get(f"/v1/interactions/{ID[:-1]}f")
    assert [response.json()[key] for key in ("title", "detail", "errors")] == [
        unknown.json()[key] for key in ("title", "detail", "errors")
    ]


def test_the_keys_of_one_owner_see_the_same_records(
    api: ApiClient, require_api_key: list[str]
) -> None:
    first, second = ({"X-API-Key": key} for key in require_api_key)
    interaction_id = api.chat(headers=first).json()["interaction_id"]
    assert api.get(f"/v1/interactions/{interaction_id}", headers=second).status_code == 200


NOTHING = {
    "unknown": "01998a6e-6f4c-7c3e-9d57-3f1a2b4c5d6f",
    "too short": ID[:-1],
    "too long": ID + "0",
    "not hexadecimal": ID[:-1] + "g",
    "a word": "chat",
    "a number": "1",
    "a user": "alice",
    "a NUL": ID + "%00",
    "a line feed": ID + "%0A",
    "a space": "%20" + ID,
    "a percent sign": "%25",
    "invalid UTF-8": "%ff%fe",
    "digits that are not ASCII": "%D9%A3" * 32,
    "an injection": "'%20OR%201=1--",
    "the nil UUID": "00000000-0000-0000-0000-000000000000",
    "very long": "0" * 5000,
    "dots": "...",
}


@pytest.mark.parametrize("interaction_id", NOTHING.values(), ids=NOTHING)
def test_an_unknown_id_is_not_found(api: ApiClient, interaction_id: str) -> None:
    store_record(ANSWERED)
    assert status_and_code(api.get(f"/v1/interactions/{interaction_id}")) == (404, "not_found")


@pytest.mark.parametrize(
    "spelled",
    [ID.upper(), ID.replace("-", ""), f"urn:uuid:{ID}", f"%7B{ID}%7D"],
    ids=["in capitals", "without hyphens", "as a URN", "in braces"],
)
def test_any_spelling_of_a_uuid_is_accepted(api: ApiClient, spelled: str) -> None:
    store_record(ANSWERED)
    assert api.get(f"/v1/interactions/{spelled}").json()["interaction_id"] == ID


def test_head_returns_no_body(api: ApiClient) -> None:
    store_record(ANSWERED)
    response = api.request("HEAD", f"/v1/interactions/{ID}")
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        ("0", "0"),
        ("0.000000000001", "0.000000000001"),
        ("0.000104", "0.000104"),
        ("0.10", "0.1"),
        ("3", "3"),
        ("10", "10"),
        ("100000", "100000"),
        ("12.345678", "12.345678"),
    ],
)
def test_a_cost_is_shown_without_exponent_or_trailing_zeros(
    api: ApiClient, cost: str, shown: str
) -> None:
    store_record(replace(ANSWERED, usage=Usage(cost_usd=Decimal(cost))))
    assert api.get(f"/v1/interactions/{ID}").json()["usage"]["cost_usd"] == shown


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"interactions/{ID}"),
        ("GET", "users/alice/interactions"),
        ("DELETE", "users/alice/interactions"),
        ("GET", f"conversations/{ID}"),
    ],
)
def test_unreachable_storage_is_a_503(
    handler: object, unreachable_database: None, method: str, path: str
) -> None:
    response = ApiClient(handler).request(method, f"/v1/{path}")
    assert status_and_code(response) == (503, "storage_unavailable")
    assert problem(response)["detail"] == "The storage cannot be used at the moment; try again."
    assert response["Retry-After"] == "5"


def test_reads_do_not_count_against_the_rate_limit(
    api: ApiClient, change_settings: Callable[..., None]
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=1)
    store_record(ANSWERED)
    responses = [api.get(f"/v1/interactions/{ID}") for _ in range(3)]
    assert [response.status_code for response in responses] == [200, 200, 200]
    assert not any("X-RateLimit-Limit" in response for response in responses)
