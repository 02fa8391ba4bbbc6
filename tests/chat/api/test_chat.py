"""POST /v1/chat: one prompt, one answer, one record."""

import random
import re
from base64 import b64encode
from collections.abc import Callable
from contextvars import Context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import ANY
from urllib.parse import quote

import pytest
from django.test.client import ClientHandler
from pytest_django import Settings

from chat.callers import Caller
from chat.conversation import ChatRequest
from chat.history import get_interaction
from chat.service import chat
from chat.storage.base import ErrorInfo, InteractionRecord, Status
from providers.base import Completion, CompletionRequest, Usage
from providers.deadline import Deadline
from providers.router import Attempt
from tests.client import ApiClient, field_errors, problem, status_and_code
from tests.factories import (
    ALICE,
    BOB,
    TIMESTAMP,
    UUID,
    FailingSettleStore,
    FakeProvider,
    FullSettleStore,
    VanishingStore,
    all_records,
)
from tests.stub_vendor import OPENAI_ANSWER, StubVendor

Configure = Callable[..., None]
AskInstead = Callable[[Any], None]

PICTURE = "data:image/png;base64,iVBORw0KGgo="
ADDRESS = "https://example.org/a.png"
CITY = {
    "type": "json_schema",
    "json_schema": {"name": "city", "schema": {"type": "object", "properties": {}}},
}
HELLO = Completion(message={"content": "Hello."}, model="mock-1", finish_reason="stop")
UNKNOWN_USAGE = {
    "prompt_tokens": None,
    "completion_tokens": None,
    "total_tokens": None,
    "cached_tokens": None,
    "reasoning_tokens": None,
    "cost_usd": None,
}
MOCK_ATTEMPT = Attempt(provider="mock", model="mock-1", outcome="ok", latency_ms=ANY)


def test_an_answer_has_every_field(api: ApiClient) -> None:
    response = api.chat("Olá!", ALICE, metadata={"ticket": "7"})
    body = response.json()
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert body == {
        "interaction_id": ANY,
        "userId": ALICE,
        "prompt": "Olá!",
        "response": "You said: Olá!",
        "model": "mock-1",
        "timestamp": ANY,
        "reasoning": None,
        "conversation_id": body["interaction_id"],
        "previous_interaction_id": None,
        "provider": "mock",
        "finish_reason": "stop",
        "cached": False,
        "latency_ms": ANY,
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": 3,
            "total_tokens": 4,
            "cached_tokens": None,
            "reasoning_tokens": None,
            "cost_usd": "0",
        },
        "metadata": {"ticket": "7"},
    }
    assert re.fullmatch(UUID, body["interaction_id"])
    assert body["interaction_id"][14] == "7"  # the version: sortable by time
    assert re.fullmatch(TIMESTAMP, body["timestamp"])
    assert 0 <= body["latency_ms"] < 5000


def test_the_fixed_fields_come_first_and_in_their_order(api: ApiClient) -> None:
    assert list(api.chat().json())[:6] == [
        "interaction_id",
        "userId",
        "prompt",
        "response",
        "model",
        "timestamp",
    ]


def test_the_time_of_an_answer_is_when_the_request_was_accepted(api: ApiClient) -> None:
    before = datetime.now(UTC)
    timestamp = datetime.fromisoformat(api.chat("mock:delay=0.05").json()["timestamp"])
    assert before <= timestamp <= datetime.now(UTC) - timedelta(seconds=0.05)


def test_the_latency_of_an_answer_includes_the_model_s_time(api: ApiClient) -> None:
    assert 50 <= api.chat("mock:delay=0.05").json()["latency_ms"] < 5000


def test_ids_are_unique_and_sort_by_time(api: ApiClient) -> None:
    ids = [api.chat().json()["interaction_id"] for _ in range(5)]
    assert ids == sorted(set(ids))


def test_an_answer_leaves_one_record(api: ApiClient) -> None:
    before = datetime.now(UTC)
    body = api.chat(
        "Olá!",
        BOB,
        headers={"X-Request-ID": "mine"},
        system="Be brief.",
        temperature=0.5,
        stop=["END"],
        metadata={"ticket": "7"},
    ).json()
    [record] = all_records()
    counted = Usage(prompt_tokens=3, completion_tokens=3, total_tokens=6, cost_usd=Decimal("0"))
    assert record == InteractionRecord(
        interaction_id=body["interaction_id"],
        owner="default",
        user_id=BOB,
        prompt="Olá!",
        created_at=datetime.fromisoformat(body["timestamp"]),
        deadline_at=record.deadline_at,
        conversation_id=body["interaction_id"],
        model="mock-1",
        provider="mock",
        request_id="mine",
        system="Be brief.",
        parameters={"temperature": 0.5, "stop": ["END"]},
        metadata={"ticket": "7"},
        status=Status.OK,
        response="You said: Olá!",
        finish_reason="stop",
        latency_ms=body["latency_ms"],
        usage=counted,
        attempts=(replace(MOCK_ATTEMPT, usage=counted),),
    )
    assert timedelta(seconds=119) < record.deadline_at - before < timedelta(seconds=121)


# --- What reaches the vendor ----------------------------------------------------------------------


def test_a_vendor_s_answer_comes_back_whole(api: ApiClient, vendor: StubVendor) -> None:
    vendor.reply(
        OPENAI_ANSWER
        | {
            "model": "gpt-4o-mini-2024-07-18",
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 41,
                "total_tokens": 50,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
        }
    )
    body = api.chat().json()
    assert body["response"] == "Hello from the stand-in."
    assert body["model"] == "gpt-4o-mini-2024-07-18"
    assert body["provider"] == "openai"
    assert body["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 41,
        "total_tokens": 50,
        "cached_tokens": 4,
        "reasoning_tokens": 30,
        "cost_usd": None,  # this vendor's prices are unknown
    }


def test_any_text_of_a_vendor_can_be_stored(api: ApiClient, vendor: StubVendor) -> None:
    message = {"role": "assistant", "content": " a\0b \ud800 🦆 \u202e\x1b[31m\n"}
    vendor.reply({"choices": [{"message": message, "finish_reason": "stop"}], "model": "m\0"})
    body = api.chat().json()
    assert body["response"] == " a\ufffdb \ufffd 🦆 \u202e\x1b[31m\n"
    assert body["model"] == "model-1"
    assert "recorded" not in body
    kept = api.get(f"/v1/interactions/{body['interaction_id']}").json()
    assert kept["response"] == body["response"]


def test_every_optional_field_reaches_the_vendor(api: ApiClient, vendor: StubVendor) -> None:
    response = api.chat(
        "Olá!",
        system="Be brief.",
        model="openai:model-1",
        temperature=0.25,
        top_p=0.5,
        max_tokens=100,
        stop=["END", "\n"],
        metadata={"ticket": "7"},
    )
    assert response.status_code == 200
    [request] = vendor.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer sk-of-the-vendor"
    assert request.json == {
        "model": "model-1",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Olá!"},
        ],
        "temperature": 0.25,
        "top_p": 0.5,
        "max_tokens": 100,
        "stop": ["END", "\n"],
        "user": ANY,
    }


def test_absent_parameters_are_not_sent_to_the_vendor(api: ApiClient, vendor: StubVendor) -> None:
    api.chat("Olá!")
    assert vendor.requests[0].json == {
        "model": "model-1",
        "messages": [{"role": "user", "content": "Olá!"}],
        "user": ANY,
    }


def test_optional_fields_that_are_null_are_absent(api: ApiClient, vendor: StubVendor) -> None:
    names = ("system", "model", "temperature", "top_p", "max_tokens", "stop", "metadata")
    response = api.chat("Olá!", **dict.fromkeys(names))
    assert response.json()["metadata"] == {}
    assert vendor.requests[0].json.keys() == {"model", "messages", "user"}
    [record] = all_records()
    assert (record.system, record.parameters, record.metadata) == (None, {}, {})


def test_zero_differs_from_an_absent_number(api: ApiClient, vendor: StubVendor) -> None:
    api.chat("Olá!", temperature=0, top_p=0)
    assert vendor.requests[0].json["temperature"] == 0
    assert vendor.requests[0].json["top_p"] == 0
    assert all_records()[0].parameters == {"temperature": 0, "top_p": 0}


def test_a_single_stop_needs_no_list(api: ApiClient, vendor: StubVendor) -> None:
    api.chat("Olá!", stop="END")
    assert vendor.requests[0].json["stop"] == ["END"]


def test_the_vendor_sees_a_stable_opaque_user_id(api: ApiClient, vendor: StubVendor) -> None:
    for user in (ALICE, ALICE, BOB):
        api.chat(user=user)
    first, second, other = (request.json["user"] for request in vendor.requests)
    assert first == second
    assert first != other
    assert not any(
        name in request.body.decode() for name in (ALICE, BOB) for request in vendor.requests
    )


def test_unknown_fields_are_ignored(api: ApiClient, vendor: StubVendor) -> None:
    response = api.chat("Olá!", colour="blue", messages=[], owner="root", status="ok")
    assert response.status_code == 200
    assert vendor.requests[0].json.keys() == {"model", "messages", "user"}
    assert all_records()[0].owner == "default"


# --- The prompt is kept as it came ----------------------------------------------------------------

PROMPTS = [
    "  leading and trailing  \n",
    "\tline one\r\n\r\nline two\n",
    "👩‍👩‍👧‍👦 🇧🇷 👍🏽",
    "שלום, مرحبا \u202bمعكوس\u202c",
    "e\u0301 is not \u00e9, nor is n\u0303 \u00f1",
    "\ufeffbyte order mark, \u200bzero width, \u0085 and \u2028",
    "<script>alert('&amp;')</script> \"quotes\" \\ back\\nslash %s {0} '; DROP TABLE chat; --",
    "\U0010ffff \x01 \x7f",
    "x",
]


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_a_prompt_is_sent_stored_and_returned_unchanged(
    api: ApiClient, vendor: StubVendor, prompt: str
) -> None:
    body = api.chat(prompt).json()
    assert body["prompt"] == prompt
    assert vendor.requests[0].json["messages"] == [{"role": "user", "content": prompt}]
    assert api.get(f"/v1/interactions/{body['interaction_id']}").json()["prompt"] == prompt


def test_a_prompt_of_200000_characters_of_any_width_is_stored_whole(api: ApiClient) -> None:
    prompt = "🦆" * 199_999 + "é"
    body = api.chat(prompt).json()
    assert body["prompt"] == prompt
    assert body["response"] == f"You said: {prompt}"
    assert [record.prompt for record in all_records()] == [prompt]


def photo(megabytes: float) -> str:
    content = random.Random(0).randbytes(int(megabytes * 1_000_000))
    return f"data:image/jpeg;base64,{b64encode(content).decode()}"


def test_an_image_of_3_mb_is_sent_stored_and_continued(
    api: ApiClient, each_storage: str, vendor: StubVendor
) -> None:
    image = photo(3)
    first = api.chat("What is it?", images=[image])
    assert first.status_code == 200
    api.chat("And now?", previous_interaction_id=first.json()["interaction_id"])
    parts = [{"type": "text", "text": "What is it?"}]
    parts += [{"type": "image_url", "image_url": {"url": image}}]
    asked = [request.json["messages"][0]["content"] for request in vendor.requests]
    assert asked == [parts, parts]


def test_a_question_that_dynamodb_cannot_keep_is_refused_before_the_vendor_is_asked(
    api: ApiClient, dynamodb: str, change_settings: Configure, vendor: StubVendor
) -> None:
    change_settings(STORAGE="dynamodb")
    response = api.chat("What is it?", images=[photo(3.7)])
    assert status_and_code(response) == (413, "payload_too_large")
    assert vendor.requests == []


# --- What is not a request ------------------------------------------------------------------------

USERS = [
    *("a", "a" * 128, "...", ".a", "A-Z.a_z:0@9|+-", "user@example.org", "-", "auth0|5f7c8ec7"),
    *(
        "José Silva",
        "e\u0301",
        " ",
        "a ",
        "..  ",
        "a#b",
        "a%62",
        "a?b&c",
        "\\",
        '{"device_id":"x"}',
    ),
    *("user٣", "問" * 128, "🦆" * 128, "\u2028"),
]


@pytest.mark.parametrize("user", USERS)
def test_valid_user_ids_are_accepted(api: ApiClient, user: str) -> None:
    response = api.chat(user=user)
    assert response.status_code == 200
    assert response.json()["userId"] == user
    listed = api.get(f"/v1/users/{quote(user, safe='')}/interactions").json()["items"]
    assert [item["userId"] for item in listed] == [user]


NO_USERS = {
    "one character too long": ("a" * 129, "max_length"),
    "nothing": ("", "blank"),
    "a dot": (".", "invalid"),
    "two dots": ("..", "invalid"),
    "a line feed at the end": ("a\n", "invalid"),
    "dots and a line feed": ("..\n", "invalid"),
    "a slash": ("a/b", "invalid"),
    "a tab": ("a\tb", "invalid"),
    "a control character": ("a\x7f", "invalid"),
    "a control character beyond ASCII": ("a\x85", "invalid"),
    "a number": (7, "invalid"),
    "true": (True, "invalid"),
    "null": (None, "null"),
    "a list": (["alice"], "invalid"),
    "an object": ({"id": "alice"}, "invalid"),
}


@pytest.mark.parametrize(("user", "code"), NO_USERS.values(), ids=NO_USERS)
def test_invalid_user_ids_are_refused(api: ApiClient, user: Any, code: str) -> None:
    assert field_errors(api.chat(user=user)) == [("userId", code)]


def test_a_user_id_with_a_nul_is_refused(api: ApiClient) -> None:
    assert {field for field, _ in field_errors(api.chat(user="a\0b"))} == {"userId"}


NO_PROMPTS = {
    "nothing": ("", "blank"),
    "spaces": ("   ", "blank"),
    "white space of any kind": ("\t\r\n\u00a0\u2003\u3000", "blank"),
    "one character too long": ("x" * 200_001, "max_length"),
    "one character of four bytes too long": ("🦆" * 200_001, "max_length"),
    "a NUL": ("a\0b", "null_characters_not_allowed"),
    "a number": (7, "invalid"),
    "false": (False, "invalid"),
    "null": (None, "null"),
    "a list": (["Olá!"], "invalid"),
    "an object": ({"text": "Olá!"}, "invalid"),
}


@pytest.mark.parametrize(("prompt", "code"), NO_PROMPTS.values(), ids=NO_PROMPTS)
def test_invalid_prompts_are_refused(api: ApiClient, prompt: Any, code: str) -> None:
    assert field_errors(api.chat(prompt)) == [("prompt", code)]


def test_all_invalid_fields_are_named_at_once(api: ApiClient) -> None:
    response = api.post("/v1/chat", {"temperature": 3})
    assert problem(response) == {
        "type": "urn:problem:validation_error",
        "title": "The request is not valid",
        "status": 400,
        "detail": "Fields of the request are missing or not valid; `errors` names them.",
        "code": "validation_error",
        "errors": [
            {"field": "userId", "code": "required", "detail": "This field is required."},
            {"field": "prompt", "code": "required", "detail": "This field is required."},
            {
                "field": "temperature",
                "code": "max_value",
                "detail": "Ensure this value is less than or equal to 2.",
            },
        ],
    }


ACCEPTED: list[tuple[str, Any]] = [
    ("system", "x" * 200_000),
    ("system", ""),
    ("temperature", 0),
    ("temperature", 2),
    ("temperature", 0.7),
    ("top_p", 0),
    ("top_p", 1),
    ("max_tokens", 1),
    ("max_tokens", 1_000_000),
    ("stop", []),
    ("stop", ["a", "b", "c", "d"]),
    ("stop", [" ", "\n"]),
    ("stop", "x" * 256),
    ("metadata", {}),
    ("metadata", {f"key{number}": "" for number in range(16)}),
    ("metadata", {"k" * 64: "v" * 512}),
    ("metadata", {"chave ç": "valor 🦆"}),
    ("images", []),
    ("images", [PICTURE]),
    ("images", ["https://example.org/a b.png".replace(" ", "%20")] * 16),
    ("images", ["data:image/svg+xml;base64,PHN2Zz4="]),
    ("images", ["Data:image/PNG;charset=utf-8;base64,PHN2Zz4=", "HTTPS://example.org/a.png"]),
    ("response_format", {"type": "text"}),
    ("response_format", {"type": "json_object", "more": 1}),
    ("response_format", CITY),
    ("reasoning_effort", "low"),
    ("seed", 0),
    ("seed", -(2**63)),
]


@pytest.mark.parametrize(("name", "value"), ACCEPTED)
def test_valid_values_are_accepted(api: ApiClient, name: str, value: Any) -> None:
    assert api.chat(**{name: value}).status_code == 200


REFUSED: list[tuple[str, Any, str, str]] = [
    ("system", "x" * 200_001, "system", "max_length"),
    ("system", " ", "system", "blank"),
    ("system", 7, "system", "invalid"),
    ("model", 7, "model", "invalid"),
    ("model", "", "model", "blank"),
    ("model", "m" * 257, "model", "max_length"),
    ("temperature", -0.1, "temperature", "min_value"),
    ("temperature", 2.1, "temperature", "max_value"),
    ("temperature", "0.5", "temperature", "invalid"),
    ("temperature", True, "temperature", "invalid"),
    ("temperature", [1], "temperature", "invalid"),
    ("top_p", 1.01, "top_p", "max_value"),
    ("top_p", -1, "top_p", "min_value"),
    ("top_p", False, "top_p", "invalid"),
    ("max_tokens", 0, "max_tokens", "min_value"),
    ("max_tokens", 1_000_001, "max_tokens", "max_value"),
    ("max_tokens", 1.0, "max_tokens", "invalid"),
    ("max_tokens", "10", "max_tokens", "invalid"),
    ("max_tokens", True, "max_tokens", "invalid"),
    ("stop", ["a", "b", "c", "d", "e"], "stop", "max_length"),
    ("stop", [7] * 5, "stop", "max_length"),
    ("stop", ["a", ""], "stop.1", "blank"),
    ("stop", "", "stop.0", "blank"),
    ("stop", ["x" * 257], "stop.0", "max_length"),
    ("stop", ["a", 7], "stop.1", "invalid"),
    ("stop", [None], "stop.0", "null"),
    ("stop", {"a": "b"}, "stop", "not_a_list"),
    ("stop", 7, "stop", "not_a_list"),
    ("metadata", {f"key{number}": "" for number in range(17)}, "metadata", "max_length"),
    ("metadata", {f"key{number}": 7 for number in range(17)}, "metadata", "max_length"),
    ("metadata", {"k" * 65: "v"}, "metadata", "key_length"),
    ("metadata", {"": "v"}, "metadata", "key_length"),
    ("metadata", {"a\0": "v"}, "metadata", "key_length"),
    ("metadata", {"a": "v" * 513}, "metadata.a", "max_length"),
    ("metadata", {"a": 7}, "metadata.a", "invalid"),
    ("metadata", {"a": None}, "metadata.a", "null"),
    ("metadata", {"a": {"b": "c"}}, "metadata.a", "invalid"),
    ("metadata", ["a"], "metadata", "not_a_dict"),
    ("metadata", "a", "metadata", "not_a_dict"),
    ("images", [PICTURE] * 17, "images", "max_length"),
    ("images", [7] * 17, "images", "max_length"),
    ("images", PICTURE, "images", "not_a_list"),
    ("images", ["http://example.org/a.png"], "images.0", "invalid"),
    ("images", [PICTURE, "https://"], "images.1", "invalid"),
    ("images", ["https://example.org/a b.png"], "images.0", "invalid"),
    ("images", ["data:text/html;base64,QUJD"], "images.0", "invalid"),
    ("images", ["data:image/png;base64,"], "images.0", "invalid"),
    ("images", ["data:image/png,QUJD"], "images.0", "invalid"),
    ("images", ["data:image/png;base64,QU JD"], "images.0", "invalid"),
    ("images", [7], "images.0", "invalid"),
    ("response_format", "json_object", "response_format", "not_a_dict"),
    ("response_format", {}, "response_format", "type"),
    ("response_format", {"type": "xml"}, "response_format", "type"),
    ("response_format", {"type": ["text"]}, "response_format", "type"),
    ("response_format", {"type": "json_schema"}, "response_format", "json_schema"),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"schema": {}}},
        "response_format",
        "json_schema",
    ),
    ("reasoning_effort", 1, "reasoning_effort", "invalid"),
    ("reasoning_effort", "", "reasoning_effort", "blank"),
    ("reasoning_effort", "x" * 33, "reasoning_effort", "max_length"),
    ("seed", 1.0, "seed", "invalid"),
    ("seed", 2**63, "seed", "max_value"),
]


@pytest.mark.parametrize(("name", "value", "field", "code"), REFUSED)
def test_invalid_values_are_refused(
    api: ApiClient, name: str, value: Any, field: str, code: str
) -> None:
    assert field_errors(api.chat(**{name: value})) == [(field, code)]


@pytest.mark.parametrize("depth", [50, *range(240, 256), 300, 980])
def test_a_deep_schema_is_accepted_or_refused(
    api: ApiClient, vendor: StubVendor, depth: int
) -> None:
    nest = b'{"a":' * depth + b"1" + b"}" * depth
    wanted = b'{"type":"json_schema","json_schema":{"name":"a","schema":%b}}' % nest
    body = b'{"userId":"alice","prompt":"a","response_format":%b}' % wanted
    assert api.post("/v1/chat", body).status_code in (200, 400)


# --- Images, structured output, thoughts ----------------------------------------------------------


def test_images_and_new_parameters_reach_the_vendor_and_the_record(
    api: ApiClient, vendor: StubVendor
) -> None:
    given = {"response_format": CITY, "reasoning_effort": "low", "seed": 7}
    response = api.chat("What is it?", system="Be brief.", images=[PICTURE, ADDRESS], **given)
    assert response.status_code == 200
    asked = {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": PICTURE}},
            {"type": "image_url", "image_url": {"url": ADDRESS}},
        ],
    }
    system = {"role": "system", "content": "Be brief."}
    assert vendor.requests[0].json == {
        "model": "model-1",
        "messages": [system, asked],
        **given,
        "user": ANY,
    }
    [record] = all_records()
    assert record.parameters == {**given, "messages": [asked]}
    assert (record.prompt, record.system) == ("What is it?", "Be brief.")

    again = api.chat("And now?", previous_interaction_id=record.interaction_id)
    assert again.status_code == 200
    answer = {"role": "assistant", "content": "Hello from the stand-in."}
    question = {"role": "user", "content": "And now?"}
    assert vendor.requests[1].json["messages"] == [system, asked, answer, question]


@pytest.mark.parametrize("stream", [False, True])
def test_a_field_that_the_provider_lacks_is_named_as_the_client_did(
    api: ApiClient, use_provider: AskInstead, stream: bool
) -> None:
    use_provider(TextOnly(HELLO))
    response = api.chat(images=[PICTURE], seed=7, stream=stream)
    assert field_errors(response) == [("images", "unsupported"), ("seed", "unsupported")]
    assert all_records() == []


class TextOnly(FakeProvider):
    def unsupported(self, request: CompletionRequest) -> tuple[str, ...]:
        return ("image_url", "seed")


def test_the_first_hundred_fields_that_the_provider_lacks_are_named(
    api: ApiClient, use_provider: AskInstead
) -> None:
    use_provider(LacksMuch(HELLO))
    assert field_errors(api.chat()) == [(f"x{number}", "unsupported") for number in range(100)]


class LacksMuch(FakeProvider):
    def unsupported(self, request: CompletionRequest) -> tuple[str, ...]:
        return tuple(f"x{number}" for number in range(1000))


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_are_in_the_answer_and_the_record(
    api: ApiClient, vendor: StubVendor, name: str
) -> None:
    answered_by(vendor, content="18 °C.", **{name: "Let me see."})
    body = api.chat().json()
    assert (body["response"], body["reasoning"]) == ("18 °C.", "Let me see.")
    record = api.get(f"/v1/interactions/{body['interaction_id']}").json()
    assert (record["reasoning"], record["message"]) == ("Let me see.", {name: "Let me see."})


def test_a_refusal_is_the_response_of_a_filtered_answer(api: ApiClient, vendor: StubVendor) -> None:
    answered_by(vendor, content=None, refusal="I cannot help with that.")
    body = api.chat().json()
    assert (body["response"], body["finish_reason"]) == (
        "I cannot help with that.",
        "content_filter",
    )
    [record] = all_records()
    assert record.message == {"refusal": "I cannot help with that."}
    assert api.chat("And now?", previous_interaction_id=record.interaction_id).status_code == 200
    assert vendor.requests[1].json["messages"][1] == {
        "role": "assistant",
        "content": "",
        "refusal": "I cannot help with that.",
    }


def answered_by(vendor: StubVendor, **message: Any) -> None:
    choice = {"message": {"role": "assistant", **message}, "finish_reason": "stop"}
    vendor.reply({**OPENAI_ANSWER, "choices": [choice]})


# --- Which model is asked -------------------------------------------------------------------------

OPENAI = {"api_key": "", "base_url": "http://127.0.0.1:9/v1", "model": "llama3:8b"}


@pytest.mark.parametrize("model", [None, "mock-1", "mock:mock-1"])
def test_the_configured_model_answers_by_default_and_by_name(
    api: ApiClient, model: str | None
) -> None:
    body = api.chat(model=model).json()
    assert (body["provider"], body["model"]) == ("mock", "mock-1")


@pytest.mark.parametrize(
    ("model", "provider", "asked"),
    [
        (None, "mock", "mock-1"),
        ("llama3:8b", "openai", "llama3:8b"),
        ("openai:llama3:8b", "openai", "llama3:8b"),
        ("mock-1", "mock", "mock-1"),
    ],
)
def test_a_model_is_routed_to_its_provider(
    api: ApiClient,
    vendor: StubVendor,
    change_settings: Configure,
    model: str | None,
    provider: str,
    asked: str,
) -> None:
    openai = OPENAI | {"base_url": f"{vendor.url}/v1"}
    change_settings(PROVIDERS={"mock": {}, "openai": openai})
    body = api.chat(model=model).json()
    assert body["provider"] == provider
    assert [request.json["model"] for request in vendor.requests] == (
        [asked] if provider == "openai" else []
    )
    assert all_records()[0].attempts[0].model == asked


@pytest.mark.parametrize(
    "model",
    ["mock-2", "openai:mock-1", "mock:", ":mock-1", "MOCK-1", "*"],
)
def test_a_model_that_is_not_allowed_is_refused(api: ApiClient, model: str) -> None:
    response = api.chat(model=model)
    assert problem(response)["errors"] == [
        {
            "field": "model",
            "code": "unknown",
            "detail": "Unknown model, or not allowed for this key; see GET /v1/models.",
        }
    ]
    assert response.status_code == 400
    assert all_records() == []


@pytest.mark.parametrize("model", ["mock-1 ", "a b", "a\nb", "é", "\x1b[31m"])
def test_a_model_s_name_is_printable_ascii(api: ApiClient, model: str) -> None:
    assert field_errors(api.chat(model=model)) == [("model", "invalid")]


@pytest.mark.parametrize(
    ("name", "value"), [("stream", 1), ("stream", "yes"), ("previous_interaction_id", 7)]
)
def test_stream_and_model_fields_are_type_checked(api: ApiClient, name: str, value: Any) -> None:
    assert field_errors(api.chat(**{name: value})) == [(name, "invalid")]
    assert api.chat(**{name: None}).status_code == 200


@pytest.mark.parametrize(
    ("allowed", "model", "status"),
    [
        (["mock-2"], "mock-2", 200),
        (["mock-2"], "mock:mock-2", 200),
        (["mock-2"], "mock-1", 200),
        (["mock-2"], "mock-3", 400),
        (["mock:mock-2"], "mock-2", 200),
        (["llama3:8b"], "llama3:8b", 200),
        (["*"], "anything/at-all:free", 200),
        (["*"], "mock:anything", 200),
        (["mock-2", "*"], "mock-3", 200),
    ],
)
def test_allowed_models_widen_the_choice(
    api: ApiClient, change_settings: Configure, allowed: list[str], model: str, status: int
) -> None:
    change_settings(ALLOWED_MODELS=allowed)
    response = api.chat(model=model)
    assert response.status_code == status
    if status == 200:
        assert response.json()["model"] == model.removeprefix("mock:")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["model-2", "openai:model-2", "model-1"])
def test_a_named_model_that_the_vendor_does_not_know_is_not_found(
    api: ApiClient, vendor: StubVendor, change_settings: Configure, model: str, stream: bool
) -> None:
    change_settings(ALLOWED_MODELS=["*"])
    vendor.reply({"error": {"code": "model_not_found", "message": "no"}}, status=404)
    response = api.chat(model=model, stream=stream)
    assert status_and_code(response) == (404, "model_not_found")
    [record] = all_records()
    assert (record.status, record.error) == (
        Status.ERROR,
        ErrorInfo(code="model_not_found", detail=problem(response)["detail"]),
    )
    assert [attempt.outcome for attempt in record.attempts] == ["provider_error"]


@pytest.mark.parametrize("body", ["<html>Not Found</html>", "404 page not found", b""])
def test_a_named_model_is_not_blamed_for_a_wrong_base_url(
    api: ApiClient, vendor: StubVendor, change_settings: Configure, body: str | bytes
) -> None:
    change_settings(ALLOWED_MODELS=["*"])
    vendor.reply(body, status=404)
    response = api.chat(model="model-2")
    assert status_and_code(response) == (502, "provider_error")
    assert "base URL" in problem(response)["detail"]


@pytest.mark.parametrize("model", [None, "default"])
def test_an_unknown_configured_model_is_a_provider_error(
    api: ApiClient, vendor: StubVendor, model: str | None
) -> None:
    vendor.reply({"error": {"code": "model_not_found", "message": "no"}}, status=404)
    assert status_and_code(api.chat(model=model)) == (502, "provider_error")


# --- Without HTTP ---------------------------------------------------------------------------------


def test_the_service_works_without_an_http_request(db: None) -> None:
    caller = Caller(owner="team:blue", key_id="none")
    question = ChatRequest(user_id=ALICE, prompt="Olá!")
    answer = Context().run(chat, caller=caller, request=question, deadline=Deadline(5))
    assert answer.recorded
    assert all_records() == [answer.record]
    assert (answer.record.owner, answer.record.request_id) == ("team:blue", "")
    assert get_interaction(caller=caller, interaction_id=answer.record.interaction_id) == (
        answer.record
    )


# --- Failures -------------------------------------------------------------------------------------

FAILURES = {
    "mock:fail": (502, "provider_error", None),
    "mock:fail=400": (400, "provider_rejected", None),
    "mock:fail=401": (502, "provider_error", None),
    "mock:fail=402": (502, "provider_error", None),
    "mock:fail=403": (502, "provider_error", None),
    "mock:fail=404": (502, "provider_error", None),
    "mock:fail=408": (502, "provider_error", None),
    "mock:fail=413": (400, "provider_rejected", None),
    "mock:fail=422": (400, "provider_rejected", None),
    "mock:fail=429": (503, "provider_unavailable", "10"),
    "mock:fail=500": (502, "provider_error", None),
    "mock:fail=502": (502, "provider_error", None),
    "mock:fail=503": (503, "provider_unavailable", "10"),
    "mock:fail=504": (502, "provider_error", None),
    "mock:fail=529": (503, "provider_unavailable", "10"),
    "mock:fail=timeout": (504, "provider_timeout", None),
    "mock:fail=garbled": (502, "provider_error", None),
    "mock:empty": (502, "provider_error", None),
    "mock:filter": (422, "content_filtered", None),
}


RETRIED = ["mock:fail", *(f"mock:fail={s}" for s in (408, 429, 500, 502, 503, 504, 529))]
CALLS = {**dict.fromkeys(RETRIED, 3), "mock:empty": 2}


@pytest.mark.parametrize(
    ("prompt", "status", "code", "retry_after"),
    [(prompt, *expected) for prompt, expected in FAILURES.items()],
    ids=FAILURES,
)
def test_a_provider_s_failure_is_reported_and_recorded(
    api: ApiClient, prompt: str, status: int, code: str, retry_after: str | None
) -> None:
    response = api.chat(prompt)
    body = problem(response)
    assert (response.status_code, body["code"], body["errors"]) == (status, code, [])
    assert response.get("Retry-After") == retry_after
    [record] = all_records()
    assert record == replace(
        record,
        status=Status.ERROR,
        provider="mock",
        model="mock-1",
        prompt=prompt,
        response=None,
        finish_reason=None,
        usage=Usage(),
        error=ErrorInfo(code=code, detail=body["detail"]),
        attempts=(replace(MOCK_ATTEMPT, outcome=code),) * CALLS.get(prompt, 1),
        request_id=response["X-Request-ID"],
    )
    assert record.latency_ms is not None


def test_the_vendor_s_retry_after_is_passed_on(api: ApiClient, vendor: StubVendor) -> None:
    vendor.reply({"error": {"code": 429}}, status=429, headers={"retry-after": "1160.2"})
    response = api.chat()
    assert status_and_code(response) == (503, "provider_unavailable")
    assert response["Retry-After"] == "1161"


def test_a_vendor_s_error_text_is_not_shown(api: ApiClient, vendor: StubVendor) -> None:
    vendor.reply({"error": {"message": "account 4711 of ACME is closed"}}, status=403)
    response = api.chat()
    assert status_and_code(response) == (502, "provider_error")
    assert "4711" not in response.content.decode()
    assert "4711" not in str(all_records())


def test_an_empty_answer_that_ended_by_length_is_an_answer(api: ApiClient) -> None:
    response = api.chat("mock:length")
    assert response.status_code == 200
    assert response.json()["response"] == ""
    assert response.json()["finish_reason"] == "length"
    assert [(record.status, record.response) for record in all_records()] == [(Status.OK, "")]


def test_an_answer_that_a_filter_cut_short_is_an_answer(api: ApiClient, vendor: StubVendor) -> None:
    message = {"role": "assistant", "content": "Well, "}
    vendor.reply({"choices": [{"message": message, "finish_reason": "content_filter"}]})
    body = api.chat().json()
    assert (body["response"], body["finish_reason"]) == ("Well, ", "content_filter")
    assert body["model"] == "model-1"
    assert body["usage"] == UNKNOWN_USAGE | {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "estimated": True,
    }


@pytest.mark.django_db(transaction=True)  # streams are written by another thread
@pytest.mark.parametrize("streamed", [False, True])
def test_the_cost_of_a_filtered_request_is_recorded(
    api: ApiClient, vendor: StubVendor, streamed: bool
) -> None:
    choice = {"message": {"content": None}, "finish_reason": "content_filter"}
    counted = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    vendor.reply({"choices": [choice], "usage": counted})
    assert status_and_code(api.chat(stream=streamed)) == (422, "content_filtered")
    [record] = all_records()
    usage = record.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 7, 12)
    total = api.get("/v1/usage").json()["total"]
    assert (total["requests"], total["errors"], total["total_tokens"]) == (1, 1, 12)


def test_an_unreachable_provider_is_a_provider_error(
    api: ApiClient, change_settings: Configure
) -> None:
    with StubVendor() as gone:
        pass
    change_settings(PROVIDERS={"openai": OPENAI | {"base_url": gone.url}})
    assert status_and_code(api.chat()) == (502, "provider_error")
    assert [record.status for record in all_records()] == [Status.ERROR]


def test_the_deadline_ends_a_call_that_takes_longer(
    api: ApiClient, vendor: StubVendor, change_settings: Configure
) -> None:
    change_settings(REQUEST_TIMEOUT_SECONDS=0.3)
    vendor.reply(OPENAI_ANSWER, delay=5)
    started = datetime.now(UTC)
    response = api.chat()
    assert datetime.now(UTC) - started < timedelta(seconds=3)
    assert status_and_code(response) == (504, "provider_timeout")
    [record] = all_records()
    assert record.error == ErrorInfo(
        code="provider_timeout", detail="The provider did not answer in time."
    )
    assert [attempt.outcome for attempt in record.attempts] == ["provider_timeout"]
    assert record.deadline_at - record.created_at <= timedelta(seconds=0.3)
    assert 250 < (record.latency_ms or 0) < 3000


def test_an_answer_just_before_the_deadline_counts(
    api: ApiClient, change_settings: Configure
) -> None:
    change_settings(REQUEST_TIMEOUT_SECONDS=5)
    assert api.chat("mock:delay=0.2").status_code == 200


def test_an_unexpected_exception_is_a_500_without_details(
    api: ApiClient, use_provider: AskInstead
) -> None:
    use_provider(FakeProvider(RuntimeError("the password is swordfish")))
    response = api.chat()
    assert problem(response) == {
        "type": "urn:problem:internal_error",
        "title": "Internal error",
        "status": 500,
        "detail": "Internal error. Report the `request_id` to the operator.",
        "code": "internal_error",
        "errors": [],
    }
    assert not re.search("swordfish|Traceback|RuntimeError", response.content.decode())
    [record] = all_records()
    assert record.status is Status.ERROR
    assert record.error == ErrorInfo(
        code="internal_error", detail="Internal error. Report the `request_id` to the operator."
    )
    assert len(record.attempts) == 1


@pytest.mark.parametrize("refusal", [{"a": 1}, ["No."], True])
def test_a_refusal_that_is_no_text_is_not_the_answer(
    api: ApiClient, vendor: StubVendor, refusal: Any
) -> None:
    message = {"role": "assistant", "content": None, "refusal": refusal}
    vendor.reply({**OPENAI_ANSWER, "choices": [{"index": 0, "message": message}]})
    body = api.chat().json()
    assert (body["response"], body.get("recorded")) == ("", None)
    [record] = all_records()
    assert (record.status, record.response) == (Status.OK, "")


def test_a_page_of_another_origin_may_read_an_unexpected_error(
    db: None, settings: Settings, use_provider: AskInstead
) -> None:
    settings.CORS_ALLOWED_ORIGINS = [origin := "https://app.example.org"]
    log, *rest = settings.MIDDLEWARE
    settings.MIDDLEWARE = [log, "corsheaders.middleware.CorsMiddleware", *rest]
    handler = ClientHandler()
    handler.load_middleware()
    use_provider(FakeProvider(RuntimeError("a bug")))
    answer = ApiClient(handler).chat(headers={"Origin": origin})
    assert (answer.status_code, answer["Access-Control-Allow-Origin"]) == (500, origin)


# --- Refused requests leave no trace --------------------------------------------------------------


def test_an_invalid_request_is_neither_recorded_nor_sent(
    api: ApiClient, vendor: StubVendor, change_settings: Configure
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=1)
    assert api.chat(user="").status_code == 400
    assert api.chat(model="unknown", user=BOB).status_code == 400
    assert api.post("/v1/chat", b"{").status_code == 400
    assert api.post("/v1/chat", b"{}", content_type="text/plain").status_code == 415
    assert api.request("PUT", "/v1/chat").status_code == 405
    assert api.chat(headers={"Accept": "text/html"}).status_code == 406
    assert all_records() == []
    assert vendor.requests == []

    assert api.chat().status_code == 200
    assert api.chat().status_code == 429
    assert len(all_records()) == len(vendor.requests) == 1


def test_a_request_without_a_key_is_not_recorded(
    api: ApiClient, vendor: StubVendor, require_api_key: list[str]
) -> None:
    assert api.chat().status_code == 401
    assert api.chat(headers={"X-API-Key": "no"}).status_code == 401
    assert all_records() == []
    assert vendor.requests == []


# --- The storage is down --------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 60])
def test_no_model_is_called_if_the_claim_cannot_be_written(
    handler: Any,
    vendor: StubVendor,
    change_settings: Configure,
    unreachable_database: None,
    limit: int,
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=limit)
    response = ApiClient(handler).chat()
    assert status_and_code(response) == (503, "storage_unavailable")
    assert response["Retry-After"] == "5"
    assert vendor.requests == []


UNRECORDED = {
    "owner": "default",
    "user_id": ALICE,
    "prompt": "Olá!",
    "created_at": ANY,
    "deadline_at": ANY,
    "model": "mock-1",
    "provider": "mock",
    "request_hash": None,
    "key_id": None,
    "expires_at": None,
    "previous_interaction_id": None,
    "ancestors": [],
    "tool_calls": [],
    "message": {},
    "extras": {},
    "earlier": None,
    "transcript": None,
    "system": None,
    "parameters": {"temperature": 0.5},
    "metadata": {"ticket": "7"},
    "status": "ok",
    "response": "You said: Olá!",
    "finish_reason": "stop",
    "cached": False,
    "usage": {
        "prompt_tokens": 1,
        "completion_tokens": 3,
        "total_tokens": 4,
        "cached_tokens": None,
        "reasoning_tokens": None,
        "cost_usd": "0",
        "estimated": False,
    },
    "error": None,
    "attempts": [
        {
            "provider": "mock",
            "model": "mock-1",
            "outcome": "ok",
            "latency_ms": ANY,
            "usage": {
                "prompt_tokens": 1,
                "completion_tokens": 3,
                "total_tokens": 4,
                "cached_tokens": None,
                "reasoning_tokens": None,
                "cost_usd": "0",
                "estimated": False,
            },
        }
    ],
}


def test_an_answer_that_cannot_be_recorded_is_still_returned(
    api: ApiClient, use_store: Callable[[type], None], log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    use_store(FailingSettleStore)
    response = api.chat("Olá!", metadata={"ticket": "7"}, temperature=0.5)
    body = response.json()
    assert response.status_code == 200
    assert body["response"] == "You said: Olá!"
    assert body["recorded"] is False
    assert [record.status for record in all_records()] == [Status.PENDING]

    [line] = [line for line in log_lines() if line["level"] == "ERROR"]
    assert line["request_id"] == response["X-Request-ID"]
    assert line["record"] == {
        **UNRECORDED,
        "interaction_id": body["interaction_id"],
        "conversation_id": body["interaction_id"],
        "request_id": response["X-Request-ID"],
        "latency_ms": body["latency_ms"],
    }
    assert datetime.fromisoformat(line["record"]["created_at"]) == datetime.fromisoformat(
        body["timestamp"]
    )


def test_an_answer_too_long_to_be_recorded_is_returned_after_one_try(
    api: ApiClient, use_store: Callable[[type], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_store(FullSettleStore)
    monkeypatch.setattr(FullSettleStore, "tries", 0)
    body = api.chat("Olá!").json()
    assert (body["response"], body["recorded"]) == ("You said: Olá!", False)
    assert FullSettleStore.tries == 1


@pytest.mark.parametrize("each_storage", ["dynamodb"], indirect=True)
def test_an_answer_too_large_for_dynamodb_is_settled_and_counted_without_its_text(
    api: ApiClient,
    each_storage: str,
    vendor: StubVendor,
    log_lines: Callable[[], list[dict[str, Any]]],
) -> None:
    text = random.Random(1).randbytes(4_200_000).hex()
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    tokens = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    vendor.reply({"model": "model-1", "choices": [choice], "usage": tokens})

    answer = api.chat("Olá!", headers={"Idempotency-Key": "one"})
    body = answer.json()
    assert (answer.status_code, body["response"], body["recorded"]) == (200, text, False)

    record = api.get(f"/v1/interactions/{body['interaction_id']}").json()
    assert (record["status"], record["prompt"], record["response"]) == ("ok", "Olá!", None)
    assert record["usage"]["total_tokens"] == 14
    assert api.get("/v1/usage?group_by=model").json()["total"]["total_tokens"] == 14
    [line] = [line for line in log_lines() if line["level"] == "ERROR"]
    assert (line["logger"], line["record"]["response"]) == ("chat.unrecorded", text)

    again = api.chat("Olá!", headers={"Idempotency-Key": "one"})
    assert status_and_code(again) == (409, "answer_not_kept")


def test_a_failure_that_cannot_be_recorded_is_returned_and_logged(
    api: ApiClient, use_store: Callable[[type], None], log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    use_store(FailingSettleStore)
    assert status_and_code(api.chat("mock:filter")) == (422, "content_filtered")
    [line] = [line for line in log_lines() if line["level"] == "ERROR"]
    assert line["record"]["status"] == "error"
    assert line["record"]["error"]["code"] == "content_filtered"


def test_an_answer_whose_record_vanished_is_marked(
    api: ApiClient, use_store: Callable[[type], None]
) -> None:
    use_store(VanishingStore)
    body = api.chat().json()
    assert body["response"] == "You said: Olá!"
    assert body["recorded"] is False


def test_a_recorded_answer_has_no_recorded_field(api: ApiClient) -> None:
    assert "recorded" not in api.chat().json()


# --- Costs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        (None, None),
        (Decimal("0"), "0"),
        (Decimal("0E-12"), "0"),
        (Decimal("0.000104"), "0.000104"),
        (Decimal("1.04E-7"), "0.000000104"),
        (Decimal("0.000000000001"), "0.000000000001"),
        (Decimal("12.50"), "12.5"),
        (Decimal("1E+2"), "100"),
    ],
)
def test_a_cost_is_shown_without_exponent_or_trailing_zeros(
    api: ApiClient, use_provider: AskInstead, cost: Decimal | None, shown: str | None
) -> None:
    use_provider(FakeProvider(HELLO._replace(usage=Usage(cost_usd=cost))))
    body = api.chat().json()
    assert body["usage"]["cost_usd"] == shown
    kept = api.get(f"/v1/interactions/{body['interaction_id']}").json()
    assert kept["usage"]["cost_usd"] == shown
