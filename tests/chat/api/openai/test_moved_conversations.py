"""Fields that one vendor takes and another does not: refused in a request, left out of history."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.client import ApiClient
from tests.factories import all_records
from tests.stub_vendor import StubVendor

pytestmark = pytest.mark.django_db(transaction=True)

COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/responses"
OPENAI, GEMINI = "openai:model-1", "gemini:gemini-2.5-flash"
MARKED = [{"type": "text", "text": "Hi", "foo": 1}]
MARKED_ITEM = [{"type": "input_text", "text": "Hi", "foo": 1}]
SOUND = {"data": "aGk=", "format": "wav"}
CALL = {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": "{}"}


@pytest.fixture(autouse=True)
def two_vendors(vendor: StubVendor, change_settings: Callable[..., None]) -> None:
    """Let the stub play an OpenAI-compatible vendor, which takes any field, and Gemini."""
    change_settings(
        PROVIDERS={
            "openai": {"api_key": "k", "base_url": f"{vendor.url}/v1", "model": "model-1"},
            "gemini": {
                "api_key": "k",
                "base_url": f"{vendor.url}/v1beta",
                "model": "gemini-2.5-flash",
            },
        }
    )


def post(api: ApiClient, path: str, **body: Any) -> dict[str, Any]:
    """Return an answer, or the error that names a field."""
    response = api.post(path, {"model": GEMINI, **body})
    found: dict[str, Any] = response.json()
    if response.status_code == 200:
        return found
    assert (response.status_code, found["error"]["code"]) == (400, "unsupported_parameter")
    error: dict[str, Any] = found["error"]
    assert error["message"].startswith(f"{error['param']}: Provider gemini")
    return error


def user(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **fields}


def test_fields_of_an_earlier_completion_are_left_out(api: ApiClient, vendor: StubVendor):
    system = {"role": "system", "content": "Be kind.", "foo": 1}
    post(api, COMPLETIONS, model=OPENAI, messages=[system, user(MARKED, foo=1)])
    first = {"previous_interaction_id": all_records()[0].interaction_id}
    assert "usage" in post(api, COMPLETIONS, messages=[user("And now?")], **first)
    sent = vendor.requests[-1].json
    assert sent["systemInstruction"] == {"parts": [{"text": "Be kind."}]}
    assert [content["parts"][0]["text"] for content in sent["contents"]][::2] == ["Hi", "And now?"]
    refused = post(api, COMPLETIONS, messages=[user("And"), user(MARKED)], **first)
    assert refused["param"] == "messages[1].content[0].foo"
    assert len(all_records()) == 2


def test_fields_of_an_earlier_response_are_left_out(api: ApiClient, vendor: StubVendor):
    first = post(api, RESPONSES, model=OPENAI, input=[user(MARKED_ITEM)], instructions="Be kind.")
    earlier = {"previous_response_id": first["id"]}
    assert post(api, RESPONSES, input="And now?", **earlier)["status"] == "completed"
    assert b"foo" not in vendor.requests[-1].body
    items = [user("And"), user(MARKED_ITEM)]
    refused = post(api, RESPONSES, input=items, instructions="Be brief.", **earlier)
    assert refused["param"] == "input[1].content[0].foo"
    assert len(all_records()) == 2


def test_fields_of_messages_that_are_sent_again_are_refused(api: ApiClient):
    post(api, COMPLETIONS, model=OPENAI, messages=[user(MARKED)])
    said = {"role": "assistant", "content": "Hello there."}
    refused = post(api, COMPLETIONS, messages=[user(MARKED), said, user("And now?")])
    assert refused["param"] == "messages[0].content[0].foo"


@pytest.mark.parametrize("instructions", [None, "Be kind."])
@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([user("a"), user([*MARKED_ITEM, *MARKED_ITEM])], "input[1].content[0].foo"),
        (
            [
                user("a"),
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "refusal", "refusal": "No."},
                        {"type": "output_text", "text": "b", "foo": 1},
                    ],
                },
                user("c"),
            ],
            "input[2].content[1].foo",
        ),
        (
            [
                user("a"),
                CALL,
                {**CALL, "call_id": "call_2"},
                {"type": "function_call_output", "call_id": "call_1", "output": "1"},
                {"type": "function_call_output", "call_id": "call_2", "output": MARKED_ITEM},
            ],
            "input[4].output[0].foo",
        ),
        ([user("a"), user("b", foo=1)], "input[1].foo"),
        ([user("a", content_foo=1)], "input[0].content_foo"),
        (
            [
                user("a"),
                CALL,
                {
                    "type": "function_call_output",
                    "call_id": "call_1",
                    "output": "1",
                    "content_foo": 1,
                },
            ],
            "input[2].content_foo",
        ),
        (
            [
                user("a"),
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
                {"role": "assistant", "content": "b", "foo": 1},
            ],
            "input[2].foo",
        ),
        (
            [
                user("a"),
                CALL,
                {**CALL, "call_id": "call_2", "foo": 1},
                {"type": "function_call_output", "call_id": "call_1", "output": "1"},
                {"type": "function_call_output", "call_id": "call_2", "output": "2"},
            ],
            "input[2].foo",
        ),
        (
            [user([{"type": "input_audio", "input_audio": {**SOUND, "foo": 1}}])],
            "input[0].content[0].input_audio.foo",
        ),
    ],
)
def test_a_refused_field_has_its_path_in_the_input(
    api: ApiClient, items: list[Any], instructions: str | None, param: str
):
    refused = post(api, RESPONSES, input=items, instructions=instructions)
    assert refused["param"] == param
    assert all_records() == []


@pytest.mark.parametrize("name", ["messages[9]", f"messages[{'9' * 5000}]", "messages[0]foo"])
def test_a_refused_parameter_may_look_like_a_path_of_a_message(api: ApiClient, name: str):
    refused = post(api, RESPONSES, input="Hi", **{name: 1})
    assert refused["param"] == name


@pytest.mark.parametrize(
    "body",
    [
        {"input": [user("a", refusal=""), {"role": "assistant", "content": "b", "tool_calls": []}]},
        {"input": "a", "text": {"format": {"type": "text", "strict": False}, "foo": []}},
    ],
)
def test_empty_fields_of_other_formats_ask_for_nothing(
    api: ApiClient, vendor: StubVendor, body: dict[str, Any]
):
    assert post(api, RESPONSES, **body)["status"] == "completed"
    post(api, RESPONSES, **body, model=OPENAI)
    sent = vendor.requests[-1].json
    assert not {"response_format", "text"} & sent.keys()
    assert all(message.keys() == {"role", "content"} for message in sent["messages"])


def carrier(provider: str, model: str) -> dict[str, Any]:
    """Return a reasoning item that carries the fields of a vendor."""
    fields = {
        "message": {"reasoning_content": "Hm.", "own": 1},
        "calls": {"call_1": {"extra_content": {"google": {"thought_signature": "c2ln"}}}},
        "provider": provider,
        "model": model,
        "after": False,
    }
    content = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()
    return {"type": "reasoning", "summary": [], "encrypted_content": content}


GEMINIS, OPENAIS = carrier("gemini", "gemini-2.5-flash"), carrier("openai", "model-1")
SAID = {"role": "assistant", "content": [{"type": "output_text", "text": "b"}]}
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "1"}


@pytest.mark.parametrize("thoughts", [GEMINIS, OPENAIS], ids=["own", "foreign"])
@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({**SAID, "bar": 2}, "input[2].bar"),
        ({"role": "assistant", "content": MARKED}, "input[2].content[0].foo"),
        ({**CALL, "bar": 2}, "input[2].bar"),
    ],
)
def test_fields_of_an_answer_with_its_reasoning_are_refused(
    api: ApiClient, thoughts: dict[str, Any], item: dict[str, Any], param: str
):
    items = [user("a"), thoughts, item, RESULT if "call_id" in item else user("c")]
    assert post(api, RESPONSES, input=items)["param"] == param


@pytest.mark.parametrize("thoughts", [GEMINIS, OPENAIS], ids=["foreign", "own"])
@pytest.mark.parametrize("mask", [False, True])
def test_the_clients_fields_of_an_answer_reach_any_vendor(
    api: ApiClient,
    vendor: StubVendor,
    change_settings: Callable[..., None],
    thoughts: dict[str, Any],
    mask: bool,
):
    change_settings(MASK_PII=mask)
    said, call = {**SAID, "cache_control": {"type": "ephemeral"}}, {**CALL, "bar": 2}
    post(api, RESPONSES, model=OPENAI, input=[user("a"), thoughts, said, call, RESULT])
    answer = vendor.requests[-1].json["messages"][1]
    assert answer["cache_control"] == {"type": "ephemeral"}
    assert answer["tool_calls"][0]["bar"] == 2
    own = thoughts is OPENAIS
    assert {name: answer.get(name) for name in ("reasoning_content", "own")} == (
        {"reasoning_content": "Hm.", "own": 1} if own else {"reasoning_content": None, "own": None}
    )
    assert ("extra_content" in answer["tool_calls"][0]) is own


@pytest.mark.parametrize("thoughts", [[GEMINIS], []], ids=["carrier", "record"])
def test_images_of_an_answer_go_to_their_vendor_alone(
    api: ApiClient, vendor: StubVendor, thoughts: list[Any]
):
    inline = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}
    parts = [{"text": "Here."}, inline]
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}
    drawn = {"candidates": [candidate], "modelVersion": "gemini-2.5-flash"}
    hi = {"choices": [{"finish_reason": "stop", "message": {"content": "Hi."}}]}
    for reply in (drawn, hi, drawn):
        vendor.reply(reply)
    found = post(api, RESPONSES, input="Draw.")
    (item,) = found["output"]
    assert len(item["images"]) == 1
    items = [user("Draw."), *thoughts, item, user("And now?")]
    post(api, RESPONSES, model=OPENAI, input=items)
    answer = {"role": "assistant", "content": "Here."}
    assert vendor.requests[-1].json["messages"][1] == answer
    post(api, RESPONSES, input=items)
    assert b"iVBORw0KGgo=" in vendor.requests[-1].body
