"""Agents' loops of tool calls on a vendor that wants its thought signatures back."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.http import HttpResponse

from chat.storage import backend
from chat.storage.base import MAX_READ
from tests.client import ApiClient, status_and_code
from tests.factories import all_records
from tests.stub_vendor import DONE, Received, ScriptedResponse, StubVendor

pytestmark = pytest.mark.django_db(transaction=True)

PATH = "/v1/chat/completions"
TURNS = 5
TOOLS = [{"type": "function", "function": {"name": "next", "parameters": {"type": "object"}}}]
QUESTION = {"role": "user", "content": "Count to five."}


class SigningVendor(StubVendor):
    """A vendor that thinks, calls a tool five times, and refuses turns without its thoughts.

    Its answers are those of OpenRouter (`reasoning_details`), of DeepSeek (`reasoning_content`)
    and of Gemini's OpenAI-compatible API (`extra_content`) in one.
    """

    first = 0  # the number of the first answer that it wants back

    def _next(self, received: Received) -> ScriptedResponse:
        self.requests.append(received)
        messages = received.json["messages"]
        said = [message for message in messages if message["role"] == "assistant"]
        number = self.first + len(said)
        if said != [answer(each) for each in range(self.first, number)]:
            self.reply({"error": {"message": "Thought signature is missing."}}, status=400)
        elif received.json.get("stream"):
            self.stream(streamed(answer(number)))
        else:
            self.reply(whole(answer(number)))
        return self._script.popleft()


def answer(number: int) -> dict[str, Any]:
    if number >= TURNS:
        return {"role": "assistant", "content": f"Done {number}."}
    call = {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": "next", "arguments": f'{{"n":{number}}}'},
        "extra_content": {"google": {"thought_signature": f"signature-{number}"}},
    }
    details = [
        {"type": "reasoning.text", "text": f"Step {number}.", "signature": f"s{number}"},
        {"type": "reasoning.encrypted", "data": f"data-{number}"},
    ]
    return {
        "role": "assistant",
        "content": None,
        "reasoning": f"Step {number}.",
        "reasoning_content": f"Step {number}.",
        "reasoning_details": details,
        "tool_calls": [call],
    }


def whole(message: dict[str, Any]) -> dict[str, Any]:
    finish = "tool_calls" if "tool_calls" in message else "stop"
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"model": "stand-in-1", "choices": [choice]}


def streamed(message: dict[str, Any]) -> list[str]:
    """Cut a message into the pieces in which such vendors send it."""
    pieces: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if "tool_calls" not in message:
        pieces += [{"content": character} for character in message["content"]]
    else:
        text, encrypted = message["reasoning_details"]
        thought = message["reasoning"]
        for part in (thought[:3], thought[3:]):
            detail = {"type": "reasoning.text", "text": part}
            pieces.append({"reasoning": part, "reasoning_content": part})
            pieces[-1]["reasoning_details"] = [detail]
        signature = {"type": "reasoning.text", "signature": text["signature"]}
        pieces += [{"reasoning_details": [signature]}, {"reasoning_details": [encrypted]}]
        [call] = message["tool_calls"]
        begun = {**call, "index": 0, "function": {"name": "next", "arguments": ""}}
        pieces.append({"tool_calls": [begun]})
        for part in call["function"]["arguments"]:
            pieces.append({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
    finish = "tool_calls" if "tool_calls" in message else "stop"
    choices = [{"index": 0, "delta": piece, "finish_reason": None} for piece in pieces]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    chunks = [{"model": "stand-in-1", "choices": [choice]} for choice in choices]
    return [*(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks), DONE]


@pytest.fixture
def vendor(change_settings: Callable[..., None]) -> Iterator[StubVendor]:
    with SigningVendor() as stub:
        options = {"api_key": "key", "base_url": f"{stub.url}/v1", "model": "model-1"}
        change_settings(PROVIDERS={"openrouter": options})
        yield stub


@pytest.fixture(params=[False, True], ids=["plain", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def ask(api: ApiClient, stream: bool, **fields: Any) -> tuple[dict[str, Any], str]:
    """Return the assistant's message, as a client puts it together, and the record's id."""
    body = {"model": "default", "tools": TOOLS, **fields}
    response = api.post(PATH, {**body, "stream": stream})
    assert response.status_code == 200, response.content
    if stream:
        return put_together(response), all_records()[-1].interaction_id
    read = response.json()
    message = read["choices"][0]["message"]
    return message, read["interaction_id"]


def put_together(response: HttpResponse) -> dict[str, Any]:
    """Add up the deltas of a stream like a client that knows OpenRouter's and Gemini's fields."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    body = b"".join(response.streaming_content).decode()  # type: ignore[attr-defined]
    response.close()
    for line in body.split("\n\n")[:-2]:
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            add(message, choice["delta"])
    return {**message, "content": message["content"] or None}


def add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name in ("content", "reasoning", "reasoning_content"):
        if delta.get(name):
            message[name] = message.get(name, "") + delta[name]
    for detail in delta.get("reasoning_details", []):
        details = message.setdefault("reasoning_details", [])
        if details and details[-1]["type"] == detail["type"]:
            text = details[-1].get("text", "") + detail.get("text", "")
            details[-1] |= {**detail, "text": text}
        else:
            details.append(detail)
    for piece in delta.get("tool_calls", []):
        calls = message.setdefault("tool_calls", [])
        if piece["index"] == len(calls):
            calls.append({name: value for name, value in piece.items() if name != "index"})
        else:
            calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]


def results(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"role": "tool", "tool_call_id": call["id"], "content": call["function"]["arguments"]}
        for call in message["tool_calls"]
    ]


def test_a_client_sends_everything_back(api: ApiClient, vendor: StubVendor, stream: bool) -> None:
    messages: list[dict[str, Any]] = [QUESTION]
    for number in range(TURNS):
        message, _ = ask(api, stream, messages=messages)
        assert message["reasoning"] == f"Step {number}."
        messages += [message, *results(message)]
    message, id_ = ask(api, stream, messages=messages)
    assert message["content"] == "Done 5."
    goes_on(api, vendor, id_)


def test_a_loop_is_continued_by_its_records(
    api: ApiClient, vendor: StubVendor, stream: bool
) -> None:
    message, id_ = ask(api, stream, messages=[QUESTION])
    for _ in range(TURNS):
        message, id_ = ask(api, stream, messages=results(message), previous_interaction_id=id_)
    assert message["content"] == "Done 5."
    assert [len(request.json["messages"]) for request in vendor.requests] == [1, 3, 5, 7, 9, 11]
    records = all_records()
    assert {record.conversation_id for record in records} == {records[0].interaction_id}
    goes_on(api, vendor, id_)


def goes_on(api: ApiClient, vendor: StubVendor, interaction_id: str) -> None:
    """Continue the loop by /v1/chat: the vendor gets all of it."""
    body = api.chat("And six?", user="anonymous", previous_interaction_id=interaction_id).json()
    assert body["response"] == "Done 6."
    sent = vendor.requests[-1].json["messages"]
    assert [message["role"] for message in sent] == [
        "user",
        *["assistant", "tool"] * TURNS,
        "assistant",
        "user",
    ]


def test_a_window_keeps_the_calls_that_a_request_answers(
    api: ApiClient, vendor: StubVendor, change_settings: Callable[..., None]
) -> None:
    change_settings(HISTORY_TURNS=1, HISTORY_MAX_CHARACTERS=1)
    message, id_ = ask(api, stream=False, messages=[QUESTION])
    for _ in range(TURNS):
        message, id_ = ask(
            api, stream=False, messages=results(message), previous_interaction_id=id_
        )
    assert message["content"] == "Done 5."
    assert len(vendor.requests[-1].json["messages"]) == 2 * TURNS + 1


@pytest.fixture
def long_loop(monkeypatch: pytest.MonkeyPatch, change_settings: Callable[..., None]) -> None:
    """Let the vendor call its tool more often than the storage reads records at a time."""
    change_settings(RATE_LIMIT_PER_MINUTE=0)
    monkeypatch.setattr(f"{__name__}.TURNS", MAX_READ + 5)


def test_a_long_loop_keeps_its_question(
    long_loop: None, api: ApiClient, vendor: StubVendor
) -> None:
    message, id_ = ask(api, stream=False, messages=[QUESTION])
    while "tool_calls" in message:
        message, id_ = ask(
            api, stream=False, messages=results(message), previous_interaction_id=id_
        )
    assert message["content"] == f"Done {TURNS}."
    sent = vendor.requests[-1].json["messages"]
    assert sent[0] == QUESTION
    assert len(sent) == 2 * TURNS + 1


def test_a_loop_whose_first_turn_is_deleted_goes_on_without_it(
    api: ApiClient, vendor: SigningVendor
) -> None:
    message, first = ask(api, stream=False, messages=[QUESTION])
    message, id_ = ask(api, stream=False, messages=results(message), previous_interaction_id=first)
    message, id_ = ask(api, stream=False, messages=results(message), previous_interaction_id=id_)
    backend().interactions.delete(first)
    vendor.first = 1
    message, _ = ask(api, stream=False, messages=results(message), previous_interaction_id=id_)
    sent = vendor.requests[-1].json["messages"]
    assert [each["role"] for each in sent] == ["assistant", "tool", "assistant", "tool"]
    assert message["tool_calls"] == answer(3)["tool_calls"]


@pytest.mark.parametrize("given", [[QUESTION], [{**QUESTION, "tool_call_id": "call_9"}]])
def test_a_turn_without_the_results_of_its_calls_is_a_conflict(
    api: ApiClient, vendor: StubVendor, given: list[dict[str, Any]], stream: bool
) -> None:
    _, id_ = ask(api, stream, messages=[QUESTION])
    body = {"model": "default", "messages": given, "previous_interaction_id": id_}
    refused = api.post(PATH, {**body, "stream": stream})
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "conversation_conflict"
    assert "Send their results" in refused.json()["error"]["message"]
    chat = api.chat(user="anonymous", previous_interaction_id=id_)
    assert status_and_code(chat) == (409, "conversation_conflict")
    assert len(vendor.requests) == len(all_records()) == 1


def test_an_unknown_turn_is_not_found(api: ApiClient, vendor: StubVendor, stream: bool) -> None:
    body = {"model": "default", "messages": [QUESTION], "previous_interaction_id": "x"}
    refused = api.post(PATH, {**body, "stream": stream})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (
        404,
        "not_found",
        "previous_interaction_id",
    )
    assert all_records() == []


@pytest.mark.parametrize("name", ["openai", "openrouter"])
def test_another_model_gets_no_fields_of_the_vendors_own(
    vendor: StubVendor,
    change_settings: Callable[..., None],
    api: ApiClient,
    stream: bool,
    name: str,
):
    given, previous = ask(api, stream, messages=[QUESTION], tools=TOOLS)
    with StubVendor() as other:
        options = {"api_key": "key", "base_url": f"{other.url}/v1", "model": "model-2"}
        change_settings(PROVIDERS={name: options})
        result = {"role": "tool", "tool_call_id": "call_0", "content": "0"}
        ask(api, stream, messages=[result], previous_interaction_id=previous)
        [call] = given["tool_calls"]
        del call["extra_content"]
        answered = {"role": "assistant", "content": None, "tool_calls": [call]}
        assert other.requests[0].json["messages"] == [QUESTION, answered, result]


def test_another_model_gets_no_images_of_the_model(
    vendor: StubVendor, change_settings: Callable[..., None], api: ApiClient
):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    with StubVendor() as drawing:
        options = {"api_key": "key", "base_url": f"{drawing.url}/v1", "model": "model-2"}
        change_settings(PROVIDERS={"openai": options})
        drawing.reply(whole({"role": "assistant", "content": None, "images": [image]}))
        drawing.reply(whole({"role": "assistant", "content": "A cat."}))
        drawn = api.chat("Draw.").json()["interaction_id"]
        api.chat("What?", previous_interaction_id=drawn)
        change_settings(PROVIDERS={"openai": {**options, "model": "model-3"}})
        api.chat("What?", previous_interaction_id=drawn)
        own, other = (request.json["messages"][1] for request in drawing.requests[1:])
        assert own == {"role": "assistant", "content": "", "images": [image]}
        assert other == {"role": "assistant", "content": ""}
