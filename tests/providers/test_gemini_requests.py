"""Chat completions' requests as Gemini gets them, and what it cannot be told."""

from typing import Any

import pytest

from providers.base import AnsweredMessage
from providers.errors import RequestRejected
from providers.gemini import Gemini
from providers.gemini_contents import to_contents
from tests.providers.factories import (
    KEY,
    NEUTRAL_FIELDS,
    REQUEST,
    UNKNOWN_FIELDS,
    UNKNOWN_IN_ALLOWED_TOOLS,
    UNKNOWN_NAMES,
    UNKNOWN_NAMES_IN_ALLOWED_TOOLS,
    ErrorSummary,
    complete,
    error_summary,
)
from tests.stub_vendor import StubVendor

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
DECLARATION = {
    "name": "get_weather",
    "description": "Get the weather.",
    "parametersJsonSchema": WEATHER["function"]["parameters"],  # type: ignore[index]
}
NO_SIGNATURE = "skip_thought_signature_validator"
PNG = "iVBORw0KGgo="


@pytest.fixture
def gemini(stub_vendor: StubVendor) -> Gemini:
    return Gemini(api_key=KEY, base_url=stub_vendor.url, model="gemini-3.5-flash-lite")


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def tool(call_id: str, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def call(
    call_id: str, name: str = "get_weather", arguments: Any = "{}", signature: str = ""
) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    signed = {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}
    return {"id": call_id, "type": "function", "function": function, **signed}


def calling(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **fields}


def sent(
    gemini: Gemini,
    vendor: StubVendor,
    *messages: dict[str, Any],
    model: str = "gemini-3.8-flash",
    **parameters: Any,
) -> Any:
    """Return the body that the vendor gets."""
    request = REQUEST._replace(
        model=model, messages=messages or REQUEST.messages, parameters=parameters
    )
    assert gemini.unsupported(request) == []
    complete(gemini, request)
    return vendor.requests[-1].json


def config(gemini: Gemini, vendor: StubVendor, **parameters: Any) -> Any:
    return sent(gemini, vendor, **parameters).get("generationConfig")


# --- Messages -------------------------------------------------------------------------------------


def test_instructions_of_any_place_are_system_instructions(stub_vendor: StubVendor, gemini: Gemini):
    told = sent(
        gemini,
        stub_vendor,
        {"role": "system", "content": "Be brief."},
        user("Hi"),
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "system", "content": " "},
        user("Bye"),
    )
    assert told == {
        "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "Be kind."}]},
        "contents": [{"role": "user", "parts": [{"text": "Hi"}, {"text": "Bye"}]}],
    }


def test_instructions_alone_are_a_prompt(stub_vendor: StubVendor, gemini: Gemini):
    told = sent(gemini, stub_vendor, {"role": "system", "content": "Say hello."})
    assert told == {"contents": [{"role": "user", "parts": [{"text": "Say hello."}]}]}


@pytest.mark.parametrize("blank", ["", " \n"])
def test_a_blank_last_message_is_sent(stub_vendor: StubVendor, gemini: Gemini, blank: str):
    """Without it the model would continue its own last answer."""
    last = {"role": "user", "parts": [{"text": blank}]}
    answer = {"role": "assistant", "content": "Hello."}
    body = sent(gemini, stub_vendor, user("Hello?"), answer, user(blank))
    assert body["contents"][-1] == last
    assert sent(gemini, stub_vendor, user(blank)) == {"contents": [last]}
    body = sent(gemini, stub_vendor, user("Hello?"), user(blank))
    assert body == {"contents": [{"role": "user", "parts": [{"text": "Hello?"}]}]}


def test_a_refusal_is_text(stub_vendor: StubVendor, gemini: Gemini):
    parts = [{"type": "refusal", "refusal": "Never."}]
    told = sent(
        gemini,
        stub_vendor,
        user("Hi"),
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": parts},
        user("Why?"),
    )
    assert told["contents"][1] == {"role": "model", "parts": [{"text": "No."}, {"text": "Never."}]}


def test_fields_without_meaning_for_gemini_are_left_out(stub_vendor: StubVendor, gemini: Gemini):
    part = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    told = sent(gemini, stub_vendor, {"role": "user", "name": "ada", "content": [part]})
    assert told == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            {"inlineData": {"mimeType": "image/png", "data": PNG}},
        ),
        (
            {"type": "image_url", "image_url": f"data:image/webp;name=a;base64,{PNG}"},
            {"inlineData": {"mimeType": "image/webp", "data": PNG}},
        ),
        (
            {"type": "image_url", "image_url": {"url": f"DATA:image/jpg;base64,{PNG}"}},
            {"inlineData": {"mimeType": "image/jpeg", "data": PNG}},
        ),
        (
            {"type": "image_url", "image_url": {"url": f"data:IMAGE/PNG;charset=x;BASE64,{PNG}"}},
            {"inlineData": {"mimeType": "image/png", "data": PNG}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "https://a.example/b/cat.jpg?w=1#x"}},
            {
                "fileData": {
                    "fileUri": "https://a.example/b/cat.jpg?w=1#x",
                    "mimeType": "image/jpeg",
                }
            },
        ),
        (
            {"type": "video_url", "video_url": {"url": "https://www.youtube.com/watch?v=1"}},
            {"fileData": {"fileUri": "https://www.youtube.com/watch?v=1"}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
            {"inlineData": {"mimeType": "audio/wav", "data": "UklG"}},
        ),
        (
            {
                "type": "file",
                "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"},
            },
            {"inlineData": {"mimeType": "application/pdf", "data": "JVBE"}},
        ),
        (
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "JVBE"}},
            {"inlineData": {"mimeType": "application/pdf", "data": "JVBE"}},
        ),
        (
            {"type": "file", "file": {"file_data": "https://a.example/a.pdf"}},
            {"fileData": {"fileUri": "https://a.example/a.pdf", "mimeType": "application/pdf"}},
        ),
    ],
)
def test_images_audio_and_files_are_sent(
    stub_vendor: StubVendor, gemini: Gemini, part: dict[str, Any], expected: dict[str, Any]
):
    told = sent(gemini, stub_vendor, user([{"type": "text", "text": "See:"}, part]))
    assert told["contents"] == [{"role": "user", "parts": [{"text": "See:"}, expected]}]


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/svg+xml,<svg/>"}}, "image_url"),
        ({"type": "image_url", "image_url": {"url": "cat.png"}}, "image_url"),
        ({"type": "image_url", "image_url": {}}, "image_url"),
        ({"type": "input_audio", "input_audio": {"data": "UklG"}}, "input_audio"),
        ({"type": "input_audio", "input_audio": {"format": "wav"}}, "input_audio"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "file_id"),
        ({"type": "file", "file": {"file_data": "JVBE"}}, "file"),
        ({"type": "thing", "thing": 7}, "thing"),
        ({}, "content"),
    ],
)
def test_content_that_gemini_does_not_take_is_named(
    gemini: Gemini, part: dict[str, Any], name: str
):
    assert gemini.unsupported(REQUEST._replace(messages=(user([part]),))) == [name]


def test_unknown_fields_of_messages_and_parts_are_named(gemini: Gemini):
    messages = (
        {"role": "system", "content": "Hi", "foo": {"a": 1}},
        user([{"type": "text", "text": "Hi"}, {"type": "text", "text": "Hi", "bar": "x"}]),
        {"role": "assistant", "content": "Hi", "prefix": True},
    )
    named = ["messages[0].foo", "messages[1].content[1].bar", "messages[2].prefix"]
    assert gemini.unsupported(REQUEST._replace(messages=messages)) == named


def image(**fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", **fields}}


def test_unknown_fields_of_nested_objects_are_named(gemini: Gemini):
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    sound = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav", "foo": 1}}
    file = {"file_data": "aGk=", "filename": "a.pdf", "foo": 1}
    messages = (
        user([image(foo=1), sound, {"type": "file", "file": file}]),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {**call, "foo": 1},
                {**call, "function": {**call["function"], "foo": 1}},
                {"id": "2", "type": "custom", "custom": {"name": "a", "input": "b", "foo": 1}},
            ],
            "images": [image(foo=1)],
        },
        {"role": "assistant", "content": None, "function_call": {**call["function"], "foo": 1}},
    )
    assert gemini.unsupported(REQUEST._replace(messages=messages)) == [
        "messages[0].content[0].image_url.foo",
        "messages[0].content[1].input_audio.foo",
        "messages[0].content[2].file.foo",
        "messages[1].tool_calls[0].foo",
        "messages[1].tool_calls[1].function.foo",
        "messages[1].tool_calls[2].custom.foo",
        "messages[1].images[0].image_url.foo",
        "messages[2].function_call.foo",
    ]


def test_fields_of_nested_objects_that_change_nothing_are_not_named(gemini: Gemini):
    function = {"name": "add", "arguments": "{}", "parsed_arguments": {}, "foo": None}
    google = {"google": {"thought_signature": "c2ln"}}
    call = {"id": "1", "type": "function", "function": function, "index": 0, "foo": ""}
    calling = {"role": "assistant", "content": None, "images": [{**image(), "index": 0}]}
    calling["tool_calls"] = [{**call, "extra_content": google, "cache_control": {}}]
    messages = (user([image(detail="high", foo=[])]), calling, tool("1", "2"))
    assert gemini.unsupported(REQUEST._replace(messages=messages)) == []


def test_fields_of_a_call_may_be_in_its_function(gemini: Gemini):
    fields = {"provider_specific_fields": {"a": 1}, "extra_content": {"b": 2}}
    function = {"name": "add", "arguments": "{}", "cache_control": {"c": 3}, **fields}
    message = calling({"id": "1", "type": "function", "function": function})
    assert gemini.unsupported(REQUEST._replace(messages=(message, tool("1", "2")))) == []


def test_fields_of_an_answer_may_be_in_its_text_parts(gemini: Gemini):
    """As OpenAI's Agents SDK for JavaScript sends them back."""
    fields = {"role": "assistant", "refusal": None, "tool_calls": [call("1")], "audio": {"id": "a"}}
    text = {"type": "text", "text": "Hello", **fields}
    answer = calling(call("1"), content=[text, {**text, "foo": 1}])
    question = user([text])
    assert gemini.unsupported(REQUEST._replace(messages=(question, answer))) == [
        *(f"messages[0].content[0].{name}" for name in ("role", "tool_calls", "audio")),
        "messages[1].content[1].foo",
    ]


def test_messages_of_earlier_turns_may_have_any_fields(gemini: Gemini):
    earlier = {"role": "user", "content": [{"type": "text", "text": "Hi", "foo": 1}], "foo": 1}
    request = REQUEST._replace(messages=(earlier, earlier, earlier), numbers=(1, None, 0))
    assert gemini.unsupported(request) == [
        *("messages[1].foo", "messages[1].content[0].foo"),
        *("messages[0].foo", "messages[0].content[0].foo"),
    ]


def test_neutral_fields_and_those_of_answers_are_not_named(gemini: Gemini):
    fields = {"annotations": [{}], "reasoning_text": "Hm.", "function_call": None, "refusal": "No"}
    fields["content_parts"] = [{"type": "reference", "reference_ids": [1]}]
    answer = {"role": "assistant", "content": "Hi", "prefix": False, "foo": None, **fields}
    recorded = AnsweredMessage({"role": "assistant", "content": "Hi", "foo": 1}, "openai", "gpt")
    question = user([{"type": "text", "text": "Hi", "foo": {}, "annotations": [{}]}])
    messages = (question, answer, recorded, question)
    assert gemini.unsupported(REQUEST._replace(messages=messages)) == []


def test_unknown_fields_of_tools_and_of_the_response_format_are_named(gemini: Gemini):
    assert gemini.unsupported(REQUEST._replace(parameters=UNKNOWN_FIELDS)) == UNKNOWN_NAMES
    allowed = gemini.unsupported(REQUEST._replace(parameters=UNKNOWN_IN_ALLOWED_TOOLS))
    assert allowed == UNKNOWN_NAMES_IN_ALLOWED_TOOLS


def test_neutral_fields_of_tools_and_of_the_response_format_are_not_named(gemini: Gemini):
    assert gemini.unsupported(REQUEST._replace(parameters=NEUTRAL_FIELDS)) == []


def test_content_in_the_wrong_place_is_named(gemini: Gemini):
    inline = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    linked = {"type": "image_url", "image_url": {"url": "https://a.example/cat.jpg"}}
    for message in ({"role": "system", "content": [inline]}, tool("call_1", [linked])):
        assert gemini.unsupported(REQUEST._replace(messages=(message,))) == ["image_url"]
    spoken = {"role": "assistant", "content": None, "audio": {"id": "audio_1"}}
    assert gemini.unsupported(REQUEST._replace(messages=(spoken,))) == ["audio"]


# --- Tool calls and thought signatures ------------------------------------------------------------


@pytest.fixture
def parallel_calls(stub_vendor: StubVendor, gemini: Gemini) -> list[dict[str, Any]]:
    """What Gemini is told of two calls at once, and of their results."""
    told = sent(
        gemini,
        stub_vendor,
        user("Oslo or Rome?"),
        calling(
            call("call_1", arguments='{"city": "Oslo"}', signature="U0lH"),
            call("call_2", "get_time", ""),
            content="I will look.",
        ),
        tool("call_1", '{"degrees": 7}'),
        tool("call_2", [{"type": "text", "text": "noon"}]),
        user("So?"),
    )
    contents: list[dict[str, Any]] = told["contents"]
    return contents


def test_the_turns_around_calls_are_contents_in_order(parallel_calls: list[dict[str, Any]]):
    assert [content["role"] for content in parallel_calls] == ["user", "model", "user", "user"]
    assert parallel_calls[0]["parts"] == [{"text": "Oslo or Rome?"}]
    assert parallel_calls[3]["parts"] == [{"text": "So?"}]


def test_parallel_calls_are_one_content(parallel_calls: list[dict[str, Any]]):
    function = {"id": "call_1", "name": "get_weather", "args": {"city": "Oslo"}}
    assert parallel_calls[1] == {
        "role": "model",
        "parts": [
            {"text": "I will look."},
            {"functionCall": function, "thoughtSignature": "U0lH"},
            {"functionCall": {"id": "call_2", "name": "get_time", "args": {}}},
        ],
    }


def test_results_of_parallel_calls_are_one_content(parallel_calls: list[dict[str, Any]]):
    first = {"id": "call_1", "name": "get_weather", "response": {"degrees": 7}}
    second = {"id": "call_2", "name": "get_time", "response": {"result": "noon"}}
    assert parallel_calls[2] == {
        "role": "user",
        "parts": [{"functionResponse": first}, {"functionResponse": second}],
    }


def test_results_are_in_the_order_of_their_calls(stub_vendor: StubVendor, gemini: Gemini):
    messages = [
        user("Oslo or Rome?"),
        calling(call("call_2")),
        tool("call_2", "7 degrees"),
        calling(call("call_1"), call("call_2")),
        tool("call_x", "nothing"),
        tool("call_2", "8 degrees"),
        tool("call_1", "9 degrees"),
    ]
    told = sent(gemini, stub_vendor, *messages)
    results = [part["functionResponse"] for part in told["contents"][-1]["parts"]]
    assert [result["id"] for result in results] == ["call_1", "call_2", "call_x"]


class CountedId(str):
    """An id that counts how often it is looked up."""

    lookups = 0

    def __hash__(self) -> int:
        CountedId.lookups += 1
        return super().__hash__()


def test_many_results_are_put_in_order_once():
    ids = [CountedId(number) for number in range(200)]
    messages = [calling(*map(call, ids)), *(tool(each, "") for each in reversed(ids))]
    _, results = to_contents(messages, "gemini-3-pro")
    assert [part["functionResponse"]["id"] for part in results["parts"]] == ids
    assert CountedId.lookups <= 5 * len(ids)


@pytest.mark.parametrize("text", ["7", "[7]", "null", "{", "", "7 degrees"])
def test_a_tool_result_without_an_object_is_sent_as_text(
    stub_vendor: StubVendor, gemini: Gemini, text: str
):
    told = sent(gemini, stub_vendor, user("?"), calling(call("call_1")), tool("call_1", text))
    response = told["contents"][-1]["parts"][0]["functionResponse"]
    assert response["response"] == {"result": text}


def test_a_result_may_have_images(stub_vendor: StubVendor, gemini: Gemini):
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    result = tool("call_1", [{"type": "text", "text": "A map"}, image])
    told = sent(gemini, stub_vendor, user("?"), calling(call("call_1")), result)
    assert told["contents"][-1]["parts"] == [
        {
            "functionResponse": {
                "id": "call_1",
                "name": "get_weather",
                "response": {"result": "A map"},
                "parts": [{"inlineData": {"mimeType": "image/png", "data": PNG}}],
            }
        }
    ]


def test_the_calls_of_old_clients_and_custom_tools_are_translated(
    stub_vendor: StubVendor, gemini: Gemini
):
    custom = {"id": "call_1", "type": "custom", "custom": {"name": "run", "input": "ls"}}
    told = sent(
        gemini,
        stub_vendor,
        user("?"),
        {"role": "assistant", "function_call": {"name": "now", "arguments": "{}"}},
        {"role": "function", "name": "now", "content": "noon"},
        calling(custom),
        tool("call_1", "a.txt"),
        model="gemini-2.5-flash",
    )
    assert [content["parts"] for content in told["contents"][1:]] == [
        [{"functionCall": {"name": "now", "args": {}}}],
        [{"functionResponse": {"name": "now", "response": {"result": "noon"}}}],
        [{"functionCall": {"id": "call_1", "name": "run", "args": {"input": "ls"}}}],
        [{"functionResponse": {"id": "call_1", "name": "run", "response": {"result": "a.txt"}}}],
    ]


def test_half_a_surrogate_pair_in_arguments_and_results_is_replaced(
    stub_vendor: StubVendor, gemini: Gemini
):
    text = r'{"cut": "\\\ud83d", "whole": "\ud83d\ude00"}'
    told = sent(gemini, stub_vendor, user("?"), calling(call("1", arguments=text)), tool("1", text))
    expected = {"cut": "\\\N{REPLACEMENT CHARACTER}", "whole": "\N{GRINNING FACE}"}
    [_, [called], [result]] = [content["parts"] for content in told["contents"]]
    assert called["functionCall"]["args"] == expected
    assert result["functionResponse"]["response"] == expected


@pytest.mark.parametrize("arguments", ["{", "[]", "7", '"text"', '{"a": NaN}'])
def test_arguments_other_than_an_object_are_rejected(
    stub_vendor: StubVendor, gemini: Gemini, arguments: str
):
    messages = (user("?"), calling(call("call_1", arguments=arguments)), tool("call_1", "7"))
    assert error_summary(gemini, REQUEST._replace(messages=messages)) == ErrorSummary(
        RequestRejected
    )
    assert stub_vendor.requests == []


@pytest.mark.parametrize(
    ("model", "signatures"),
    [
        ("gemini-3.8-flash", [NO_SIGNATURE, None]),
        ("gemini-3-flash-preview", [NO_SIGNATURE, None]),
        ("gemini-flash-latest", [NO_SIGNATURE, None]),
        ("gemini-2.5-pro", [None, None]),
        ("gemma-4-31b-it", [None, None]),
    ],
)
def test_the_first_call_of_another_model_has_the_substitute_for_a_signature(
    stub_vendor: StubVendor, gemini: Gemini, model: str, signatures: list[str | None]
):
    messages = (
        user("?"),
        calling(call("call_1"), call("call_2")),
        tool("call_1", "7"),
        tool("call_2", "8"),
    )
    told = sent(gemini, stub_vendor, *messages, model=model)
    parts = told["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == signatures


def test_the_signature_of_a_message_is_sent_with_its_text(stub_vendor: StubVendor, gemini: Gemini):
    signed = {"extra_content": {"google": {"thought_signature": "U0lH"}}}
    told = sent(
        gemini,
        stub_vendor,
        user("Hi"),
        {"role": "assistant", "content": "Hello.", "reasoning_content": "Hm.", **signed},
        user("?"),
        calling(call("call_1", signature="T1RI"), **signed),
        tool("call_1", "7"),
    )
    assert told["contents"][1]["parts"] == [{"text": "Hello.", "thoughtSignature": "U0lH"}]
    assert told["contents"][3]["parts"] == [
        {"text": "", "thoughtSignature": "U0lH"},
        {
            "functionCall": {"id": "call_1", "name": "get_weather", "args": {}},
            "thoughtSignature": "T1RI",
        },
    ]


def test_images_of_the_model_are_sent_back(stub_vendor: StubVendor, gemini: Gemini):
    image = {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{PNG}"},
        "index": 0,
        "extra_content": {"google": {"thought_signature": "U0lH"}},
    }
    answer = {"role": "assistant", "content": "Here.", "images": [image]}
    told = sent(gemini, stub_vendor, user("A cat"), answer, user("In red"))
    assert told["contents"][1]["parts"] == [
        {"text": "Here."},
        {"inlineData": {"mimeType": "image/png", "data": PNG}, "thoughtSignature": "U0lH"},
    ]


# --- Parameters -----------------------------------------------------------------------------------


def test_tools_are_function_declarations(stub_vendor: StubVendor, gemini: Gemini):
    bare = {"type": "function", "function": {"name": "now"}}
    told = sent(gemini, stub_vendor, tools=[WEATHER, bare], parallel_tool_calls=True)
    assert told["tools"] == [{"functionDeclarations": [DECLARATION, {"name": "now"}]}]
    assert "toolConfig" not in told


NAMED = {"type": "function", "function": {"name": "get_weather"}}


def allowed(mode: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [NAMED]}}


@pytest.mark.parametrize(
    ("choice", "strict", "expected"),
    [
        ("auto", False, {"mode": "AUTO"}),
        ("none", False, {"mode": "NONE"}),
        ("required", False, {"mode": "ANY"}),
        (NAMED, False, {"mode": "ANY", "allowedFunctionNames": ["get_weather"]}),
        ("auto", True, {"mode": "VALIDATED"}),
        ("required", True, {"mode": "ANY"}),
        ("none", True, {"mode": "NONE"}),
        (allowed("auto"), False, {"mode": "VALIDATED", "allowedFunctionNames": ["get_weather"]}),
        (allowed("required"), False, {"mode": "ANY", "allowedFunctionNames": ["get_weather"]}),
    ],
)
def test_a_tool_choice_is_a_calling_mode(
    stub_vendor: StubVendor, gemini: Gemini, choice: Any, strict: bool, expected: dict[str, Any]
):
    function = {"name": "get_weather", "strict": strict}
    tools = [{"type": "function", "function": function}]
    told = sent(gemini, stub_vendor, tools=tools, tool_choice=choice)
    assert told["toolConfig"] == {"functionCallingConfig": expected}


SCHEMA = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {}}}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"responseMimeType": "application/json"}),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}},
            {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA},
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a"}},
            {"responseMimeType": "application/json"},
        ),
    ],
)
def test_a_response_format_is_a_type_with_a_schema(
    stub_vendor: StubVendor, gemini: Gemini, wanted: dict[str, Any], expected: Any
):
    assert config(gemini, stub_vendor, response_format=wanted) == expected


SHOWN = {"includeThoughts": True}


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        ("gemini-3.8-flash", "none", {"thinkingLevel": "LOW"}),
        ("gemini-3.8-flash", "minimal", {"thinkingLevel": "LOW", **SHOWN}),
        ("gemini-3.8-flash", "low", {"thinkingLevel": "LOW", **SHOWN}),
        ("gemini-3.8-flash", "medium", {"thinkingLevel": "MEDIUM", **SHOWN}),
        ("gemini-3.8-flash", "high", {"thinkingLevel": "HIGH", **SHOWN}),
        ("gemini-3.8-flash", "xhigh", {"thinkingLevel": "HIGH", **SHOWN}),
        ("gemini-3.1-pro-preview", "minimal", {"thinkingLevel": "LOW", **SHOWN}),
        ("gemini-3.5-flash-lite", "minimal", {"thinkingLevel": "MINIMAL", **SHOWN}),
        ("gemini-3.5-flash-lite", "none", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3-flash-preview", "minimal", {"thinkingLevel": "MINIMAL", **SHOWN}),
        ("gemini-flash-lite-latest", "minimal", {"thinkingLevel": "MINIMAL", **SHOWN}),
        ("gemini-flash-latest", "minimal", {"thinkingLevel": "LOW", **SHOWN}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128}),
        ("gemini-2.5-flash", "minimal", {"thinkingBudget": 1024, **SHOWN}),
        ("gemini-2.5-flash", "low", {"thinkingBudget": 1024, **SHOWN}),
        ("gemini-2.5-flash", "medium", {"thinkingBudget": 8192, **SHOWN}),
        ("gemini-2.5-flash", "high", {"thinkingBudget": 24576, **SHOWN}),
    ],
)
def test_an_effort_is_a_level_or_a_budget(
    stub_vendor: StubVendor, gemini: Gemini, model: str, effort: str, expected: dict[str, Any]
):
    told = sent(gemini, stub_vendor, model=model, reasoning_effort=effort)
    assert told["generationConfig"] == {"thinkingConfig": expected}


def test_other_parameters_have_gemini_s_names(stub_vendor: StubVendor, gemini: Gemini):
    told = config(
        gemini,
        stub_vendor,
        seed=0,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        stop="END",
        modalities=["text", "image"],
    )
    assert told == {
        "seed": 0,
        "presencePenalty": 0.5,
        "frequencyPenalty": -0.5,
        "stopSequences": ["END"],
        "responseModalities": ["TEXT", "IMAGE"],
    }


@pytest.mark.parametrize(
    ("tier", "expected"), [("flex", "flex"), ("priority", "priority"), ("default", "standard")]
)
def test_a_service_tier_has_gemini_s_name(
    stub_vendor: StubVendor, gemini: Gemini, tier: str, expected: str
):
    assert sent(gemini, stub_vendor, service_tier=tier)["serviceTier"] == expected


def test_google_s_own_fields_are_taken_as_its_compatible_api_does(
    stub_vendor: StubVendor, gemini: Gemini
):
    safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    thinking = {"thinking_level": "low", "include_thoughts": True}
    google = {
        "thinking_config": thinking,
        "cached_content": "cachedContents/1",
        "safety_settings": safety,
    }
    told = sent(gemini, stub_vendor, extra_body={"google": google})
    assert told.pop("contents")
    assert told == {
        "generationConfig": {
            "thinkingConfig": {"thinkingLevel": "low", "includeThoughts": True},
        },
        "safetySettings": safety,
        "cachedContent": "cachedContents/1",
    }


def test_google_s_own_thinking_config_takes_precedence(stub_vendor: StubVendor, gemini: Gemini):
    google = {"thinking_config": {"thinking_level": "high", "includeThoughts": False}}
    told = config(gemini, stub_vendor, reasoning_effort="low", extra_body={"google": google})
    assert told == {"thinkingConfig": {"thinkingLevel": "high", "includeThoughts": False}}


def test_parameters_that_change_nothing_are_left_out(stub_vendor: StubVendor, gemini: Gemini):
    told = sent(
        gemini,
        stub_vendor,
        store=True,
        metadata={"a": "b"},
        user="3f1c",
        prompt_cache_key="a",
        prompt_cache_retention="24h",
        safety_identifier="a",
        service_tier="auto",
        presence_penalty=0,
        frequency_penalty=0.0,
        logprobs=False,
        top_logprobs=0,
        logit_bias={},
        stop=[],
        tools=[],
        functions=[],
        function_call="auto",
        tool_choice="auto",
        parallel_tool_calls=False,
        modalities=["text"],
        verbosity="medium",
        response_format={"type": "text"},
        chat_template_kwargs={},
    )
    assert list(told) == ["contents"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logit_bias", {"7": 1}),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("functions", [{"name": "now"}]),
        ("function_call", {"name": "now"}),
        ("prediction", {"type": "content", "content": "a"}),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("modalities", ["text", "audio"]),
        ("modalities", 7),
        ("web_search_options", {}),
        ("web_search_options", {"search_context_size": "low"}),
        ("response_format", {"type": "grammar", "grammar": "a"}),
        ("reasoning_effort", "auto"),
        ("reasoning", {"effort": "low"}),
        ("verbosity", "low"),
        ("chat_template_kwargs", {"enable_thinking": False}),
        ("enable_thinking", False),
        ("min_p", 0),
        ("extra_body", {"google": {"labels": {}}}),
        ("extra_body", {"google": {}, "other": {}}),
        ("extra_body", {"other": {}}),
        ("extra_body", {"google": 7}),
        ("extra_body", {"google": {"thinking_config": "low"}}),
        ("extra_body", 7),
    ],
)
def test_a_parameter_that_gemini_does_not_take_is_named(gemini: Gemini, name: str, value: Any):
    assert gemini.unsupported(REQUEST._replace(parameters={name: value, "seed": 1})) == [name]


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, ["tool_choice"]),
        ({"tool_choice": allowed("none")}, ["tool_choice"]),
        ({"tool_choice": {**NAMED, "function": {"name": 7}}}, ["tool_choice"]),
        ({"tool_choice": "required", "tools": []}, ["tool_choice"]),
        ({"tools": [WEATHER, {"type": "custom", "custom": {"name": "run"}}]}, ["tools"]),
    ],
)
def test_a_use_of_tools_that_gemini_does_not_have_is_named(
    gemini: Gemini, parameters: dict[str, Any], names: list[str]
):
    request = REQUEST._replace(parameters={"tools": [WEATHER], **parameters})
    assert gemini.unsupported(request) == names
