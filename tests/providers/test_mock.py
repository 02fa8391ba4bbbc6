import json
import time
from contextlib import suppress
from decimal import Decimal
from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from providers.base import Completion, CompletionRequest, Delta, Usage
from providers.deadline import Deadline
from providers.errors import (
    ContentFiltered,
    DeadlineExceeded,
    EmptyAnswer,
    ModelUnavailable,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderOverloaded,
    RequestRejected,
)
from providers.mock import Mock
from tests.providers.factories import (
    ErrorSummary,
    complete,
    error_summary,
    read_stream,
)
from tests.stub_vendor import SOON


def prompt(text: str) -> CompletionRequest:
    return CompletionRequest(model="mock-1", messages=({"role": "user", "content": text},))


def bill(prompt_tokens: int, completion_tokens: int) -> Usage:
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        cost_usd=Decimal(0),
    )


def test_the_mock_repeats_the_last_prompt_and_counts_all_words():
    request = CompletionRequest(
        model="mock-2",
        messages=(
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Olá"},
            {"role": "assistant", "content": "Olá, tudo bem?"},
            {"role": "user", "content": "E  agora?\n"},
        ),
    )
    assert complete(Mock(), request) == Completion(
        message={"content": "You said: E  agora?\n"},
        model="mock-2",
        finish_reason="stop",
        usage=bill(8, 4),
    )


def test_the_default_model_of_the_mock_is_mock_1():
    assert (Mock().name, Mock().model, Mock(model="m").model) == ("mock", "mock-1", "m")


def test_the_mock_respects_max_tokens():
    request = prompt("one two three")._replace(parameters={"max_tokens": 3})
    assert complete(Mock(), request) == Completion(
        message={"content": "You said: one"},
        model="mock-1",
        finish_reason="length",
        usage=bill(3, 3),
    )
    assert complete(Mock(), request._replace(parameters={"max_tokens": 5})).finish_reason == "stop"


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("mock:fail", ErrorSummary(ProviderFailed, retry=True)),
        ("mock:fail=500", ErrorSummary(ProviderFailed, retry=True)),
        ("mock:fail=400", ErrorSummary(RequestRejected)),
        ("mock:fail=401", ErrorSummary(ProviderMisconfigured)),
        ("mock:fail=404", ErrorSummary(ModelUnavailable)),
        ("mock:fail=429", ErrorSummary(ProviderOverloaded, retry=True)),
        ("mock:fail=503", ErrorSummary(ProviderOverloaded, retry=True)),
        ("mock:fail=timeout", ErrorSummary(DeadlineExceeded)),
        ("mock:fail=garbled", ErrorSummary(ProviderFailed)),
        ("mock:empty", ErrorSummary(EmptyAnswer, retry=True)),
        ("mock:filter", ErrorSummary(ContentFiltered)),
    ],
)
def test_directives_make_the_mock_fail(directive: str, expected: ErrorSummary):
    assert error_summary(Mock(), prompt(f"Please\n{directive} now")) == expected
    assert error_summary(Mock(directives=directive), prompt("Hi")) == expected


def test_the_length_directive_gives_an_empty_answer():
    assert complete(Mock(), prompt("mock:length")) == Completion(
        message={}, model="mock-1", finish_reason="length", usage=bill(1, 0)
    )


def test_directives_in_the_prompt_override_the_option():
    mock = Mock(directives="mock:fail mock:delay=9999")
    assert complete(mock, prompt("mock:ok mock:delay=0")).finish_reason == "stop"
    assert error_summary(mock, prompt("mock:filter mock:delay=0")) == ErrorSummary(ContentFiltered)


@pytest.mark.parametrize(
    "text",
    [
        "mock:",
        "mock:what",
        "mock:fail=",
        "mock:fail=200",
        "mock:fail=4290",
        "mock:fail=never",
        "mock:delay",
        "mock:delay=",
        "mock:delay=-1",
        "mock:delay=1e9",
        "mock:delay=inf",
        "mock:delay=99999",
        "mock:empty=1",
        "mock:fail.",
        "(mock:fail)",
        "amock:fail",
        "MOCK:FAIL",
    ],
)
def test_malformed_directives_are_text(text: str):
    assert complete(Mock(), prompt(text)).text == f"You said: {text}"


def test_the_delay_directive_delays_the_answer():
    started = time.monotonic()
    assert complete(Mock(), prompt("mock:delay=0.1 Hi")).text == "You said: mock:delay=0.1 Hi"
    assert 0.1 <= time.monotonic() - started < 5.0


@pytest.mark.parametrize("text", ["mock:delay=30", "mock:delay=30 mock:fail", "mock:delay=0.1"])
def test_the_mock_respects_the_deadline(text: str):
    started = time.monotonic()
    assert error_summary(Mock(), prompt(text), seconds=0.05) == ErrorSummary(DeadlineExceeded)
    assert 0.05 <= time.monotonic() - started < 5.0


def test_lone_surrogates_are_replaced():
    assert complete(Mock(), prompt("a\ud800")).text == "You said: a\ufffd"


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


ADD = tool(
    "add",
    type="object",
    properties={"a": {"type": "integer"}, "b": {"type": "integer", "minimum": 5}},
    required=["a", "b"],
)
ASK = {"type": "custom", "custom": {"name": "ask"}}


def message(text: str, *results: str, **parameters: Any) -> dict[str, Any]:
    """Return the mock's message, after the given results, which its stream makes up, too."""
    request = prompt(text)._replace(parameters=parameters)
    turn = (
        {"role": "assistant", "content": None},
        *({"role": "tool", "content": r} for r in results),
    )
    if results:
        request = request._replace(messages=request.messages + turn)
    _, completion = read_stream(Mock(), request)
    message = complete(Mock(), request).message
    assert without_ids(completion.message) == without_ids(message)
    return message


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    calls = [{**call, "id": None} for call in message.get("tool_calls", ())]
    return {**message, "tool_calls": calls}


def called(text: str, *results: str, **parameters: Any) -> list[tuple[str, str]]:
    """Return the names and the arguments of the mock's tool calls."""
    calls = message(text, *results, **parameters).get("tool_calls", [])
    assert len({call["id"] for call in calls}) == len(calls)
    functions = [call[call["type"]] for call in calls]
    return [(each["name"], each.get("arguments", each.get("input"))) for each in functions]


def test_the_mock_takes_everything():
    parameters = {"tools": [ADD, ASK], "logit_bias": {"1": 1}, "what": {"ever": True}}
    audio = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    request = prompt("Hi")._replace(parameters=parameters)
    request = request._replace(messages=({"role": "user", "content": [audio]},))
    assert not Mock().unsupported(request)
    assert complete(Mock(), request).text == "You said: "


def test_the_mock_lists_its_model():
    assert Mock(model="m").list_models(Deadline(1)) == ["m"]


def test_the_mock_counts_images():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    text = {"type": "text", "text": "Look"}
    request = prompt("")._replace(messages=({"role": "user", "content": [text, image]},))
    assert complete(Mock(), request).text == "You said: Look (1 image)"
    request = prompt("")._replace(messages=({"role": "user", "content": [image, image]},))
    assert complete(Mock(), request).text == "You said:  (2 images)"


def test_the_tool_directive_calls_a_tool():
    request = prompt('Add mock:tool=add {"a": 1, "b": [2, {}]}')._replace(
        parameters={"tools": [ADD]}
    )
    completion = complete(Mock(), request)
    [call] = completion.message["tool_calls"]
    assert call["id"].startswith("call_")
    assert call == {
        "id": call["id"],
        "type": "function",
        "function": {"name": "add", "arguments": '{"a": 1, "b": [2, {}]}'},
    }
    assert completion.message == {"tool_calls": [call]}
    assert (completion.finish_reason, completion.usage) == ("tool_calls", bill(7, 5))


def test_tool_calls_are_streamed_in_pieces():
    request = prompt('mock:tool=add {"a": 1} mock:tool=ask')._replace(
        parameters={"tools": [ADD, ASK]}
    )
    *deltas, completion = Mock().stream(request, Deadline(1))
    assert isinstance(completion, Completion)
    first, second = (call["id"] for call in completion.message["tool_calls"])
    calls = [delta.message["tool_calls"] for delta in deltas if isinstance(delta, Delta)]
    assert calls == [
        [
            {
                "index": 0,
                "id": first,
                "type": "function",
                "function": {"name": "add", "arguments": ""},
            }
        ],
        [{"index": 0, "function": {"arguments": '{"a":'}}],
        [{"index": 0, "function": {"arguments": " 1}"}}],
        [{"index": 1, "id": second, "type": "custom", "custom": {"name": "ask", "input": ""}}],
        [{"index": 1, "custom": {"input": "text"}}],
    ]


def test_several_tool_directives_are_parallel_calls():
    text = 'mock:tool=add {"a": 1} mock:tool=unknown mock:tool=add'
    calls = [("add", '{"a": 1}'), ("unknown", "{}"), ("add", '{"a": 1, "b": 5}')]
    assert called(text, tools=[ADD]) == calls
    assert called(text, tools=[ADD], parallel_tool_calls=False) == calls[:1]


@pytest.mark.parametrize("parameters", [{}, {"tools": []}, {"tools": [ADD], "tool_choice": "none"}])
def test_no_tool_is_called_that_the_request_does_not_allow(parameters: dict[str, Any]):
    text = "mock:tool=add now"
    assert message(text, **parameters) == {"content": f"You said: {text}"}


def test_directives_inside_a_tools_arguments_are_arguments():
    text = 'mock:tool=add {"a": "see mock:fail now"}'
    assert called(text, tools=[ADD]) == [("add", '{"a": "see mock:fail now"}')]


@pytest.mark.parametrize("text", ["mock:tool=add [1]", "mock:tool=add {1}", "mock:tool=add go"])
def test_a_tool_without_an_object_gets_made_up_arguments(text: str):
    assert called(text, tools=[ADD]) == [("add", '{"a": 1, "b": 5}')]


@pytest.mark.parametrize("schema", [{}, {"description": "none"}, {"$ref": "#/$defs/A"}, None])
def test_made_up_arguments_are_an_object(schema: Any):
    parameters = schema and {**schema, "$defs": {"A": {"properties": {}}}}
    tools = [{"type": "function", "function": {"name": "now", "parameters": parameters}}]
    assert called("mock:tool=now", tools=tools) == [("now", "{}")]


def test_the_mock_answers_with_all_results_of_the_last_turn():
    text, tools = "mock:tool=add", [ADD]
    assert message(text, "3", tools=tools) == {"content": "The tool said: 3"}
    assert message(text, "3", "5", tools=tools) == {"content": "The tool said: 3\n5"}
    assert message(text, "", tools=tools, tool_choice="required") == {"content": "The tool said: "}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", []),
        ("required", [("add", '{"a": 1, "b": 5}')]),
        ({"type": "function", "function": {"name": "add"}}, [("add", '{"a": 1, "b": 5}')]),
        ({"type": "function", "function": {"name": "now"}}, [("now", "{}")]),
        ({"type": "custom", "custom": {"name": "ask"}}, [("ask", "Hi")]),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [tool("now")]},
            },
            [("now", "{}")],
        ),
    ],
)
def test_the_tool_choice_is_obeyed(choice: Any, expected: list[tuple[str, str]]):
    tools = [ADD, ASK, {"type": "function", "function": {"name": "now"}}]
    assert called("Hi", tools=tools, tool_choice=choice) == expected


def test_a_named_tool_gets_the_prompts_arguments_for_it():
    choice = {"type": "function", "function": {"name": "add"}}
    text = 'mock:tool=now mock:tool=add {"a": 2}'
    assert called(text, tools=[ADD], tool_choice=choice) == [("add", '{"a": 2}')]


def test_legacy_functions_are_still_called():
    function = ADD["function"]
    request = prompt("Hi")._replace(parameters={"functions": [function], "function_call": "auto"})
    assert complete(Mock(), request).text == "You said: Hi"
    parameters = {"functions": [function], "function_call": {"name": "add"}}
    _, completion = read_stream(Mock(), request._replace(parameters=parameters))
    assert completion.message == {"function_call": {"name": "add", "arguments": '{"a": 1, "b": 5}'}}
    assert completion.finish_reason == "function_call"
    result = {"role": "function", "name": "add", "content": "6"}
    assert complete(
        Mock(), request._replace(messages=(*request.messages, result), parameters=parameters)
    ).text == ("The tool said: 6")


def test_tools_beside_legacy_functions_are_called_as_tools():
    functions = [ADD["function"]]
    assert called("mock:tool=ask Why?", tools=[ASK], functions=functions) == [("ask", "Why?")]
    calls = [("add", '{"a": 1, "b": 5}')]
    assert called("mock:tool=add", tools=[ASK], functions=functions) == calls


@pytest.mark.parametrize(
    ("directive", "thought"),
    [("mock:think=some_text", "some_text"), ('mock:think="I should add."', "I should add.")],
)
def test_the_think_directive_gives_thoughts_before_the_answer(directive: str, thought: str):
    request = prompt(f"Hi {directive}")
    *deltas, completion = Mock().stream(request, Deadline(1))
    assert isinstance(completion, Completion)
    assert completion == complete(Mock(), request)
    assert completion.message == {
        "reasoning_content": thought,
        "content": f"You said: Hi {directive}",
    }
    assert completion.usage.reasoning_tokens == len(thought.split())
    names = [name for delta in deltas if isinstance(delta, Delta) for name in delta.message]
    assert names == sorted(names, reverse=True)


def test_the_mock_thinks_before_it_calls_a_tool_and_before_it_runs_out_of_tokens():
    assert list(message("mock:think=Hm mock:tool=add", tools=[ADD])) == [
        "reasoning_content",
        "tool_calls",
    ]
    assert message("mock:think=Hm mock:length") == {"reasoning_content": "Hm"}


@pytest.mark.parametrize("text", ["mock:think=", 'mock:think="', 'mock:think="a"b', "mock:tool="])
def test_malformed_directives_of_words_are_text(text: str):
    assert message(text, tools=[ADD]) == {"content": f"You said: {text}"}


def test_a_break_comes_in_the_middle_of_a_tool_call():
    text = 'mock:break mock:tool=add {"a": 1, "b": 2}'
    request = prompt(text)._replace(parameters={"tools": [ADD]})
    stream = Mock().stream(request, Deadline(1))
    assert all("tool_calls" in delta.message for delta in islice(stream, 2))
    with pytest.raises(ProviderFailed):
        next(stream)


def test_the_mock_answers_in_json():
    parameters: dict[str, Any] = {"response_format": {"type": "json_object"}}
    assert message("Hi", **parameters) == {"content": '{"answer": "You said: Hi"}'}
    assert message("Hi", "3", **parameters) == {"content": '{"answer": "The tool said: 3"}'}
    assert message("Hi", response_format={"type": "text"}) == {"content": "You said: Hi"}


def json_answer(schema: Any, text: str = "Hi") -> Any:
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return json.loads(message(text, response_format=response_format)["content"])


NODE = {
    "type": "object",
    "properties": {
        "value": {"type": "number"},
        "next": {"anyOf": [{"$ref": "#/$defs/a~1node"}, {"type": "null"}]},
        "children": {"type": "array", "items": {"$ref": "#/$defs/a~1node"}},
    },
    "required": ["value", "next", "children"],
}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (True, "Hi"),
        ({}, "Hi"),
        ({"type": "string", "minLength": 4}, "Hi.."),
        ({"type": "string", "maxLength": 1}, "H"),
        ({"type": "string", "format": "date"}, "2025-01-01"),
        ({"type": "string", "format": "email"}, "user@example.com"),
        ({"type": "string", "format": "uuid"}, "00000000-0000-4000-8000-000000000000"),
        ({"type": "string", "pattern": "^[A-Z]$", "examples": ["A"]}, "A"),
        ({"type": ["string", "null"]}, "Hi"),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": "integer"}, 1),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "exclusiveMinimum": 5}, 6),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "integer", "minimum": 7, "multipleOf": 5}, 10),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"type": "number", "maximum": 0.5}, 0),
        ({"minimum": 2}, 2),
        ({"const": 7}, 7),
        ({"enum": ["b", "a"]}, "b"),
        ({"type": "array", "items": {"type": "integer"}}, [1]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3}, [1, 1, 1]),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 0}, []),
        ({"prefixItems": [{"const": 1}, {"const": 2}], "items": False}, [1, 2]),
        ({"type": "object"}, {}),
        ({"properties": {"a": {"const": 1}, "b": {"const": 2}}, "required": ["b"]}, {"b": 2}),
        ({"type": "object", "required": ["a"]}, {"a": "Hi"}),
        (
            {"type": "object", "required": ["a"], "additionalProperties": {"type": "integer"}},
            {"a": 1},
        ),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, 1),
        ({"oneOf": [{"const": "x"}]}, "x"),
        (
            {
                "properties": {"kind": {"type": "string"}},
                "required": ["kind"],
                "anyOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}],
            },
            {"kind": "Hi", "a": 1},
        ),
        (
            {
                "allOf": [
                    {"$ref": "#/$defs/a"},
                    {"properties": {"b": {"const": 2}}, "required": ["b"]},
                ],
                "$defs": {"a": {"properties": {"a": {"const": 1}}, "required": ["a"]}},
            },
            {"a": 1, "b": 2},
        ),
        (
            {"$ref": "#/$defs/a~1node", "$defs": {"a/node": NODE}},
            {"value": 1, "next": None, "children": []},
        ),
        (
            {
                "type": "object",
                "properties": {"more": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
                "required": ["more"],
            },
            {"more": None},
        ),
    ],
)
def test_the_mock_answers_with_json_that_is_valid_for_a_schema(schema: Any, expected: Any):
    answer = json_answer(schema)
    assert (answer, type(answer)) == (expected, type(expected))
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(answer)


def test_strings_of_json_are_the_beginning_of_the_prompt_without_directives():
    schema = {"type": "string"}
    assert json_answer(schema, "Hello mock:delay=0 you") == "Hello  you"
    assert json_answer(schema, "mock:ok") == "text"
    assert json_answer(schema, "x" * 1000) == "x" * 100


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"required": ["b"], "additionalProperties": {"$ref": "#"}}},
        },
        {"type": "string", "minLength": 10**9},
        {"type": "array", "minItems": 10**9},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "object", "required": 5},
        {"type": "object", "properties": [], "required": ["a"]},
        {"type": "integer", "minimum": "1"},
    ],
)
def test_a_schema_without_a_value_of_moderate_size_is_refused(schema: Any):
    response_format = {"type": "json_schema", "json_schema": {"schema": schema}}
    request = prompt("Hi")._replace(parameters={"response_format": response_format})
    assert error_summary(Mock(), request) == ErrorSummary(RequestRejected)


def test_a_schema_of_a_few_lines_cannot_ask_for_an_endless_answer():
    names = [f"d{number}" for number in range(40)]
    definitions: dict[str, Any] = {
        name: {"type": "array", "minItems": 2, "items": {"$ref": f"#/$defs/{following}"}}
        for name, following in pairwise(names)
    }
    definitions |= {
        f"all{name}": {"allOf": [{"$ref": f"#/$defs/all{following}"}] * 2}
        for name, following in pairwise(names)
    }
    for start in ("d0", "alld0"):
        schema = {"$ref": f"#/$defs/{start}", "$defs": definitions}
        response_format = {"type": "json_schema", "json_schema": {"schema": schema}}
        request = prompt("Hi")._replace(parameters={"response_format": response_format})
        assert error_summary(Mock(), request) == ErrorSummary(RequestRejected)


def test_a_schema_of_many_names_is_read_in_linear_time():
    names = [str(number) for number in range(100_000)]
    schema = {"properties": {name: {} for name in names}, "required": names}
    response_format = {"type": "json_schema", "json_schema": {"schema": schema}}
    request = prompt("Hi")._replace(parameters={"response_format": response_format})
    begun = time.monotonic()
    assert error_summary(Mock(), request) == ErrorSummary(RequestRejected)
    assert time.monotonic() - begun < SOON


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("type", "properties", "required", "items", "prefixItems", "$ref", "enum"),
                    *("anyOf", "oneOf", "allOf", "format", "minLength", "maxLength", "minItems"),
                    *("maxItems", "minimum", "exclusiveMaximum", "multipleOf", "examples"),
                    *("additionalProperties", "#", "tools", "name", "function", "parameters"),
                ]
            ),
            inside
            | st.sampled_from(["object", "array", "string", "integer", "number", "#", "#/items"]),
        )
    ),
    max_leaves=30,
)


@given(
    parameters=st.dictionaries(
        st.sampled_from(["tools", "tool_choice", "functions", "function_call", "response_format"]),
        json_values,
    ),
    schema=json_values,
)
def test_any_parameters_give_an_answer_or_a_refusal(parameters: dict[str, Any], schema: Any):
    response_format = {"type": "json_schema", "json_schema": {"schema": schema}}
    for extra in ({"response_format": response_format}, parameters):
        request = prompt("Hi mock:tool=add")._replace(parameters=extra)
        with suppress(RequestRejected):
            assert complete(Mock(), request).message
