"""`/v1/responses`: OpenAI's Responses API. The SDK's own types read every answer, strictly."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.http import HttpResponse
from openai.types.responses import Response, ResponseItem, ResponseStreamEvent
from pydantic import TypeAdapter
from rest_framework.exceptions import ValidationError

from chat.api.openai.responses.input_items import to_messages
from chat.api.openai.responses.views import RESPONSE_REQUEST
from chat.storage.base import Status
from chat.usage import format_usd
from tests import commands
from tests.client import ApiClient
from tests.factories import KEY, PENDING, all_records, store_record
from tests.stub_vendor import StubVendor
from tests.work import lines_run

pytestmark = pytest.mark.django_db(transaction=True)

Configure = Callable[..., None]
PATH = "/v1/responses"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)
ADD = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
    "strict": True,
}
PATCH = {"type": "custom", "name": "patch", "description": "Apply a patch."}
PLAIN_ANSWER = {
    "model": "stand-in-1",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "Hi."}}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
}


def create(api: ApiClient, given: Any = "Olá!", **fields: Any) -> HttpResponse:
    headers = fields.pop("headers", None)
    return api.post(PATH, {"model": "default", "input": given, **fields}, headers=headers)


def body(response: HttpResponse) -> dict[str, Any]:
    """Return a response that the SDK's type reads strictly."""
    found: dict[str, Any] = json.loads(response.content)
    assert response.status_code == 200, found
    Response.model_validate(found, strict=True)
    return found


def failure(response: HttpResponse) -> tuple[int, str | None, str | None]:
    error = json.loads(response.content)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return response.status_code, error["code"], error["param"]


def events(response: HttpResponse) -> list[dict[str, Any]]:
    """Return the events of a stream, which are numbered and which the SDK's types read."""
    assert response.status_code == 200, response.content
    assert response["Content-Type"] == "text/event-stream; charset=utf-8"
    found = []
    for block in b"".join(response.streaming_content).decode().strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event, strict=True)
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def names(found: list[dict[str, Any]]) -> list[str]:
    """Return the types of the events, without repetition of deltas."""
    types = [event["type"].removeprefix("response.") for event in found]
    return [name for n, name in enumerate(types) if n == 0 or name != types[n - 1]]


def text(found: dict[str, Any]) -> str:
    return Response.model_validate(found).output_text


def chunk(finish: str | None = None, usage: Any = None, **delta: Any) -> str:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return json.dumps({"model": "m", "choices": choices, "usage": usage})


def stream_of(*chunks: str) -> dict[str, Any]:
    data = "".join(f"data: {each}\n\n" for each in (*chunks, "[DONE]"))
    return {"body": data, "headers": {"content-type": "text/event-stream"}}


def reply_stream(vendor: StubVendor, *chunks: str) -> None:
    scripted = stream_of(*chunks)
    vendor.reply(scripted["body"], headers=scripted["headers"])


ITEM_EVENTS = {
    "message": [
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
    ],
    "reasoning": [
        *("output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
    ],
}
BEGUN = ["created", "in_progress"]


class TestPlain:
    def test_a_text_is_answered_by_a_message(self, api: ApiClient) -> None:
        found = body(create(api, instructions="Be brief.", metadata={"a": "b"}, user="ana"))
        [record] = all_records()
        assert found["id"] == f"resp_{record.interaction_id}"
        assert (found["object"], found["status"], found["error"]) == ("response", "completed", None)
        assert (found["instructions"], found["metadata"]) == ("Be brief.", {"a": "b"})
        assert (found["user"], record.user_id) == ("ana", "ana")
        [message] = found["output"]
        assert message == {
            "id": f"msg_{record.interaction_id}",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "You said: Olá!", "annotations": [], "logprobs": []}
            ],
        }

    def test_the_record_has_the_tokens_and_the_cost_of_the_usage(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        details = {
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 1},
            "cost": 0.25,
        }
        vendor.reply({**PLAIN_ANSWER, "usage": {**PLAIN_ANSWER["usage"], **details}})
        found = body(create(api))
        assert found["usage"] == {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 1},
            "total_tokens": 12,
            "cost_usd": "0.25",
        }
        [record] = all_records()
        usage = record.usage
        assert (usage.prompt_tokens, usage.completion_tokens, format_usd(usage.cost_usd)) == (
            10,
            2,
            "0.25",
        )

    def test_the_service_tier_is_the_vendor_s(self, api: ApiClient, vendor: StubVendor) -> None:
        vendor.reply({**PLAIN_ANSWER, "service_tier": "default"})
        vendor.reply(PLAIN_ANSWER)
        for tier in ("default", "auto"):
            assert body(create(api, service_tier="auto"))["service_tier"] == tier

    def test_unknown_usage_is_null(self, api: ApiClient, vendor: StubVendor) -> None:
        vendor.reply({**PLAIN_ANSWER, "usage": None})
        assert body(create(api))["usage"] is None

    def test_thoughts_are_a_reasoning_item(self, api: ApiClient) -> None:
        found = body(create(api, "Hi mock:think=Greeting.", reasoning={"effort": "low"}))
        reasoning, message = found["output"]
        assert reasoning["summary"] == [{"type": "summary_text", "text": "Greeting."}]
        assert message["type"] == "message"
        assert found["reasoning"]["effort"] == "low"
        assert found["usage"]["output_tokens_details"] == {"reasoning_tokens": 1}

    def test_tool_calls_are_items(self, api: ApiClient) -> None:
        prompt = 'mock:tool=add {"a": 1} mock:tool=add {"a": 2}'
        found = body(create(api, prompt, tools=[ADD], parallel_tool_calls=True))
        one, two = found["output"]
        assert (one["type"], one["name"], one["arguments"]) == ("function_call", "add", '{"a": 1}')
        assert one["id"] != two["id"]
        assert one["call_id"] != two["call_id"]
        assert (found["tools"], found["tool_choice"]) == ([ADD], "auto")

    def test_thoughts_in_details_alone_are_shown(self, api: ApiClient, vendor: StubVendor) -> None:
        details = [{"type": "reasoning.summary", "summary": "Hm."}, {"data": "x"}]
        message = {"content": "Hi.", "reasoning_details": details}
        vendor.reply({**PLAIN_ANSWER, "choices": [{"finish_reason": "stop", "message": message}]})
        reasoning, _ = body(create(api))["output"]
        assert reasoning["summary"] == [{"type": "summary_text", "text": "Hm."}]

    def test_a_custom_tool_takes_any_text(self, api: ApiClient, vendor: StubVendor) -> None:
        call = {"name": "patch", "arguments": '{"input": "*** Begin\\n+a"}'}
        calls = [{"id": "call_1", "type": "function", "function": call}]
        choice = {"index": 0, "finish_reason": "tool_calls", "message": {"tool_calls": calls}}
        vendor.reply({**PLAIN_ANSWER, "choices": [choice]})
        grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
        found = body(
            create(
                api,
                tools=[{**PATCH, "format": grammar}],
                tool_choice={"type": "custom", "name": "patch"},
            )
        )
        [item] = found["output"]
        assert (item["type"], item["input"]) == ("custom_tool_call", "*** Begin\n+a")
        assert found["tool_choice"] == {"type": "custom", "name": "patch"}
        assert found["tools"][0]["type"] == "custom"
        [tool] = vendor.requests[0].json["tools"]
        assert tool["function"]["parameters"]["properties"].keys() == {"input"}
        assert "start: /.+/" in tool["function"]["description"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_other_content_parts_are_fields_of_the_message(
        self, api: ApiClient, vendor: StubVendor, stream: bool
    ) -> None:
        cited = {"type": "reference", "reference_ids": [0]}
        message = {"content": [{"type": "text", "text": "Hi."}, cited]}
        vendor.reply({**PLAIN_ANSWER, "choices": [{"finish_reason": "stop", "message": message}]})
        response = create(api, stream=stream)
        found = events(response)[-1]["response"] if stream else body(response)
        [item] = found["output"]
        assert (text(found), item["content_parts"]) == ("Hi.", [cited])
        create(api, [item, {"role": "user", "content": "Why?"}])
        assert sent(vendor)[0]["content"] == message["content"]

    def test_a_refusal_is_a_content_part(self, api: ApiClient, vendor: StubVendor) -> None:
        message = {"content": None, "refusal": "I cannot."}
        vendor.reply({**PLAIN_ANSWER, "choices": [{"finish_reason": "stop", "message": message}]})
        found = body(create(api))
        assert found["status"] == "completed"
        assert found["output"][0]["content"] == [{"type": "refusal", "refusal": "I cannot."}]

    @pytest.mark.parametrize(
        ("finish", "reason"),
        [("length", "max_output_tokens"), ("content_filter", "content_filter")],
    )
    def test_an_answer_that_is_not_whole_is_incomplete(
        self, api: ApiClient, vendor: StubVendor, finish: str, reason: str
    ) -> None:
        choice = {"finish_reason": finish, "message": {"content": "Hi"}}
        vendor.reply({**PLAIN_ANSWER, "choices": [choice]})
        found = body(create(api, max_output_tokens=7))
        assert (found["status"], found["incomplete_details"]) == ("incomplete", {"reason": reason})
        assert found["output"][0]["status"] == "incomplete"
        assert vendor.requests[0].json["max_tokens"] == 7

    def test_other_fields_of_the_vendor_are_shown(self, api: ApiClient, vendor: StubVendor) -> None:
        citation = {"start_index": 0, "end_index": 2, "title": "T", "url": "https://a.example"}
        message = {
            "content": "Hi",
            "annotations": [{"type": "url_citation", "url_citation": citation}],
        }
        logprobs = {"content": [{"token": "Hi", "logprob": -0.5, "top_logprobs": []}]}
        choice = {"finish_reason": "stop", "message": message, "logprobs": logprobs}
        vendor.reply({**PLAIN_ANSWER, "choices": [choice], "citations": ["https://a.example"]})
        found = body(create(api, include=["message.output_text.logprobs"], top_logprobs=2))
        [part] = found["output"][0]["content"]
        assert part["annotations"] == [{"type": "url_citation", **citation}]
        assert part["logprobs"] == [
            {"token": "Hi", "bytes": [72, 105], "logprob": -0.5, "top_logprobs": []}
        ]
        assert found["citations"] == ["https://a.example"]
        sent = vendor.requests[0].json
        assert (sent["logprobs"], sent["top_logprobs"]) == (True, 2)

    @pytest.mark.parametrize(
        ("named", "param"),
        [
            ("top_p", "top_p"),
            ("max_tokens", "max_output_tokens"),
            ("messages[0].content", None),
            ("messages[1].content", "input[0].content"),
            ("tools[0].function.name", None),
        ],
    )
    def test_the_field_that_a_vendor_refuses_is_named(
        self, api: ApiClient, vendor: StubVendor, named: str, param: str | None
    ) -> None:
        vendor.reply({"error": {"message": "no", "param": named}}, status=400)
        items = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        fields = {"instructions": "c", "tools": [ADD], "top_p": 1, "max_output_tokens": 9}
        assert failure(create(api, items, **fields)) == (400, "provider_rejected", param)

    @pytest.mark.parametrize("stream", [False, True])
    def test_an_error_before_the_answer_has_its_own_status(
        self, api: ApiClient, stream: bool
    ) -> None:
        response = create(api, "mock:fail=garbled", stream=stream)
        assert failure(response) == (502, "upstream_error", None)
        [record] = all_records()
        shown = body(api.get(f"{PATH}/resp_{record.interaction_id}"))
        assert (shown["status"], shown["error"]["code"]) == ("failed", "server_error")


class TestStreamed:
    def test_text(self, api: ApiClient) -> None:
        found = events(create(api, "Hi there", stream=True))
        assert names(found) == [*BEGUN, *ITEM_EVENTS["message"], "completed"]
        pieces = [each["delta"] for each in found if each["type"] == "response.output_text.delta"]
        assert "".join(pieces) == "You said: Hi there"
        assert len(pieces) == 4
        created, final = found[0]["response"], found[-1]["response"]
        assert (created["status"], created["output"], created["usage"]) == ("in_progress", [], None)
        assert text(final) == "You said: Hi there"
        assert created["id"] == final["id"]
        assert final == body(api.get(f"{PATH}/{final['id']}"))

    def test_thoughts_and_tool_calls(self, api: ApiClient) -> None:
        prompt = 'mock:think=Hm mock:tool=add {"a": 1} mock:tool=patch'
        found = events(create(api, prompt, tools=[ADD, PATCH], stream=True))
        assert names(found) == [
            *BEGUN,
            *ITEM_EVENTS["reasoning"],
            "output_item.added",
            "function_call_arguments.delta",
            "output_item.added",
            "function_call_arguments.done",
            "output_item.done",
            "custom_tool_call_input.delta",
            "custom_tool_call_input.done",
            "output_item.done",
            "completed",
        ]
        added = [each for each in found if each["type"] == "response.output_item.added"]
        done = [each for each in found if each["type"] == "response.output_item.done"]
        assert [each["output_index"] for each in added] == [0, 1, 2]
        output = found[-1]["response"]["output"]
        assert [each["item"] for each in done] == output
        assert [each["type"] for each in output] == [
            *("reasoning", "function_call", "custom_tool_call"),
        ]
        assert output[1]["arguments"] == '{"a": 1}'
        assert found[-1]["response"] == body(api.get(f"{PATH}/{found[-1]['response']['id']}"))

    def test_calls_whose_pieces_alternate_are_whole(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        def piece(index: int, text: str, **fields: Any) -> str:
            function = {"arguments": text, **({"name": "add"} if fields else {})}
            return chunk(tool_calls=[{"index": index, "function": function, **fields}])

        reply_stream(
            vendor,
            piece(0, "", id="a", type="function"),
            piece(1, "", id="b", type="function"),
            piece(0, '{"a"'),
            piece(1, '{"a"'),
            piece(0, ": 1}"),
            piece(1, ": 2}"),
            chunk("tool_calls"),
        )
        found = events(create(api, tools=[ADD], stream=True))
        output = found[-1]["response"]["output"]
        assert [each["arguments"] for each in output] == ['{"a": 1}', '{"a": 2}']

    def test_the_model_is_the_one_that_answers(self, api: ApiClient, vendor: StubVendor) -> None:
        reply_stream(vendor, chunk(content="Hi."), chunk("stop"))
        found = events(create(api, stream=True))
        assert [each["response"]["model"] for each in found if "response" in each] == ["m"] * 3

    @pytest.mark.parametrize("replayed", [False, True])
    def test_an_image_beside_a_tool_call_is_in_the_message_before_it(
        self, api: ApiClient, vendor: StubVendor, replayed: bool
    ) -> None:
        function = {"name": "add", "arguments": "{}"}
        calls = [{"index": 0, "id": "a", "type": "function", "function": function}]
        images = [{"type": "image_url", "image_url": {"url": IMAGE}}]
        reply_stream(vendor, chunk(images=images), chunk(tool_calls=calls), chunk("tool_calls"))
        headers = {"Idempotency-Key": "a"}
        found = events(create(api, tools=[ADD], stream=True, headers=headers))
        if replayed:
            found = events(create(api, tools=[ADD], stream=True, headers=headers))
        final = found[-1]["response"]
        assert [each["type"] for each in final["output"]] == ["message", "function_call"]
        assert final["output"][0]["images"] == images
        assert final == body(api.get(f"{PATH}/{final['id']}"))

    def test_a_refusal(self, api: ApiClient, vendor: StubVendor) -> None:
        reply_stream(vendor, chunk(refusal="I can"), chunk(refusal="not."), chunk("stop"))
        found = events(create(api, stream=True))
        assert names(found) == [
            *BEGUN,
            *("output_item.added", "content_part.added", "refusal.delta", "refusal.done"),
            *("content_part.done", "output_item.done", "completed"),
        ]
        final = found[-1]["response"]
        assert final["output"][0]["content"] == [{"type": "refusal", "refusal": "I cannot."}]
        assert final["output"] == body(api.get(f"{PATH}/{final['id']}"))["output"]

    def test_an_answer_cut_by_the_limit_ends_incomplete(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        reply_stream(vendor, chunk(content="Hi"), chunk("length"))
        found = events(create(api, stream=True))
        assert names(found) == [*BEGUN, *ITEM_EVENTS["message"], "incomplete"]
        final = found[-1]["response"]
        assert final["incomplete_details"] == {"reason": "max_output_tokens"}
        assert final["output"][0]["status"] == "incomplete"

    def test_a_stream_that_breaks_off_ends_failed(self, api: ApiClient) -> None:
        found = events(create(api, "mock:break and go", stream=True))
        assert names(found) == [*BEGUN, *ITEM_EVENTS["message"], "failed"]
        final = found[-1]["response"]
        assert (final["status"], final["error"]["code"]) == ("failed", "server_error")
        assert final["output"][0]["content"][0]["text"] == "You said:"
        assert final == body(api.get(f"{PATH}/{final['id']}"))
        [record] = all_records()
        assert record.status is Status.ERROR

    def test_a_client_that_leaves_ends_the_call_and_its_tokens_are_counted(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        pieces = (chunk(content=f"{number} ") for number in range(600))
        vendor.stream([f"data: {piece}\n\n" for piece in pieces], gap=0.05)
        response = create(api, stream=True)
        for data in response.streaming_content:
            if b"output_text.delta" in data:
                break
        response.close()
        assert vendor.client_disconnected.wait(10)
        [record] = all_records()
        assert record.status is Status.ABORTED
        assert record.usage.estimated
        assert record.usage.completion_tokens
        found = body(api.get(f"{PATH}/resp_{record.interaction_id}"))
        assert (found["status"], found["usage"], text(found)) == (
            *("cancelled", None, record.response),
        )
        [day] = json.loads(api.get("/v1/usage").content)["items"]
        assert day["completion_tokens"] == record.usage.completion_tokens

    def test_annotations_and_log_probabilities(self, api: ApiClient, vendor: StubVendor) -> None:
        citation = {"start_index": 0, "end_index": 2, "title": "T", "url": "https://a.example"}
        annotation = {"type": "url_citation", "url_citation": citation}
        choice = {
            "index": 0,
            "delta": {"content": "Hi"},
            "logprobs": {"content": [{"token": "Hi", "logprob": -0.5}]},
        }
        first = json.dumps({"model": "m", "choices": [choice]})
        reply_stream(vendor, first, chunk(annotations=[annotation]), chunk("stop"))
        found = events(create(api, stream=True))
        assert "output_text.annotation.added" in names(found)
        [part] = found[-1]["response"]["output"][0]["content"]
        assert part["annotations"] == [{"type": "url_citation", **citation}]
        assert [each["token"] for each in part["logprobs"]] == ["Hi"]

    def test_text_after_thoughts_after_text_is_a_message_of_its_own(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        reply_stream(
            vendor,
            chunk(reasoning_content="One."),
            chunk(content="A"),
            chunk(reasoning_content="Two."),
            chunk(content="B"),
            chunk("stop"),
        )
        found = events(create(api, stream=True))
        output = found[-1]["response"]["output"]
        assert [each["type"] for each in output] == ["reasoning", "message"] * 2
        assert len({each["id"] for each in output}) == 4
        references = [{"type": "item_reference", "id": each["id"]} for each in output]
        body(create(api, [*references, {"role": "user", "content": "Go on."}]))
        assert vendor.requests[-1].json["messages"] == [
            {"role": "assistant", "content": "AB", "reasoning_content": "One.Two."},
            {"role": "user", "content": "Go on."},
        ]

    def test_a_record_is_read_once_however_often_items_refer_to_it(self) -> None:
        function = {"name": "add", "arguments": "{}"}
        calls = [{"id": str(i), "type": "function", "function": function} for i in range(200)]
        record = replace(PENDING, status=Status.OK, response="a", tool_calls=tuple(calls))
        reference = {"type": "item_reference", "id": f"msg_{record.interaction_id}"}
        found = {record.interaction_id: record}
        once = lines_run(lambda: to_messages([reference], found))
        assert lines_run(lambda: to_messages([reference] * 20, found)) < 2 * once

    def test_unicode_line_separators_are_escaped(self, api: ApiClient) -> None:
        response = create(api, "a\u2028b\u0085c", stream=True)
        content = b"".join(response.streaming_content).decode()
        assert len(content.splitlines()) == content.count("\n")

    def test_thoughts_in_details_alone_are_streamed(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        pieces = [{"type": "reasoning.text", "text": text, "index": 0} for text in ("H", "m.")]
        thoughts = [chunk(reasoning_details=[piece]) for piece in pieces]
        reply_stream(vendor, *thoughts, chunk(content="Hi."), chunk("stop"))
        found = events(create(api, stream=True))
        shown = [each["delta"] for each in found if "reasoning_summary_text.delta" in each["type"]]
        assert shown == ["H", "m."]
        summary = found[-1]["response"]["output"][0]["summary"]
        assert summary == [{"type": "summary_text", "text": "Hm."}]


def continue_from(api: ApiClient, previous: dict[str, Any], given: Any, **fields: Any) -> Any:
    return create(api, given, previous_response_id=previous["id"], **fields)


def outputs(found: dict[str, Any], *results: str) -> list[dict[str, Any]]:
    """Return the results of a response's tool calls."""
    calls = [item for item in found["output"] if "call_id" in item]
    return [
        {"type": f"{call['type']}_output", "call_id": call["call_id"], "output": result}
        for call, result in zip(calls, results, strict=True)
    ]


class TestConversations:
    @pytest.mark.parametrize("stream", [False, True])
    def test_ten_turns_are_one_conversation(
        self, api: ApiClient, each_storage: str, vendor: StubVendor, stream: bool
    ) -> None:
        previous: dict[str, Any] = {}
        for turn in range(10):
            fields = {"previous_response_id": previous["id"]} if previous else {}
            response = create(api, f"Turn {turn}", stream=stream, **fields)
            found = events(response)[-1]["response"] if stream else body(response)
            assert found["previous_response_id"] == fields.get("previous_response_id")
            previous = found
        sent = [message["content"] for message in vendor.requests[-1].json["messages"]]
        asked = [f"Turn {turn}" for turn in range(10)]
        assert sent[::2] == asked
        assert len(sent) == 19
        page = json.loads(api.get("/v1/users/anonymous/interactions").content)
        assert len(page["items"]) == 10
        assert len({item["conversation_id"] for item in page["items"]}) == 1

    def test_instructions_end_with_their_response(self, api: ApiClient, vendor: StubVendor) -> None:
        given = [{"role": "developer", "content": "Rhyme."}, {"role": "user", "content": "a"}]
        first = body(create(api, given, instructions="Be brief."))
        second = body(continue_from(api, first, "b"))
        body(continue_from(api, second, "c", instructions="Shout."))
        sent = [
            [
                message["content"]
                for message in each.json["messages"]
                if message["role"] != "assistant"
            ]
            for each in vendor.requests
        ]
        assert sent == [
            ["Be brief.", "Rhyme.", "a"],
            ["Rhyme.", "a", "b"],
            ["Shout.", "Rhyme.", "a", "b", "c"],
        ]
        assert second["instructions"] is None

    def test_a_turn_that_ended_in_tool_calls_continues_with_their_results(
        self, api: ApiClient, change_settings: Configure
    ) -> None:
        change_settings(HISTORY_TURNS=1)
        prompt = 'mock:tool=add {"a": 1} mock:tool=patch'
        tools = [ADD, PATCH]
        first = body(create(api, prompt, tools=tools, instructions="Add."))
        fields = {"tools": tools, "instructions": "Add."}
        second = body(continue_from(api, first, outputs(first, "3", "done"), **fields))
        assert text(second) == "The tool said: 3\ndone"
        third = body(continue_from(api, second, "Thanks"))
        assert text(third) == "You said: Thanks"

    def test_calls_without_results_cannot_be_continued(self, api: ApiClient) -> None:
        first = body(create(api, "mock:tool=add", tools=[ADD]))
        assert failure(continue_from(api, first, "And?"))[:2] == (409, "conversation_conflict")

    def test_a_turn_of_another_api_is_continued(self, api: ApiClient) -> None:
        turn = json.loads(api.chat("Hi", user="anonymous").content)
        found = body(create(api, "b", previous_response_id=f"resp_{turn['interaction_id']}"))
        [_, record] = all_records()
        assert record.conversation_id == turn["conversation_id"]
        answer = api.chat("c", user="anonymous", previous_interaction_id=found["interaction_id"])
        assert answer.status_code == 200

    @pytest.mark.parametrize(
        ("status", "headers"),
        [
            (Status.PENDING, {"Retry-After": "2"}),
            (Status.ERROR, {"X-Should-Retry": "false"}),
            (Status.ABORTED, {"X-Should-Retry": "false"}),
        ],
    )
    def test_a_client_retries_only_while_the_previous_response_is_running(
        self, api: ApiClient, status: Status, headers: dict[str, str]
    ) -> None:
        soon = datetime.now(UTC) + timedelta(minutes=1)
        record = store_record(replace(PENDING, status=status, deadline_at=soon))
        previous = {"id": f"resp_{record.interaction_id}", "user": record.user_id}
        refused = continue_from(api, previous, "b", user=record.user_id)
        assert failure(refused)[:2] == (409, "conversation_conflict")
        retry = {"Retry-After", "X-Should-Retry"}
        assert {name: refused[name] for name in retry if name in refused} == headers

    @pytest.mark.parametrize("id_", ["resp_1", "nonsense", f"resp_{UUID(int=0)}"])
    def test_an_unknown_response_is_not_found(self, api: ApiClient, id_: str) -> None:
        wanted = (404, "previous_response_not_found", "previous_response_id")
        assert failure(create(api, previous_response_id=id_)) == wanted
        assert all_records() == []
        for path in (f"{PATH}/{id_}", f"{PATH}/{id_}/input_items"):
            assert failure(api.get(path)) == (404, "not_found", "response_id")
        assert failure(api.request("DELETE", f"{PATH}/{id_}"))[0] == 404

    def test_a_response_of_another_user_is_not_continued(self, api: ApiClient) -> None:
        found = body(create(api, user="ana"))
        assert failure(continue_from(api, found, "b", user="bo"))[0] == 404

    def test_a_response_of_another_owner_is_not_found(
        self, api: ApiClient, require_api_key: list[str]
    ) -> None:
        mine = {"Authorization": f"Bearer {KEY}"}
        found = body(create(api, headers=mine))
        key, _ = commands.run("create_api_key", "other", "--owner", "other")
        other = {"Authorization": f"Bearer {key.strip()}"}
        path = f"{PATH}/{found['id']}"
        assert failure(continue_from(api, found, "b", headers=other))[0] == 404
        assert failure(api.get(path, headers=other))[0] == 404
        assert failure(api.get(f"{path}/input_items", headers=other))[0] == 404
        assert failure(api.request("DELETE", path, headers=other))[0] == 404
        reference = {"type": "item_reference", "id": found["output"][0]["id"]}
        refused = create(api, [reference, {"role": "user", "content": "b"}], headers=other)
        assert failure(refused) == (400, "not_found", "input")
        assert body(api.get(path, headers=mine))

    def test_another_key_of_the_owner_continues_a_response(
        self, api: ApiClient, require_api_key: list[str]
    ) -> None:
        first, second = ({"Authorization": f"Bearer {key}"} for key in require_api_key)
        found = body(create(api, headers=first))
        assert body(continue_from(api, found, "b", headers=second))


class TestDeletion:
    def test_a_deleted_response_is_not_found(self, api: ApiClient, each_storage: str) -> None:
        found = body(create(api))
        path = f"{PATH}/{found['id']}"
        deleted = api.request("DELETE", path)
        assert json.loads(deleted.content) == {
            "id": found["id"],
            "object": "response",
            "deleted": True,
        }
        assert failure(api.get(path))[0] == 404
        assert failure(api.request("DELETE", path))[0] == 404
        assert failure(continue_from(api, found, "b"))[0] == 404
        assert api.get(f"/v1/interactions/{found['interaction_id']}").status_code == 404
        usage = json.loads(api.get("/v1/usage").content)
        assert usage["total"]["requests"] == 1

    def test_later_turns_continue_without_a_deleted_one(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        first = body(create(api, "a"))
        second = body(continue_from(api, first, "b"))
        third = body(continue_from(api, second, "c"))
        api.request("DELETE", f"{PATH}/{second['id']}")
        body(continue_from(api, third, "d"))
        sent = [message["content"] for message in vendor.requests[-1].json["messages"]]
        assert sent[::2] == ["a", "c", "d"]

    @pytest.mark.parametrize("deleted", [0, 1])
    def test_calls_and_results_without_their_other_half_are_left_out(
        self, api: ApiClient, vendor: StubVendor, deleted: int
    ) -> None:
        call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
        choice = {"finish_reason": "tool_calls", "message": {"tool_calls": [call]}}
        vendor.reply({**PLAIN_ANSWER, "choices": [choice]})
        vendor.reply(PLAIN_ANSWER)
        first = body(create(api, "a", tools=[ADD]))
        second = body(continue_from(api, first, outputs(first, "3"), tools=[ADD]))
        third = body(continue_from(api, second, "c"))
        api.request("DELETE", f"{PATH}/{(first, second)[deleted]['id']}")
        body(continue_from(api, third, "d"))
        messages = vendor.requests[-1].json["messages"]
        assert not any("tool_calls" in each or each["role"] == "tool" for each in messages)


class TestStore:
    @pytest.mark.parametrize("stream", [False, True])
    def test_without_store_the_accounting_is_kept_alone(
        self, api: ApiClient, each_storage: str, stream: bool
    ) -> None:
        response = create(
            api,
            "Secret word",
            store=False,
            stream=stream,
            instructions="Hush.",
            metadata={"a": "b"},
        )
        found = events(response)[-1]["response"] if stream else body(response)
        assert text(found) == "You said: Secret word"
        assert (found["store"], found["instructions"]) == (False, "Hush.")
        listed = api.get("/v1/users/anonymous/interactions").content.decode()
        [record] = json.loads(listed)["items"]
        assert record["usage"]["prompt_tokens"] == found["usage"]["input_tokens"]
        assert (record["status"], record["prompt"], record["response"]) == ("ok", "", None)
        assert "Secret" not in listed
        assert "Hush" not in listed
        assert failure(api.get(f"{PATH}/{found['id']}"))[0] == 404
        assert failure(continue_from(api, found, "b"))[:2] == (409, "conversation_conflict")

    def test_a_failure_without_store_keeps_no_text(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        vendor.reply({"error": {"message": "Bad: Secret word"}}, status=400)
        assert failure(create(api, "Secret word", store=False))[0] == 400
        [record] = all_records()
        assert (record.status, record.prompt) == (Status.ERROR, "")
        assert record.error is not None
        assert record.error.detail == ""


class TestLimits:
    def test_responses_are_counted(self, api: ApiClient, change_settings: Configure) -> None:
        change_settings(RATE_LIMIT_PER_MINUTE=2)
        assert create(api)["X-RateLimit-Remaining"] == "1"
        assert create(api, stream=True)["X-RateLimit-Remaining"] == "0"
        limited = create(api)
        assert failure(limited) == (429, "rate_limit_exceeded", None)
        assert limited["Retry-After"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_spent_budget_is_a_402(
        self,
        api: ApiClient,
        vendor: StubVendor,
        require_api_key: list[str],
        stream: bool,
    ) -> None:
        vendor.reply({**PLAIN_ANSWER, "usage": {**PLAIN_ANSWER["usage"], "cost": 0.02}})
        key, _ = commands.run("create_api_key", "app", "--monthly-budget-usd", "0.01")
        headers = {"Authorization": f"Bearer {key.strip()}"}
        assert body(create(api, headers=headers))["usage"]["cost_usd"] == "0.02"
        refused = create(api, stream=stream, headers=headers)
        assert failure(refused) == (402, "insufficient_quota", None)
        assert refused["X-RateLimit-Remaining"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_cached_answer_is_a_response(
        self, api: ApiClient, change_settings: Configure, stream: bool
    ) -> None:
        change_settings(ENABLE_CACHE=True)
        first = body(create(api, "Hi mock:think=Hm"))
        response = create(api, "Hi mock:think=Hm", stream=stream)
        again = events(response)[-1]["response"] if stream else body(response)
        assert text(again) == text(first)
        assert again["id"] != first["id"]
        assert [record.cached for record in all_records()] == [False, True]


class TestIdempotency:
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_repeated_key_replays_the_response(self, api: ApiClient, stream: bool) -> None:
        prompt = 'mock:think=Hm mock:tool=add {"a": 1}'
        fields = {"tools": [ADD], "headers": {"Idempotency-Key": "k"}}
        first = body(create(api, prompt, **fields))
        again = create(api, prompt, stream=stream, **fields)
        assert again["Idempotency-Replayed"] == "true"
        found = events(again) if stream else [{"response": body(again)}]
        assert found[-1]["response"] == first
        assert len(all_records()) == 1

    def test_a_replayed_stream_has_the_items_of_the_response(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        message = {"content": "Hi", "reasoning_content": "Hm."}
        vendor.reply({**PLAIN_ANSWER, "choices": [{"finish_reason": "stop", "message": message}]})
        fields = {
            "headers": {"Idempotency-Key": "k"},
            "include": ["reasoning.encrypted_content"],
        }
        first = body(create(api, **fields))
        again = events(create(api, stream=True, **fields))
        assert names(again) == [
            *BEGUN,
            *ITEM_EVENTS["reasoning"],
            *ITEM_EVENTS["message"],
            "completed",
        ]
        assert again[-1]["response"] == first

    def test_another_request_with_the_key_is_refused(self, api: ApiClient) -> None:
        headers = {"Idempotency-Key": "k"}
        body(create(api, headers=headers))
        for other in ({"given": "b"}, {"store": False}, {"instructions": "c"}):
            assert failure(create(api, **other, headers=headers))[0] == 422

    def test_unstored_answers_are_not_replayed(self, api: ApiClient) -> None:
        fields = {"store": False, "headers": {"Idempotency-Key": "k"}}
        body(create(api, **fields))
        assert failure(create(api, **fields))[:2] == (409, "answer_not_kept")


IMAGE = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0="
FILE = {"filename": "a.pdf", "file_data": PDF}
MARKS = {"detail": "low", "a": 1}

CHOICE = {"type": "function", "name": "add"}
ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": [CHOICE]}


def sent(vendor: StubVendor) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = vendor.requests[-1].json["messages"]
    return messages


ITEMS: list[dict[str, Any]] = [
    {"type": "message", "role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "input_text", "text": "What is this?", "cache_control": {}},
            {"type": "input_image", "image_url": IMAGE, "detail": "low"},
            {"type": "input_file", **FILE, **MARKS},
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        ],
    },
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {
        "type": "message",
        "id": "msg_1",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "I see.", "annotations": []}],
    },
    {"type": "function_call", "call_id": "a", "name": "add", "arguments": "{}"},
    {"type": "custom_tool_call", "call_id": "b", "name": "patch", "input": "x"},
    {"type": "function_call_output", "call_id": "a", "output": "3"},
    {
        "type": "custom_tool_call_output",
        "call_id": "b",
        "output": [{"type": "input_text", "text": "done"}],
    },
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    {"role": "user", "content": [{"type": "input_text", "text": "Go on."}]},
]
# What a vendor gets of them.
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?", "cache_control": {}},
            {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
            {
                "type": "file",
                "file": {"filename": "a.pdf", "file_data": PDF, "detail": "low"},
                "a": 1,
            },
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        ],
    },
    {
        "role": "assistant",
        "content": "I see.",
        "tool_calls": [
            {
                "id": "a",
                "type": "function",
                "function": {"name": "add", "arguments": "{}"},
            },
            {
                "id": "b",
                "type": "function",
                "function": {"name": "patch", "arguments": '{"input":"x"}'},
            },
        ],
    },
    {"role": "tool", "tool_call_id": "a", "content": "3"},
    {"role": "tool", "tool_call_id": "b", "content": "done"},
    {"role": "assistant", "content": "", "refusal": "No."},
    {"role": "user", "content": "Go on."},
]


CALL = {"type": "function_call", "call_id": "a", "name": "add", "arguments": "{}"}


class TestInput:
    def test_items_become_messages(self, api: ApiClient, vendor: StubVendor) -> None:
        body(create(api, ITEMS, tools=[ADD, PATCH]))
        assert sent(vendor) == MESSAGES

    def test_other_fields_of_items_and_tools_reach_the_vendor(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        neutral = {"id": "a_1", "status": "completed", "phase": "commentary", "foo": None}
        text = [{"type": "output_text", "text": "I see."}]
        items = [
            {"role": "user", "content": "Hi", "name": "Ada", "foo": 1},
            {"type": "message", "role": "assistant", "content": text, **neutral, "bar": 2},
            {"role": "assistant", "content": [], "audio": {"id": "b", "data": "AA=="}},
            {"type": "function_call", "call_id": "a", "name": "add", "arguments": "{}", "baz": 3},
            {"type": "function_call_output", "call_id": "a", "output": "3", **neutral, "qux": 4},
            {"role": "user", "content": [{"type": "input_file", "file_id": "f", "foo": 5}]},
        ]
        tools = [{**ADD, "defer_loading": True}, {**PATCH, "defer_loading": True}]
        found = body(create(api, items, tools=tools))
        assert found["tools"][0] == tools[0]
        assert [each["defer_loading"] for each in found["tools"]] == [True, True]
        function = {"name": "add", "arguments": "{}"}
        call = {"id": "a", "type": "function", "function": function, "baz": 3}
        assert sent(vendor) == [
            {"role": "user", "content": "Hi", "name": "Ada", "foo": 1},
            {"role": "assistant", "content": "I see.", "bar": 2},
            {"role": "assistant", "content": None, "audio": {"id": "b"}, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "a", "content": "3", "qux": 4},
            {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}, "foo": 5}]},
        ]
        received = vendor.requests[-1].json["tools"]
        assert [each["defer_loading"] for each in received] == [True, True]

    def test_nul_is_read_as_a_replacement_character(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        items = [
            {"role": "user", "content": "\0"},
            {**CALL, "arguments": '{"a":"\0"}'},
            {"type": "function_call_output", "call_id": "a", "output": "\0ELF"},
        ]
        body(create(api, items, instructions="\0"))
        system, asked, called, result = sent(vendor)
        mark = "\N{REPLACEMENT CHARACTER}"
        texts = [each["content"] for each in (system, asked, result)]
        assert texts == [mark, mark, f"{mark}ELF"]
        assert called["tool_calls"][0]["function"]["arguments"] == f'{{"a":"{mark}"}}'

    def test_items_are_listed_as_they_were_given(self, api: ApiClient, vendor: StubVendor) -> None:
        found = body(create(api, ITEMS, tools=[ADD, PATCH]))
        path = f"{PATH}/{found['id']}/input_items"
        page = json.loads(api.get(f"{path}?order=asc&limit=100").content)
        types = [item["type"] for item in page["data"]]
        assert types == [item.get("type", "message") for item in ITEMS if "summary" not in item]
        prefixes = {item["type"]: item["id"].partition("_in_")[0] for item in page["data"]}
        assert prefixes == {
            "message": "msg",
            "function_call": "fc",
            "function_call_output": "out",
            "custom_tool_call": "ctc",
            "custom_tool_call_output": "out",
        }
        assert page["data"][1]["content"][1:3] == [
            {"type": "input_image", "image_url": IMAGE, "detail": "low"},
            {"type": "input_file", **FILE, **MARKS},
        ]

    def test_items_are_listed_with_their_other_fields(self, api: ApiClient) -> None:
        said = [{"type": "output_text", "text": "I see.", "annotations": [], "logprobs": []}]
        marked = [{**part, "foo": 1} for part in said]
        result = {"type": "function_call_output", "call_id": "a", "output": "3", "qux": 4}
        items = [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}], "name": "Ada"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
            {"role": "assistant", "content": marked, "bar": 2},
            {**CALL, "baz": 3},
            result,
            {"role": "assistant", "content": said, "bar": 5},
            {"role": "user", "content": [{"type": "input_text", "text": "b"}]},
        ]
        path = f"{PATH}/{body(create(api, items, tools=[ADD]))['id']}/input_items"
        page = json.loads(api.get(f"{path}?order=asc").content)
        ours = ("id", "status")
        listed = [{n: v for n, v in each.items() if n not in ours} for each in page["data"]]
        assert listed == [{"type": "message", **item} for item in items]
        for item in page["data"]:
            ITEM.validate_python(item)

    def test_input_items_come_in_pages_that_the_sdk_reads(self, api: ApiClient) -> None:
        given = [{"role": "user", "content": str(number)} for number in range(5)]
        found = body(create(api, given, instructions="Count."))
        path = f"{PATH}/{found['id']}/input_items"
        page = json.loads(api.get(f"{path}?limit=2").content)
        for item in page["data"]:
            ITEM.validate_python(item, strict=True)
        assert [item["content"][0]["text"] for item in page["data"]] == ["4", "3"]
        assert page["has_more"]
        rest = json.loads(api.get(f"{path}?after={page['last_id']}").content)
        assert [item["content"][0]["text"] for item in rest["data"]] == ["2", "1", "0"]
        assert not rest["has_more"]
        for query in ("limit=0", "limit=101", "order=up", "after=x"):
            assert failure(api.get(f"{path}?{query}"))[0] == 400

    @pytest.mark.parametrize("include", [True, False])
    def test_vendor_fields_are_sent_back(
        self, api: ApiClient, vendor: StubVendor, include: bool
    ) -> None:
        """By a carrier, or by the ids of a stored response."""
        call = {
            "id": "call_1",
            "type": "function",
            "function": {"name": "add", "arguments": "{}"},
            "extra_content": {"google": {"thought_signature": "c2ln"}},
        }
        message = {"content": "Adding.", "tool_calls": [call], "reasoning_content": "Hm."}
        choice = {"finish_reason": "tool_calls", "message": message}
        vendor.reply({**PLAIN_ANSWER, "choices": [choice]})
        vendor.reply(PLAIN_ANSWER)
        stateless = {"store": False, "include": ["reasoning.encrypted_content"]}
        fields = {"tools": [ADD], **(stateless if include else {})}
        first = body(create(api, "a", **fields))
        assert ("encrypted_content" in first["output"][0]) is include
        items = [{"role": "user", "content": "a"}, *first["output"], *outputs(first, "3")]
        body(create(api, items, **fields))
        assert sent(vendor)[1] == {"role": "assistant", **message}

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_conversation_that_is_sent_whole_repeats_its_request(
        self, api: ApiClient, vendor: StubVendor, stream: bool
    ) -> None:
        function = {"name": "patch", "arguments": '{"input": "+a"}'}
        for number in range(2):
            call = {"id": f"call_{number}", "type": "function", "function": function}
            choice = {"finish_reason": "tool_calls", "message": {"tool_calls": [call]}}
            vendor.reply({**PLAIN_ANSWER, "choices": [choice]})
        fields = {"tools": [PATCH], "instructions": "Be brief."}
        items: list[dict[str, Any]] = [{"role": "user", "content": "a"}]
        first = body(create(api, items, **fields))
        items += [*first["output"], *outputs(first, "done")]
        response = create(api, items, stream=stream, **fields)
        second = events(response)[-1]["response"] if stream else body(response)
        assert second["output"][0]["type"] == "custom_tool_call"
        assert (second["tools"], second["instructions"]) == (first["tools"], "Be brief.")
        path = f"{PATH}/{second['id']}"
        assert body(api.get(path)) == second
        page = json.loads(api.get(f"{path}/input_items?order=asc").content)
        assert [item["type"] for item in page["data"]] == [
            *("message", "custom_tool_call", "custom_tool_call_output"),
        ]

    @pytest.mark.parametrize("mask", [False, True])
    def test_other_vendors_get_no_vendor_fields(
        self, api: ApiClient, vendor: StubVendor, change_settings: Configure, mask: bool
    ) -> None:
        change_settings(MASK_PII=mask)
        first = body(create(api, "Hi", include=["reasoning.encrypted_content"]))
        content = base64.urlsafe_b64encode(
            json.dumps(
                {
                    "message": {"reasoning_content": "Hm."},
                    "calls": {},
                    "provider": "gemini",
                    "model": "m",
                    "after": False,
                }
            ).encode()
        ).decode()
        reasoning = {"type": "reasoning", "summary": [], "encrypted_content": content}
        body(create(api, [reasoning, *first["output"], {"role": "user", "content": "b"}]))
        assert "reasoning_content" not in sent(vendor)[0]

    @pytest.mark.parametrize(
        ("items", "code"),
        [
            ("", "missing_required_parameter"),
            ([], "missing_required_parameter"),
            ([{"type": "reasoning", "summary": []}], "missing_required_parameter"),
            ([{"role": "user", "content": []}], "invalid_value"),
            (None, "invalid_type"),
            (7, "invalid_type"),
            (["a"], "invalid_value"),
            ([{}], "invalid_value"),
            ([{"role": "wizard", "content": "a"}], "invalid_value"),
            ([{"role": "user"}], "invalid_value"),
            ([{"role": "user", "content": [7]}], "invalid_value"),
            ([{"role": "user", "content": [{"type": "input_video"}]}], "unsupported_parameter"),
            (
                [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}],
                "unsupported_parameter",
            ),
            ([{"role": "user", "content": [{"type": "input_file"}]}], "invalid_value"),
            ([{"type": "computer_call_output", "call_id": "a"}], "unsupported_parameter"),
            ([{"type": ["message"]}], "unsupported_parameter"),
            ([{"role": "user", "content": "a", "tool_calls": 7}], "unsupported_parameter"),
            ([{"role": "assistant", "content": "a", "tool_calls": [7]}], "unsupported_parameter"),
            ([{"role": "assistant", "content": "a", "refusal": {}}], "unsupported_parameter"),
            ([{**CALL, "custom": 7}], "unsupported_parameter"),
            ([{"type": "function_call", "name": "add", "arguments": "{}"}], "invalid_value"),
            (
                [{"type": "function_call", "call_id": "a", "name": "add", "arguments": {}}],
                "invalid_value",
            ),
            ([{"type": "function_call_output", "output": "3"}], "invalid_value"),
            ([{"type": "item_reference", "id": f"msg_{UUID(int=0)}"}], "not_found"),
            ([{"type": "item_reference", "id": 7}], "not_found"),
            ([{"type": "reasoning", "encrypted_content": "gAAAAA"}], "invalid_value"),
            ([{"type": "reasoning", "encrypted_content": "W10="}], "invalid_value"),
        ],
        ids=json.dumps,
    )
    def test_an_item_that_cannot_be_read_is_refused(
        self, api: ApiClient, items: Any, code: str
    ) -> None:
        assert failure(create(api, items)) == (400, code, "input")
        assert all_records() == []

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"background": True}, "background"),
            ({"conversation": "conv_1"}, "conversation"),
            ({"prompt": {"id": "pmpt_1"}}, "prompt"),
            ({"truncation": "auto"}, "truncation"),
            ({"max_tool_calls": 3}, "max_tool_calls"),
            ({"context_management": [{"type": "compaction"}]}, "context_management"),
            ({"tools": [{"type": "web_search"}]}, "tools"),
            ({"tools": [{"type": "mcp", "server_label": "a"}]}, "tools"),
            ({"tools": [ADD], "tool_choice": {"type": "file_search"}}, "tool_choice"),
            ({"text": {"format": {"type": "grammar"}}}, "text.format"),
            ({"text": {"tone": "kind"}}, "text.tone"),
            ({"text": {"format": {"type": "json_object", "schema": {}}}}, "text.format.schema"),
            ({"tools": [ADD], "tool_choice": {**CHOICE, "foo": 1}}, "tool_choice.foo"),
            ({"tools": [ADD], "tool_choice": {**ALLOWED, "tools": [ALLOWED]}}, "tool_choice"),
            ({"stream": True, "stream_options": {"foo": 1}}, "stream_options.foo"),
            ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
            ({"reasoning": {"budget": 7}}, "reasoning.budget"),
            ({"messages": [{"role": "user", "content": "Something else"}]}, "messages"),
            ({"max_completion_tokens": 7}, "max_completion_tokens"),
            ({"response_format": {"json_schema": "a"}}, "response_format"),
            ({"n": 2}, "n"),
        ],
        ids=json.dumps,
    )
    def test_unsupported_parameters_are_refused_by_name(
        self, api: ApiClient, fields: dict[str, Any], param: str
    ) -> None:
        assert failure(create(api, **fields)) == (400, "unsupported_parameter", param)
        assert all_records() == []

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"tools": [{"type": "function"}]}, "tools"),
            ({"tools": [ADD], "tool_choice": "maybe"}, "tool_choice"),
            ({"tools": [ADD], "tool_choice": {"type": "function"}}, "tool_choice"),
            (
                {"tools": [ADD], "tool_choice": {"type": "allowed_tools", "tools": [7]}},
                "tool_choice",
            ),
            ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format"),
            (
                {"text": {"format": {"type": "json_schema", "name": "a", "schema": "b"}}},
                "text.format",
            ),
            (
                {"tools": [ADD], "tool_choice": {"type": "allowed_tools", "mode": 7, "tools": []}},
                "tool_choice",
            ),
            ({"tools": [ADD], "tool_choice": {"type": "allowed_tools", "tools": 7}}, "tool_choice"),
            ({"tools": [{**ADD, "parameters": "a"}]}, "tools"),
            ({"tools": [{**ADD, "strict": "yes"}]}, "tools"),
            ({"text": {"verbosity": 7}}, "text.verbosity"),
            ({"reasoning": {"effort": 7}}, "reasoning.effort"),
            ({"service_tier": 7}, "service_tier"),
            ({"safety_identifier": 7}, "safety_identifier"),
            ({"prompt_cache_key": 7}, "prompt_cache_key"),
            ({"include": ["everything"]}, "include.0"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
            ({"store": "no"}, "store"),
        ],
        ids=json.dumps,
    )
    def test_an_invalid_field_is_named(
        self, api: ApiClient, fields: dict[str, Any], param: str
    ) -> None:
        assert failure(create(api, **fields)) == (400, "invalid_value", param)

    @pytest.mark.parametrize("name", ["include", "tools"])
    def test_a_deep_value_in_the_place_of_a_text_is_refused(
        self, api: ApiClient, name: str
    ) -> None:
        deep = "[" * 1000 + "]" * 1000
        value = deep if name == "include" else f'{{"type": {deep}}}'
        given = f'{{"model": "default", "input": "a", "{name}": [{value}]}}'
        assert failure(api.post(PATH, given.encode())) == (400, "validation_error", None)

    def test_no_more_than_ten_invalid_elements_of_a_list_are_looked_at(self) -> None:
        with pytest.raises(ValidationError) as refused:
            RESPONSE_REQUEST.run_validation({"input": "a", "include": ["everything"] * 1000})
        assert list(refused.value.detail["include"]) == list(range(10))

    def test_what_openais_sdk_adds_to_parsed_items_is_left_out(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        part = {"type": "output_text", "text": "3", "annotations": [], "parsed": {"sum": 3}}
        items = [
            {"role": "user", "content": "Add."},
            {"role": "assistant", "content": [part]},
            {**CALL, "parsed_arguments": {}},
            {"type": "function_call_output", "call_id": "a", "output": "3"},
        ]
        body(create(api, items, tools=[ADD]))
        function = {"name": "add", "arguments": "{}"}
        called = {"id": "a", "type": "function", "function": function}
        assert sent(vendor)[1] == {"role": "assistant", "content": "3", "tool_calls": [called]}

    def test_a_tool_without_output_has_an_empty_one(
        self, api: ApiClient, vendor: StubVendor
    ) -> None:
        result = {"type": "function_call_output", "call_id": "a", "output": []}
        body(create(api, [{"role": "user", "content": "a"}, CALL, result]))
        assert sent(vendor)[-1] == {"role": "tool", "tool_call_id": "a", "content": ""}

    def test_each_parameter_reaches_the_vendor(self, api: ApiClient, vendor: StubVendor) -> None:
        schema = {"type": "object", "properties": {}}
        allowed = [{"type": "function", "name": "add"}]
        fields = {
            "text": {
                "format": {"type": "json_schema", "name": "a", "schema": schema, "strict": True},
                "verbosity": "low",
            },
            "reasoning": {"effort": "low", "summary": "auto"},
            "max_output_tokens": 7,
            "temperature": 0.5,
            "top_p": 0.9,
            "tools": [ADD],
            "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": allowed},
            "parallel_tool_calls": False,
            "seed": 42,
            "prompt_cache_key": "k",
            "service_tier": None,
            "background": False,
            "truncation": "disabled",
            "client_metadata": {"a": "b"},
        }
        found = body(create(api, **fields))
        received = vendor.requests[0].json
        for name in ("model", "messages", "user"):
            del received[name]
        function = {name: ADD[name] for name in ("name", "description", "parameters", "strict")}
        chosen = {"type": "function", "function": {"name": "add"}}
        assert received == {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": schema, "strict": True},
            },
            "verbosity": "low",
            "reasoning_effort": "low",
            "max_tokens": 7,
            "temperature": 0.5,
            "top_p": 0.9,
            "tools": [{"type": "function", "function": function}],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [chosen]},
            },
            "parallel_tool_calls": False,
            "seed": 42,
            "prompt_cache_key": "k",
        }
        for name in ("text", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens"):
            assert found[name] == fields[name]

    def test_a_parameter_that_the_vendor_lacks_has_its_name_here(
        self, api: ApiClient, change_settings: Configure
    ) -> None:
        options = {"api_key": "k", "base_url": "http://gemini.test", "model": "gemini-3-pro"}
        change_settings(PROVIDERS={"gemini": options})
        refused = create(api, reasoning={"effort": "extreme"})
        assert failure(refused) == (400, "unsupported_parameter", "reasoning.effort")


class TestOtherRecords:
    """Records of other operations and outcomes are responses, too."""

    @pytest.mark.parametrize(
        ("status", "shown"), [(Status.PENDING, "in_progress"), (Status.ABORTED, "cancelled")]
    )
    def test_a_record_without_an_answer_is_shown(
        self, api: ApiClient, status: Status, shown: str
    ) -> None:
        soon = datetime.now(UTC) + timedelta(minutes=1)
        record = store_record(replace(PENDING, status=status, deadline_at=soon))
        found = body(api.get(f"{PATH}/resp_{record.interaction_id}"))
        assert (found["status"], found["output"], found["usage"]) == (shown, [], None)

    def test_an_unknown_include_is_refused(self, api: ApiClient) -> None:
        path = f"{PATH}/{body(create(api))['id']}"
        assert body(api.get(f"{path}?include[]=reasoning.encrypted_content"))
        refused = api.get(f"{path}?include[]=everything")
        assert failure(refused) == (400, "invalid_value", "include.0")

    @pytest.mark.parametrize(
        "fields",
        [
            {"response_format": {"type": "text", "json_schema": "x"}},
            {"tools": [{"type": "x", "custom": "abc"}]},
            {"tools": [{"type": "function", "function": {"name": {"a": 1}}}]},
            {"tools": [{}], "tool_choice": {"type": "function", "function": {"name": ["a"]}}},
        ],
        ids=json.dumps,
    )
    def test_a_chat_completion_with_odd_parameters_is_shown(
        self, api: ApiClient, fields: dict[str, Any]
    ) -> None:
        messages = [{"role": "user", "content": "a"}]
        completion = {"model": "default", "messages": messages, **fields}
        made = json.loads(api.post("/v1/chat/completions", completion).content)
        assert api.get(f"{PATH}/resp_{made['interaction_id']}").status_code == 200

    def test_a_chat_completion_is_shown(self, api: ApiClient, vendor: StubVendor) -> None:
        function = {"name": "add", "arguments": "{}"}
        completion = {
            "model": "default",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "a"},
                {"role": "assistant", "tool_calls": [{"function": function}]},
                {"role": "tool", "tool_call_id": "a", "content": "3"},
            ],
            "tools": [{"type": "custom", "custom": {"name": "patch"}}],
        }
        made = json.loads(api.post("/v1/chat/completions", completion).content)
        path = f"{PATH}/resp_{made['interaction_id']}"
        found = body(api.get(path))
        assert found["instructions"] == "Be brief."
        assert found["tools"][0]["type"] == "custom"
        page = json.loads(api.get(f"{path}/input_items?order=asc").content)
        assert [item["type"] for item in page["data"]] == [
            *("message", "function_call", "function_call_output"),
        ]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_another_method_is_refused(api: ApiClient, method: str) -> None:
    assert failure(api.request(method, PATH)) == (405, "method_not_supported", None)


@pytest.mark.parametrize("path", ["", "/resp_1", "/resp_1/input_items"])
def test_a_missing_key_is_refused(api: ApiClient, require_api_key: list[str], path: str) -> None:
    response = api.get(f"{PATH}{path}") if path else create(api)
    assert failure(response) == (401, "invalid_api_key", None)
