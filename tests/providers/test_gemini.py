from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from providers.base import Completion, CompletionRequest, Usage
from providers.errors import (
    ContentFiltered,
    ModelUnavailable,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderOverloaded,
    RequestRejected,
)
from providers.gemini import Gemini
from tests.providers.factories import (
    KEY,
    PROMPT,
    REQUEST,
    ErrorSummary,
    complete,
    error_summary,
    raised_error,
    reply_with_recording,
    summarize,
)
from tests.stub_vendor import StubVendor

CONVERSATION = CompletionRequest(
    model="gemini-2.5-flash",
    system="Be brief.",
    messages=(
        {"role": "user", "content": "Olá"},
        {"role": "assistant", "content": "Olá!"},
        {"role": "user", "content": "E agora?"},
    ),
    temperature=0.0,
    top_p=0.5,
    max_tokens=64,
    stop=("END",),
    end_user="3f1c",
)


@pytest.fixture
def gemini(stub_vendor: StubVendor) -> Gemini:
    return Gemini(api_key=KEY, base_url=f"{stub_vendor.url}/v1beta", model="gemini-3.5-flash-lite")


def answer(finish: Any = "STOP", *parts: Any, **body: Any) -> dict[str, Any]:
    content = {"parts": list(parts or ({"text": "Hi."},))}
    return {"candidates": [{"content": content, "finishReason": finish}]} | body


def problem(status: int, name: str, *details: Any, message: str = "no") -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "status": name, "details": list(details)}}


def test_a_request_has_the_key_in_its_header_only(stub_vendor: StubVendor, gemini: Gemini):
    complete(gemini)
    [sent] = stub_vendor.requests
    assert (sent.method, sent.path) == ("POST", "/v1beta/models/model-1:generateContent")
    assert sent.headers["x-goog-api-key"] == KEY
    assert "authorization" not in sent.headers
    assert sent.json == {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]}


def test_a_conversation_is_sent_with_all_its_parameters(stub_vendor: StubVendor, gemini: Gemini):
    complete(gemini, CONVERSATION)
    assert stub_vendor.requests[0].json == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Olá"}]},
            {"role": "model", "parts": [{"text": "Olá!"}]},
            {"role": "user", "parts": [{"text": "E agora?"}]},
        ],
        "generationConfig": {
            "temperature": 0.0,
            "topP": 0.5,
            "maxOutputTokens": 64,
            "stopSequences": ["END"],
        },
    }


def test_a_blank_message_is_left_out(stub_vendor: StubVendor, gemini: Gemini):
    first, second, third = CONVERSATION.messages
    complete(gemini, replace(REQUEST, messages=(first, replace(second, content=" "), third)))
    assert stub_vendor.requests[0].json == {
        "contents": [{"role": "user", "parts": [{"text": "Olá"}, {"text": "E agora?"}]}]
    }


@pytest.mark.parametrize(
    ("model", "samples"),
    [
        ("gemini-2.5-flash", True),
        ("gemini-3-flash-preview", True),
        ("gemini-3.1-flash-lite", True),
        ("gemini-3.5-flash", True),
        ("gemini-pro-latest", True),
        ("gemini-3.5-flash-lite", False),
        ("gemini-3.5-flash-lite-preview-09", False),
        ("gemini-3.6-flash", False),
        ("gemini-3.8-flash", False),
        ("gemini-3.10-pro", False),
        ("gemini-4-argon", False),
        ("gemini-10-x", False),
        ("gemini-flash-latest", False),
        ("gemini-flash-lite-latest", False),
    ],
)
def test_sampling_parameters_are_not_sent_to_models_that_ignore_them(
    stub_vendor: StubVendor, gemini: Gemini, model: str, samples: bool
):
    complete(gemini, replace(REQUEST, model=model, temperature=1.0, top_p=0.9, max_tokens=5))
    sampling = {"temperature": 1.0, "topP": 0.9} if samples else {}
    assert stub_vendor.requests[0].json["generationConfig"] == {"maxOutputTokens": 5} | sampling


def test_the_models_prefix_is_accepted(stub_vendor: StubVendor, gemini: Gemini):
    complete(gemini, replace(REQUEST, model="models/gemini-3.8-flash"))
    assert stub_vendor.requests[0].path == "/v1beta/models/gemini-3.8-flash:generateContent"


@pytest.mark.parametrize(
    "model", ["", "models/", "../files/1", "a/b", "a?b", "a b", "ä", "a\n", "a:b"]
)
def test_a_model_id_cannot_change_the_address(stub_vendor: StubVendor, gemini: Gemini, model: str):
    assert error_summary(gemini, replace(REQUEST, model=model)) == ErrorSummary(RequestRejected)
    assert stub_vendor.requests == []


def test_thoughts_are_counted_but_not_shown(stub_vendor: StubVendor, gemini: Gemini):
    reply_with_recording(stub_vendor, "gemini_success")
    completion = complete(gemini)
    assert completion == Completion(
        message={"content": "Cześć! W czym mogę pomóc?"},
        model="gemini-3.8-flash",
        finish_reason="stop",
        usage=Usage(
            prompt_tokens=1204,
            completion_tokens=101,
            total_tokens=1305,
            cached_tokens=1024,
            reasoning_tokens=87,
            cost_usd=completion.usage.cost_usd,  # of the day: test_prices holds its formula
        ),
    )
    assert Decimal("0.0001") < (completion.usage.cost_usd or 0) < Decimal("0.01")


def test_thoughts_may_use_up_the_length(stub_vendor: StubVendor, gemini: Gemini):
    reply_with_recording(stub_vendor, "gemini_max_tokens_empty")
    completion = complete(gemini)
    assert replace(completion, usage=replace(completion.usage, cost_usd=None)) == Completion(
        message={},
        model="gemini-3.8-flash",
        finish_reason="length",
        usage=Usage(
            prompt_tokens=40, completion_tokens=128, total_tokens=168, reasoning_tokens=128
        ),
    )


@pytest.mark.parametrize(
    ("fixture", "expected", "reason"),
    [
        (
            "gemini_blocked_prompt",
            ErrorSummary(ContentFiltered),
            "blockReason PROHIBITED_CONTENT",
        ),
        ("gemini_blocked_prompt_safety", ErrorSummary(ContentFiltered), "blockReason SAFETY"),
        (
            "gemini_429_per_day",
            ErrorSummary(ProviderOverloaded),
            "HTTP 429 RESOURCE_EXHAUSTED GenerateRequestsPerDayPerProjectPerModel-FreeTier",
        ),
        (
            "gemini_429_per_minute_retryinfo",
            ErrorSummary(ProviderOverloaded, retry=True, retry_after=46.0),
            "HTTP 429 RESOURCE_EXHAUSTED GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
        ),
        (
            "gemini_400_invalid_key",
            ErrorSummary(ProviderMisconfigured),
            "HTTP 400 INVALID_ARGUMENT API_KEY_INVALID",
        ),
        ("gemini_400_model_turn", ErrorSummary(RequestRejected), "HTTP 400 INVALID_ARGUMENT"),
        ("gemini_404_model", ErrorSummary(ModelUnavailable), "HTTP 404 NOT_FOUND"),
        ("gemini_503", ErrorSummary(ProviderOverloaded, retry=True), "HTTP 503 UNAVAILABLE"),
        ("gemini_tool_call", ErrorSummary(ProviderFailed), "no_text STOP"),
    ],
)
def test_recorded_errors_are_classified(
    stub_vendor: StubVendor, gemini: Gemini, fixture: str, expected: ErrorSummary, reason: str
):
    reply_with_recording(stub_vendor, fixture)
    error = raised_error(gemini)
    assert summarize(error) == expected
    assert error.reason == reason


FILTERED = [
    "SAFETY",
    "RECITATION",
    "LANGUAGE",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "ESCALATION",
    "MODEL_ARMOR",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
]


@pytest.mark.parametrize(
    ("finish", "meant"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("CONTINUATION", "length"),
        ("OTHER", "stop"),
        ("IMAGE_OTHER", "stop"),
        ("SOMETHING_NEW", "stop"),
        *((finish, "content_filter") for finish in FILTERED),
    ],
)
def test_finish_reasons_are_mapped_to_three(
    stub_vendor: StubVendor, gemini: Gemini, finish: str, meant: Any
):
    stub_vendor.reply(answer(finish))
    assert complete(gemini) == Completion(
        message={"content": "Hi."}, model="model-1", finish_reason=meant
    )


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("MALFORMED_FUNCTION_CALL", ErrorSummary(ProviderFailed, retry=True)),
        ("MALFORMED_RESPONSE", ErrorSummary(ProviderFailed, retry=True)),
        ("UNEXPECTED_TOOL_CALL", ErrorSummary(ProviderFailed)),
        ("TOO_MANY_TOOL_CALLS", ErrorSummary(ProviderFailed)),
        ("MISSING_THOUGHT_SIGNATURE", ErrorSummary(ProviderFailed)),
        ("NO_IMAGE", ErrorSummary(ProviderFailed)),
        ("PUP_LIMITED_DISABLED", ErrorSummary(ProviderMisconfigured)),
        ("FINISH_REASON_UNSPECIFIED", ErrorSummary(ProviderFailed)),
        (None, ErrorSummary(ProviderFailed)),
        ([], ErrorSummary(ProviderFailed)),
    ],
)
def test_a_failed_finish_reason_is_an_error(
    stub_vendor: StubVendor, gemini: Gemini, finish: Any, expected: ErrorSummary
):
    stub_vendor.reply(answer(finish))
    assert error_summary(gemini) == expected


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("STOP", ErrorSummary(ProviderFailed)),
        ("OTHER", ErrorSummary(ProviderFailed)),
        ("SOMETHING_NEW", ErrorSummary(ProviderFailed)),
        *((finish, ErrorSummary(ContentFiltered)) for finish in FILTERED),
    ],
)
def test_an_answer_without_text_is_an_error(
    stub_vendor: StubVendor, gemini: Gemini, finish: str, expected: ErrorSummary
):
    stub_vendor.reply({"candidates": [{"finishReason": finish}]})
    assert error_summary(gemini) == expected


@pytest.mark.parametrize(
    "block",
    ["SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "SOMETHING_NEW", 7],
)
def test_any_block_reason_is_content_filtered(stub_vendor: StubVendor, gemini: Gemini, block: Any):
    stub_vendor.reply({"promptFeedback": {"blockReason": block}})
    assert error_summary(gemini) == ErrorSummary(ContentFiltered)


def test_a_blocked_prompt_keeps_its_usage(stub_vendor: StubVendor, gemini: Gemini):
    counted = {"promptTokenCount": 9, "totalTokenCount": 9}
    stub_vendor.reply({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": counted})
    usage = raised_error(gemini).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (9, None, 9)


def test_prompt_feedback_without_a_block_reason_is_ignored(stub_vendor: StubVendor, gemini: Gemini):
    stub_vendor.reply(answer(promptFeedback={"safetyRatings": []}))
    assert complete(gemini).text == "Hi."


def test_visible_parts_are_joined(stub_vendor: StubVendor, gemini: Gemini):
    parts = (
        {"text": "Hm.", "thought": True},
        {"text": "4"},
        {"inlineData": {}},
        7,
        None,
        {"text": None},
        {"text": "2", "thought": False},
    )
    stub_vendor.reply(answer("STOP", *parts))
    assert complete(gemini).text == "42"


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        (
            {"promptTokenCount": 5, "toolUsePromptTokenCount": 2, "candidatesTokenCount": 3},
            Usage(prompt_tokens=7, completion_tokens=3, total_tokens=10),
        ),
        (
            {"promptTokenCount": 5, "candidatesTokenCount": 3, "thoughtsTokenCount": -1},
            Usage(prompt_tokens=5),
        ),
        ({"totalTokenCount": 8}, Usage(total_tokens=8)),
        ({"candidatesTokenCount": 2**53, "thoughtsTokenCount": 1}, Usage(reasoning_tokens=1)),
        ({}, Usage()),
        (None, Usage()),
        ([7], Usage()),
    ],
)
def test_a_missing_count_is_unknown(
    stub_vendor: StubVendor, gemini: Gemini, reported: Any, usage: Usage
):
    stub_vendor.reply(answer(usageMetadata=reported))
    assert complete(gemini).usage == usage


def info(reason: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}


def delay(value: Any) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": value}


def quota(quota_id: str) -> dict[str, Any]:
    return {"violations": [{"quotaMetric": "requests", "quotaId": quota_id}]}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, problem(400, "FAILED_PRECONDITION"), ErrorSummary(ProviderMisconfigured)),
        (400, problem(400, "INVALID_ARGUMENT", info("OTHER")), ErrorSummary(RequestRejected)),
        (401, problem(401, "UNAUTHENTICATED"), ErrorSummary(ProviderMisconfigured)),
        (402, problem(402, "RESOURCE_EXHAUSTED"), ErrorSummary(ProviderMisconfigured)),
        (403, problem(403, "PERMISSION_DENIED"), ErrorSummary(ProviderMisconfigured)),
        (499, problem(499, "CANCELLED"), ErrorSummary(ProviderFailed)),
        (500, problem(500, "INTERNAL"), ErrorSummary(ProviderFailed, retry=True)),
        (504, problem(504, "DEADLINE_EXCEEDED"), ErrorSummary(ProviderFailed, retry=True)),
        (503, [problem(503, "UNAVAILABLE")], ErrorSummary(ProviderOverloaded, retry=True)),
        (200, problem(503, "UNAVAILABLE"), ErrorSummary(ProviderOverloaded, retry=True)),
        (200, problem(400, "X", info("API_KEY_INVALID")), ErrorSummary(ProviderMisconfigured)),
        (200, {"error": {"status": "X"}}, ErrorSummary(ProviderFailed, retry=True)),
    ],
)
def test_status_and_details_decide_the_error(
    stub_vendor: StubVendor, gemini: Gemini, status: int, body: Any, expected: ErrorSummary
):
    stub_vendor.reply(body, status=status)
    assert error_summary(gemini) == expected


FINAL = ErrorSummary(ProviderOverloaded)


def later(seconds: float | None) -> ErrorSummary:
    return ErrorSummary(ProviderOverloaded, retry=True, retry_after=seconds)


@pytest.mark.parametrize(
    ("message", "details", "expected"),
    [
        ("Your prepayment credits are depleted.", [delay("3s")], FINAL),
        ("no", [quota("RequestsPerDay"), delay("38s")], FINAL),
        ("no", [quota("RequestsPerMinute"), quota("RequestsPerDay")], FINAL),
        ("no", [quota("RequestsPerMinute"), delay("17s")], later(17.0)),
        ("no", [delay("45.837906927s")], later(46.0)),
        ("no", [delay("900ms")], later(1.0)),
        ("no", [delay("0s")], later(0.0)),
        ("no", [delay("65205s")], later(65205.0)),
        ("no", [delay("999999999s")], later(86400.0)),
        ("no", [quota("RequestsPerMinute")], later(60.0)),
        ("no", [quota("RequestsPerMinute"), delay("soon")], later(60.0)),
        ("Please retry in 45.8s.", [delay(None)], later(46.0)),
        ("Please retry in 900ms.", [], later(1.0)),
        ("Please retry in 13h20m5s.", [], later(None)),
        ("no", [delay("9" * 400 + "s")], later(None)),
        ("no", [delay(17), delay("-1s"), delay("1e3s"), delay({})], later(None)),
        ("no", [], later(None)),
    ],
)
def test_a_daily_quota_is_not_retried(
    stub_vendor: StubVendor,
    gemini: Gemini,
    message: str,
    details: list[Any],
    expected: ErrorSummary,
):
    stub_vendor.reply(problem(429, "RESOURCE_EXHAUSTED", *details, message=message), status=429)
    assert error_summary(gemini) == expected


def test_a_rejected_field_is_named(stub_vendor: StubVendor, gemini: Gemini):
    violations = {"fieldViolations": [{"field": "generation_config.top_p", "description": "no"}]}
    stub_vendor.reply(problem(400, "INVALID_ARGUMENT", info("X"), violations), status=400)
    assert raised_error(gemini).args == (
        "The provider rejected the request because of its parameter generation_config.top_p.",
    )
