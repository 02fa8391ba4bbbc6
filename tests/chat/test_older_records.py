"""Conversations whose first turns an older version has recorded, without whole messages."""

from dataclasses import replace
from typing import Any

import pytest

from chat.storage import backend
from tests.client import ApiClient
from tests.factories import ANSWERED, store_record
from tests.stub_vendor import StubVendor

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Lisboa"}'},
}
TOOL = {"type": "function", "function": {"name": "weather"}}
# Its instructions are in `system` alone, and further parameters in `options`.
ASKED = [
    {"role": "user", "content": "Olá!"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "31"},
    {"role": "user", "content": [{"type": "text", "text": "And here?"}, IMAGE]},
]
OLD = replace(
    ANSWERED,
    prompt="And here?",
    system="Be brief.",
    parameters={
        "temperature": 0.5,
        "options": {"tools": [TOOL], "tool_choice": "auto"},
        "messages": ASKED,
    },
    response="About 20.",
)
EARLIER = [
    {"role": "system", "content": "Be brief."},
    *ASKED,
    {"role": "assistant", "content": "About 20."},
]


@pytest.fixture
def old_turn(each_storage: str) -> str:
    return store_record(OLD).interaction_id


def sent(vendor: StubVendor) -> dict[str, Any]:
    return dict(vendor.requests[-1].json)


def test_a_prompt_continues_an_older_turn(
    old_turn: str, vendor: StubVendor, api: ApiClient
) -> None:
    answer = api.chat("Really?", previous_interaction_id=old_turn).json()
    assert sent(vendor)["messages"] == [*EARLIER, {"role": "user", "content": "Really?"}]
    assert not {"temperature", "options", "tools"} & sent(vendor).keys()
    record = backend().interactions.get(answer["interaction_id"])
    assert record
    assert (record.system, record.parameters) == ("Be brief.", {})
    api.chat("So?", previous_interaction_id=record.interaction_id)
    assert sent(vendor)["messages"] == [
        *EARLIER,
        {"role": "user", "content": "Really?"},
        {"role": "assistant", "content": answer["response"]},
        {"role": "user", "content": "So?"},
    ]


def test_messages_continue_an_older_turn(old_turn: str, vendor: StubVendor, api: ApiClient) -> None:
    asked = {"role": "user", "content": [{"type": "text", "text": "And this?"}, IMAGE]}
    body = {
        "model": "default",
        "messages": [asked],
        "user": OLD.user_id,
        "previous_interaction_id": old_turn,
    }
    assert api.post("/v1/chat/completions", body).status_code == 200
    assert sent(vendor)["messages"] == [*EARLIER, asked]


def test_an_older_turn_s_tool_calls_are_answered(
    each_storage: str, vendor: StubVendor, api: ApiClient
) -> None:
    parameters = {"options": {"tools": [TOOL]}}
    called = replace(OLD, prompt="Olá!", parameters=parameters, response="", tool_calls=(CALL,))
    result = {"role": "tool", "tool_call_id": "call_1", "content": "31"}
    body = {
        "model": "default",
        "messages": [result],
        "user": OLD.user_id,
        "previous_interaction_id": store_record(called).interaction_id,
    }
    assert api.post("/v1/chat/completions", body).status_code == 200
    assert sent(vendor)["messages"] == [*EARLIER[:3], result]


def test_an_older_record_is_shown(old_turn: str, api: ApiClient) -> None:
    shown = api.get(f"/v1/interactions/{old_turn}").json()
    assert (shown["prompt"], shown["response"]) == ("And here?", "About 20.")
