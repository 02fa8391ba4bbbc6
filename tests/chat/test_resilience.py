"""A vendor that is slow, limited, down or lying: what it is asked, what the client is told, and
what the record says. The end of the run prints the results as a table."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from django.test import Client

from chat import model_catalog
from chat.models import Interaction
from providers.circuit_breaker import CircuitBreaker
from tests.factories import Clock
from tests.stub_vendor import OPENAI_ANSWER, StubVendor

pytestmark = pytest.mark.django_db(transaction=True)

DEADLINE = 20.0  # less than any wait that a vendor asks for in vain
# An answer may come this long after the deadline. Ignoring the deadline would take much longer.
DEADLINE_SLACK = 3.0
IN_38_S = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "38s"}
BUSY = {"error": {"message": "busy", "code": "rate_limited"}}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What a vendor does, and what follows. `wait` is the least time it takes, in seconds.

    The usual deadline leaves time for all retries on a machine that is busy: one that no longer
    fits before it is not made.
    """

    name: str
    script: Callable[[StubVendor], None]
    calls: int
    status: int
    code: str | None = None
    outcomes: tuple[str, ...]
    provider: str = "openai"
    deadline: float = DEADLINE
    wait: float = 0.0
    retry_after: str | None = None


def slow(vendor: StubVendor) -> None:
    vendor.reply(OPENAI_ANSWER, delay=30)


def trickled_body(vendor: StubVendor) -> None:
    vendor.reply(OPENAI_ANSWER, body_pace=(1, 0.2))


def trickled_head(vendor: StubVendor) -> None:
    vendor.reply(OPENAI_ANSWER, head_pace=(1, 0.2))


def refusal(error: dict[str, object]) -> Callable[[StubVendor], None]:
    return lambda vendor: vendor.reply({"error": error}, status=429)


def status(number: int, **headers: str) -> Callable[[StubVendor], None]:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda vendor: vendor.reply(BUSY, status=number, headers=fields)


def then_answer(script: Callable[[StubVendor], None]) -> Callable[[StubVendor], None]:
    def both(vendor: StubVendor) -> None:
        script(vendor)
        vendor.reply(OPENAI_ANSWER)

    return both


def half_a_body(vendor: StubVendor) -> None:
    vendor.reply(OPENAI_ANSWER, cut=40)


def html(vendor: StubVendor) -> None:
    vendor.reply("<h1>Log in</h1>", headers={"content-type": "text/html"})


def error_inside(vendor: StubVendor) -> None:
    vendor.reply({"error": {"code": 503, "message": "down"}})


def empty_answer(vendor: StubVendor) -> None:
    vendor.reply({"choices": [{"finish_reason": "stop", "message": {"content": ""}}]})


FAILED = ("provider_error",)
BUSY_OUT = ("provider_unavailable",)
SCENARIOS = [
    Scenario(
        name="answers",
        script=lambda vendor: vendor.reply(OPENAI_ANSWER),
        calls=1,
        status=200,
        outcomes=("ok",),
    ),
    Scenario(
        name="500, then answers",
        script=then_answer(status(500)),
        calls=2,
        status=200,
        outcomes=(*FAILED, "ok"),
    ),
    Scenario(
        name="500 always",
        script=status(500),
        calls=3,
        status=502,
        code="provider_error",
        outcomes=FAILED * 3,
    ),
    Scenario(
        name="503 always",
        script=status(503),
        calls=3,
        status=503,
        code="provider_unavailable",
        outcomes=BUSY_OUT * 3,
        retry_after="10",
    ),
    Scenario(
        name="429, Retry-After: 1, then answers",
        script=then_answer(status(429, Retry_After="1")),
        calls=2,
        status=200,
        outcomes=(*BUSY_OUT, "ok"),
        wait=1.0,
    ),
    Scenario(
        name="429, Retry-After: 60",
        script=status(429, Retry_After="60"),
        calls=1,
        status=503,
        code="provider_unavailable",
        outcomes=BUSY_OUT,
        retry_after="60",
    ),
    Scenario(
        name="429 always, no Retry-After",
        script=status(429),
        calls=3,
        status=503,
        code="provider_unavailable",
        outcomes=BUSY_OUT * 3,
        retry_after="10",
    ),
    Scenario(
        name="429, no credit left",
        script=refusal({"code": "insufficient_quota", "message": "no"}),
        calls=1,
        status=503,
        code="provider_unavailable",
        outcomes=BUSY_OUT,
        retry_after="3600",
    ),
    Scenario(
        name="429, Gemini's quota of a day",
        script=refusal({"details": [{"violations": [{"quotaId": "RequestsPerDay"}]}, IN_38_S]}),
        provider="gemini",
        calls=1,
        status=503,
        code="provider_unavailable",
        outcomes=BUSY_OUT,
        retry_after="3600",
    ),
    Scenario(
        name="401",
        script=status(401),
        calls=1,
        status=502,
        code="provider_error",
        outcomes=FAILED,
    ),
    Scenario(
        name="400",
        script=status(400),
        calls=1,
        status=400,
        code="provider_rejected",
        outcomes=("provider_rejected",),
    ),
    Scenario(
        name="connection reset, then answers",
        script=then_answer(lambda vendor: vendor.reset()),
        calls=2,
        status=200,
        outcomes=(*FAILED, "ok"),
    ),
    Scenario(
        name="connection reset always",
        script=lambda vendor: vendor.reset(),
        calls=3,
        status=502,
        code="provider_error",
        outcomes=FAILED * 3,
    ),
    Scenario(
        name="half a body",
        script=half_a_body,
        calls=1,
        status=502,
        code="provider_error",
        outcomes=FAILED,
    ),
    Scenario(
        name="200 with HTML",
        script=html,
        calls=1,
        status=502,
        code="provider_error",
        outcomes=FAILED,
    ),
    Scenario(
        name="200 with an error inside",
        script=error_inside,
        provider="openrouter",
        calls=3,
        status=503,
        code="provider_unavailable",
        outcomes=BUSY_OUT * 3,
        retry_after="10",
    ),
    Scenario(
        name="200 with an empty answer",
        script=empty_answer,
        calls=2,
        status=502,
        code="provider_error",
        outcomes=FAILED * 2,
    ),
    Scenario(
        name="headers too late",
        script=slow,
        calls=1,
        status=504,
        code="provider_timeout",
        outcomes=("provider_timeout",),
        deadline=0.5,
        wait=0.5,
    ),
    Scenario(
        name="trickled headers",
        script=trickled_head,
        calls=1,
        status=504,
        code="provider_timeout",
        outcomes=("provider_timeout",),
        deadline=0.5,
        wait=0.5,
    ),
    Scenario(
        name="trickled body",
        script=trickled_body,
        calls=1,
        status=504,
        code="provider_timeout",
        outcomes=("provider_timeout",),
        deadline=0.5,
        wait=0.5,
    ),
]


@pytest.fixture
def vendor() -> Iterator[StubVendor]:
    with StubVendor() as vendor:
        yield vendor


@pytest.fixture
def fallback() -> Iterator[StubVendor]:
    with StubVendor() as fallback:
        yield fallback


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """Freeze the circuit breaker's clock."""
    clock = Clock(1000.0)
    monkeypatch.setattr("providers.circuit_breaker.time", clock)
    return clock


@pytest.fixture
def configure_providers(settings) -> Iterator[Callable[..., None]]:
    """A function that configures these stub vendors as providers, in order of priority."""

    def point(
        *vendors: StubVendor,
        names: tuple[str, ...] = ("openai", "openrouter"),
        deadline: float = DEADLINE,
        **overrides: object,
    ) -> None:
        settings.PROVIDERS = {
            name: {"api_key": "key", "base_url": vendor.url, "model": f"{name}-model"}
            for name, vendor in zip(names, vendors, strict=False)
        }
        settings.REQUEST_TIMEOUT_SECONDS = deadline
        for name, value in overrides.items():
            setattr(settings, name, value)
        model_catalog.router.cache_clear()

    yield point
    model_catalog.router.cache_clear()


def ask(client: Client, **headers: str):
    body = {"userId": "user123", "prompt": "Olá!"}
    return client.post("/v1/chat", body, content_type="application/json", headers=headers)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_vendor_failure_has_the_documented_outcome(
    scenario, client, vendor, configure_providers, record_property
):
    configure_providers(vendor, names=(scenario.provider,), deadline=scenario.deadline)
    scenario.script(vendor)

    started = time.monotonic()
    response = ask(client)
    elapsed = time.monotonic() - started

    row = Interaction.objects.get()
    record_property(
        "resilience",
        f"{scenario.name:34} {len(vendor.requests):5} {response.status_code:6}"
        f" {response.json().get('code') or '':21} {elapsed:5.2f} of {scenario.deadline:4.1f} s"
        f"  {row.status}: {', '.join(attempt['outcome'] for attempt in row.attempts)}",
    )
    assert response.status_code == scenario.status
    assert response.json().get("code") == scenario.code
    assert response.headers.get("Retry-After") == scenario.retry_after
    assert len(vendor.requests) == scenario.calls
    assert scenario.wait <= elapsed < scenario.deadline + DEADLINE_SLACK
    assert row.status == ("ok" if scenario.status == 200 else "error")
    assert row.error_code == scenario.code
    assert tuple(attempt["outcome"] for attempt in row.attempts) == scenario.outcomes


def attempts(row: Interaction) -> list[tuple[str, str]]:
    return [(attempt["provider"], attempt["outcome"]) for attempt in row.attempts]


def test_the_fallback_answers_when_the_primary_is_down(
    client, vendor, fallback, configure_providers
):
    configure_providers(vendor, fallback)
    status(500)(vendor)
    response = ask(client)
    assert response.status_code == 200
    assert response.json()["provider"] == "openrouter"
    assert (len(vendor.requests), len(fallback.requests)) == (3, 1)
    assert attempts(Interaction.objects.get()) == [("openai", "provider_error")] * 3 + [
        ("openrouter", "ok")
    ]


def test_garbled_answers_go_to_the_fallback_at_once(client, vendor, fallback, configure_providers):
    configure_providers(vendor, fallback)
    half_a_body(vendor)
    assert ask(client).json()["provider"] == "openrouter"
    assert (len(vendor.requests), len(fallback.requests)) == (1, 1)


def test_a_rejected_request_is_not_offered_to_the_fallback(
    client, vendor, fallback, configure_providers
):
    configure_providers(vendor, fallback)
    status(400)(vendor)
    assert ask(client).json()["code"] == "provider_rejected"
    assert len(fallback.requests) == 0


def test_without_fallback_only_the_primary_is_asked(client, vendor, fallback, configure_providers):
    configure_providers(vendor, fallback, LLM_FALLBACK=False)
    status(401)(vendor)
    assert ask(client).status_code == 502
    assert len(fallback.requests) == 0


def test_never_more_calls_than_retries_and_providers_allow(
    client, vendor, fallback, configure_providers
):
    configure_providers(vendor, fallback)
    status(500)(vendor)
    status(503)(fallback)
    response = ask(client)
    assert (response.status_code, response.json()["code"]) == (502, "provider_error")
    assert (len(vendor.requests), len(fallback.requests)) == (3, 3)


def test_if_all_providers_are_overloaded_the_shortest_wait_is_returned(
    client, vendor, fallback, configure_providers
):
    configure_providers(vendor, fallback)
    status(429, Retry_After="60")(vendor)
    status(429, Retry_After="30")(fallback)
    response = ask(client)
    assert (response.status_code, response.json()["code"]) == (503, "provider_unavailable")
    assert response.headers["Retry-After"] == "30"


@pytest.mark.parametrize("first_has_credit", [True, False])
def test_if_one_of_two_providers_has_credit_a_retry_may_help(
    client, vendor, fallback, configure_providers, first_has_credit
):
    configure_providers(vendor, fallback)
    busy, spent = (vendor, fallback) if first_has_credit else (fallback, vendor)
    status(429)(busy)
    refusal({"code": "insufficient_quota", "message": "no"})(spent)
    response = ask(client)
    assert (response.status_code, response.json()["code"]) == (503, "provider_unavailable")
    assert response.headers["Retry-After"] == "10"


def test_the_deadline_ends_all_slow_calls(client, vendor, fallback, configure_providers):
    configure_providers(vendor, fallback, deadline=0.5)
    slow(vendor)
    slow(fallback)
    started = time.monotonic()
    response = ask(client)
    assert response.status_code == 504
    assert 0.5 <= time.monotonic() - started < 0.5 + DEADLINE_SLACK
    assert (len(vendor.requests), len(fallback.requests)) == (1, 0)


def test_an_open_circuit_skips_the_provider_and_then_allows_one_trial(
    client, vendor, configure_providers, clock, log_lines
):
    configure_providers(vendor, CIRCUIT_BREAKER_THRESHOLD=3, CIRCUIT_BREAKER_TIMEOUT=1.0)
    status(500)(vendor)
    assert ask(client).json()["code"] == "provider_error"
    assert len(vendor.requests) == 3

    skipped = ask(client)
    assert (skipped.status_code, skipped.headers["Retry-After"]) == (503, "1")
    assert skipped.json()["detail"].endswith("(circuit breaker open).")
    assert log_lines()[-1]["reason"] == "circuit_open"
    assert len(vendor.requests) == 3
    assert Interaction.objects.count() == 2
    assert Interaction.objects.earliest("-created_at").attempts == []

    clock.now += 1.05
    assert ask(client).status_code == 502
    assert len(vendor.requests) == 4

    clock.now += 1.05
    vendor.clear()
    vendor.reply(OPENAI_ANSWER)
    assert [ask(client).status_code for _ in range(2)] == [200, 200]


def test_a_provider_with_an_open_circuit_is_skipped_for_the_fallback(
    client, vendor, fallback, configure_providers
):
    configure_providers(vendor, fallback, CIRCUIT_BREAKER_THRESHOLD=1)
    status(401)(vendor)
    assert [ask(client).status_code for _ in range(3)] == [200, 200, 200]
    assert (len(vendor.requests), len(fallback.requests)) == (1, 3)


def test_failures_of_the_mock_never_open_its_circuit(client, settings):
    model_catalog.router.cache_clear()
    settings.CIRCUIT_BREAKER_THRESHOLD = 1
    body = {"userId": "user123", "prompt": "mock:fail=401"}
    answers = [client.post("/v1/chat", body, content_type="application/json") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [502, 502, 502]
    assert ask(client).status_code == 200
    model_catalog.router.cache_clear()


def test_a_named_model_is_never_replaced(client, vendor, fallback, configure_providers):
    configure_providers(vendor, fallback)
    status(401)(vendor)
    body = {"userId": "user123", "prompt": "Olá!", "model": "openai-model"}
    response = client.post("/v1/chat", body, content_type="application/json")
    assert response.status_code == 502
    assert len(fallback.requests) == 0


@pytest.mark.parametrize(
    "first", [b"HTTP/1.1 200 OK\r\ncontent-type: app", b"no HTTP at all\r\n\r\n"]
)
def test_after_the_first_byte_the_same_vendor_is_not_asked_again(
    client, vendor, fallback, configure_providers, first
):
    configure_providers(vendor, fallback)
    vendor.send(first)
    assert ask(client).json()["provider"] == "openrouter"
    assert (len(vendor.requests), len(fallback.requests)) == (1, 1)


@pytest.mark.parametrize(("script", "calls"), [(status(404), 1), (empty_answer, 2)])
def test_failures_that_clients_can_cause_do_not_open_the_circuit(
    client, vendor, configure_providers, script, calls
):
    configure_providers(vendor, CIRCUIT_BREAKER_THRESHOLD=2)
    script(vendor)
    assert [ask(client).status_code for _ in range(4)] == [502] * 4
    assert len(vendor.requests) == 4 * calls


def test_only_one_trial_call_runs_at_a_time(clock):
    breaker = CircuitBreaker(threshold=1, reset_timeout=0.05)
    earlier = breaker.allow(10)
    breaker.record_failure()
    clock.now += 0.06
    trial = breaker.allow(10)
    assert trial
    clock.now += 0.06
    breaker.release(earlier)
    assert not breaker.allow(10)
    breaker.release(trial)
    assert breaker.allow(10)
    assert not breaker.allow(10)
    breaker.record_success()
    assert breaker.allow(10)
