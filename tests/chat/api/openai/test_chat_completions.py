"""POST /v1/chat/completions: OpenAI's shapes, with the service's records and limits."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import ANY

import pytest
from django.conf import settings
from django.http import HttpResponse

from chat import api_keys, model_catalog
from chat.storage.base import Status
from tests.client import ApiClient
from tests.factories import ALICE, KEY, Clock, all_records
from tests.stub_vendor import OPENAI_ANSWER, StubVendor

# Streams are written by another thread, and a claim that loses a race is rolled back.
committed = pytest.mark.django_db(transaction=True)

Configure = Callable[..., None]

OPTIONAL = (
    *("audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs"),
    *("max_completion_tokens", "max_tokens", "metadata", "modalities", "n", "parallel_tool_calls"),
    *("presence_penalty", "reasoning_effort", "response_format", "seed", "stop", "stream"),
    *("stream_options", "temperature", "tool_choice", "tools", "top_p", "user"),
    "web_search_options",
)
PATH = "/v1/chat/completions"
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Lisboa"}'},
}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
FILE = {"type": "file", "file": {"file_id": "file-1"}}
UNKNOWN_TO_US = [
    {"logprobs": True, "top_logprobs": 2},
    {"logit_bias": {"50256": -100}},
    {"functions": [{"name": "weather"}], "function_call": "auto"},
    {"audio": {"voice": "alloy"}, "modalities": ["text", "audio"]},
    {"modalities": 5},
    {"web_search_options": {}},
    {"prediction": {"type": "content", "content": "a"}},
    {"store": True, "service_tier": "auto", "verbosity": "low", "chat_id": {"a": [1]}},
    {"reasoning": {"max_tokens": 2000}, "provider": {"order": ["a"]}, "top_k": 40},
    {"tools": [{"type": "custom", "custom": {"name": "sql"}}]},
]


def complete(
    api: ApiClient, content: Any = "Olá!", headers: dict[str, str] | None = None, **fields: Any
) -> HttpResponse:
    body = {"model": "default", "messages": [{"role": "user", "content": content}], **fields}
    return api.post(PATH, body, headers=headers)


def text(response: HttpResponse) -> str:
    assert response.status_code == 200, response.content
    return str(response.json()["choices"][0]["message"]["content"])


def error(response: HttpResponse) -> dict[str, Any]:
    """Return the error of an answer, which must have OpenAI's error shape."""
    assert response["Content-Type"] == "application/json"
    assert response["X-Request-ID"]
    body = json.loads(response.content)
    assert body.keys() == {"error"}
    return read_error(body)


def read_error(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["error"]
    assert found.keys() == {"message", "type", "param", "code"}
    assert found["message"]
    return found


def failure(response: HttpResponse) -> tuple[int, str, str | None, str | None]:
    found = error(response)
    return response.status_code, found["type"], found["code"], found["param"]


def events(response: HttpResponse) -> list[str]:
    """Return the data of each event of a stream, without comments."""
    assert response.status_code == 200, response.content
    assert response["Content-Type"] == "text/event-stream; charset=utf-8"
    body = b"".join(response.streaming_content).decode()  # type: ignore[attr-defined]
    response.close()
    assert body.endswith("\n\n")
    blocks = [block for block in body[:-2].split("\n\n") if not block.startswith(":")]
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


def chunks(response: HttpResponse) -> list[dict[str, Any]]:
    """Return the chunks of a complete stream, which must all have the same head."""
    *data, last = events(response)
    assert last == "[DONE]"
    read = [json.loads(chunk) for chunk in data]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in read}) == 1
    assert {chunk["object"] for chunk in read} == {"chat.completion.chunk"}
    return read


def deltas(response: HttpResponse) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks(response) for choice in chunk["choices"]]


def sse(*data: Any) -> str:
    """Return a vendor's stream of these chunks."""
    return "".join(f"data: {json.dumps(each)}\n\n" for each in data) + "data: [DONE]\n\n"


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    return {"id": "chatcmpl-1", "model": "stand-in-1", "choices": [choice]}


class TestPlain:
    def test_an_answer_has_openai_s_shape(self, api: ApiClient) -> None:
        response = complete(api, user=ALICE)
        [record] = all_records()
        assert response["Content-Type"] == "application/json"
        assert response.json() == {
            "id": f"chatcmpl-{record.interaction_id}",
            "object": "chat.completion",
            "created": int(record.created_at.timestamp()),
            "model": "mock-1",
            "system_fingerprint": None,
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": "You said: Olá!",
                        "refusal": None,
                    },
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 1,
                "completion_tokens": 3,
                "total_tokens": 4,
                "prompt_tokens_details": {},
                "completion_tokens_details": {},
            },
            "interaction_id": record.interaction_id,
        }

    def test_unknown_usage_is_null(self, api: ApiClient, vendor: StubVendor) -> None:
        vendor.reply({**OPENAI_ANSWER, "usage": None})
        assert complete(api).json()["usage"] is None

    def test_tool_calls_replace_the_text(self, api: ApiClient, vendor: StubVendor) -> None:
        message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        vendor.reply({**OPENAI_ANSWER, "choices": [choice]})
        [answered] = complete(api, tools=[TOOL]).json()["choices"]
        assert answered["finish_reason"] == "tool_calls"
        assert answered["message"] == {**message, "refusal": None}
        [record] = all_records()
        assert record.tool_calls == (CALL,)

    @committed
    @pytest.mark.parametrize("stream", [False, True])
    def test_usage_has_the_details_that_the_vendor_reports(
        self, api: ApiClient, vendor: StubVendor, stream: bool
    ) -> None:
        prompt = {"cached_tokens": 0, "audio_tokens": 1, "image_tokens": None, "file": "a"}
        answer = {"reasoning_tokens": 2, "accepted_prediction_tokens": 0}
        details = {"prompt_tokens_details": prompt, "completion_tokens_details": answer}
        counts = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
        vendor.reply({**OPENAI_ANSWER, "usage": {**counts, **details}})
        if stream:
            read = chunks(complete(api, stream=True, stream_options={"include_usage": True}))
            assert {chunk["usage"] is None for chunk in read[:-1]} == {True}
            found = read[-1]["usage"]
        else:
            found = complete(api).json()["usage"]
        del prompt["image_tokens"]
        assert found == {**counts, **details}

    def test_spoken_answers_are_sent_back_by_their_id(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        audio = {"id": "audio_1", "data": "aGk=", "transcript": "hi", "expires_at": 1}
        choice = {"message": {"content": None, "audio": audio}, "finish_reason": "stop"}
        vendor.reply({"choices": [choice]})
        body = complete(api).json()
        assert body["choices"][0]["message"]["audio"] == audio
        complete(api, previous_interaction_id=body["interaction_id"])
        said = vendor.requests[-1].json["messages"][1]
        assert said == {"role": "assistant", "content": None, "audio": {"id": "audio_1"}}

    @committed
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_refusal_has_a_field_of_its_own(
        self, api: ApiClient, vendor: StubVendor, stream: bool
    ) -> None:
        message = {"role": "assistant", "content": None, "refusal": "No."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        vendor.reply({**OPENAI_ANSWER, "choices": [choice]})
        response = complete(api, stream=stream)
        if stream:
            assert deltas(response)[1:] == [{"refusal": "No."}, {}]
        else:
            [answered] = response.json()["choices"]
            assert (answered["message"], answered["finish_reason"]) == (message, "stop")

    @committed
    @pytest.mark.parametrize("stream", [False, True])
    def test_all_that_a_vendor_says_reaches_the_client_and_the_record(
        self, api: ApiClient, vendor: StubVendor, stream: bool
    ) -> None:
        said = {
            "content": "Lisboa",
            "reasoning": "A city.",
            "reasoning_details": [{"type": "reasoning.encrypted", "data": "gAAA", "index": 0}],
            "annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.example"}}],
            "images": [IMAGE],
        }
        logprobs = {"content": [{"token": "Lisboa", "logprob": -0.1}], "refusal": None}
        beside = {"content_filter_results": {"hate": {"filtered": False}}, "stop_reason": 7}
        choice = {"index": 0, "finish_reason": "stop", "logprobs": logprobs, **beside}
        extras = {"citations": ["https://a.example"], "service_tier": "default"}
        if stream:
            pieces = [
                {"choices": [{"index": 0, "delta": {}, "stop_reason": 7}]},
                {**extras, "choices": [{**choice, "delta": said, "finish_reason": None}]},
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            ]
            vendor.reply(sse(*pieces), headers={"content-type": "text/event-stream"})
            _, read, *_ = chunks(complete(api, stream=True))
            answered = {"message": read["choices"][0].pop("delta"), **read["choices"][0]}
        else:
            whole = {**choice, "message": {"role": "assistant", **said}}
            vendor.reply({**OPENAI_ANSWER, **extras, "choices": [whole]})
            read = complete(api).json()
            [answered] = read["choices"]
            assert answered["message"].pop("role") == "assistant"
            assert answered["message"].pop("refusal") is None
        assert answered["message"] == said
        assert answered["logprobs"] == logprobs
        assert {name: answered[name] for name in beside} == beside
        assert {name: read[name] for name in extras} == extras
        [record] = all_records()
        rest = {name: value for name, value in said.items() if name != "content"}
        assert (record.response, record.message) == ("Lisboa", rest)
        assert record.extras == {**extras, "logprobs": logprobs, "choice": beside}

    @pytest.mark.parametrize("accept", ["*/*", "text/event-stream", "image/png", "nonsense"])
    @pytest.mark.parametrize("path", [PATH, "/v1/models", "/v1/models/mock-1"])
    def test_accept_is_ignored(self, api: ApiClient, path: str, accept: str) -> None:
        headers = {"Accept": accept}
        response = complete(api, headers=headers) if path == PATH else api.get(path, headers)
        assert (response.status_code, response["Content-Type"]) == (200, "application/json")

    @committed
    def test_answers_count_against_the_same_limit(
        self, api: ApiClient, change_settings: Configure
    ) -> None:
        change_settings(RATE_LIMIT_PER_MINUTE=2)
        assert complete(api, user=ALICE)["X-RateLimit-Remaining"] == "1"
        streamed = complete(api, user=ALICE, stream=True)
        events(streamed)
        assert streamed["X-RateLimit-Remaining"] == "0"
        limited = complete(api, user=ALICE)
        assert failure(limited) == (429, "requests", "rate_limit_exceeded", None)
        assert 1 <= int(limited["Retry-After"]) <= 60
        assert limited["X-RateLimit-Limit"] == "2"
        assert "X-Should-Retry" not in limited
        assert api.chat(user=ALICE).status_code == 429


@committed
class TestStreamed:
    def test_a_stream_has_role_text_finish_reason_and_requested_usage(self, api: ApiClient) -> None:
        response = complete(api, "um", stream=True, stream_options={"include_usage": True})
        read = chunks(response)
        [record] = all_records()

        def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return {**head, "choices": [choice], "usage": None}

        head = {
            "id": f"chatcmpl-{record.interaction_id}",
            "object": "chat.completion.chunk",
            "created": int(record.created_at.timestamp()),
            "model": "mock-1",
            "system_fingerprint": None,
        }
        assert read == [
            chunk({"role": "assistant", "content": "", "refusal": None}),
            chunk({"content": "You"}),
            chunk({"content": " said:"}),
            chunk({"content": " um"}),
            chunk({}, "stop"),
            {
                **head,
                "choices": [],
                "usage": {
                    "prompt_tokens": 1,
                    "completion_tokens": 3,
                    "total_tokens": 4,
                    "prompt_tokens_details": {},
                    "completion_tokens_details": {},
                },
            },
        ]

    @pytest.mark.parametrize("options", [None, {}, {"include_usage": False}])
    def test_usage_is_omitted_unless_requested(self, api: ApiClient, options: Any) -> None:
        read = chunks(complete(api, stream=True, stream_options=options))
        assert not any("usage" in chunk for chunk in read)
        assert [chunk["choices"][0]["finish_reason"] for chunk in read][-2:] == [None, "stop"]

    def test_stream_headers_forbid_buffering(self, api: ApiClient) -> None:
        response = complete(api, stream=True, headers={"Accept-Encoding": "gzip"})
        events(response)
        assert response["Cache-Control"] == "no-cache"
        assert response["X-Accel-Buffering"] == "no"
        assert "Content-Length" not in response
        assert "Content-Encoding" not in response
        assert response["X-Request-ID"]

    def test_all_chunks_name_the_model_that_answers(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        stream = sse(delta(content="Hi"), delta("stop"))
        vendor.reply(stream, headers={"content-type": "text/event-stream"})
        read = chunks(complete(api, stream=True))
        assert {chunk["model"] for chunk in read} == {"stand-in-1"}
        assert [record.model for record in all_records()] == ["stand-in-1"]

    def test_unknown_usage_is_null(self, api: ApiClient, vendor: StubVendor) -> None:
        stream = sse(delta(content="Hi"), delta("stop"))
        vendor.reply(stream, headers={"content-type": "text/event-stream"})
        *_, last = chunks(complete(api, stream=True, stream_options={"include_usage": True}))
        assert (last["choices"], last["usage"]) == ([], None)

    def test_tool_calls_are_streamed_as_they_come(self, api: ApiClient, vendor: StubVendor) -> None:
        begun = {**CALL, "index": 0, "function": {"name": "weather", "arguments": ""}}
        pieces = [
            {"index": 0, "function": {"arguments": text}} for text in ('{"city":', '"Lisboa"}')
        ]
        stream = sse(
            delta(role="assistant", content=None),
            delta(tool_calls=[begun]),
            *(delta(tool_calls=[piece]) for piece in pieces),
            delta("tool_calls"),
        )
        vendor.reply(stream, headers={"content-type": "text/event-stream"})
        read = chunks(complete(api, tools=[TOOL], stream=True))
        assert [chunk["choices"][0]["delta"] for chunk in read] == [
            {"role": "assistant", "content": "", "refusal": None},
            {"tool_calls": [begun]},
            *({"tool_calls": [piece]} for piece in pieces),
            {},
        ]
        assert read[-1]["choices"][0]["finish_reason"] == "tool_calls"
        assert [record.tool_calls for record in all_records()] == [(CALL,)]

    def test_unicode_line_separators_are_escaped(self, api: ApiClient) -> None:
        data = events(complete(api, "a\u2028b\u0085c\nd", stream=True))
        assert all(len(chunk.splitlines()) == 1 for chunk in data)
        written = [json.loads(chunk)["choices"][0]["delta"] for chunk in data[:-1]]
        assert "".join(each.get("content", "") for each in written) == (
            "You said: a\u2028b\u0085c\nd"
        )

    def test_a_failure_before_the_first_token_has_its_own_status(self, api: ApiClient) -> None:
        response = complete(api, "mock:fail=garbled", stream=True)
        assert failure(response) == (502, "server_error", "upstream_error", None)

    def test_a_failure_after_the_first_token_is_an_event_without_a_finish(
        self, api: ApiClient
    ) -> None:
        *begun, last = map(json.loads, events(complete(api, "mock:break and go", stream=True)))
        assert len(begun) > 1
        assert all(chunk["choices"][0]["finish_reason"] is None for chunk in begun)
        assert read_error(last) == {
            "message": "The provider broke off its answer.",
            "type": "server_error",
            "param": None,
            "code": "upstream_error",
        }
        [record] = all_records()
        assert (record.status, record.response) == (Status.ERROR, "You said:")


class TestErrors:
    @pytest.mark.parametrize(
        ("fields", "code", "param"),
        [
            ({"messages": []}, "invalid_type", "messages"),
            ({"messages": None}, "invalid_type", "messages"),
            ({"messages": "Olá!"}, "invalid_type", "messages"),
            ({"messages": ["Olá!"]}, "invalid_value", "messages"),
            ({"messages": [{"role": "user"}]}, "invalid_value", "messages"),
            ({"messages": [{"role": "wizard", "content": "a"}]}, "invalid_value", "messages"),
            ({"messages": [{"role": "user", "content": 1}]}, "invalid_value", "messages"),
            ({"messages": [{"role": "user", "content": [1]}]}, "invalid_value", "messages"),
            ({"messages": [{"role": "user", "content": [{}]}]}, "invalid_value", "messages"),
            (
                {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
                "invalid_value",
                "messages",
            ),
            ({"messages": [{"role": "tool", "content": "a"}]}, "invalid_value", "messages"),
            (
                {"messages": [{"role": "assistant", "tool_calls": [1]}]},
                "invalid_value",
                "messages",
            ),
            (
                {"messages": [{"role": "user", "content": "a", "tool_calls": [CALL]}]},
                "invalid_value",
                "messages",
            ),
            *(
                ({"messages": [message]}, "invalid_value", "messages")
                for id_ in ({}, {"a": 1}, ["a"])
                for message in (
                    {"role": "assistant", "tool_calls": [{**CALL, "id": id_}]},
                    {"role": "tool", "content": "a", "tool_call_id": id_},
                    {"role": "user", "content": "a", "tool_call_id": id_},
                )
            ),
            (
                {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
                "invalid_value",
                "messages",
            ),
            (
                {"messages": [{"role": "user", "content": "a", "name": 7}]},
                "invalid_value",
                "messages",
            ),
            ({"model": None}, "invalid_type", "model"),
            ({"model": ""}, "invalid_value", "model"),
            ({"n": 2}, "invalid_value", "n"),
            ({"n": "1"}, "invalid_value", "n"),
            ({"temperature": 3}, "invalid_value", "temperature"),
            ({"temperature": "0"}, "invalid_value", "temperature"),
            ({"max_tokens": 0}, "invalid_value", "max_tokens"),
            ({"stop": ["a"] * 5}, "invalid_value", "stop"),
            ({"stream": "yes"}, "invalid_value", "stream"),
            ({"stream_options": []}, "invalid_value", "stream_options"),
            ({"tool_choice": 1}, "invalid_value", "tool_choice"),
            ({"tools": {}}, "invalid_type", "tools"),
            ({"tools": [7]}, "invalid_type", "tools.0"),
            ({"tools": [7] * 129}, "invalid_value", "tools"),
            ({"user": "no/slash"}, "invalid_value", "user"),
            ({"user": 7}, "invalid_value", "user"),
        ],
        ids=json.dumps,
    )
    def test_an_invalid_request_names_the_field(
        self, api: ApiClient, fields: dict[str, Any], code: str, param: str
    ) -> None:
        assert failure(complete(api, **fields)) == (400, "invalid_request_error", code, param)
        assert all_records() == []

    @pytest.mark.parametrize("name", ["model", "messages"])
    def test_missing_required_fields_are_reported(self, api: ApiClient, name: str) -> None:
        body = {"model": "mock-1", "messages": [{"role": "user", "content": "Olá!"}]}
        del body[name]
        wanted = (400, "invalid_request_error", "missing_required_parameter", name)
        assert failure(api.post(PATH, body)) == wanted

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"a"', b"null", b"\xff"])
    def test_a_body_that_is_not_an_object_is_refused(self, api: ApiClient, body: bytes) -> None:
        assert failure(api.post(PATH, body))[:2] == (400, "invalid_request_error")

    def test_a_body_that_is_too_large_is_refused(
        self, api: ApiClient, change_settings: Configure
    ) -> None:
        change_settings(MAX_BODY_BYTES=100)
        wanted = (413, "invalid_request_error", "request_too_large", None)
        assert failure(complete(api, "a" * 100)) == wanted

    @pytest.mark.parametrize("user", ["a/b", "..", "a\n", "a" * 129, 7])
    def test_an_invalid_user_id_is_refused(self, api: ApiClient, user: Any) -> None:
        assert failure(complete(api, user=user))[::3] == (400, "user")

    def test_a_text_may_be_as_long_as_the_body(
        self, api: ApiClient, change_settings: Configure
    ) -> None:
        change_settings(PROMPT_MAX_LENGTH=10)
        assert text(complete(api, "a" * 1_000_000)) == "You said: " + "a" * 1_000_000

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/embeddings",
            "/v1/responses/",
            "/v1/responses/resp_1/cancel",
            "/v1/responses/compact",
            "/v1/responses/input_tokens",
            "/v1/models/",
            "/v1/embeddings/a%0Ab",
            "/v1/chat/completions/",
            "/v1/chat/completions/chatcmpl-1",
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
    def test_unsupported_endpoints_are_not_found(
        self, api: ApiClient, method: str, path: str
    ) -> None:
        found = failure(api.request(method, path))
        assert found == (404, "invalid_request_error", "unknown_url", None)

    def test_another_content_type_is_refused(self, api: ApiClient) -> None:
        response = api.post(PATH, b"{}", content_type="text/plain")
        assert failure(response)[:2] == (415, "invalid_request_error")

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", PATH), ("DELETE", "/v1/models"), ("POST", "/v1/models/mock-1")],
    )
    def test_another_method_is_refused(self, api: ApiClient, method: str, path: str) -> None:
        wanted = (405, "invalid_request_error", "method_not_supported", None)
        assert failure(api.request(method, path)) == wanted

    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer sk-unknown"}])
    @pytest.mark.parametrize("path", [PATH, "/v1/models", "/v1/models/mock-1"])
    def test_a_missing_or_wrong_key_is_refused(
        self, api: ApiClient, require_api_key: list[str], path: str, headers: dict[str, str]
    ) -> None:
        response = complete(api, headers=headers) if path == PATH else api.get(path, headers)
        assert failure(response) == (401, "invalid_request_error", "invalid_api_key", None)
        assert response["WWW-Authenticate"] == "Bearer"

    def test_the_key_may_be_a_bearer_token(
        self, api: ApiClient, require_api_key: list[str]
    ) -> None:
        assert text(complete(api, headers={"Authorization": f"Bearer {KEY}"}))

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("model", ["gpt-unknown", "gemini:mock-1", "mock:mock-2"])
    def test_an_unknown_model_is_not_found(self, api: ApiClient, model: str, stream: bool) -> None:
        wanted = (404, "invalid_request_error", "model_not_found", "model")
        assert failure(complete(api, model=model, stream=stream)) == wanted
        assert all_records() == []

    @pytest.mark.parametrize(
        ("directive", "status", "code"),
        [("fail=garbled", 502, "upstream_error"), ("fail=timeout", 504, "upstream_timeout")],
    )
    def test_failures_after_retries_are_marked_not_retryable(
        self, api: ApiClient, directive: str, status: int, code: str
    ) -> None:
        response = complete(api, f"mock:{directive}")
        assert failure(response) == (status, "server_error", code, None)
        assert response["X-Should-Retry"] == "false"

    def test_an_overloaded_vendor_is_a_retryable_503(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        vendor.reply({"error": {"message": "slow"}}, status=429, headers={"Retry-After": "400"})
        response = complete(api)
        assert failure(response) == (503, "server_error", "server_is_overloaded", None)
        assert response["Retry-After"] == "400"
        assert "X-Should-Retry" not in response

    def test_retries_of_a_vendor_without_credit_are_stopped(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        vendor.reply({"error": {"code": "insufficient_quota", "message": "no"}}, status=429)
        response = complete(api)
        assert failure(response) == (503, "server_error", "server_is_overloaded", None)
        assert (response.get("Retry-After"), response["X-Should-Retry"]) == ("3600", "false")
        assert len(vendor.requests) == 1

    def test_retries_are_stopped_while_the_circuit_is_open_for_lack_of_credit(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        vendor.reply({"error": {"code": "insufficient_quota", "message": "no"}}, status=429)
        responses = [complete(api) for _ in range(7)]
        hints = [(each["Retry-After"], each.get("X-Should-Retry")) for each in responses]
        assert hints == [("3600", "false")] * 7
        assert len(vendor.requests) == 5

    def test_a_named_model_that_the_vendor_does_not_know_is_not_found(
        self, api: ApiClient, vendor: StubVendor, change_settings: Configure
    ) -> None:
        change_settings(ALLOWED_MODELS=["*"])
        vendor.reply({"error": {"message": "m is not a valid model ID"}}, status=400)
        wanted = (404, "invalid_request_error", "model_not_found", "model")
        assert failure(complete(api, model="m")) == wanted
        assert [record.status for record in all_records()] == [Status.ERROR]
        assert failure(complete(api))[0] == 502

    @pytest.mark.parametrize(
        ("named", "param"),
        [
            ("top_p", "top_p"),
            ("max_completion_tokens", "max_tokens"),
            ("messages", "messages"),
            ("messages.[1].content", "messages[1].content"),
            ("messages[7].content", None),
            ("user", None),
            ("stream_options", None),
            (None, None),
        ],
    )
    def test_the_field_that_a_vendor_refuses_is_named(
        self, api: ApiClient, vendor: StubVendor, named: str | None, param: str | None
    ) -> None:
        vendor.reply({"error": {"message": "too large", "param": named}}, status=400)
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        messages = [*turns, {"role": "user", "content": "c"}]
        response = complete(api, messages=messages, top_p=1, max_tokens=9)
        assert failure(response) == (400, "invalid_request_error", "provider_rejected", param)

    def test_a_message_that_a_vendor_refuses_has_the_number_of_the_request(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        vendor.reply(OPENAI_ANSWER)
        vendor.reply({"error": {"message": "no", "param": "messages[2].content"}}, status=400)
        asked = complete(api).json()["interaction_id"]
        response = complete(api, [{"type": "text", "text": "a"}], previous_interaction_id=asked)
        assert failure(response)[3] == "messages[0].content"

    def test_filtered_content_is_a_bad_request(self, api: ApiClient) -> None:
        wanted = (400, "invalid_request_error", "content_filter", None)
        assert failure(complete(api, "mock:filter")) == wanted

    @pytest.mark.parametrize("words", ["", "This model's maximum context length is 8192 tokens."])
    def test_a_context_that_is_too_long_has_openais_code(
        self, api: ApiClient, vendor: StubVendor, words: str
    ) -> None:
        error = {"message": words, "code": "context_length_exceeded"}
        vendor.reply({"error": error}, status=400)
        wanted = (400, "invalid_request_error", "context_length_exceeded", None)
        assert failure(complete(api)) == wanted

    @pytest.mark.parametrize("depth", [50, *range(240, 256), 300, 980, 1020])
    @pytest.mark.parametrize("name", ["tools", "tool_choice", "response_format", "unknown"])
    def test_deep_nesting_is_accepted_or_refused_without_a_500(
        self, api: ApiClient, vendor: StubVendor, change_settings: Configure, name: str, depth: int
    ) -> None:
        change_settings(ENABLE_CACHE=True)
        nest = b'{"a":' * depth + b"1" + b"}" * depth
        value = b"[%b]" % nest if name == "tools" else nest
        body = b'{"model":"default","messages":[{"role":"user","content":"a"}],"%b":%b%b}'
        tools = b',"tools":[{}]' if name == "tool_choice" else b""
        response = api.post(PATH, body % (name.encode(), value, tools))
        assert response.status_code in (200, 400)
        if response.status_code == 400:
            assert error(response)["type"] == "invalid_request_error"


class TestRequests:
    """What the vendor receives, and what is recorded."""

    def test_each_parameter_reaches_a_vendor_that_supports_it(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        given = {
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 7,
            "stop": ["a", "b"],
            "seed": 42,
            "frequency_penalty": 0.5,
            "presence_penalty": -0.5,
            "reasoning_effort": "low",
            "response_format": {"type": "json_object"},
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
            "parallel_tool_calls": False,
        }
        assert complete(api, **given).status_code == 200
        [received] = vendor.requests
        assert received.json == {
            **given,
            "model": "model-1",
            "messages": [{"role": "user", "content": "Olá!"}],
            "user": ANY,
        }
        assert received.json["user"] != "anonymous"

    @committed
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("given", UNKNOWN_TO_US, ids=lambda fields: next(iter(fields)))
    def test_parameters_we_do_not_know_reach_the_vendor_and_the_record(
        self, api: ApiClient, vendor: StubVendor, given: dict[str, Any], stream: bool
    ) -> None:
        response = complete(api, **given, stream=stream)
        assert deltas(response) if stream else text(response)
        [received] = vendor.requests
        assert {name: received.json.get(name) for name in given} == given
        assert [record.parameters for record in all_records()] == [given]

    @committed
    def test_stream_options_reach_the_vendor(self, api: ApiClient, vendor: StubVendor) -> None:
        read = chunks(complete(api, stream=True, stream_options={"include_obfuscation": False}))
        assert not any("usage" in chunk for chunk in read)
        assert vendor.requests[0].json["stream_options"] == {
            "include_obfuscation": False,
            "include_usage": True,
        }

    def test_fields_of_messages_we_do_not_know_reach_the_vendor(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        system = {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}
        document = {"type": "document_url", "document_url": "https://files.example/a.pdf"}
        thoughts = {"type": "reasoning.encrypted", "data": "gAAAA"}
        messages = [
            {"role": "system", "content": [system, IMAGE]},
            {"role": "user", "content": [document]},
            {"role": "assistant", "content": "", "reasoning_details": [thoughts]},
            {"role": "user", "content": "Olá!", "weight": 1},
        ]
        assert text(complete(api, messages=messages))
        assert vendor.requests[0].json["messages"] == messages

    def test_nul_is_read_as_a_replacement_character(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        call = {**CALL, "function": {"name": "weather", "arguments": "\0"}}
        messages = [
            {"role": "system", "content": "a\0b"},
            {"role": "user", "content": [{"type": "text", "text": "\0"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "\0\0ELF"},
        ]
        assert text(complete(api, messages=messages))
        read = json.dumps(messages).replace("\\u0000", "\\ufffd")
        assert vendor.requests[0].json["messages"] == json.loads(read)

    def test_images_and_tool_results_reach_the_vendor_unchanged(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        messages = [
            {"role": "user", "content": [{"type": "text", "text": "What is it?"}, IMAGE]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "18 °C"},
        ]
        assert text(complete(api, messages=messages, tools=[TOOL]))
        assert vendor.requests[0].json["messages"] == messages
        [record] = all_records()
        assert record.prompt == "What is it?"

    def test_a_conversation_is_one_record_whose_parameters_hold_the_messages(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        turns = [
            {"role": "user", "content": "Olá!"},
            {"role": "assistant", "content": "Olá! Tudo bem?"},
            {"role": "user", "content": "Tudo."},
        ]
        system = {"role": "system", "content": "Be kind."}
        assert text(complete(api, messages=[system, *turns], user=ALICE, metadata={"a": "b"}))
        assert vendor.requests[0].json["messages"] == [system, *turns]
        [record] = all_records()
        assert (record.user_id, record.prompt, record.system) == (ALICE, "Tudo.", "Be kind.")
        assert record.parameters == {"messages": [system, *turns]}
        assert record.metadata == {"a": "b"}
        assert (record.status, record.conversation_id) == (Status.OK, record.interaction_id)

    def test_a_single_message_is_recorded_as_a_prompt(self, api: ApiClient) -> None:
        assert text(complete(api)) == "You said: Olá!"
        [record] = all_records()
        assert (record.prompt, record.system, record.parameters) == ("Olá!", None, {})

    @pytest.mark.parametrize(
        "messages",
        [
            [{"role": "system", "content": "A"}, {"role": "developer", "content": "B"}],
            [{"role": "developer", "content": "A\n\nB"}],
            [{"role": "system", "content": [{"type": "text", "text": "A\n\nB"}]}],
        ],
    )
    def test_instructions_reach_the_vendor_in_place(
        self, api: ApiClient, vendor: StubVendor, messages: list[Any]
    ) -> None:
        asked = [*messages, {"role": "user", "content": "Olá!"}]
        assert text(complete(api, messages=asked))
        # Few OpenAI-compatible servers know OpenAI's newer role.
        roles = ["system" if m["role"] == "developer" else m["role"] for m in asked]
        sent = vendor.requests[0].json["messages"]
        assert [m["role"] for m in sent] == roles
        assert [m["content"] for m in sent] == [m["content"] for m in asked]
        [record] = all_records()
        assert (record.system, record.parameters) == ("A\n\nB", {"messages": asked})

    @pytest.mark.parametrize(
        "fields",
        [
            {"models": ["model-1", "expensive/model"]},
            {"preset": "expensive"},
            {"plugins": [{"id": "web"}, {"id": "fusion", "analysis_models": ["expensive/model"]}]},
            {"plugins": [{"model": "expensive/model"}]},
            {"plugins": [{"id": ["web"]}]},
            {"plugins": ["fusion"]},
            {"plugins": {"id": "fusion"}},
            {"tools": [{"type": "openrouter:image_generation", "parameters": {"model": "x/y"}}]},
            {"tools": [{"type": "function"}, {"type": "openrouter:advisor"}]},
            {"tools": [{"type": "image_generation", "model": "x/y"}]},
        ],
    )
    def test_openrouter_cannot_be_asked_a_model_that_is_not_allowed(
        self,
        api: ApiClient,
        vendor: StubVendor,
        change_settings: Configure,
        fields: dict[str, Any],
    ) -> None:
        providers = {"openrouter": settings.PROVIDERS["openai"]}
        change_settings(PROVIDERS=providers)
        assert failure(complete(api, **fields))[::3] == (400, next(iter(fields)))
        assert not vendor.requests
        change_settings(PROVIDERS=providers, ALLOWED_MODELS=["*"])
        assert text(complete(api, **fields))
        assert vendor.requests[0].json.items() >= fields.items()

    @pytest.mark.parametrize("field", ["models", "preset", "fallbacks"])
    def test_a_gateway_cannot_be_asked_a_model_that_is_not_allowed(
        self, api: ApiClient, vendor: StubVendor, field: str
    ) -> None:
        assert failure(complete(api, **{field: ["expensive/model"]}))[::3] == (400, field)
        assert not vendor.requests

    @pytest.mark.parametrize(
        "fields",
        [
            {"models": ["model-1"]},
            {"plugins": [{"id": "web", "max_results": 2}, {"id": "file-parser"}]},
            {"tools": [{"type": "openrouter:web_search"}, {"type": "openrouter:datetime"}]},
            {"tools": [{"type": "web_search_preview"}, {"type": "custom", "custom": {}}]},
        ],
    )
    def test_openrouter_gets_what_asks_no_other_model(
        self, api: ApiClient, vendor: StubVendor, change_settings: Configure, fields: dict[str, Any]
    ) -> None:
        change_settings(PROVIDERS={"openrouter": settings.PROVIDERS["openai"]})
        assert text(complete(api, **fields))
        assert vendor.requests[0].json.items() >= fields.items()

    def test_instructions_alone_are_the_prompt(self, api: ApiClient, vendor: StubVendor) -> None:
        messages = [{"role": "system", "content": "Say something."}]
        assert text(complete(api, messages=messages))
        assert vendor.requests[0].json["messages"] == messages
        assert [record.prompt for record in all_records()] == ["Say something."]

    def test_text_parts_are_joined(self, api: ApiClient) -> None:
        parts = [{"type": "text", "text": "um"}, {"type": "text", "text": "dois"}]
        assert text(complete(api, parts)) == "You said: um\ndois"

    def test_an_answer_is_accepted_as_a_message(self, api: ApiClient) -> None:
        first = complete(api).json()["choices"][0]["message"]
        turns = [{"role": "user", "content": "Olá!"}, first, {"role": "user", "content": "E?"}]
        assert text(complete(api, messages=turns)) == "You said: E?"

    @pytest.mark.parametrize(
        "refusal",
        [
            {"content": None, "refusal": "No."},
            {"content": [{"type": "refusal", "refusal": "No."}]},
        ],
        ids=["field", "part"],
    )
    def test_a_refusal_is_accepted_as_a_message(
        self, api: ApiClient, vendor: StubVendor, refusal: dict[str, Any]
    ) -> None:
        asked, again = ({"role": "user", "content": content} for content in ("Olá!", "E?"))
        turns = [asked, {"role": "assistant", **refusal}, again]
        assert text(complete(api, messages=turns))
        turns[1]["content"] = refusal["content"] or ""
        assert vendor.requests[0].json["messages"] == turns

    def test_names_reach_the_vendor(self, api: ApiClient, vendor: StubVendor) -> None:
        messages = [{"role": "user", "content": "Olá!", "name": "Ana"}]
        assert text(complete(api, messages=messages))
        assert vendor.requests[0].json["messages"] == messages

    @pytest.mark.parametrize(
        "fields",
        [
            {"n": 1, "logprobs": False, "logit_bias": {}, "modalities": ["text"], "functions": []},
            {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
            {"response_format": {"type": "text"}},
            dict.fromkeys(OPTIONAL),
        ],
        ids=lambda fields: next(iter(fields)),
    )
    def test_parameters_at_neutral_values_are_not_sent(
        self, api: ApiClient, vendor: StubVendor, fields: dict[str, Any]
    ) -> None:
        assert text(complete(api, **fields))
        assert vendor.requests[0].json.keys() == {"model", "messages", "user"}

    @pytest.mark.parametrize("limit", [None, 1, 100])
    def test_max_completion_tokens_wins_over_max_tokens(
        self, api: ApiClient, limit: int | None
    ) -> None:
        body = complete(api, "um dois três", max_tokens=limit, max_completion_tokens=3).json()
        assert body["choices"][0]["message"]["content"] == "You said: um"
        assert body["choices"][0]["finish_reason"] == "length"

    @pytest.mark.parametrize(
        ("user", "kept"),
        [(ALICE, ALICE), (None, "anonymous"), ("", "anonymous"), ("José Silva", "José Silva")],
    )
    def test_user_is_the_user_id(self, api: ApiClient, user: str | None, kept: str) -> None:
        assert text(complete(api, user=user))
        assert [record.user_id for record in all_records()] == [kept]

    @pytest.mark.parametrize("model", ["default", "mock-1", "mock:mock-1"])
    def test_a_model_has_several_names(self, api: ApiClient, model: str) -> None:
        assert complete(api, model=model).json()["model"] == "mock-1"

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"logit_bias": {"50256": -100}}, "logit_bias"),
            ({"functions": [{"name": "weather"}]}, "functions"),
            ({"messages": [{"role": "user", "content": [FILE]}]}, "file_id"),
            ({"messages": [{"role": "user", "content": "Hi", "foo": 1}]}, "messages[0].foo"),
        ],
    )
    def test_parameters_the_provider_lacks_are_refused(
        self,
        api: ApiClient,
        change_settings: Configure,
        stream: bool,
        fields: dict[str, Any],
        param: str,
    ) -> None:
        gemini = {"api_key": "key", "base_url": "http://127.0.0.1:9", "model": "gemini-1"}
        change_settings(PROVIDERS={"gemini": gemini})
        response = complete(api, stream=stream, **fields)
        wanted = (400, "invalid_request_error", "unsupported_parameter", param)
        assert failure(response) == wanted
        wanted_message = f"{param}: Provider gemini does not support this field."
        assert error(response)["message"] == wanted_message
        assert all_records() == []


@committed
class TestIdempotency:
    HEADERS = {"Idempotency-Key": "key-1"}

    def test_the_same_key_gives_the_same_answer(self, api: ApiClient) -> None:
        first, second = (complete(api, headers=self.HEADERS) for _ in range(2))
        assert first.json() == second.json()
        assert "Idempotency-Replayed" not in first
        assert second["Idempotency-Replayed"] == "true"
        assert len(all_records()) == 1

    def test_a_streamed_answer_is_replayed(self, api: ApiClient) -> None:
        begin, *pieces, end = deltas(complete(api, headers=self.HEADERS, stream=True))
        second = complete(api, headers=self.HEADERS, stream=True)
        whole = {"content": "".join(piece["content"] for piece in pieces)}
        assert deltas(second) == [begin, whole, end]
        assert second["Idempotency-Replayed"] == "true"
        assert len(all_records()) == 1

    @pytest.mark.parametrize(
        "fields",
        [
            {"stream": False},
            {"stream": False, "stream_options": {"include_usage": True}},
            {"stream": True},
            {"stream": True, "stream_options": {"include_usage": True}},
            {"stream": True, "stream_options": {"include_obfuscation": True}},
        ],
    )
    @pytest.mark.parametrize("first_streamed", [True, False])
    def test_a_replay_may_have_another_form(
        self, api: ApiClient, first_streamed: bool, fields: dict[str, Any]
    ) -> None:
        options = {"stream_options": {"include_obfuscation": False}} if first_streamed else {}
        complete(api, headers=self.HEADERS, stream=first_streamed, **options).getvalue()
        again = complete(api, headers=self.HEADERS, **fields)
        assert again["Idempotency-Replayed"] == "true"
        assert b"You said: Ol\xc3\xa1!" in again.getvalue()

    def test_tool_calls_are_replayed(self, api: ApiClient, vendor: StubVendor) -> None:
        message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        vendor.reply({**OPENAI_ANSWER, "choices": [choice]})
        first, second = (complete(api, headers=self.HEADERS, tools=[TOOL]) for _ in range(2))
        assert first.json() == second.json()
        assert len(vendor.requests) == 1

    def test_the_same_key_for_other_messages_is_refused(self, api: ApiClient) -> None:
        earlier = {"role": "user", "content": "Olá!"}
        last = {"role": "user", "content": "E?"}
        assert text(complete(api, headers=self.HEADERS, messages=[last]))
        response = complete(api, headers=self.HEADERS, messages=[earlier, last])
        assert failure(response)[:3] == (422, "invalid_request_error", "idempotency_mismatch")


class TestModels:
    @pytest.fixture(autouse=True)
    def two_providers(self, change_settings: Configure) -> None:
        options = {"api_key": "", "base_url": "http://127.0.0.1:9", "model": "mock-1"}
        change_settings(
            PROVIDERS={"mock": {}, "openai": options},
            ALLOWED_MODELS=["openai:vendor/model-2", "llama3:8b"],
        )

    def test_every_listed_model_name_can_be_used(self, api: ApiClient) -> None:
        wanted = [
            ("mock-1", "mock"),
            ("openai:mock-1", "openai"),
            ("vendor/model-2", "openai"),
            ("llama3:8b", "mock"),
        ]
        assert api.get("/v1/models").json() == {
            "object": "list",
            "data": [
                {"id": id_, "object": "model", "created": 0, "owned_by": provider}
                for id_, provider in wanted
            ],
        }

    @pytest.mark.parametrize(
        ("asked", "id_"),
        [
            ("vendor%2Fmodel-2", "vendor/model-2"),
            ("vendor/model-2", "vendor/model-2"),
            ("openai:vendor%2Fmodel-2", "openai:vendor/model-2"),
            ("openai%3Amock-1", "openai:mock-1"),
        ],
    )
    def test_an_id_may_have_a_slash_or_a_colon(self, api: ApiClient, asked: str, id_: str) -> None:
        assert api.get(f"/v1/models/{asked}").json() == {
            "id": id_,
            "object": "model",
            "created": 0,
            "owned_by": "openai",
        }

    def test_default_can_be_looked_up(self, api: ApiClient) -> None:
        assert api.get("/v1/models/default").json()["owned_by"] == "mock"

    def test_an_unlisted_model_cannot_be_looked_up(self, api: ApiClient) -> None:
        wanted = (404, "invalid_request_error", "model_not_found", "model")
        assert failure(api.get("/v1/models/gpt-unknown")) == wanted
        assert failure(api.get("/v1/models/gpt%0Aunknown")) == wanted


class TestVendorsModels:
    """ALLOWED_MODELS=*: the vendors' own models are listed."""

    @pytest.fixture
    def second(self) -> Iterator[StubVendor]:
        with StubVendor() as stub:
            yield stub

    @pytest.fixture(autouse=True)
    def two_vendors(
        self,
        vendor: StubVendor,
        second: StubVendor,
        change_settings: Configure,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Clock:
        providers = {
            name: {"api_key": "", "base_url": f"{stub.url}/v1", "model": model}
            for name, stub, model in (("openai", vendor, "a-1"), ("openrouter", second, "b/1"))
        }
        change_settings(PROVIDERS=providers, ALLOWED_MODELS=["*"])
        clock = Clock(1_000.0)
        monkeypatch.setattr(model_catalog, "time", clock)
        return clock

    @staticmethod
    def lists(vendor: StubVendor, *ids: str, **options: Any) -> None:
        vendor.reply({"data": [{"id": id_} for id_ in ids]}, **options)

    def test_vendors_models_are_listed_under_unambiguous_names(
        self, api: ApiClient, vendor: StubVendor, second: StubVendor
    ) -> None:
        self.lists(vendor, "a-1", "a-2", "openrouter:odd")
        self.lists(second, "b/1", "a-2", "b/2:free")
        data = api.get("/v1/models").json()["data"]
        assert [(model["id"], model["owned_by"]) for model in data] == [
            ("default", "openai"),
            ("a-1", "openai"),
            ("b/1", "openrouter"),
            ("a-2", "openai"),
            ("openai:openrouter:odd", "openai"),
            ("openrouter:a-2", "openrouter"),
            ("openrouter:b/2:free", "openrouter"),
        ]
        for model in data:
            assert api.get(f"/v1/models/{model['id']}").json() == model

    def test_a_list_is_kept_for_ten_minutes(
        self, api: ApiClient, vendor: StubVendor, second: StubVendor, two_vendors: Clock
    ) -> None:
        self.lists(vendor, "a-2")
        self.lists(vendor, "a-3")
        self.lists(second)
        seen = []
        for seconds in (0, 599, 2):
            two_vendors.now += seconds
            seen.append(api.get("/v1/models").json()["data"][-1]["id"])
        assert seen == ["a-2", "a-2", "a-3"]
        assert len(vendor.requests) == len(second.requests) == 2

    def test_a_vendor_that_fails_leaves_its_configured_models_and_is_asked_again(
        self,
        api: ApiClient,
        vendor: StubVendor,
        second: StubVendor,
        two_vendors: Clock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(model_catalog, "LISTING_SECONDS", 0.3)
        vendor.reply(status=500)
        self.lists(vendor, "a-2")
        self.lists(second, "b/2", delay=5)
        self.lists(second, "b/2")
        seen = []
        for seconds in (0, 59, 2):
            two_vendors.now += seconds
            seen.append([model["id"] for model in api.get("/v1/models").json()["data"]])
        assert seen[0] == seen[1] == ["default", "a-1", "b/1"]
        assert seen[2] == ["default", "a-1", "b/1", "a-2", "openrouter:b/2"]

    def test_a_restricted_key_sees_its_models_only(
        self, handler: Any, transactional_db: None, vendor: StubVendor, change_settings: Configure
    ) -> None:
        change_settings(REQUIRE_API_KEY=True)
        names = ["openrouter:b/9", "a-1"]
        _, secret = api_keys.create(owner="team", name="app", allowed_models=names)
        data = ApiClient(handler).get("/v1/models", {"X-API-Key": secret}).json()["data"]
        assert [model["id"] for model in data] == ["default", "a-1", "openrouter:b/9"]
        assert vendor.requests == []
