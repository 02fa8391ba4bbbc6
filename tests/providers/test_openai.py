import json
from decimal import Decimal
from typing import Any

import httpx
import orjson
import pytest

from providers.base import Completion, CompletionRequest, Usage
from providers.deadline import Deadline
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
    counting,
    error_summary,
    raised_error,
    read_deltas,
    reply_with_recording,
    summarize,
)
from tests.stub_vendor import DONE, FINISH, OPENAI_ANSWER, StubVendor, chunk

CONVERSATION = CompletionRequest(
    model="gpt-oss:20b",
    messages=(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Olá"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "E agora?"},
    ),
    parameters={
        "temperature": 0.0,
        "top_p": 0.5,
        "max_tokens": 64,
        "stop": ["END", "\n\n"],
        "seed": 7,
        "chat_template_kwargs": {"enable_thinking": False},
    },
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
        "seed": 7,
        "chat_template_kwargs": {"enable_thinking": False},
        "user": "3f1c",
    }


DEVELOPER = REQUEST._replace(
    messages=({"role": "developer", "content": "Be brief.", "name": "x"}, *REQUEST.messages),
)


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"content": None, "reasoning_content": "Hm."}, ""),
        ({"content": None, "refusal": "No."}, ""),
        ({"refusal": "No."}, ""),
        ({"content": None, "tool_calls": [{"id": "a"}]}, None),
        ({"content": None, "function_call": {"name": "f", "arguments": "{}"}}, None),
        ({"content": None, "audio": {"id": "a"}}, None),
    ],
    ids=str,
)
def test_an_answer_without_calls_or_audio_is_sent_back_with_a_content(
    stub_vendor: StubVendor, openai: OpenAI, message: dict[str, Any], content: str | None
):
    message = {"role": "assistant", **message}
    complete(openai, REQUEST._replace(messages=(*REQUEST.messages, message)))
    assert stub_vendor.requests[0].json["messages"][1] == message | {"content": content}


@pytest.mark.parametrize(
    ("base_url", "role"),
    [
        ("https://api.openai.com/v1", "developer"),
        ("https://eu.api.openai.com/v1", "developer"),
        ("https://notapi.openai.com/v1", "system"),
        ("https://x.openai.azure.com/openai/deployments/gpt?api-version=2024-10-21", "developer"),
        ("https://api.mistral.ai/v1", "system"),
        ("http://localhost:11434/v1", "system"),
    ],
)
def test_only_openai_and_azure_get_the_role_developer(base_url: str, role: str):
    sent = sent_to(base_url, DEVELOPER)
    messages = json.loads(sent.content)["messages"]
    assert messages == [{"role": role, "content": "Be brief.", "name": "x"}, *REQUEST.messages]


def sent_to(base_url: str, request: CompletionRequest = REQUEST, **options: Any) -> httpx.Request:
    """Return what is sent to a server at this address."""
    sent: list[httpx.Request] = []

    def post(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json=answer())

    transport = httpx.MockTransport(post)
    complete(
        OpenAI(api_key="", base_url=base_url, model="m", transport=transport, **options), request
    )
    return sent[0]


def test_the_query_of_a_base_url_follows_the_path(stub_vendor: StubVendor):
    base_url = f"{stub_vendor.url}/openai/deployments/gpt?api-version=2024-10-21"
    azure = OpenAI(api_key="", base_url=base_url, model="gpt", headers={"api-key": KEY})
    stub_vendor.reply(answer() | {"data": [{"id": "gpt"}]})
    complete(azure)
    read_deltas(azure)
    azure.check(Deadline(5))
    path = "/openai/deployments/gpt/chat/completions?api-version=2024-10-21"
    assert [(sent.path, sent.headers["api-key"]) for sent in stub_vendor.requests] == [
        (path, KEY),
        (path, KEY),
        ("/openai/deployments/gpt/models?api-version=2024-10-21", KEY),
    ]


@pytest.mark.parametrize("host", ["api.openai.com", "us.api.openai.com"])
def test_openai_with_a_query_is_still_openai(host: str):
    sent = sent_to(f"https://{host}/v1?x=y", REQUEST._replace(parameters={"max_tokens": 5}))
    assert str(sent.url) == f"https://{host}/v1/chat/completions?x=y"
    assert json.loads(sent.content)["max_completion_tokens"] == 5


def test_a_header_replaces_that_of_the_key(stub_vendor: StubVendor):
    headers = {"authorization": "Basic eA==", "x-team": "blue, or red"}
    complete(OpenAI(api_key=KEY, base_url=stub_vendor.url, model="m", headers=headers))
    sent = stub_vendor.requests[0].headers
    assert (sent["authorization"], sent["x-team"]) == ("Basic eA==", "blue, or red")


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
    assert complete(openai, REQUEST._replace(parameters={"max_tokens": 64})) == Completion(
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


def test_the_price_is_that_of_the_service_tier():
    def post(request: httpx.Request) -> httpx.Response:
        usage = {"prompt_tokens": 1000, "completion_tokens": 100}
        content = answer() | {"model": "gpt-5-nano", "usage": usage, "service_tier": "flex"}
        return httpx.Response(200, json=content)

    url, transport = "https://api.openai.com/v1", httpx.MockTransport(post)
    openai = OpenAI(api_key=KEY, base_url=url, model="gpt-5-nano", transport=transport)
    assert complete(openai).usage.cost_usd == Decimal("0.000045")


def test_reasoning_content_is_apart_from_the_text(stub_vendor: StubVendor, openai: OpenAI):
    reply_with_recording(stub_vendor, "compat_success_reasoning_content")
    assert complete(openai) == Completion(
        message={"content": "42", "reasoning_content": "The user asks for the answer."},
        model="deepseek-v4-flash",
        finish_reason="stop",
        usage=Usage(
            prompt_tokens=12,
            completion_tokens=9,
            total_tokens=21,
            cached_tokens=0,
            reasoning_tokens=7,
        ),
        extras={"system_fingerprint": "fp_x"},
    )


REFERENCE = {"type": "reference", "reference_ids": [0, 1]}
CITED = {"type": "text", "text": "42", "citations": [{"url": "https://example.org"}]}


def piece(*parts: dict[str, Any]) -> str:
    return chunk(choices=[{"index": 0, "delta": {"content": parts}}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "<think>Hm.\nSure?</think>\n\n42",
            {"content": "42", "reasoning_content": "Hm.\nSure?"},
        ),
        (" <think></think>42 <think>", {"content": "42 <think>"}),
        ("So.</think>42", {"content": "42", "reasoning_content": "So."}),
        ("Write `</think>`.", {"content": "Write `</think>`."}),
        ([{"type": "text", "text": "4"}, {"type": "text", "text": "2"}], {"content": "42"}),
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                *(7, None, {"type": "text", "text": "42"}),
            ],
            {"content": "42", "reasoning_content": "Hm."},
        ),
        (
            [{"type": "text", "text": 7}, {"type": "text", "text": "42"}, {"text": "?"}],
            {"content": "42"},
        ),
        (
            [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}],
            {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]},
        ),
        ([{"type": "output_text", "text": "42", "annotations": []}], {"content": "42"}),
        ([{"type": "text", "text": "42", "index": 1, "id": "a"}], {"content": "42"}),
        ([REFERENCE], {"content_parts": [REFERENCE]}),
        (
            [{"type": "text", "text": "42"}, REFERENCE, CITED],
            {"content": "4242", "content_parts": [REFERENCE, CITED]},
        ),
        (
            [
                {"type": "thinking", "thinking": "Hm.", "signature": "a"},
                {"type": "reasoning", "summary": [{"text": "So.", "signature": "b"}]},
                {"type": "text", "text": "42"},
            ],
            {
                "content": "42",
                "reasoning_content": "Hm.So.",
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "Hm.", "signature": "a", "index": 0},
                    {"type": "reasoning.text", "text": "So.", "signature": "b", "index": 1},
                ],
            },
        ),
    ],
)
def test_thoughts_and_other_parts_are_apart_from_the_text(
    stub_vendor: StubVendor, openai: OpenAI, content: Any, message: dict[str, Any]
):
    stub_vendor.reply(answer(message={"content": content}))
    assert complete(openai) == Completion(message=message, model="model-1", finish_reason="stop")


def test_other_parts_of_an_answer_are_streamed_as_they_come(
    stub_vendor: StubVendor, openai: OpenAI
):
    stub_vendor.stream([chunk("4"), piece(REFERENCE), chunk("2"), piece(CITED), FINISH, DONE])
    deltas, completion = read_deltas(openai)
    assert deltas[1] == {"content_parts": [REFERENCE]}
    assert completion.message == {"content": "4242", "content_parts": [REFERENCE, CITED]}


@pytest.mark.parametrize("content", ["42", None, [{"type": "text", "text": "42"}]])
def test_other_parts_of_an_answer_are_parts_again_for_the_vendor(
    stub_vendor: StubVendor, openai: OpenAI, content: Any
):
    message = {"role": "assistant", "content": content, "content_parts": [REFERENCE, CITED]}
    complete(openai, REQUEST._replace(messages=(*REQUEST.messages, message)))
    texts = [{"type": "text", "text": "42"}] if content else []
    wanted = {"role": "assistant", "content": [*texts, REFERENCE]}
    assert stub_vendor.requests[0].json["messages"][1] == wanted


def test_unfinished_thoughts_leave_an_empty_text(stub_vendor: StubVendor, openai: OpenAI):
    stub_vendor.reply(answer(message={"content": "<think>Hm, let"}, finish_reason="length"))
    assert complete(openai) == Completion(
        message={"reasoning_content": "Hm, let"}, model="model-1", finish_reason="length"
    )


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "message",
    [
        {"refusal": "I'm sorry, I cannot."},
        {"images": [IMAGE]},
        {"audio": {"id": "audio_1", "data": "aGk=", "transcript": "hi", "expires_at": 1}},
        {"content": "42", "annotations": [{"type": "url_citation", "url_citation": {}}]},
        {"tool_calls": [CALL]},
        {"content": "Wait.", "tool_calls": [{**CALL, "extra_content": {"google": {"x": "y"}}}]},
        {"function_call": {"name": "f", "arguments": "{}"}},
        {"content": "42", "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]},
        {"content": "42", "something_new": {"a": [1, 0.5, None, "b"]}},
    ],
    ids=lambda message: next(reversed(message)),
)
def test_a_message_is_kept_whole(stub_vendor: StubVendor, openai: OpenAI, message: dict[str, Any]):
    stub_vendor.reply(answer(message={"role": "assistant", "content": None, **message}))
    assert complete(openai).message == message


def test_fields_beside_the_choices_are_extras(stub_vendor: StubVendor, openai: OpenAI):
    extras = {"system_fingerprint": "fp_1", "citations": ["https://example.org"], "scores": [0.5]}
    logprobs = {"content": [{"token": "Hi", "logprob": -0.1}], "refusal": None}
    stub_vendor.reply(answer(logprobs=logprobs) | extras | {"service_tier": None, "id": "x"})
    assert complete(openai).extras == {**extras, "logprobs": logprobs}


def test_half_a_surrogate_pair_in_a_field_s_name_is_replaced(
    stub_vendor: StubVendor, openai: OpenAI
):
    odd, repaired = {"x\ud800": "y"}, {"x\N{REPLACEMENT CHARACTER}": "y"}
    message = {"content": "Hi.", "tool_calls": [CALL | odd], **odd}
    stub_vendor.reply(answer(message=message, **odd) | odd)
    completion = complete(openai)
    assert completion.message == {
        "content": "Hi.",
        "tool_calls": [CALL | repaired],
        **repaired,
    }
    assert completion.extras == {**repaired, "choice": repaired}
    assert orjson.dumps([completion.message, completion.extras])


@pytest.mark.parametrize("odd", ["x", 1, ["x"], {"content": "x"}], ids=repr)
@pytest.mark.parametrize("name", ["choice", "logprobs"])
def test_a_field_beside_the_choices_is_not_taken_for_one_of_the_choice(
    stub_vendor: StubVendor, openai: OpenAI, name: str, odd: Any
):
    logprobs = {"content": [{"token": "Hi", "logprob": -0.1}]}
    stub_vendor.reply(answer(logprobs=logprobs, weight=2) | {name: odd})
    assert complete(openai).extras == {"choice": {"weight": 2}, "logprobs": logprobs}


def test_all_choices_are_looked_through(stub_vendor: StubVendor, openai: OpenAI):
    text = {"index": 0, "message": {"content": "Wait."}, "finish_reason": "tool_calls"}
    calls = {"index": 1, "message": {"content": "", "tool_calls": [CALL]}, "finish_reason": "stop"}
    other = {"index": 2, "message": {"content": "Another."}, "finish_reason": "stop"}
    stub_vendor.reply({"choices": [text, calls, other]})
    assert complete(openai) == Completion(
        message={"content": "Wait.", "tool_calls": [CALL]},
        model="model-1",
        finish_reason="tool_calls",
    )


def test_each_choice_may_have_a_tool_call(stub_vendor: StubVendor, openai: OpenAI):
    second = CALL | {"id": "call_2"}
    choices = [{"message": {"tool_calls": [each]}} for each in (CALL, second)]
    stub_vendor.reply({"choices": choices})
    assert complete(openai).message == {"tool_calls": [CALL, second]}


@pytest.mark.parametrize(
    ("finish", "meant"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("model_length", "length"),
        ("MAX_TOKENS", "length"),
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


def test_a_tool_call_with_broken_arguments_is_an_error(stub_vendor: StubVendor, openai: OpenAI):
    broken = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a'}}
    for finish in ("tool_calls", "length"):
        stub_vendor.clear()
        stub_vendor.reply(
            answer(message={"tool_calls": [broken]}, finish_reason=finish)
            | {"usage": OPENAI_ANSWER["usage"]}
        )
        request, reported = counting()
        error = raised_error(openai, request)
        assert summarize(error) == ErrorSummary(ProviderFailed)
        assert error.reason == "broken_tool_call"
        assert reported == [Usage(prompt_tokens=9, completion_tokens=5, total_tokens=14)]


@pytest.mark.parametrize(
    "given",
    [
        {"message": {"content": None}, "finish_reason": "content_filter"},
        {"message": {"content": ""}},
    ],
    ids=["filtered", "empty"],
)
def test_an_error_keeps_the_usage(stub_vendor: StubVendor, openai: OpenAI, given: dict[str, Any]):
    stub_vendor.reply(answer(**given) | {"usage": OPENAI_ANSWER["usage"]})
    counted = Usage(prompt_tokens=9, completion_tokens=5, total_tokens=14)
    request, reported = counting()
    raised_error(openai, request)
    assert reported == [counted]


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
