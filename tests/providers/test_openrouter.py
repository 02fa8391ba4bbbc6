import time
from decimal import Decimal
from typing import Any

import pytest

from providers.base import Completion, Usage
from providers.errors import (
    ContentFiltered,
    EmptyAnswer,
    ModelUnavailable,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderOverloaded,
    RequestRejected,
)
from providers.openrouter import OpenRouter
from tests.providers.factories import (
    KEY,
    PROMPT,
    REQUEST,
    ErrorSummary,
    complete,
    error_summary,
    load_recording,
    raised_error,
    reply_with_recording,
    summarize,
)
from tests.stub_vendor import StubVendor


@pytest.fixture
def openrouter(stub_vendor: StubVendor) -> OpenRouter:
    return OpenRouter(api_key=KEY, base_url=f"{stub_vendor.url}/api/v1", model="openrouter/free")


def soon(seconds: float) -> str:
    """Return a point in time as OpenRouter writes it."""
    return str(round((time.time() + seconds) * 1000))


def test_max_tokens_is_always_sent(stub_vendor: StubVendor, openrouter: OpenRouter):
    complete(openrouter)
    complete(openrouter, REQUEST._replace(parameters={"max_tokens": 16}, end_user="3f1c"))
    first, second = stub_vendor.requests
    assert (first.method, first.path) == ("POST", "/api/v1/chat/completions")
    assert first.headers["authorization"] == f"Bearer {KEY}"
    asked = {"model": "model-1", "messages": [{"role": "user", "content": PROMPT}]}
    assert first.json == {**asked, "max_tokens": 8192}
    assert second.json == {**asked, "max_tokens": 16, "user": "3f1c"}


def test_an_answer_has_its_reported_cost(stub_vendor: StubVendor, openrouter: OpenRouter):
    reply_with_recording(stub_vendor, "openrouter_success_usage_cost")
    assert complete(openrouter) == Completion(
        message={"content": "Bonjour ! Comment puis-je vous aider ?"},
        model="google/gemini-3.5-flash-lite",
        finish_reason="stop",
        usage=Usage(
            prompt_tokens=412,
            completion_tokens=58,
            total_tokens=470,
            cached_tokens=256,
            reasoning_tokens=41,
            cost_usd=Decimal("0.0001951"),
        ),
        extras={
            "provider": "Google AI Studio",
            "choice": {"native_finish_reason": "STOP"},
            "usage": {
                "prompt_tokens_details": dict.fromkeys(
                    ("cache_write_tokens", "audio_tokens", "video_tokens"), 0
                ),
                "completion_tokens_details": {"audio_tokens": 0, "image_tokens": 0},
            },
        },
    )


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (b'{"cost": 2.88e-05}', "0.0000288"),
        (b'{"cost": 0}', "0"),
        (b'{"cost": 3}', "3"),
        (b'{"cost": -0.0}', "0.0"),
        (b'{"cost": 0.12345678901234567890}', "0.123456789012"),
        (b'{"cost": 1e-400}', "0"),
        (b'{"cost": null}', None),
        (b'{"cost": "0.1"}', None),
        (b'{"cost": true}', None),
        (b'{"cost": -0.1}', None),
        (b'{"cost": NaN}', None),
        (b'{"cost": Infinity}', None),
        (b'{"cost": 1e400}', None),
        (b'{"cost": 1000001}', None),
        (
            b'{"cost": 0.01, "is_byok": false, "cost_details": {"upstream_inference_cost": 1}}',
            "0.01",
        ),
        (
            b'{"cost": 0.01, "is_byok": true, "cost_details": {"upstream_inference_cost": 0.2}}',
            "0.21",
        ),
        (
            b'{"cost": 0.01, "is_byok": true, "cost_details": {"upstream_inference_cost": null}}',
            None,
        ),
        (b'{"cost": 0.01, "is_byok": true, "cost_details": null}', None),
        (b'{"is_byok": true, "cost_details": {"upstream_inference_cost": 0.2}}', None),
        (b"[]", None),
        (b"null", None),
    ],
)
def test_the_cost_is_the_final_price_or_unknown(
    stub_vendor: StubVendor, openrouter: OpenRouter, usage: bytes, cost: str | None
):
    stub_vendor.reply(b'{"choices": [{"message": {"content": "Hi."}}], "usage": %b}' % usage)
    assert complete(openrouter).usage == Usage(cost_usd=None if cost is None else Decimal(cost))


@pytest.mark.parametrize(
    ("fixture", "expected", "reason"),
    [
        (
            "openrouter_200_top_level_error",
            ErrorSummary(ProviderFailed, retry=True),
            "HTTP 502 provider_unavailable",
        ),
        ("openrouter_200_empty", ErrorSummary(ProviderOverloaded, retry=True), "no_text"),
        ("openrouter_401", ErrorSummary(ProviderMisconfigured), "HTTP 401"),
        (
            "openrouter_402_credits",
            ErrorSummary(ProviderMisconfigured),
            "HTTP 402 payment_required openrouter_credits",
        ),
        (
            "openrouter_402_max_tokens",
            ErrorSummary(ProviderMisconfigured),
            "HTTP 402 openrouter_key_limit",
        ),
        ("openrouter_403_moderation", ErrorSummary(ContentFiltered), "HTTP 403"),
        (
            "openrouter_429_availability",
            ErrorSummary(ProviderOverloaded, retry=True, retry_after=40.0),
            "HTTP 429 rate_limit_exceeded capacity_exhausted",
        ),
    ],
)
def test_recorded_errors_are_classified(
    stub_vendor: StubVendor,
    openrouter: OpenRouter,
    fixture: str,
    expected: ErrorSummary,
    reason: str,
):
    reply_with_recording(stub_vendor, fixture)
    error = raised_error(openrouter)
    assert summarize(error) == expected
    assert error.reason == reason


def test_a_rate_limit_ends_at_its_reset(stub_vendor: StubVendor, openrouter: OpenRouter):
    recorded = load_recording("openrouter_429_platform")
    headers = recorded["headers"] | {"x-ratelimit-reset": soon(30)}
    stub_vendor.reply(recorded["body"], status=429, headers=headers)
    error = raised_error(openrouter)
    assert (type(error), error.retry) == (ProviderOverloaded, True)
    assert error.retry_after == pytest.approx(30, abs=5)


def test_a_daily_limit_is_not_retried_and_its_reset_is_read_from_the_body(
    stub_vendor: StubVendor, openrouter: OpenRouter
):
    recorded = load_recording("openrouter_429_free_daily")
    recorded["body"]["error"]["metadata"]["headers"]["X-RateLimit-Reset"] = soon(3600)
    stub_vendor.reply(recorded["body"], status=429)
    error = raised_error(openrouter)
    assert (type(error), error.retry, error.fallback) == (ProviderOverloaded, False, True)
    assert error.retry_after == pytest.approx(3600, abs=5)
    assert error.reason == "HTTP 429 openrouter_free_tier_daily"


@pytest.mark.parametrize(
    ("reset", "seconds"), [("0", 0.0), ("9" * 20, 86400.0), ("9" * 400, None), ("soon", None)]
)
def test_an_invalid_reset_is_ignored(
    stub_vendor: StubVendor, openrouter: OpenRouter, reset: str, seconds: float | None
):
    stub_vendor.reply({"error": {"code": 429}}, status=429, headers={"X-RateLimit-Reset": reset})
    assert raised_error(openrouter).retry_after == seconds


def problem(**error: Any) -> dict[str, Any]:
    return {"error": {"message": "no"} | error}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        # Credit that running requests hold becomes free again.
        (
            402,
            problem(metadata={"headers": {"Retry-After": "7"}}),
            ErrorSummary(ProviderOverloaded, retry=True, retry_after=7.0),
        ),
        (
            402,
            problem(metadata={"headers": {"X-RateLimit-Reset": "1"}}),
            ErrorSummary(ProviderMisconfigured),
        ),
        # 403: the content, the budget, or missing permissions.
        (403, problem(metadata={"reasons": ["violence"]}), ErrorSummary(ContentFiltered)),
        (403, problem(metadata={"flagged_input": "…"}), ErrorSummary(ContentFiltered)),
        (403, problem(metadata={"patterns": ["…"]}), ErrorSummary(ContentFiltered)),
        (
            403,
            problem(metadata={"limit_source": "openrouter_workspace_budget", "limit_usd": 5}),
            ErrorSummary(ProviderMisconfigured),
        ),
        (
            403,
            problem(metadata={"error_type": "permission_denied"}),
            ErrorSummary(ProviderMisconfigured),
        ),
        (403, problem(metadata=["reasons"]), ErrorSummary(ProviderMisconfigured)),
        # The error type takes precedence over the status.
        (
            400,
            problem(metadata={"error_type": "content_policy_violation"}),
            ErrorSummary(ContentFiltered),
        ),
        (400, problem(metadata={"error_type": "refusal"}), ErrorSummary(ContentFiltered)),
        (
            400,
            problem(metadata={"error_type": "token_limit_exceeded"}),
            ErrorSummary(RequestRejected),
        ),
        (
            400,
            problem(metadata={"error_type": "max_tokens_exceeded"}),
            ErrorSummary(RequestRejected),
        ),
        (400, problem(availability={"code": "model_not_found"}), ErrorSummary(ModelUnavailable)),
        (404, problem(availability={"code": "no_endpoints"}), ErrorSummary(ModelUnavailable)),
        # An error inside a success has a number, a type, or neither.
        (200, problem(code=429), ErrorSummary(ProviderOverloaded, retry=True)),
        (200, problem(code="server_error"), ErrorSummary(ProviderFailed, retry=True)),
        (200, problem(http_status=503), ErrorSummary(ProviderOverloaded, retry=True)),
        (
            200,
            problem(code="x", metadata={"error_type": "provider_overloaded"}),
            ErrorSummary(ProviderOverloaded, retry=True),
        ),
        (
            200,
            problem(code=403, metadata={"reasons": ["violence"]}),
            ErrorSummary(ContentFiltered),
        ),
        # Errors that a retry can or cannot help.
        (429, problem(message="limit_rpd/model"), ErrorSummary(ProviderOverloaded)),
        (429, problem(message="free-models-per-min"), ErrorSummary(ProviderOverloaded, retry=True)),
        (
            429,
            problem(metadata={"limit_source": "upstream_provider_shared_pool"}),
            ErrorSummary(ProviderOverloaded, retry=True),
        ),
        (503, problem(availability={"retryable": False}), ErrorSummary(ProviderOverloaded)),
        (
            503,
            problem(availability={"retryable": True, "retry_after": 2.5}),
            ErrorSummary(ProviderOverloaded, retry=True, retry_after=2.5),
        ),
        (
            429,
            problem(availability={"retry_after": "nonsense"}, metadata={"headers": {"a": {}}}),
            ErrorSummary(ProviderOverloaded, retry=True),
        ),
    ],
)
def test_metadata_decides_the_error(
    stub_vendor: StubVendor, openrouter: OpenRouter, status: int, body: Any, expected: ErrorSummary
):
    stub_vendor.reply(body, status=status)
    assert error_summary(openrouter) == expected


def test_a_header_takes_precedence_over_its_copy_in_the_body(
    stub_vendor: StubVendor, openrouter: OpenRouter
):
    body = problem(metadata={"headers": {"Retry-After": "7"}})
    stub_vendor.reply(body, status=402, headers={"Retry-After": "3"})
    assert raised_error(openrouter).retry_after == 3.0


def choice(**values: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": None}, "finish_reason": None} | values]}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (choice(error={"code": 502, "message": "gone"}), ErrorSummary(ProviderFailed, retry=True)),
        (choice(finish_reason="error"), ErrorSummary(ProviderFailed, retry=True)),
        (
            choice(finish_reason="error", message={"content": "Hal"}),
            ErrorSummary(ProviderFailed, retry=True),
        ),
        (choice(), ErrorSummary(ProviderOverloaded, retry=True)),
        (choice(message={"content": ""}), ErrorSummary(ProviderOverloaded, retry=True)),
        ({"choices": []}, ErrorSummary(ProviderOverloaded, retry=True)),
        ({"error": None, "choices": []}, ErrorSummary(ProviderOverloaded, retry=True)),
        ({"choices": None}, ErrorSummary(ProviderFailed)),
        ({"id": "gen-1"}, ErrorSummary(ProviderFailed)),
        (choice(finish_reason="stop"), ErrorSummary(EmptyAnswer, retry=True)),
        (
            choice(message={"content": None, "tool_calls": [{}]}),
            ErrorSummary(EmptyAnswer, retry=True),
        ),
    ],
)
def test_an_error_inside_a_success_is_raised(
    stub_vendor: StubVendor, openrouter: OpenRouter, body: Any, expected: ErrorSummary
):
    stub_vendor.reply(body)
    assert error_summary(openrouter) == expected
