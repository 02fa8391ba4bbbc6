"""The requests of Open WebUI 0.12, as they leave it for an OpenAI-compatible server.

It adds its 36 tools to each chat, and keeps its own fields (`chat_id`, `features`, `variables`, …)
to itself. After a tool call it sends what it showed of it: ids, names and arguments, no thoughts.
"""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.conftest import GEMINI, MOCK, MODELS, OPENAI
from tests.clients.stub_model import HELLO
from tests.factories import KEY
from tests.stub_vendor import StubVendor

TOOLS = json.loads((Path(__file__).parent.parent / "fixtures/open_webui_tools.json").read_text())
QUESTION = {"role": "user", "content": "mock:tool=get_current_timestamp What time is it?"}
CHAT: dict[str, Any] = {
    "stream": True,
    "messages": [{"role": "system", "content": "User Context: ..."}, QUESTION],
    "temperature": 0.7,
    "stream_options": {"include_usage": True},
    "tools": TOOLS,
}
HEADERS = {
    "Authorization": f"Bearer {KEY}",
    "X-OpenWebUI-User-Name": "Ana",
    "X-OpenWebUI-User-Id": "7b6f",
    "X-OpenWebUI-User-Role": "admin",
}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.fixture
def post(base_url: str, model: str) -> Any:
    """A function that sends a chat, and returns its chunks."""

    def post(**fields: Any) -> list[dict[str, Any]]:
        body = {**CHAT, "model": model, **fields}
        answer = httpx.post(f"{base_url}/chat/completions", json=body, headers=HEADERS)
        assert answer.status_code == 200, answer.text
        *events, done = answer.text.removesuffix("\n\n").split("\n\n")
        assert done == "data: [DONE]"
        return [json.loads(event.removeprefix("data: ")) for event in events]

    return post


def said(chunks: list[dict[str, Any]], field: str) -> list[Any]:
    """Return what the deltas have in a field."""
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    return [delta[field] for delta in deltas if delta.get(field)]


@pytest.mark.parametrize("model", [MOCK, OPENAI, GEMINI])
def test_a_tool_of_36_is_called_and_its_result_sent_back(
    post: Any, vendor: StubVendor, model: str
) -> None:
    chunks = post()
    assert chunks[-1]["usage"]["total_tokens"] > 0
    first, *pieces = [piece for [piece] in said(chunks, "tool_calls")]
    assert first["function"]["name"] == "get_current_timestamp"
    arguments = "".join(piece["function"]["arguments"] for piece in [first, *pieces])
    assert json.loads(arguments) == {}
    function = {"name": "get_current_timestamp", "arguments": arguments}
    call = {"id": first["id"], "type": "function", "function": function}
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": first["id"], "content": '{"current_timestamp": 7}'}
    answer = said(post(messages=[*CHAT["messages"], called, result]), "content")
    assert "current_timestamp" in "".join(answer)
    if model == OPENAI:
        assert [received.json["tools"] for received in vendor.requests] == [TOOLS, TOOLS]
    if model == GEMINI:
        [declared] = vendor.requests[0].json["tools"]
        assert declared["functionDeclarations"] == [
            {
                "name": tool["function"]["name"],
                "description": tool["function"]["description"],
                "parametersJsonSchema": tool["function"]["parameters"],
            }
            for tool in TOOLS
        ]


@pytest.mark.parametrize("model", MODELS)
def test_an_image_is_taken(post: Any, vendor: StubVendor, model: str) -> None:
    content = [{"type": "text", "text": "What is it?"}, IMAGE]
    chunks = post(messages=[{"role": "user", "content": content}], tools=[])
    answer = "You said: What is it? (1 image)" if model == MOCK else HELLO
    assert "".join(said(chunks, "content")) == answer
    sent = "".join(received.body.decode() for received in vendor.requests)
    assert model == MOCK or "iVBORw0KGgo=" in sent


@pytest.mark.parametrize("model", MODELS)
def test_a_title_is_generated_in_the_background(base_url: str, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "A title?"}], "stream": False}
    answer = httpx.post(f"{base_url}/chat/completions", json=body, headers=HEADERS).json()
    assert answer["choices"][0]["message"]["content"] in (HELLO, "You said: A title?")


def test_the_models_are_offered(base_url: str) -> None:
    listed = httpx.get(f"{base_url}/models", headers=HEADERS).json()
    assert {model["id"] for model in listed["data"]} >= set(MODELS)
