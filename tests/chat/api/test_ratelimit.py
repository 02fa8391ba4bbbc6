"""Requests per minute, for each key and user."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache.backends.dummy import DummyCache

from tests.client import ApiClient, problem, status_and_code
from tests.factories import (
    ALICE,
    BOB,
    KEY,
    OTHER_KEY,
    Clock,
    FakeProvider,
    all_records,
    run_concurrently,
)

Configure = Callable[..., None]
NAMES = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


pytestmark = pytest.mark.usefixtures("frozen_rate_limit_clock")


class LossyCache(DummyCache):
    """A cache that claims to have every key, and returns none."""

    def add(self, *args: Any, **options: Any) -> bool:
        return False


def rate_limit_headers(response: Any) -> tuple[int, int, int]:
    """Return limit, remaining requests, and seconds until the window ends."""
    limit, remaining, reset = (int(response[name]) for name in NAMES)
    assert 0 <= reset <= 60
    return limit, remaining, reset


def statuses(api: ApiClient, count: int, **options: Any) -> list[int]:
    return [api.chat(**options).status_code for _ in range(count)]


def test_each_answer_reports_the_remaining_requests(
    api: ApiClient, change_settings: Configure
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=3)
    responses = [api.chat() for _ in range(4)]
    assert [response.status_code for response in responses] == [200, 200, 200, 429]
    assert [rate_limit_headers(response)[:2] for response in responses] == [
        (3, 2),
        (3, 1),
        (3, 0),
        (3, 0),
    ]
    assert len({rate_limit_headers(response)[2] for response in responses}) == 1


def test_the_default_limit_is_sixty_a_minute(api: ApiClient) -> None:
    assert Counter(statuses(api, 62)) == {200: 60, 429: 2}


def test_a_rate_limited_response_says_when_to_retry(
    api: ApiClient, change_settings: Configure
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=1)
    api.chat()
    response = api.chat()
    assert problem(response) == {
        "type": "urn:problem:rate_limited",
        "title": "Too many requests",
        "status": 429,
        "detail": "No more than 1 requests a minute.",
        "code": "rate_limited",
        "errors": [],
    }
    assert int(response["Retry-After"]) == max(1, rate_limit_headers(response)[2])
    assert len(all_records()) == 1


def test_a_request_after_retry_after_is_accepted(
    api: ApiClient, change_settings: Configure, frozen_rate_limit_clock: Clock
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=2)
    assert statuses(api, 3) == [200, 200, 429]
    refused = api.chat()
    assert refused["Retry-After"] == refused["X-RateLimit-Reset"]
    frozen_rate_limit_clock.now += int(refused["Retry-After"]) - 1
    assert api.chat()["Retry-After"] == "1"
    frozen_rate_limit_clock.now += 1
    response = api.chat()
    assert response.status_code == 200
    assert rate_limit_headers(response) == (2, 1, 60)
    assert statuses(api, 2) == [200, 429]


def test_users_are_counted_separately(api: ApiClient, change_settings: Configure) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=2)
    assert statuses(api, 3, user=ALICE) == [200, 200, 429]
    assert statuses(api, 3, user=BOB) == [200, 200, 429]


def test_users_with_similar_names_are_counted_separately(
    api: ApiClient, change_settings: Configure
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=1)
    users = ["alice", "Alice", "alice1", "lice", "a:lice", "anyone", "a" * 128, "a" * 127 + "b"]
    assert [api.chat(user=user).status_code for user in users] == [200] * len(users)
    assert [api.chat(user=user).status_code for user in users] == [429] * len(users)


def test_keys_are_counted_separately(
    api: ApiClient, require_api_key: list[str], change_settings: Configure
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=1)
    for key in (KEY, OTHER_KEY):
        assert statuses(api, 2, headers={"X-API-Key": key}) == [200, 429]
        assert statuses(api, 1, headers={"Authorization": f"Bearer {key}"}) == [429]


@pytest.mark.parametrize(
    ("prompt", "status"),
    [
        ("mock:fail", 502),
        ("mock:fail=400", 400),
        ("mock:fail=429", 503),
        ("mock:filter", 422),
        ("mock:fail=timeout", 504),
    ],
)
def test_provider_failures_are_counted(
    api: ApiClient, change_settings: Configure, prompt: str, status: int
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=1)
    response = api.chat(prompt)
    assert response.status_code == status
    assert rate_limit_headers(response)[:2] == (1, 0)
    assert status_and_code(api.chat()) == (429, "rate_limited")


def test_internal_errors_are_counted(api: ApiClient, use_provider: Callable[[Any], None]) -> None:
    use_provider(FakeProvider(RuntimeError("boom")))
    response = api.chat()
    assert response.status_code == 500
    assert rate_limit_headers(response)[:2] == (60, 59)


def test_invalid_requests_are_not_counted(
    api: ApiClient, require_api_key: list[str], change_settings: Configure
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=1)
    key = {"X-API-Key": KEY}
    refused = [
        api.chat(user="", headers=key),
        api.chat("", headers=key),
        api.post("/v1/chat", b"{", headers=key),
        api.post("/v1/chat", b"x" * 1_100_000, headers=key),
        api.post("/v1/chat", b"{}", content_type="text/plain", headers=key),
        api.chat(headers={**key, "Accept": "text/html"}),
        api.chat(),
        api.chat(headers={"X-API-Key": "wrong"}),
        api.get("/v1/chat", headers=key),
        api.get("/v1/interactions/x", headers=key),
        api.get("/v1/health"),
    ]
    assert [name in response for response in refused for name in NAMES].count(True) == 0
    response = api.chat(headers=key)
    assert response.status_code == 200
    assert rate_limit_headers(response)[:2] == (1, 0)


@pytest.mark.parametrize("prompt", ["hi", "mock:fail=garbled"])
def test_a_limit_of_zero_is_no_limit(
    api: ApiClient, change_settings: Configure, prompt: str
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=0)
    responses = [api.chat(prompt) for _ in range(70)]
    assert 429 not in {response.status_code for response in responses}
    assert not any(name in response for response in responses for name in NAMES)


def test_a_changed_limit_restarts_the_count(api: ApiClient, change_settings: Configure) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=1)
    assert statuses(api, 2) == [200, 429]
    change_settings(RATE_LIMIT_PER_MINUTE=2)
    assert statuses(api, 3) == [200, 200, 429]


@pytest.mark.django_db(transaction=True)
def test_concurrent_requests_never_exceed_the_limit(
    handler: Any, change_settings: Configure
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=17)
    responses = run_concurrently(40, lambda number: ApiClient(handler).chat(f"request {number}"))
    assert Counter(response.status_code for response in responses) == {200: 17, 429: 23}
    passed = [response for response in responses if response.status_code == 200]
    assert sorted(rate_limit_headers(response)[1] for response in passed) == list(range(17))
    assert sorted(record.prompt for record in all_records()) == sorted(
        response.json()["prompt"] for response in passed
    )


def test_requests_are_refused_if_they_cannot_be_counted(
    handler: Any, change_settings: Configure, unreachable_database: None
) -> None:
    response = ApiClient(handler).chat()
    assert status_and_code(response) == (503, "storage_unavailable")
    assert not any(name in response for name in NAMES)


def test_a_lost_counter_refuses_requests(api: ApiClient, change_settings: Configure) -> None:
    change_settings(CACHES={"counters": {"BACKEND": "tests.chat.api.test_ratelimit.LossyCache"}})
    assert status_and_code(api.chat()) == (503, "storage_unavailable")
    assert all_records() == []
