import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
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
from providers.openai import OpenAI
from tests.providers.factories import (
    KEY,
    PROMPT,
    REQUEST,
    ErrorSummary,
    complete,
    error_summary,
    raised_error,
    reply_with_recording,
)
from tests.stub_vendor import OPENAI_ANSWER, StubVendor

CONVERSATION = CompletionRequest(
    model="gpt-oss:20b",
    system="Be brief.",
    messages=(
        {"role": "user", "content": "Olá"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "E agora?"},
    ),
    temperature=0.0,
    top_p=0.5,
    max_tokens=64,
    stop=("END", "\n\n"),
    end_user="3f1c",
)


@pytest.fixture
def openai(stub_vendor: StubVendor) -> OpenAI:
    return OpenAI(api_key=KEY, base_url=f"{stub_vendor.url}/v1", model="gpt-oss:20b")


def answer(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": "Hi."}, "finish_reason": "stop"} | choice]}


def test_a_request_has_the_key_and_only_the_given_parameters(
    stub_vendor: StubVendor, openai: OpenAI
):
    complete(openai)
    [sent] = stub_vendor.requests
    assert (sent.method, sent.path) == ("POST", "/v1/chat/completions")
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.headers["content-type"] == "application/json"
    assert sent.json == {
        "model": "model-1",
        "messages": [{"role": "user", "content": PROMPT}],
    }


def test_a_conversation_is_sent_with_all_its_parameters(stub_vendor: StubVendor, openai: OpenAI):
    complete(openai, CONVERSATION)
    assert stub_vendor.requests[0].json == {
        "model": "gpt-oss:20b",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Olá"},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "E agora?"},
        ],
        "temperature": 0.0,
        "top_p": 0.5,
        "max_tokens": 64,
        "stop": ["END", "\n\n"],
        "user": "3f1c",
    }


def test_an_empty_key_sends_no_authorization_header(stub_vendor: StubVendor):
    complete(OpenAI(api_key="", base_url=stub_vendor.url, model="llama3"))
    assert "authorization" not in stub_vendor.requests[0].headers


def test_openai_itself_gets_max_completion_tokens_and_list_prices():
    sent: list[tuple[str, dict[str, Any]]] = []

    def post(request: httpx.Request) -> httpx.Response:
        sent.append((str(request.url), json.loads(request.content)))
        usage = {
            "prompt_tokens": 1000,
            "completion_tokens": 100,
            "prompt_tokens_details": {"cached_tokens": 500},
        }
        content = answer() | {"model": "gpt-5-nano-2025-08-07", "usage": usage}
        return httpx.Response(200, json=content)

    openai = OpenAI(
        api_key=KEY,
        base_url="https://api.openai.com/v1",
        model="gpt-5-nano",
        transport=httpx.MockTransport(post),
    )
    assert complete(openai, replace(REQUEST, max_tokens=64)) == Completion(
        message={"content": "Hi."},
        model="gpt-5-nano-2025-08-07",
        finish_reason="stop",
        usage=Usage(
            prompt_tokens=1000,
            completion_tokens=100,
            total_tokens=1100,
            cached_tokens=500,
            cost_usd=Decimal("0.0000675"),
        ),
    )
    [(url, body)] = sent
    assert url == "https://api.openai.com/v1/chat/completions"
    assert body == {
        "model": "model-1",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_completion_tokens": 64,
    }


def test_reasoning_content_is_not_part_of_the_text(stub_vendor: StubVendor, openai: OpenAI):
    reply_with_recording(stub_vendor, "compat_success_reasoning_content")
    assert complete(openai) == Completion(
        message={"content": "42"},
        model="deepseek-v4-flash",
        finish_reason="stop",
        usage=Usage(
            prompt_tokens=12,
            completion_tokens=9,
            total_tokens=21,
            cached_tokens=0,
            reasoning_tokens=7,
        ),
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<think>Hm.\nSure?</think>\n\n42", "42"),
        (" <think></think>42 <think>", "42 <think>"),
        ("I <think> so</think>", "I <think> so</think>"),
        ([{"type": "text", "text": "4"}, {"type": "text", "text": "2"}], "42"),
        ([{"type": "thinking", "text": "Hm."}, {"type": "text", "text": "42"}, 7, None], "42"),
        ([{"type": "text", "text": 7}, {"type": "text", "text": "42"}, {"text": "?"}], "42"),
    ],
)
def test_thoughts_and_other_parts_are_not_part_of_the_text(
    stub_vendor: StubVendor, openai: OpenAI, content: Any, text: str
):
    stub_vendor.reply(answer(message={"content": content}))
    assert complete(openai) == Completion(
        message={"content": text}, model="model-1", finish_reason="stop"
    )


def test_unfinished_thoughts_leave_an_empty_text(stub_vendor: StubVendor, openai: OpenAI):
    stub_vendor.reply(answer(message={"content": "<think>Hm, let"}, finish_reason="length"))
    assert complete(openai) == Completion(message={}, model="model-1", finish_reason="length")


@pytest.mark.parametrize(
    ("finish", "meant"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("model_length", "length"),
        ("content_filter", "content_filter"),
        ("tool_calls", "stop"),
        ("eos", "stop"),
        ("", "stop"),
        (None, "stop"),
        ([], "stop"),
    ],
)
def test_unknown_finish_reasons_mean_stop(
    stub_vendor: StubVendor, openai: OpenAI, finish: Any, meant: Any
):
    stub_vendor.reply(answer(finish_reason=finish))
    assert complete(openai) == Completion(
        message={"content": "Hi."}, model="model-1", finish_reason=meant
    )


@pytest.mark.parametrize("finish", ["error", "insufficient_system_resource"])
def test_a_failed_finish_reason_is_an_error(stub_vendor: StubVendor, openai: OpenAI, finish: str):
    stub_vendor.reply(answer(finish_reason=finish))
    error = raised_error(openai)
    assert (type(error), error.retry) == (ProviderFailed, True)
    assert error.reason == f"finish_reason {finish}"


def test_unrequested_tool_calls_are_no_answer(stub_vendor: StubVendor, openai: OpenAI):
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    stub_vendor.reply(
        answer(message={"content": None, "tool_calls": [call]}, finish_reason="tool_calls")
    )
    assert error_summary(openai) == ErrorSummary(ProviderFailed)


def test_a_refusal_is_content_filtered(stub_vendor: StubVendor, openai: OpenAI):
    stub_vendor.reply(answer(message={"content": None, "refusal": "I'm sorry, I cannot."}))
    assert error_summary(openai) == ErrorSummary(ContentFiltered)


@pytest.mark.parametrize(
    "given",
    [
        {"message": {"content": None}, "finish_reason": "content_filter"},
        {"message": {"content": None, "refusal": "No."}},
        {"message": {"content": ""}},
    ],
    ids=["filtered", "refused", "empty"],
)
def test_an_error_keeps_the_usage(stub_vendor: StubVendor, openai: OpenAI, given: dict[str, Any]):
    stub_vendor.reply(answer(**given) | {"usage": OPENAI_ANSWER["usage"]})
    counted = Usage(prompt_tokens=9, completion_tokens=5, total_tokens=14)
    assert raised_error(openai).usage == counted


def test_an_error_beside_an_answer_is_an_error(stub_vendor: StubVendor, openai: OpenAI):
    stub_vendor.reply(answer(error={"code": 503, "message": "gone"}))
    assert error_summary(openai) == ErrorSummary(ProviderOverloaded, retry=True)


def test_a_local_model_has_no_cost(stub_vendor: StubVendor, openai: OpenAI):
    stub_vendor.reply(OPENAI_ANSWER | {"model": "gpt-5-nano"})
    assert complete(openai).usage == Usage(prompt_tokens=9, completion_tokens=5, total_tokens=14)


def test_a_wrong_base_url_is_model_unavailable(stub_vendor: StubVendor, openai: OpenAI):
    reply_with_recording(stub_vendor, "compat_error_detail_fastapi")
    error = raised_error(openai)
    assert (type(error), error.retry, error.reason) == (ModelUnavailable, False, "HTTP 404")


def test_a_rejected_parameter_is_named(stub_vendor: StubVendor, openai: OpenAI):
    reply_with_recording(stub_vendor, "compat_error_flat_mistral")
    error = raised_error(openai)
    assert (type(error), error.reason) == (RequestRejected, "HTTP 422 invalid_request_error")
    assert str(error).endswith(" because of its parameter stream_options.include_usage.")


def openai_error(code: Any, *, message: Any = "no", kind: Any = None, param: Any = None) -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, openai_error("content_filter"), ErrorSummary(ContentFiltered)),
        (400, openai_error("content_policy_violation"), ErrorSummary(ContentFiltered)),
        (400, openai_error(None, kind="moderation_blocked"), ErrorSummary(ContentFiltered)),
        (400, openai_error("context_length_exceeded"), ErrorSummary(RequestRejected)),
        (400, openai_error("model_not_found"), ErrorSummary(ModelUnavailable)),
        (400, openai_error("1500", kind="invalid_model"), ErrorSummary(ModelUnavailable)),
        (400, openai_error("invalid_api_key"), ErrorSummary(ProviderMisconfigured)),
        (
            400,
            openai_error(400, message="x is not a valid model ID"),
            ErrorSummary(ModelUnavailable),
        ),
        (
            400,
            {"error": "Model `x` does not exist"},
            ErrorSummary(ModelUnavailable),
        ),
        (400, {"error": "temperature is a number"}, ErrorSummary(RequestRejected)),
        (400, {"code": "prose, of all things", "error": "no"}, ErrorSummary(RequestRejected)),
        (400, {"detail": [{"loc": ["body", "top_p"], "msg": "no"}]}, ErrorSummary(RequestRejected)),
        (404, openai_error("model_not_found"), ErrorSummary(ModelUnavailable)),
        (429, openai_error("rate_limit_exceeded"), ErrorSummary(ProviderOverloaded, retry=True)),
        (429, openai_error("insufficient_quota"), ErrorSummary(ProviderOverloaded)),
        (429, openai_error(None, kind="insufficient_quota"), ErrorSummary(ProviderOverloaded)),
        (200, openai_error("rate_limit_exceeded"), ErrorSummary(ProviderOverloaded, retry=True)),
        (200, openai_error("content_filter"), ErrorSummary(ContentFiltered)),
        (200, openai_error(None, kind="invalid_request_error"), ErrorSummary(RequestRejected)),
        (200, openai_error("401"), ErrorSummary(ProviderMisconfigured)),
    ],
)
def test_error_codes_take_precedence_over_the_status(
    stub_vendor: StubVendor, openai: OpenAI, status: int, body: Any, expected: ErrorSummary
):
    stub_vendor.reply(body, status=status)
    assert error_summary(openai) == expected


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            openai_error("context_length_exceeded", param="messages"),
            "The provider rejected the request: the context is too long for the model.",
        ),
        (
            openai_error("unsupported_value", param="temperature"),
            "The provider rejected the request because of its parameter temperature.",
        ),
        (
            openai_error(None, param="messages[0].content"),
            "The provider rejected the request because of its parameter messages[0].content.",
        ),
        (openai_error(None, param="what you said"), "The provider rejected the request."),
        (openai_error(None, param=["x"]), "The provider rejected the request."),
        (
            {"detail": [{"loc": ["body", "messages", 0, "content"], "msg": "no"}]},
            "The provider rejected the request because of its parameter messages.0.content.",
        ),
        ({"detail": [{"loc": ["body", {}]}]}, "The provider rejected the request."),
    ],
)
def test_a_rejection_names_its_cause_in_our_own_words(
    stub_vendor: StubVendor, openai: OpenAI, error: Any, sentence: str
):
    stub_vendor.reply(error, status=400)
    assert raised_error(openai).args == (sentence,)


def test_the_reason_has_the_status_and_the_codes(stub_vendor: StubVendor, openai: OpenAI):
    stub_vendor.reply(
        openai_error("rate_limit_exceeded", kind="requests", message="prose"), status=429
    )
    assert raised_error(openai).reason == "HTTP 429 rate_limit_exceeded requests"
