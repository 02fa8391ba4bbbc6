"""What Bedrock is sent. The stand-in refuses whatever botocore's model of requests refuses."""

import base64
import gzip
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from providers.base import CompletionRequest, Provider, Usage
from providers.deadline import Deadline
from providers.errors import (
    EmptyAnswer,
    MalformedAnswer,
    ModelUnavailable,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderOverloaded,
    RequestRejected,
)
from tests.bedrock_frames import delta, event, exception, finish, frame, start
from tests.providers.factories import (
    NEUTRAL_FIELDS,
    UNKNOWN_FIELDS,
    UNKNOWN_IN_ALLOWED_TOOLS,
    UNKNOWN_NAMES,
    UNKNOWN_NAMES_IN_ALLOWED_TOOLS,
    ErrorSummary,
    complete,
    counting,
    error_summary,
    raised_error,
    read_deltas,
    read_failing_stream,
    read_stream,
    summarize,
)
from tests.providers.test_bedrock import ASKED, call, make_provider, tool_call
from tests.stub_bedrock import MODEL, StubBedrock
from tests.stub_vendor import StubVendor

CLAUDE_46 = "us.anthropic.claude-opus-4-6-v1"
PNG = base64.b64encode(b"\x89PNG").decode()
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "It rains.",
        "parameters": {"type": "object"},
    },
}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
IN_JSON = {"type": "json_schema", "json_schema": {"name": "number", "schema": SCHEMA}}
NO_FORMAT = (
    "The model returned the following errors: output_config.format: Extra inputs are not permitted"
)
NO_FORCE = 'tool_choice: type "tool" and "any" are not supported for this model.'
NO_STREAMED_TOOLS = "This model doesn't support tool use in streaming mode."
NO_STRICT = "tools.0.custom.strict: Extra inputs are not permitted"


@pytest.fixture
def stub() -> Iterator[StubBedrock]:
    with StubBedrock() as running:
        running.answer([{"text": "Hello."}])
        yield running


@pytest.fixture
def bedrock(stub: StubBedrock) -> Provider:
    return make_provider(stub)


def with_parameters(model: str = MODEL, **parameters: Any) -> CompletionRequest:
    return ASKED._replace(model=model, parameters=parameters)


def with_messages(*messages: dict[str, Any], **fields: Any) -> CompletionRequest:
    return ASKED._replace(messages=messages, **fields)


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def text(value: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **fields}


def sent(stub: StubBedrock, provider: Provider, request: CompletionRequest) -> dict[str, Any]:
    """Return the body of a request that the stand-in has taken."""
    assert provider.unsupported(request) == []
    assert complete(provider, request).text
    body: dict[str, Any] = stub.requests[-1].json
    return body


# --- Messages -------------------------------------------------------------------------------------


def test_a_conversation_has_alternating_roles(stub: StubBedrock, bedrock: Provider):
    request = with_messages(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One"},
        {"role": "user", "content": [text("Two"), text(" ")]},
        {"role": "developer", "content": [text("Be kind.")]},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "Three", "refusal": "No."},
        {"role": "user", "content": "Four"},
    )
    assert sent(stub, bedrock, request) == {
        "system": [{"text": "Be brief."}, {"text": "Be kind."}],
        "messages": [
            {"role": "user", "content": [{"text": "One"}, {"text": "Two"}]},
            {"role": "assistant", "content": [{"text": "Three"}, {"text": "No."}]},
            {"role": "user", "content": [{"text": "Four"}]},
        ],
    }


def test_instructions_alone_are_the_users(stub: StubBedrock, bedrock: Provider):
    body = sent(stub, bedrock, with_messages({"role": "system", "content": "Hello."}))
    assert body == {"messages": [{"role": "user", "content": [{"text": "Hello."}]}]}


@pytest.mark.parametrize("blank", ["", " \n"])
def test_a_blank_last_message_is_refused_by_bedrock(
    stub: StubBedrock, bedrock: Provider, blank: str
):
    """Without it the model would continue its own last answer."""
    turns = [*ASKED.messages, {"role": "assistant", "content": "Hello."}]
    complete(bedrock, with_messages(*turns, user(text(blank))))
    assert stub.requests[-1].json["messages"][-1] == {"role": "user", "content": [{"text": blank}]}
    complete(bedrock, with_messages(*ASKED.messages, user(text(blank))))
    assert stub.requests[-1].json["messages"] == [{"role": "user", "content": [{"text": "Hello?"}]}]
    complete(bedrock, with_messages({"role": "user", "content": blank}))
    assert stub.requests[-1].json == {"messages": [{"role": "user", "content": [{"text": blank}]}]}


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            {"image": {"format": "png", "source": {"bytes": PNG}}},
        ),
        (
            {"type": "image_url", "image_url": f"data:image/jpg;base64,{PNG}"},
            {"image": {"format": "jpeg", "source": {"bytes": PNG}}},
        ),
        (
            {"type": "file", "file": {"filename": "a_b  c.d.pdf", "file_data": PNG}},
            {"document": {"format": "pdf", "name": "a b c d", "source": {"bytes": PNG}}},
        ),
        (
            {"type": "file", "file": {"file_data": f"data:text/csv;base64,{PNG}"}},
            {"document": {"format": "csv", "name": "Document", "source": {"bytes": PNG}}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
            {"audio": {"format": "wav", "source": {"bytes": PNG}}},
        ),
        (
            {"type": "video_url", "video_url": {"url": f"data:video/quicktime;base64,{PNG}"}},
            {"video": {"format": "mov", "source": {"bytes": PNG}}},
        ),
    ],
    ids=lambda value: value.get("type", ""),
)
def test_media_are_sent_as_blocks(
    stub: StubBedrock, bedrock: Provider, part: dict[str, Any], block: dict[str, Any]
):
    body = sent(stub, bedrock, with_messages(user(text("Look:"), part)))
    assert body["messages"] == [{"role": "user", "content": [{"text": "Look:"}, block]}]


@pytest.mark.parametrize(
    ("filename", "address"),
    [
        *((f"code.{each}", PNG) for each in ("json", "py", "xml", "js", "txt")),
        *(
            ("code", f"data:{each};base64,{PNG}")
            for each in ("text/plain", "text/x-rust", "application/json", "application/ld+json")
        ),
        *(("code", f"data:application/{each};base64,{PNG}") for each in ("xml", "x-yaml", "x-sh")),
    ],
)
def test_a_file_of_any_text_is_a_document(
    stub: StubBedrock, bedrock: Provider, filename: str, address: str
):
    file = {"type": "file", "file": {"filename": filename, "file_data": address}}
    body = sent(stub, bedrock, with_messages(user(text("Read:"), file)))
    document = {"format": "txt", "name": "code", "source": {"bytes": PNG}}
    assert body["messages"][0]["content"][1:] == [{"document": document}]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a", "a"], ["a", "a (2)"]),
        (["a", "a", "a (2)"], ["a", "a (2)", "a (2) (2)"]),
        (["a (2)", "a", "a", "a"], ["a (2)", "a", "a (3)", "a (4)"]),
    ],
)
def test_documents_of_one_name_are_numbered(
    stub: StubBedrock, bedrock: Provider, given: list[str], expected: list[str]
):
    files = [
        {"type": "file", "file": {"filename": f"{name}.pdf", "file_data": PNG}} for name in given
    ]
    body = sent(stub, bedrock, with_messages(user(text("Read:"), *files)))
    documents = [block["document"] for block in body["messages"][0]["content"][1:]]
    assert [document["name"] for document in documents] == expected


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": "s3://bucket/a.png"}}, "image_url.url"),
        ({"type": "video_url", "video_url": {"url": "https://x.org/a.mp4"}}, "video_url.url"),
        ({"type": "file", "file": {"file_data": "https://x.org/a.pdf"}}, "file.file_data"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "file_id"),
        ({"type": "file", "file": {"filename": "a.exe", "file_data": PNG}}, "file"),
        ({"type": "image_url", "image_url": {"url": "data:image/tiff;base64,aGk="}}, "image_url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png,hi"}}, "image_url"),
        ({"type": "guardContent", "guardContent": {"text": {"text": "x"}}}, "guardContent"),
        ({"type": "cachePoint"}, "cachePoint"),
        (7, "content"),
    ],
)
def test_a_part_that_bedrock_does_not_take_is_named(bedrock: Provider, part: Any, name: str):
    assert bedrock.unsupported(with_messages(user(part))) == [name]


def test_unknown_fields_of_messages_and_parts_are_named(bedrock: Provider):
    messages = ({**user(text("Hi", bar="x")), "foo": 1}, {"role": "user", "content": "Hi"})
    named = ["messages[0].foo", "messages[0].content[0].bar"]
    assert bedrock.unsupported(with_messages(*messages)) == named


def test_unknown_fields_of_tools_and_of_the_response_format_are_named(bedrock: Provider):
    assert bedrock.unsupported(with_parameters(**UNKNOWN_FIELDS)) == UNKNOWN_NAMES
    allowed = bedrock.unsupported(with_parameters(**UNKNOWN_IN_ALLOWED_TOOLS))
    assert allowed == UNKNOWN_NAMES_IN_ALLOWED_TOOLS


def test_neutral_fields_of_tools_and_of_the_response_format_are_not_named(bedrock: Provider):
    assert bedrock.unsupported(with_parameters(**NEUTRAL_FIELDS)) == []


def test_unknown_fields_of_nested_objects_are_named(bedrock: Provider):
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "foo": 1}}
    function = {"name": "add", "arguments": "{}", "foo": 1}
    called = {"role": "assistant", "tool_calls": [{"id": "a", "function": function}]}
    named = ["messages[0].content[0].image_url.foo", "messages[1].tool_calls[0].function.foo"]
    assert bedrock.unsupported(with_messages(user(image), called)) == named


def test_media_have_their_places(bedrock: Provider):
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    sound = {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}}
    system = {"role": "system", "content": [image]}
    result = {"role": "tool", "tool_call_id": "a", "content": [image, sound]}
    assert bedrock.unsupported(with_messages(system, result)) == ["image_url", "input_audio"]


# --- Tools ----------------------------------------------------------------------------------------

CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [tool_call("t1", "get_weather", '{"city":"Oslo"}'), tool_call("t2", "now", "")],
}
RESULTS = (
    {"role": "tool", "tool_call_id": "t1", "content": "Rain"},
    {"role": "tool", "tool_call_id": "t2", "content": ""},
)


def test_results_of_parallel_calls_are_one_turn(stub: StubBedrock, bedrock: Provider):
    request = with_messages(
        *ASKED.messages, CALLED, *RESULTS, user(text("And?")), parameters={"tools": [WEATHER]}
    )
    body = sent(stub, bedrock, request)
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [call("t1", "get_weather", city="Oslo"), call("t2", "now")],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "t1", "content": [{"text": "Rain"}]}},
                {"toolResult": {"toolUseId": "t2", "content": [{"text": "(empty)"}]}},
                {"text": "And?"},
            ],
        },
    ]
    spec = {
        "name": "get_weather",
        "description": "It rains.",
        "inputSchema": {"json": {"type": "object"}},
    }
    assert body["toolConfig"] == {"tools": [{"toolSpec": spec}]}


@pytest.mark.parametrize("choice", [None, "none"])
def test_earlier_calls_have_tools_whatever_the_choice_is(
    stub: StubBedrock, bedrock: Provider, choice: str | None
):
    parameters = {"tool_choice": choice} if choice else {}
    request = with_messages(*ASKED.messages, CALLED, *RESULTS, parameters=parameters)
    body = sent(stub, bedrock, request)
    names = [tool["toolSpec"]["name"] for tool in body["toolConfig"]["tools"]]
    assert (names, "toolChoice" in body["toolConfig"]) == (["get_weather", "now"], False)
    none = {"tool_choice": {"type": "none"}} if choice else None
    assert body.get("additionalModelRequestFields") == none


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", None),
        ("required", {"any": {}}),
        ({"type": "function", "function": {"name": "now"}}, {"tool": {"name": "now"}}),
    ],
)
def test_tools_are_chosen(stub: StubBedrock, bedrock: Provider, choice: Any, expected: Any):
    now = {"type": "function", "function": {"name": "now"}}
    config = sent(stub, bedrock, with_parameters(tools=[WEATHER, now], tool_choice=choice))[
        "toolConfig"
    ]
    assert (len(config["tools"]), config.get("toolChoice")) == (2, expected)


def test_allowed_tools_are_the_only_ones(stub: StubBedrock, bedrock: Provider):
    now = {"type": "function", "function": {"name": "now"}}
    allowed = {"mode": "required", "tools": [now]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    config = sent(stub, bedrock, with_parameters(tools=[WEATHER, now], tool_choice=choice))[
        "toolConfig"
    ]
    assert [tool["toolSpec"]["name"] for tool in config["tools"]] == ["now"]
    assert config["toolChoice"] == {"any": {}}


def test_without_a_choice_of_tools_none_are_sent(stub: StubBedrock, bedrock: Provider):
    assert "toolConfig" not in sent(
        stub, bedrock, with_parameters(tools=[WEATHER], tool_choice="none")
    )


@pytest.mark.parametrize("stream", [False, True])
def test_only_the_first_of_parallel_calls_is_kept_on_request(stream: bool):
    with StubBedrock() as stub:
        stub.answer([call("t1", "now", a=1), call("t2", "now", a=2)], "tool_use")
        request = with_parameters(tools=[WEATHER], parallel_tool_calls=False)
        provider = make_provider(stub)
        completion = read_deltas(provider, request)[1] if stream else complete(provider, request)
        assert [each["id"] for each in completion.message["tool_calls"]] == ["t1"]


@pytest.mark.parametrize(
    ("model", "given", "kept"),
    [
        (MODEL, "call_1.a:b-c", True),
        (MODEL, "x" * 65, False),
        (MODEL, "ä/ö", False),
        ("us.mistral.pixtral-large-2502-v1:0", "abcdefgh1", True),
        ("us.mistral.pixtral-large-2502-v1:0", "tooluse_1", False),
    ],
)
def test_ids_of_calls_are_those_that_the_model_takes(
    stub: StubBedrock, bedrock: Provider, model: str, given: str, kept: bool
):
    message = {"role": "assistant", "tool_calls": [tool_call(given, "now", "{}")]}
    result = {"role": "tool", "tool_call_id": given, "content": "12"}
    body = sent(stub, bedrock, with_messages(*ASKED.messages, message, result, model=model))
    identifier = body["messages"][1]["content"][0]["toolUse"]["toolUseId"]
    assert body["messages"][2]["content"][0]["toolResult"]["toolUseId"] == identifier
    assert (identifier == given) is kept
    assert len(identifier) == 9 or "mistral" not in model


def test_half_a_surrogate_pair_in_arguments_is_replaced(stub: StubBedrock, bedrock: Provider):
    message = {"role": "assistant", "tool_calls": [tool_call("t1", "now", r'{"cut": "\ud83d"}')]}
    result = {"role": "tool", "tool_call_id": "t1", "content": "12"}
    body = sent(stub, bedrock, with_messages(*ASKED.messages, message, result))
    called = body["messages"][1]["content"][0]["toolUse"]["input"]
    assert called == {"cut": "\N{REPLACEMENT CHARACTER}"}


@pytest.mark.parametrize("arguments", ["[]", "{", "7"])
def test_arguments_other_than_an_object_are_rejected(
    stub: StubBedrock, bedrock: Provider, arguments: str
):
    message = {"role": "assistant", "tool_calls": [tool_call("t1", "now", arguments)]}
    assert error_summary(bedrock, with_messages(*ASKED.messages, message)) == ErrorSummary(
        RequestRejected
    )
    assert stub.requests == []


# --- Parameters -----------------------------------------------------------------------------------


def test_parameters_have_their_places(stub: StubBedrock, bedrock: Provider):
    body = sent(
        stub,
        bedrock,
        with_parameters(
            max_tokens=64,
            temperature=0.0,
            top_p=0.5,
            stop="END",
            service_tier="priority",
            requestMetadata={"team": "blue"},
            performanceConfig={"latency": "optimized"},
            additionalModelResponseFieldPaths=["/stop_sequence"],
            top_k=40,
            anthropic_beta=["context-1m"],
            additionalModelRequestFields={"x": 1},
            user="u",
            metadata={"a": "b"},
            store=True,
            presence_penalty=0,
            logit_bias={},
        ),
    )
    del body["messages"]
    assert body == {
        "inferenceConfig": {
            "maxTokens": 64,
            "temperature": 0.0,
            "topP": 0.5,
            "stopSequences": ["END"],
        },
        "serviceTier": {"type": "priority"},
        "requestMetadata": {"team": "blue"},
        "performanceConfig": {"latency": "optimized"},
        "additionalModelResponseFieldPaths": ["/stop_sequence"],
        "additionalModelRequestFields": {"top_k": 40, "anthropic_beta": ["context-1m"], "x": 1},
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("functions", [{"name": "f"}]),
        ("function_call", {"name": "f"}),
        ("logprobs", True),
        ("top_logprobs", 2),
        ("n", 2),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "a"}),
        ("prediction", {"type": "content"}),
        ("web_search_options", {}),
        ("service_tier", "scale"),
        ("response_format", {"type": "grammar"}),
        ("reasoning_effort", 7),
        ("tools", [{"type": "custom", "custom": {"name": "x"}}]),
        ("tool_choice", "required"),
        ("guardrailConfig", {"guardrailIdentifier": "x"}),
        ("additionalModelRequestFields", "x"),
        ("inferenceConfig", {"maxTokens": 1}),
    ],
)
def test_a_parameter_unsupported_by_bedrock_is_named(bedrock: Provider, name: str, value: Any):
    assert bedrock.unsupported(with_parameters(**{name: value})) == [name]


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        (MODEL, "medium", {"thinking": {"type": "enabled", "budget_tokens": 8192}}),
        (MODEL, "none", None),
        (
            "anthropic.claude-opus-4-20250514-v1:0",
            "high",
            {"thinking": {"type": "enabled", "budget_tokens": 24576}},
        ),
        (CLAUDE_46, "high", {"thinking": {"type": "adaptive"}}),
        ("global.anthropic.claude-sonnet-5", "minimal", {"thinking": {"type": "adaptive"}}),
        (
            "us.amazon.nova-2-lite-v1:0",
            "low",
            {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}},
        ),
        ("us.amazon.nova-2-lite-v1:0", "none", {"reasoningConfig": {"type": "disabled"}}),
        ("openai.gpt-oss-120b-1:0", "low", {"reasoning_effort": "low"}),
        ("us.openai.gpt-5.4", "low", {"reasoning": {"effort": "low"}}),
    ],
)
def test_each_maker_has_its_own_words_for_effort(
    stub: StubBedrock, bedrock: Provider, model: str, effort: str, expected: Any
):
    body = sent(stub, bedrock, with_parameters(model, reasoning_effort=effort))
    assert body.get("additionalModelRequestFields") == expected
    adaptive = {"high": "high", "minimal": "low"}.get(effort)
    config = {"effort": adaptive} if expected == {"thinking": {"type": "adaptive"}} else None
    assert body.get("outputConfig") == config


@pytest.mark.parametrize(("limit", "budget"), [(4096, 2048), (2048, 1024), (2047, None)])
def test_a_budget_leaves_tokens_for_the_answer(
    stub: StubBedrock, bedrock: Provider, limit: int, budget: int | None
):
    body = sent(stub, bedrock, with_parameters(reasoning_effort="high", max_tokens=limit))
    thinking = body.get("additionalModelRequestFields", {}).get("thinking", {})
    assert thinking.get("budget_tokens") == budget


def test_claude_does_not_continue_thinking_after_calls_without_their_thoughts(
    stub: StubBedrock, bedrock: Provider
):
    parameters = {"reasoning_effort": "high", "tools": [WEATHER]}
    request = with_messages(*ASKED.messages, CALLED, *RESULTS, parameters=parameters)
    assert "additionalModelRequestFields" not in sent(stub, bedrock, request)


def test_cache_control_adds_a_cache_point(stub: StubBedrock, bedrock: Provider):
    hour = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    ephemeral = {"cache_control": {"type": "ephemeral"}}
    first, second = CALLED["tool_calls"]
    request = with_messages(
        {"role": "system", "content": [text("Long.", **hour)]},
        user(text("Read", **ephemeral), text("this.")),
        {**CALLED, "tool_calls": [{**first, **ephemeral}, second]},
        {**RESULTS[0], **ephemeral},
        {"role": "tool", "tool_call_id": "t2", "content": [text("12", **ephemeral)]},
        parameters={"tools": [{**WEATHER, **ephemeral}], **ephemeral},
    )
    body = sent(stub, bedrock, request)
    point, long_point = (
        {"cachePoint": {"type": "default"}},
        {"cachePoint": {"type": "default", "ttl": "1h"}},
    )
    assert body["system"] == [{"text": "Long."}, long_point]
    assert body["messages"][0]["content"] == [{"text": "Read"}, point, {"text": "this."}]
    kinds = [next(iter(block)) for block in body["messages"][1]["content"]]
    assert kinds == ["toolUse", "cachePoint", "toolUse"]
    kinds = [next(iter(block)) for block in body["messages"][2]["content"]]
    assert kinds == ["toolResult", "cachePoint", "toolResult", "cachePoint", "cachePoint"]
    assert body["toolConfig"]["tools"][1] == point


def test_cache_control_may_be_in_the_function(stub: StubBedrock, bedrock: Provider):
    cached = {"cache_control": {"type": "ephemeral"}}
    first, second = CALLED["tool_calls"]
    request = with_messages(
        *ASKED.messages,
        {**CALLED, "tool_calls": [{**first, "function": {**first["function"], **cached}}, second]},
        *RESULTS,
        parameters={"tools": [{**WEATHER, "function": {**WEATHER["function"], **cached}}]},
    )
    body = sent(stub, bedrock, request)
    kinds = [next(iter(block)) for block in body["messages"][1]["content"]]
    assert kinds == ["toolUse", "cachePoint", "toolUse"]
    assert body["toolConfig"]["tools"][1:] == [{"cachePoint": {"type": "default"}}]


def test_a_guardrail_is_in_every_request():
    with StubBedrock() as stub:
        stub.answer([{"text": "I may not."}], "guardrail_intervened")
        arn = "arn:aws:bedrock:eu-west-1:123456789012:guardrail/abc123"
        for guardrail, identifier in (("abc123:DRAFT", "abc123"), (f"{arn}:7", arn)):
            provider = make_provider(stub, guardrail=guardrail)
            assert complete(provider, ASKED).finish_reason == "content_filter"
            assert read_stream(provider, ASKED)[1].finish_reason == "content_filter"
            for each in stub.requests[-2:]:
                assert each.json["guardrailConfig"] == {
                    "guardrailIdentifier": identifier,
                    "guardrailVersion": guardrail.rpartition(":")[2],
                }


# --- Structured output ----------------------------------------------------------------------------


def test_a_schema_is_an_output_format(stub: StubBedrock, bedrock: Provider):
    body = sent(stub, bedrock, with_parameters(response_format=IN_JSON))
    structure = {"jsonSchema": {"schema": json.dumps(SCHEMA), "name": "number"}}
    assert body["outputConfig"] == {"textFormat": {"type": "json_schema", "structure": structure}}
    assert "toolConfig" not in body


@pytest.mark.parametrize("stream", [False, True])
def test_json_without_a_schema_comes_by_a_tool(stream: bool):
    with StubBedrock() as stub:
        stub.answer([{"text": "Here:"}, call("t1", "json_answer", n=1)], "tool_use")
        provider, request = (
            make_provider(stub),
            with_parameters(response_format={"type": "json_object"}),
        )
        completion = read_deltas(provider, request)[1] if stream else complete(provider, request)
        assert list(completion.message) == ["content"]
        assert (json.loads(completion.text), completion.finish_reason) == ({"n": 1}, "stop")
        config = stub.requests[0].json["toolConfig"]
        assert (config["tools"][0]["toolSpec"]["name"], config["toolChoice"]) == (
            "json_answer",
            {"any": {}},
        )


def test_a_text_is_the_answer_where_the_tool_was_not_called(stub: StubBedrock, bedrock: Provider):
    request = with_parameters(
        CLAUDE_46, response_format={"type": "json_object"}, reasoning_effort="low"
    )
    body = sent(stub, bedrock, request)  # Claude refuses to think when a tool is forced
    assert "toolChoice" not in body["toolConfig"]
    assert "json_answer" in body["system"][-1]["text"]
    assert read_stream(bedrock, request)[1].text == "Hello."


def asked_again(request: CompletionRequest, *complaints: str) -> list[dict[str, Any]]:
    """Refuse a request for each complaint, then answer it twice. Return the bodies."""
    with StubBedrock() as stub:
        for complaint in complaints:
            stub.refuse("ValidationException", 400, complaint)
        stub.answer([call("t1", "json_answer", n=1)], "tool_use")
        provider = make_provider(stub)
        for _ in complaints:
            error = raised_error(provider, request)
            assert (summarize(error).retry, error.retry_after) == (True, 0.0)
        for _ in range(2):
            complete(provider, request)
        return [each.json for each in stub.requests]


def test_a_model_without_formats_is_asked_again_with_a_tool_and_then_without_force():
    first, second, third, fourth = asked_again(
        with_parameters(response_format=IN_JSON), NO_FORMAT, NO_FORCE
    )
    assert ("outputConfig" in first, "toolConfig" in first) == (True, False)
    assert ("outputConfig" in second, "toolChoice" in second["toolConfig"]) == (False, True)
    assert ("toolChoice" in third["toolConfig"], third) == (False, fourth)


def test_a_schema_that_is_refused_is_a_tool_and_other_schemas_are_not():
    complaint = "output_config.format.schema: 'additionalProperties' must be set to false"
    with StubBedrock() as stub:
        stub.refuse("ValidationException", 400, complaint)
        stub.answer([{"text": "1"}])
        provider = make_provider(stub)
        raised_error(provider, with_parameters(response_format=IN_JSON))
        complete(provider, with_parameters(response_format=IN_JSON))
        other = {**IN_JSON, "json_schema": {"name": "n", "schema": {"type": "object"}}}
        complete(provider, with_parameters(response_format=other))
        assert ["outputConfig" in each.json for each in stub.requests] == [True, False, True]


def test_a_model_without_strict_tools_is_asked_again():
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    bodies = asked_again(with_parameters(tools=[strict]), NO_STRICT)
    specs = [body["toolConfig"]["tools"][0]["toolSpec"] for body in bodies]
    assert ["strict" in spec for spec in specs] == [True, False, False]


def test_a_model_that_does_not_stream_calls_is_asked_for_a_whole_answer():
    """Llama's models refuse tools in ConverseStream."""
    request = with_parameters(tools=[WEATHER])
    with StubBedrock() as stub:
        stub.refuse("ValidationException", 400, NO_STREAMED_TOOLS)
        stub.answer([call("t1", "get_weather", city="Oslo")], "tool_use")
        provider = make_provider(stub)
        [error] = read_failing_stream(provider, request)[1:]
        assert (summarize(error).retry, error.retry_after) == (True, 0.0)
        whole = read_stream(provider, request)[1]
        assert whole.message["tool_calls"] == [tool_call("t1", "get_weather", '{"city":"Oslo"}')]
        read_stream(provider, ASKED)
        operations = [each.path.rpartition("/")[2] for each in stub.requests]
        assert operations == ["converse-stream", "converse", "converse-stream"]


def test_a_complaint_about_an_unsent_feature_is_not_retried(stub: StubBedrock):
    with StubBedrock() as refusing:
        refusing.refuse("ValidationException", 400, f"{NO_FORMAT} {NO_FORCE} {NO_STRICT}")
        request = with_parameters(tools=[WEATHER], tool_choice="required")
        assert error_summary(make_provider(refusing), request) == ErrorSummary(RequestRejected)


# --- Thoughts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_five_turns_of_a_tool_loop_send_back_all_thoughts(stream: bool):
    thoughts: list[dict[str, Any]] = []
    with StubBedrock() as stub:
        provider = make_provider(stub)
        for number in range(5):
            signed = {"text": f"Step {number}.", "signature": f"s{number}=="}
            redacted = base64.b64encode(f"r{number}".encode()).decode()
            blocks = [
                {"reasoningContent": {"reasoningText": signed}},
                {"reasoningContent": {"redactedContent": redacted}},
            ]
            thoughts.append({"blocks": blocks, "call": call(f"t{number}", "next", n=number)})
            stub.answer([*blocks, thoughts[-1]["call"]], "tool_use")
        stub.answer([{"text": "Done."}])
        messages: list[dict[str, Any]] = list(map(dict, ASKED.messages))
        for number in range(6):
            request = with_messages(
                *messages, parameters={"tools": [WEATHER], "reasoning_effort": "low"}
            )
            message = (
                read_deltas(provider, request)[1] if stream else complete(provider, request)
            ).message
            messages.append({"role": "assistant", **message})
            messages.append({"role": "tool", "tool_call_id": f"t{number}", "content": str(number)})
        assert message == {"content": "Done."}
        for number, each in enumerate(stub.requests):
            answers = [m["content"] for m in each.json["messages"] if m["role"] == "assistant"]
            assert answers == [[*t["blocks"], t["call"]] for t in thoughts[:number]]
            assert each.json["additionalModelRequestFields"]["thinking"]["type"] == "enabled"


def test_pieces_of_hidden_thoughts_are_bytes_that_are_joined(stub: StubBedrock):
    with StubBedrock() as streaming:
        pieces = [base64.b64encode(data).decode() for data in (b"a", b"bc")]
        frames = [delta(0, reasoningContent={"redactedContent": piece}) for piece in pieces]
        streaming.stream_frames([*frames, delta(1, text="Hi"), *finish()])
        [detail] = read_deltas(make_provider(streaming), ASKED)[1].message["reasoning_details"]
        assert base64.b64decode(detail["data"]) == b"abc"


# --- Usage, extras, trouble -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "usage", "cost"),
    [
        # Claude Sonnet 4.5 in a region: 3.30 in, 0.33 read, 4.125 or 6.60 (1 h) written, 16.50 out.
        (MODEL, {"cacheReadInputTokens": 0}, "0.000495"),
        (MODEL, {"cacheReadInputTokens": 1000, "cacheWriteInputTokens": 200}, "0.00165"),
        (
            MODEL,
            {
                "cacheReadInputTokens": 1000,
                "cacheWriteInputTokens": 200,
                "cacheDetails": [
                    {"ttl": "1h", "inputTokens": 100},
                    {"ttl": "5m", "inputTokens": 100},
                ],
            },
            "0.0018975",
        ),
        (f"arn:aws:bedrock:eu-west-1:123456789012:inference-profile/{MODEL}", {}, "0.000495"),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", {}, "0.00045"),
        ("arn:aws:bedrock:eu-west-1:1:application-inference-profile/abc", {}, None),
    ],
)
def test_a_cached_prompt_has_its_price(model: str, usage: dict[str, Any], cost: str | None):
    with StubBedrock() as stub:
        tokens = {"inputTokens": 100, "outputTokens": 10, "totalTokens": 110, **usage}
        stub.answer([{"text": "Hello."}], usage=tokens)
        request = ASKED._replace(model=model)
        for completion in (
            complete(make_provider(stub), request),
            read_stream(make_provider(stub), request)[1],
        ):
            apart = usage.get("cacheReadInputTokens", 0) + usage.get("cacheWriteInputTokens", 0)
            assert completion.usage == Usage(
                prompt_tokens=100 + apart,
                completion_tokens=10,
                total_tokens=110 + apart,
                cached_tokens=usage.get("cacheReadInputTokens"),
                cost_usd=Decimal(cost) if cost else None,
            )


def test_the_model_that_a_router_chose_is_named_and_priced():
    with StubBedrock() as stub:
        chosen = "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0"
        trace = {"promptRouter": {"invokedModelId": chosen}}
        stub.answer([{"text": "Hello."}], trace=trace, serviceTier={"type": "flex"})
        router = "arn:aws:bedrock:us-east-1:123456789012:default-prompt-router/amazon.nova:1"
        completion = complete(make_provider(stub), ASKED._replace(model=router))
        assert completion.model == "amazon.nova-lite-v1:0"
        assert completion.usage.cost_usd
        assert completion.extras == {"service_tier": "flex"}


def test_citations_come_with_the_text():
    cited = {"title": "Report", "location": {"documentPage": {"start": 1}}}
    whole = {"citationsContent": {"content": [{"text": "It rains."}], "citations": [cited]}}
    with StubBedrock() as stub:
        stub.answer([whole])
        plain = complete(make_provider(stub), ASKED)
        assert (plain.text, plain.extras) == ("It rains.", {"citations": [cited]})
    with StubBedrock() as stub:
        stub.stream_frames([delta(text="It rains."), delta(citation=cited), *finish()])
        *deltas, last = make_provider(stub).stream(ASKED, Deadline(20))
        assert [each.extras for each in deltas] == [{}, {"citations": [cited]}]
        assert last.extras == plain.extras


@pytest.mark.parametrize("reason", ["malformed_model_output", "malformed_tool_use"])
def test_a_malformed_answer_is_retried(reason: str):
    with StubBedrock() as stub:
        stub.answer([{"text": "Hel"}], reason)
        request, reported = counting(ASKED)
        assert type(raised_error(make_provider(stub), request)) is MalformedAnswer
        assert [usage.total_tokens for usage in reported] == [14]


def test_arguments_that_break_off_are_an_error():
    with StubBedrock() as stub:
        begun = start(0, toolUse={"toolUseId": "t1", "name": "now"})
        stub.stream_frames([begun, delta(0, toolUse={"input": '{"a":'}), *finish("max_tokens")])
        error = read_failing_stream(make_provider(stub), ASKED)[1]
        assert (summarize(error), error.reason) == (
            ErrorSummary(ProviderFailed),
            "broken_tool_call",
        )


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "frame_checksum"),
        (lambda data: data[:8] + bytes([data[8] ^ 1]) + data[9:], "frame_prelude"),
        (lambda data: data[:-2], "frame_truncated"),
        (lambda data: b"", "unfinished"),
        (lambda data: b'{"message": "no"}', "frame_prelude"),
    ],
)
def test_a_broken_frame_is_a_truncated_answer(damage: Any, reason: str):
    with StubBedrock() as stub:
        stub.stream_frames([delta(text="Hel"), damage(delta(text="lo"))])
        told, error = read_failing_stream(make_provider(stub), ASKED)
        assert (told, summarize(error)) == (["Hel"], ErrorSummary(ProviderFailed))
        assert (str(error), error.reason) == ("The provider broke off its answer.", reason)
        assert error.fallback


def test_events_after_the_end_are_ignored():
    with StubBedrock() as stub:
        stub.stream_frames([delta(text="Hi"), *finish(), b"garbage"], cut=True)
        assert read_stream(make_provider(stub), ASKED)[1].text == "Hi"


def test_an_unknown_event_is_ignored():
    with StubBedrock() as stub:
        strange = [event("newEvent", x=1), frame({":message-type": "event"}, b"{}")]
        stub.stream_frames([*strange, delta(text="Hi"), *strange, *finish()])
        assert read_stream(make_provider(stub), ASKED)[0] == ["Hi"]


ARN = "arn:aws:bedrock:eu-west-1::foundation-model/a.b"


@pytest.mark.parametrize(
    ("code", "status", "body", "expected", "reason"),
    [
        (
            "AccessDeniedException",
            403,
            {"Message": f"User: x is not authorized to perform: bedrock:InvokeModel on {ARN}"},
            ErrorSummary(ProviderMisconfigured),
            "HTTP 403 AccessDeniedException bedrock:InvokeModel",
        ),
        (
            "AccessDeniedException",
            403,
            {"message": "the required actions (`aws-marketplace:Subscribe`) to enable access"},
            ErrorSummary(ProviderMisconfigured),
            "HTTP 403 AccessDeniedException aws-marketplace:Subscribe",
        ),
        (
            "ThrottlingException",
            429,
            {"message": "Too many tokens per day, please wait before trying again."},
            ErrorSummary(ProviderOverloaded),
            "HTTP 429 ThrottlingException",
        ),
        (
            "ServiceQuotaExceededException",
            400,
            {"message": "Your request exceeds the quota."},
            ErrorSummary(ProviderOverloaded),
            "HTTP 400 ServiceQuotaExceededException",
        ),
        (
            "ExpiredTokenException",
            400,
            {"message": "The security token included in the request is expired"},
            ErrorSummary(ProviderMisconfigured),
            "HTTP 400 ExpiredTokenException",
        ),
        (
            "ValidationException",
            400,
            {"message": "The provided model identifier is invalid."},
            ErrorSummary(ModelUnavailable),
            "HTTP 400 ValidationException",
        ),
        (
            "ValidationException",
            400,
            {"message": "Invocation of model ID a.b with on-demand throughput isn’t supported."},
            ErrorSummary(ModelUnavailable),
            "HTTP 400 ValidationException",
        ),
        (
            "ValidationException",
            400,
            {"message": "The provided ARN is invalid for the service region."},
            ErrorSummary(ModelUnavailable),
            "HTTP 400 ValidationException",
        ),
        (
            "ModelErrorException",
            424,
            {"message": "no", "originalStatusCode": 429},
            ErrorSummary(ProviderOverloaded, retry=True),
            "HTTP 424 ModelErrorException 429",
        ),
    ],
)
def test_errors_say_what_to_do(
    code: str, status: int, body: dict[str, Any], expected: ErrorSummary, reason: str
):
    with StubBedrock() as stub:
        stub.refuse(code, status, **body)
        error = raised_error(make_provider(stub), ASKED)
        assert (summarize(error), error.reason) == (expected, reason)
        assert error.vendor_message == body.get("Message", body.get("message"))


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("Input is too long for requested model.", "the context is too long for the model."),
        ("prompt is too long: 215000 tokens", "the context is too long for the model."),
        ("Malformed input request: #: extraneous key [top_k] is not permitted", None),
    ],
)
def test_a_rejection_has_a_sentence(message: str, sentence: str | None):
    with StubBedrock() as stub:
        stub.refuse("ValidationException", 400, message)
        error = raised_error(make_provider(stub), ASKED)
        start_of = "The provider rejected the request"
        because = f": {sentence}" if sentence else " because of its parameter top_k."
        assert str(error) == start_of + because


def test_an_empty_answer_is_one():
    with StubBedrock() as stub:
        stub.answer([])
        assert error_summary(make_provider(stub), ASKED) == ErrorSummary(EmptyAnswer, retry=True)


def test_a_stream_that_fails_has_an_estimate_of_its_tokens_and_their_price():
    with StubBedrock() as stub:
        stub.stream_frames([delta(text="Hello " * 40), exception("modelStreamErrorException")])
        counted: list[Usage] = []
        read_failing_stream(make_provider(stub), ASKED._replace(on_usage=counted.append))
        [usage] = counted
        assert (usage.estimated, usage.prompt_tokens, usage.completion_tokens) == (True, 3, 60)
        assert usage.cost_usd == Decimal("0.0009999")


def test_a_call_without_arguments_has_an_empty_object():
    with StubBedrock() as stub:
        stub.answer([call("t1", "now")], "tool_use")
        for message in (
            complete(make_provider(stub), ASKED).message,
            read_deltas(make_provider(stub), ASKED)[1].message,
        ):
            assert message == {"tool_calls": [tool_call("t1", "now", "{}")]}


def test_a_compressed_answer_is_read():
    body = {"output": {"message": {"content": [{"text": "Hello."}]}}, "stopReason": "end_turn"}
    with StubVendor() as stub:
        stub.reply(gzip.compress(json.dumps(body).encode()), headers={"content-encoding": "gzip"})
        assert complete(make_provider(stub), ASKED).text == "Hello."
