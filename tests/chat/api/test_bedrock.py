"""The API in front of Bedrock's stand-in."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.http import HttpResponse

from tests.client import ApiClient, status_and_code
from tests.commands import run
from tests.factories import all_records
from tests.stub_bedrock import KEYS, MODEL, REGION, StubBedrock

pytestmark = pytest.mark.django_db(transaction=True)

PATH = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "next", "parameters": {"type": "object"}}}]
QUESTION = {"role": "user", "content": "Count to five."}


@pytest.fixture
def bedrock(change_settings: Callable[..., None]) -> Iterator[StubBedrock]:
    with StubBedrock() as stub:
        change_settings(PROVIDERS={"bedrock": options(stub)})
        yield stub


def options(stub: StubBedrock) -> dict[str, Any]:
    return {"base_url": stub.url, "region": REGION, "keys": KEYS, "model": MODEL}


def completion(api: ApiClient, **fields: Any) -> dict[str, Any]:
    response = api.post(PATH, {"model": "default", "messages": [QUESTION], **fields})
    assert response.status_code == 200, response.content
    body: dict[str, Any] = response.json()
    return body


def read(response: HttpResponse) -> str:
    body = b"".join(response.streaming_content)  # type: ignore[attr-defined]
    response.close()
    return str(body.decode())


def test_a_chat_is_answered_and_priced(api: ApiClient, bedrock: StubBedrock):
    usage = {"inputTokens": 100, "cacheReadInputTokens": 1000, "cacheWriteInputTokens": 200}
    bedrock.answer([{"text": "Olá!"}], usage={**usage, "outputTokens": 10, "totalTokens": 1310})
    body = api.chat("Olá!").json()
    assert (body["response"], body["provider"], body["model"]) == ("Olá!", "bedrock", MODEL)
    assert body["usage"] == {
        "prompt_tokens": 1300,
        "completion_tokens": 10,
        "total_tokens": 1310,
        "cached_tokens": 1000,
        "reasoning_tokens": None,
        "cost_usd": "0.00165",
    }


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_guardrail_that_intervenes_filters_the_answer(
    api: ApiClient, bedrock: StubBedrock, change_settings: Callable[..., None], stream: bool
):
    guarded = {**options(bedrock), "guardrail": "abc123:1"}
    change_settings(PROVIDERS={"bedrock": guarded})
    bedrock.answer([{"text": "I may not say that."}], "guardrail_intervened")
    response = api.chat("How?", stream=stream)
    body = json.loads(read(response).split("data: ")[-1]) if stream else response.json()
    assert (body["response"], body["finish_reason"]) == ("I may not say that.", "content_filter")
    assert all_records()[0].finish_reason == "content_filter"
    assert bedrock.requests[0].json["guardrailConfig"]["guardrailIdentifier"] == "abc123"


def test_a_screenshot_is_sent_as_bytes(api: ApiClient, bedrock: StubBedrock):
    bedrock.answer([{"text": "A duck."}])
    data = base64.b64encode(bytes(range(256)) * 3600).decode()
    response = api.chat("What?", images=[f"data:image/png;base64,{data}"])
    assert response.json()["response"] == "A duck."
    content = bedrock.requests[0].json["messages"][0]["content"]
    assert [block["image"]["source"]["bytes"] for block in content if "image" in block] == [data]


def test_an_address_is_refused_with_a_request_for_a_data_url(api: ApiClient, bedrock: StubBedrock):
    image = {"type": "image_url", "image_url": {"url": "https://example.org/duck.png"}}
    messages = [{"role": "user", "content": [image]}]
    response = api.post(PATH, {"model": "default", "messages": messages})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (
        400,
        "unsupported_parameter",
        "image_url.url",
    )
    assert "send the content as a data URL" in error["message"]
    assert bedrock.requests == []


def test_an_address_of_a_chats_image_is_refused_by_its_field(api: ApiClient, bedrock: StubBedrock):
    response = api.chat(images=["https://example.org/duck.png"])
    assert status_and_code(response) == (400, "validation_error")
    [error] = response.json()["errors"]
    assert (error["field"], error["code"]) == ("images", "unsupported")
    assert "send the content as a data URL" in error["detail"]


def test_the_sentence_of_a_refusal_reaches_the_client(api: ApiClient, bedrock: StubBedrock):
    bedrock.refuse("ValidationException", 400, "The maximum tokens you requested exceeds 8192.")
    refused = api.chat(max_tokens=9000)
    assert status_and_code(refused) == (400, "provider_rejected")
    assert "exceeds 8192" in refused.json()["detail"]


def test_a_missing_permission_is_the_operators_trouble(api: ApiClient, bedrock: StubBedrock):
    message = "User: x is not authorized to perform: bedrock:InvokeModel on resource: y"
    bedrock.refuse("AccessDeniedException", 403, message)
    refused = api.chat()
    assert status_and_code(refused) == (502, "provider_error")
    assert "InvokeModel" not in refused.content.decode()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_throttled_call_is_retried(api: ApiClient, bedrock: StubBedrock, stream: bool):
    bedrock.refuse("ThrottlingException", 429, "Too many requests")
    bedrock.answer([{"text": "Olá!"}])
    response = api.chat(stream=stream)
    body = json.loads(read(response).split("data: ")[-1]) if stream else response.json()
    assert body["response"] == "Olá!"
    outcomes = [attempt.outcome for attempt in all_records()[0].attempts]
    assert outcomes == ["provider_unavailable", "ok"]


def test_a_refused_format_is_two_attempts_on_record(api: ApiClient, bedrock: StubBedrock):
    complaint = "output_config.format: Extra inputs are not permitted"
    bedrock.refuse("ValidationException", 400, complaint)
    call = {"toolUseId": "t1", "name": "json_answer", "input": {"n": 1}}
    bedrock.answer([{"toolUse": call}], "tool_use")
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    body = completion(api, response_format=schema)
    choice = body["choices"][0]
    assert (json.loads(choice["message"]["content"]), choice["finish_reason"]) == ({"n": 1}, "stop")
    assert [each.outcome for each in all_records()[0].attempts] == ["provider_rejected", "ok"]


def test_a_tool_loop_is_continued_by_its_records(api: ApiClient, bedrock: StubBedrock):
    blocks = []
    for number in range(5):
        thought = {"text": f"Step {number}.", "signature": f"s{number}"}
        call = {"toolUseId": f"t{number}", "name": "next", "input": {"n": number}}
        blocks.append([{"reasoningContent": {"reasoningText": thought}}, {"toolUse": call}])
        bedrock.answer(blocks[-1], "tool_use")
    bedrock.answer([{"text": "Done."}])
    body = completion(api, tools=TOOLS, reasoning_effort="low")
    for number in range(5):
        message = body["choices"][0]["message"]
        assert message["reasoning_content"] == f"Step {number}."
        result = {"role": "tool", "tool_call_id": f"t{number}", "content": str(number)}
        body = completion(
            api,
            messages=[result],
            tools=TOOLS,
            reasoning_effort="low",
            previous_interaction_id=body["interaction_id"],
        )
    assert body["choices"][0]["message"]["content"] == "Done."
    sent = bedrock.requests[-1].json["messages"]
    assert [each["content"] for each in sent if each["role"] == "assistant"] == blocks


def test_models_are_listed_without_a_call(
    api: ApiClient, bedrock: StubBedrock, change_settings: Callable[..., None]
):
    change_settings(ALLOWED_MODELS=["*"])
    listed = api.get("/v1/models").json()["data"]
    assert [each["id"] for each in listed] == ["default", MODEL]
    assert bedrock.requests == []


def test_the_commands_reach_bedrock(bedrock: StubBedrock):
    bedrock.answer([{"text": "Cat."}])
    assert "Cat." in run("check_providers")[0]
    assert f"{MODEL} is available" in run("doctor")[0]
