import json
import time
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from providers.base import Completion, CompletionRequest, Usage
from providers.deadline import Deadline
from providers.errors import (
    ContentFiltered,
    EmptyAnswer,
    MalformedAnswer,
    ModelUnavailable,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderOverloaded,
    RequestRejected,
)
from providers.gemini import Answer, Gemini
from tests.providers.factories import (
    KEY,
    PROMPT,
    REQUEST,
    TIMEOUT_SECONDS,
    ErrorSummary,
    complete,
    counting,
    error_summary,
    raised_error,
    read_deltas,
    reply_with_recording,
    summarize,
)
from tests.stub_vendor import SOON, StubVendor

CONVERSATION = CompletionRequest(
    model="gemini-2.5-flash",
    messages=(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Olá"},
        {"role": "assistant", "content": "Olá!"},
        {"role": "user", "content": "E agora?"},
    ),
    parameters={"temperature": 0.0, "top_p": 0.5, "max_tokens": 64, "stop": ["END"]},
    end_user="3f1c",
)


@pytest.fixture
def gemini(stub_vendor: StubVendor) -> Gemini:
    return Gemini(api_key=KEY, base_url=f"{stub_vendor.url}/v1beta", model="gemini-3.5-flash-lite")


def answer(finish: Any = "STOP", *parts: Any, **body: Any) -> dict[str, Any]:
    content = {"parts": list(parts or ({"text": "Hi."},))}
    return {"candidates": [{"content": content, "finishReason": finish}]} | body


def signature(value: str) -> dict[str, Any]:
    return {"google": {"thought_signature": value}}


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
    _, first, second, third = CONVERSATION.messages
    complete(gemini, REQUEST._replace(messages=(first, {**second, "content": " "}, third)))
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
    parameters = {"temperature": 1.0, "top_p": 0.9, "top_k": 40, "max_tokens": 5}
    complete(gemini, REQUEST._replace(model=model, parameters=parameters))
    sampling = {"temperature": 1.0, "topP": 0.9, "topK": 40} if samples else {}
    assert stub_vendor.requests[0].json["generationConfig"] == {"maxOutputTokens": 5} | sampling


def test_the_models_prefix_is_accepted(stub_vendor: StubVendor, gemini: Gemini):
    complete(gemini, REQUEST._replace(model="models/gemini-3.8-flash"))
    assert stub_vendor.requests[0].path == "/v1beta/models/gemini-3.8-flash:generateContent"


@pytest.mark.parametrize(
    "model", ["", "models/", "../files/1", "a/b", "a?b", "a b", "ä", "a\n", "a:b"]
)
def test_a_model_id_cannot_change_the_address(stub_vendor: StubVendor, gemini: Gemini, model: str):
    assert error_summary(gemini, REQUEST._replace(model=model)) == ErrorSummary(RequestRejected)
    assert stub_vendor.requests == []


def test_thoughts_are_counted_and_apart_from_the_text(stub_vendor: StubVendor, gemini: Gemini):
    reply_with_recording(stub_vendor, "gemini_success")
    completion = complete(gemini)
    assert completion == Completion(
        message={
            "reasoning_content": "**Planning**\nThe user greets in Polish.",
            "content": "Cześć! W czym mogę pomóc?",
            "extra_content": signature("EpkCCpYCAb4+9vuku3oDHR5EQSMfPm5IpmH0"),
        },
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
    assert completion._replace(usage=replace(completion.usage, cost_usd=None)) == Completion(
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
        ("MALFORMED_FUNCTION_CALL", ErrorSummary(MalformedAnswer, retry=True)),
        ("MALFORMED_RESPONSE", ErrorSummary(MalformedAnswer, retry=True)),
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
        ("STOP", ErrorSummary(EmptyAnswer, retry=True)),
        ("OTHER", ErrorSummary(EmptyAnswer, retry=True)),
        ("SOMETHING_NEW", ErrorSummary(EmptyAnswer, retry=True)),
        *((finish, ErrorSummary(ContentFiltered)) for finish in FILTERED),
    ],
)
def test_an_answer_without_text_is_an_error(
    stub_vendor: StubVendor, gemini: Gemini, finish: str, expected: ErrorSummary
):
    stub_vendor.reply({"candidates": [{"finishReason": finish}]})
    assert error_summary(gemini) == expected


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_without_a_candidate_is_empty(
    stub_vendor: StubVendor, gemini: Gemini, streamed: bool
):
    body = {"usageMetadata": {"promptTokenCount": 9}, "modelVersion": "gemini-2.5-pro"}
    if streamed:
        stub_vendor.stream([f"data: {json.dumps(body)}\n\n"])
    else:
        stub_vendor.reply(body)
    with pytest.raises(EmptyAnswer):
        (read_deltas if streamed else complete)(gemini)


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
    request, reported = counting()
    raised_error(gemini, request)
    [usage] = reported
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (9, 0, 9)


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


def called(name: str, signed: str = "", **call: Any) -> dict[str, Any]:
    part = {"functionCall": {"name": name, **call}}
    return part | {"thoughtSignature": signed} if signed else part


def test_a_recorded_call_keeps_its_signature(stub_vendor: StubVendor, gemini: Gemini):
    reply_with_recording(stub_vendor, "gemini_tool_call")
    completion = complete(gemini)
    assert completion.finish_reason == "tool_calls"
    [call] = completion.message.pop("tool_calls")
    assert completion.message == {}
    assert json.loads(call["function"].pop("arguments")) == {"city": "Łódź"}
    assert call == {
        "id": "call_0",
        "type": "function",
        "function": {"name": "get_weather"},
        "extra_content": signature("EpEgCo4gAb4+9vvWwdN+NkNiCCwr"),
    }


def test_calls_without_ids_get_ids_of_their_own(stub_vendor: StubVendor, gemini: Gemini):
    parts = (called("now"), called("now", args={"zone": "UTC"}), called("rest", id="call_7"))
    stub_vendor.reply(answer("STOP", *parts))
    first, second, third = complete(gemini).message["tool_calls"]
    assert [each["function"] for each in (first, second, third)] == [
        {"name": "now", "arguments": "{}"},
        {"name": "now", "arguments": '{"zone":"UTC"}'},
        {"name": "rest", "arguments": "{}"},
    ]
    assert third["id"] == "call_7"
    assert len({first["id"], second["id"], "call_7", ""}) == 4


@pytest.mark.parametrize("stream", [False, True])
def test_without_parallel_tool_calls_an_answer_has_the_first_call(
    stub_vendor: StubVendor, gemini: Gemini, stream: bool
):
    parts = [called("now", "c2ln"), called("rest")]
    if stream:
        stub_vendor.stream(events(*parts, "STOP"))
    else:
        stub_vendor.reply(answer("STOP", *parts))
    request = REQUEST._replace(parameters={"parallel_tool_calls": False})
    completion = read_deltas(gemini, request)[1] if stream else complete(gemini, request)
    [call] = completion.message["tool_calls"]
    assert (call["function"]["name"], completion.finish_reason) == ("now", "tool_calls")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1" + "0" * 20, 1e20), ("1" + "0" * 400, None), ("1e999", None), ("0.5", 0.5)],
)
def test_numbers_in_arguments_may_have_any_size(
    stub_vendor: StubVendor, gemini: Gemini, value: str, expected: float | None
):
    whole = json.dumps(answer("STOP", called("count", args={"to": "VALUE"})))
    stub_vendor.reply(whole.replace('"VALUE"', value))
    [call] = complete(gemini).message["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"to": expected}


def test_arguments_nested_too_deeply_are_cut_off(stub_vendor: StubVendor, gemini: Gemini):
    deep = "[" * 900 + "]" * 900
    whole = json.dumps(answer("STOP", called("count", args={"to": "VALUE"})))
    stub_vendor.reply(whole.replace('"VALUE"', deep))
    [call] = complete(gemini).message["tool_calls"]
    assert json.loads(call["function"]["arguments"])["to"][0][0] is not None


@pytest.mark.parametrize(
    ("finish", "meant"),
    [("STOP", "tool_calls"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter")],
)
def test_only_a_stop_with_calls_means_tool_calls(
    stub_vendor: StubVendor, gemini: Gemini, finish: str, meant: str
):
    stub_vendor.reply(answer(finish, {"text": "I will look."}, called("now")))
    assert complete(gemini).finish_reason == meant


def test_images_are_data_urls(stub_vendor: StubVendor, gemini: Gemini):
    draft = {"inlineData": {"mimeType": "image/png", "data": "RHJhZnQ="}, "thought": True}
    image = {"inlineData": {"mimeType": "image/png", "data": "SW1hZ2U="}}
    stub_vendor.reply(answer("STOP", draft, image, image | {"thoughtSignature": "U0lH"}))
    address = {"type": "image_url", "image_url": {"url": "data:image/png;base64,SW1hZ2U="}}
    assert complete(gemini).message == {
        "images": [
            address | {"index": 0},
            address | {"index": 1, "extra_content": signature("U0lH")},
        ]
    }


def test_citations_and_grounding_are_kept(stub_vendor: StubVendor, gemini: Gemini):
    grounds = {
        "citationMetadata": {"citationSources": [{"uri": "https://a.example"}]},
        "groundingMetadata": {"groundingChunks": [{"web": {"uri": "https://b.example"}}]},
    }
    whole = answer()
    whole["candidates"][0] |= grounds
    stub_vendor.reply(whole)
    assert complete(gemini).extras == grounds


def test_a_failed_finish_keeps_its_usage(stub_vendor: StubVendor, gemini: Gemini):
    stub_vendor.reply(
        answer(
            "MALFORMED_FUNCTION_CALL", usageMetadata={"promptTokenCount": 9, "totalTokenCount": 9}
        )
    )
    request, reported = counting()
    raised_error(gemini, request)
    assert [usage.total_tokens for usage in reported] == [9]


def events(*parts: dict[str, Any] | str) -> list[str]:
    """Return a stream with an event for each part; a text is the finish reason."""
    candidates = [
        {"finishReason": part} if isinstance(part, str) else {"content": {"parts": [part]}}
        for part in parts
    ]
    return [f"data: {json.dumps({'candidates': [each]})}\r\n\r\n" for each in candidates]


def test_thoughts_text_and_calls_are_streamed_as_they_come(stub_vendor: StubVendor, gemini: Gemini):
    stub_vendor.stream(
        events(
            {"text": "Hm", "thought": True},
            {"text": ", Oslo.", "thought": True},
            {"text": "I will look."},
            called("now", "U0lH", id="call_1"),
            called("now", id="call_2", args={"zone": "UTC"}),
            {"text": "", "thoughtSignature": "T1RI"},
            "STOP",
        )
    )
    deltas, completion = read_deltas(gemini)
    first = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "now", "arguments": "{}"},
        "extra_content": signature("U0lH"),
    }
    second = {
        "id": "call_2",
        "type": "function",
        "function": {"name": "now", "arguments": '{"zone":"UTC"}'},
    }
    assert deltas == [
        {"reasoning_content": "Hm"},
        {"reasoning_content": ", Oslo."},
        {"content": "I will look."},
        {"tool_calls": [{"index": 0, **first}]},
        {"tool_calls": [{"index": 1, **second}]},
        {"extra_content": signature("T1RI")},
    ]
    assert completion == Completion(
        message={
            "reasoning_content": "Hm, Oslo.",
            "content": "I will look.",
            "tool_calls": [first, second],
            "extra_content": signature("T1RI"),
        },
        model="model-1",
        finish_reason="tool_calls",
    )


def test_parts_without_content_yield_nothing(stub_vendor: StubVendor, gemini: Gemini):
    parts: Any = ({}, None, {"text": "", "thought": True}, {"functionCall": {}}, {"text": 7})
    stub_vendor.stream(events(*parts, {"text": "Hi."}, "STOP"))
    assert read_deltas(gemini)[0] == [{"content": "Hi."}]


def test_a_stream_without_content_is_an_empty_answer(stub_vendor: StubVendor, gemini: Gemini):
    stub_vendor.stream(events({"text": "Hm.", "thought": True}, "STOP"))
    with pytest.raises(EmptyAnswer):
        read_deltas(gemini)


@pytest.mark.parametrize("streamed", [False, True])
def test_each_turn_of_a_tool_loop_sends_all_signatures_back(
    stub_vendor: StubVendor, gemini: Gemini, streamed: bool
):
    turns = [
        [{"text": f"Step {turn}."}, called("now", f"c2ln{turn}", id=f"call_{turn}"), called("rest")]
        for turn in range(5)
    ]
    messages = REQUEST.messages
    for turn in turns:
        if streamed:
            stub_vendor.stream(events(*turn, "STOP"))
        else:
            stub_vendor.reply(answer("STOP", *turn))
        request = REQUEST._replace(model="gemini-3.8-flash", messages=messages)
        completion = read_deltas(gemini, request)[1] if streamed else complete(gemini, request)
        calls = completion.message["tool_calls"]
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "{}"} for call in calls]
        messages = (*messages, {"role": "assistant", **completion.message}, *results)
        stub_vendor.clear()
    stub_vendor.reply(answer())
    complete(gemini, REQUEST._replace(model="gemini-3.8-flash", messages=messages))
    _, *contents = stub_vendor.requests[0].json["contents"]
    for number, (said, told) in enumerate(zip(contents[::2], contents[1::2], strict=True)):
        text, first, second = said["parts"]
        assert text == {"text": f"Step {number}."}
        assert first == {
            "functionCall": {"id": f"call_{number}", "name": "now", "args": {}},
            "thoughtSignature": f"c2ln{number}",
        }
        ids = [part["functionResponse"].pop("id") for part in told["parts"]]
        assert ids == [f"call_{number}", second["functionCall"].pop("id")]
        assert second == {"functionCall": {"name": "rest", "args": {}}}
        assert told["parts"] == [
            {"functionResponse": {"name": name, "response": {}}} for name in ("now", "rest")
        ]
    assert len(contents) == 10


def test_models_are_listed_over_all_pages(stub_vendor: StubVendor, gemini: Gemini):
    chat, embedding = ["generateContent", "countTokens"], ["embedContent"]
    stub_vendor.reply(
        {
            "models": [
                {"name": "models/gemini-3.8-flash", "supportedGenerationMethods": chat},
                {"name": "models/gemini-embedding-001", "supportedGenerationMethods": embedding},
                7,
                {"supportedGenerationMethods": chat},
            ],
            "nextPageToken": "a/b",
        }
    )
    stub_vendor.reply({"models": [{"name": "gemma", "supportedGenerationMethods": chat}]})
    assert gemini.list_models(Deadline(TIMEOUT_SECONDS)) == ["gemini-3.8-flash", "gemma"]
    assert [asked.path for asked in stub_vendor.requests] == [
        "/v1beta/models?pageSize=1000",
        "/v1beta/models?pageSize=1000&pageToken=a%2Fb",
    ]


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


def test_many_parts_of_a_text_are_put_together_once():
    parts = [{"text": "a" * 200}] * 100_000
    body = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    answer, begun = Answer(), time.monotonic()
    answer.add_whole(body)
    assert answer.message == {"content": "a" * 20_000_000}
    assert time.monotonic() - begun < SOON
