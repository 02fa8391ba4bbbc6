"""Popular OpenAI clients against the product's server."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import OpenAI
from pydantic import BaseModel, SecretStr

from tests.factories import KEY
from tests.server_process import Server, in_front_of, rate_limit_window_end
from tests.stub_vendor import OPENAI_ANSWER, StubVendor

LIMIT = 40  # requests a minute of each user
HELLO: Any = [{"role": "user", "content": "Olá!"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Lisboa"}'},
}
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


@pytest.fixture(scope="module")
def stub() -> Iterator[StubVendor]:
    with StubVendor() as stub:
        yield stub


@pytest.fixture(scope="module")
def server(stub: StubVendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server with the mock's models and two of the stub vendor's."""
    with Server(
        tmp_path_factory.mktemp("server"),
        **in_front_of(stub.url, KEY),
        OPENAI_MODEL="model-1",
        GEMINI_MODEL="gemini-1",
        ALLOWED_MODELS="openai:vendor/model-2",
        RATE_LIMIT_PER_MINUTE=str(LIMIT),
    ) as server:
        yield server


@pytest.fixture
def vendor(stub: StubVendor) -> StubVendor:
    stub.clear()
    return stub


@pytest.fixture
def base_url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/v1"


@pytest.fixture
def client(base_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=base_url, api_key=KEY) as client:
        yield client


def answer_with(vendor: StubVendor, finish: str, **message: Any) -> None:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}
    vendor.reply({**OPENAI_ANSWER, "choices": [choice]})


def stream_tool_call(vendor: StubVendor) -> None:
    """Have the vendor stream a tool call in parts, as OpenAI does."""
    begun = {**CALL, "index": 0, "function": {"name": "weather", "arguments": ""}}
    pieces = ('{"city":', '"Lisboa"}')
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [begun]},
        *({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces),
        {},
    ]
    finishes = [*[None] * (len(deltas) - 1), "tool_calls"]
    chunks = [
        {"model": "model-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        for delta, finish in zip(deltas, finishes, strict=True)
    ]
    chunks.append({"model": "model-1", "choices": [], "usage": OPENAI_ANSWER["usage"]})
    data = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    vendor.reply(data, headers={"content-type": "text/event-stream"}, body_pace=(100, 0.001))


def records(server: Server, user: str) -> list[dict[str, Any]]:
    headers = {"X-API-Key": KEY}
    listed = server.client.get(f"/v1/users/{user}/interactions?limit=100", headers=headers)
    items: list[dict[str, Any]] = listed.json()["items"]
    return items


class TestOpenAI:
    def test_an_answer_has_its_request_id(self, client: OpenAI) -> None:
        answer = client.chat.completions.create(model="default", messages=HELLO)
        [choice] = answer.choices
        assert (choice.message.content, choice.finish_reason) == ("You said: Olá!", "stop")
        assert answer.model == "mock-1"
        assert answer.usage
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (1, 4)
        assert answer._request_id

    def test_a_stream_finishes_once_with_usage(self, client: OpenAI) -> None:
        with client.chat.completions.create(
            model="mock-1", messages=HELLO, stream=True, stream_options={"include_usage": True}
        ) as stream:
            chunks = list(stream)
        choices = [choice for chunk in chunks for choice in chunk.choices]
        pieces = [choice.delta.content for choice in choices if choice.delta.content]
        assert pieces == ["You", " said:", " Olá!"]
        assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
        assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [4]
        assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1

    def test_an_asynchronous_stream_works(self, base_url: str) -> None:
        async def ask(client: openai.AsyncOpenAI, prompt: str) -> str:
            messages: Any = [{"role": "user", "content": prompt}]
            stream = await client.chat.completions.create(
                model="mock-1", messages=messages, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        async def ask_all() -> list[str]:
            async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY) as client:
                return await asyncio.gather(*(ask(client, prompt) for prompt in ("um", "dois")))

        assert asyncio.run(ask_all()) == ["You said: um", "You said: dois"]

    def test_the_stream_helper_assembles_the_answer(self, client: OpenAI) -> None:
        with client.chat.completions.stream(model="mock-1", messages=HELLO) as stream:
            text = "".join(event.delta for event in stream if event.type == "content.delta")
            final = stream.get_final_completion()
        assert text == final.choices[0].message.content == "You said: Olá!"

    def test_a_tool_is_called_and_its_result_sent_back(
        self, client: OpenAI, vendor: StubVendor
    ) -> None:
        answer_with(vendor, "tool_calls", content=None, tool_calls=[CALL])
        answer_with(vendor, "stop", content="18 °C.")
        asked = client.chat.completions.create(model="model-1", messages=HELLO, tools=TOOLS)
        message = asked.choices[0].message
        assert message.tool_calls
        assert message.tool_calls[0].to_dict() == CALL
        result = {"role": "tool", "tool_call_id": "call_1", "content": "18"}
        answer = client.chat.completions.create(
            model="model-1",
            messages=[*HELLO, message, result],
            tools=TOOLS,
        )
        assert answer.choices[0].message.content == "18 °C."
        first, second = (request.json for request in vendor.requests)
        assert first["tools"] == second["tools"] == TOOLS
        called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        assert second["messages"] == [*HELLO, called, result]

    def test_a_tool_call_may_be_streamed(self, client: OpenAI, vendor: StubVendor) -> None:
        stream_tool_call(vendor)
        with client.chat.completions.stream(
            model="model-1",
            messages=HELLO,
            tools=TOOLS,
            stream_options={"include_usage": True},
        ) as stream:
            final = stream.get_final_completion()
        [choice] = final.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls
        assert choice.message.tool_calls[0].id == "call_1"
        assert choice.message.tool_calls[0].function.arguments == '{"city":"Lisboa"}'
        assert final.usage
        assert final.usage.total_tokens == 14
        assert vendor.requests[0].json["tools"] == TOOLS

    def test_an_image_reaches_the_vendor(self, client: OpenAI, vendor: StubVendor) -> None:
        messages: Any = [
            {"role": "user", "content": [{"type": "text", "text": "What is it?"}, IMAGE]}
        ]
        answer = client.chat.completions.create(model="model-1", messages=messages)
        assert answer.choices[0].message.content == "Hello from the stand-in."
        assert vendor.requests[0].json["messages"] == messages

    def test_an_answer_may_be_parsed_into_a_class(self, client: OpenAI, vendor: StubVendor) -> None:
        class Weather(BaseModel):
            city: str
            celsius: int

        answer_with(vendor, "stop", content='{"city":"Lisboa","celsius":18}')
        answer = client.chat.completions.parse(
            model="model-1", messages=HELLO, response_format=Weather
        )
        assert answer.choices[0].message.parsed == Weather(city="Lisboa", celsius=18)
        asked = vendor.requests[0].json["response_format"]
        assert (asked["type"], asked["json_schema"]["name"]) == ("json_schema", "Weather")

    def test_an_idempotency_key_gives_the_same_answer_again(self, client: OpenAI) -> None:
        headers = {"Idempotency-Key": "key-of-the-sdk"}
        first, second = (
            client.chat.completions.with_raw_response.create(
                model="mock-1", messages=HELLO, extra_headers=headers
            )
            for _ in range(2)
        )
        assert first.parse() == second.parse()
        assert second.headers["Idempotency-Replayed"] == "true"

    def test_models_are_listed_and_looked_up_with_slashes(self, client: OpenAI) -> None:
        listed = {model.id: model.owned_by for model in client.models.list()}
        assert listed == {
            "mock-1": "mock",
            "gemini-1": "gemini",
            "model-1": "openai",
            "vendor/model-2": "openai",
        }
        assert client.models.retrieve("vendor/model-2").id == "vendor/model-2"

    def test_a_model_with_a_slash_answers(self, client: OpenAI, vendor: StubVendor) -> None:
        client.chat.completions.create(model="vendor/model-2", messages=HELLO)
        assert vendor.requests[0].json["model"] == "vendor/model-2"


class TestOpenAIErrors:
    def test_a_wrong_key_is_an_authentication_error(self, base_url: str) -> None:
        with (
            OpenAI(base_url=base_url, api_key="sk-wrong") as client,
            pytest.raises(openai.AuthenticationError) as caught,
        ):
            client.chat.completions.create(model="mock-1", messages=HELLO)
        assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")
        assert caught.value.request_id

    @pytest.mark.parametrize("stream", [False, True])
    def test_an_invalid_request_is_a_bad_request(self, client: OpenAI, stream: bool) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="mock-1", messages=HELLO, n=2, stream=stream)
        error = caught.value
        assert (error.code, error.param, error.type) == (
            "invalid_value",
            "n",
            "invalid_request_error",
        )

    def test_a_parameter_the_provider_lacks_is_a_bad_request(self, client: OpenAI) -> None:
        with pytest.raises(
            openai.BadRequestError, match="gemini does not support this field"
        ) as caught:
            client.chat.completions.create(
                model="gemini-1", messages=HELLO, logit_bias={"50256": -100}
            )
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "logit_bias")

    def test_an_unknown_model_is_not_found(self, client: OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as asked:
            client.chat.completions.create(model="gpt-unknown", messages=HELLO)
        with pytest.raises(openai.NotFoundError) as looked_up:
            client.models.retrieve("vendor/gpt-unknown")
        assert asked.value.code == looked_up.value.code == "model_not_found"

    def test_unsupported_endpoints_are_not_found(self, client: OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            client.embeddings.create(model="mock-1", input="Olá!")
        assert caught.value.code == "unknown_url"

    def test_a_failed_vendor_is_not_retried_by_the_client(
        self, client: OpenAI, server: Server
    ) -> None:
        messages: Any = [{"role": "user", "content": "mock:fail=garbled"}]
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="mock-1", messages=messages, user="unlucky")
        assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")
        assert len(records(server, "unlucky")) == 1

    def test_a_stream_that_breaks_off_raises(self, client: OpenAI) -> None:
        messages: Any = [{"role": "user", "content": "mock:break and go"}]
        stream = client.chat.completions.create(model="mock-1", messages=messages, stream=True)
        with stream, pytest.raises(openai.APIError, match="broke off") as caught:
            list(stream)
        assert caught.value.code == "upstream_error"

    def test_the_client_waits_for_the_rate_limit_and_is_answered(
        self, client: OpenAI, server: Server, base_url: str
    ) -> None:
        for _ in range(5):  # a busy machine may miss the end of the window
            end, user = _user_whose_minute_ends_soon()
            body = {"model": "mock-1", "messages": HELLO, "user": user}
            with httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as spender:
                for _ in range(LIMIT):
                    spender.post(f"{base_url}/chat/completions", json=body)
            if time.time() < end - 3:
                break
        with pytest.raises(openai.RateLimitError) as caught:
            client.with_options(max_retries=0).chat.completions.create(**body)
        assert (caught.value.type, caught.value.code) == ("requests", "rate_limit_exceeded")
        answer = client.chat.completions.with_raw_response.create(**body)
        assert answer.status_code == 200
        assert answer.retries_taken > 0
        assert len(records(server, user)) == LIMIT + 1


def _user_whose_minute_ends_soon() -> tuple[int, str]:
    """Return the end of a rate-limit window that ends in a few seconds, and its user."""
    key_id = hashlib.sha256(KEY.encode()).hexdigest()[:16]
    users = (f"user-{number}" for number in range(1000))
    now = time.time()
    ends = ((rate_limit_window_end(user, key_id), user) for user in users)
    return min((end, user) for end, user in ends if end > now + 6)


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"18 °C in {city}"


class TestLangChain:
    @pytest.fixture
    def model(self, base_url: str) -> ChatOpenAI:
        return ChatOpenAI(base_url=base_url, api_key=SecretStr(KEY), model="mock-1")

    @pytest.fixture
    def vendors(self, base_url: str, vendor: StubVendor) -> ChatOpenAI:
        return ChatOpenAI(
            base_url=base_url, api_key=SecretStr(KEY), model="model-1", stream_usage=True
        )

    def test_an_answer_is_given_with_its_usage(self, model: ChatOpenAI) -> None:
        answer = model.invoke([SystemMessage("Be kind."), HumanMessage("Olá!")])
        assert answer.text == "You said: Olá!"
        assert answer.usage_metadata
        assert (answer.usage_metadata["input_tokens"], answer.usage_metadata["total_tokens"]) == (
            3,
            6,
        )
        assert answer.response_metadata["finish_reason"] == "stop"
        assert answer.response_metadata["model_name"] == "mock-1"

    def test_a_stream_adds_up(self, model: ChatOpenAI) -> None:
        chunks = list(model.stream("Olá!", stream_usage=True))
        assert [chunk.text for chunk in chunks if chunk.text] == ["You", " said:", " Olá!"]
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        assert whole.response_metadata["finish_reason"] == "stop"
        assert whole.usage_metadata
        assert whole.usage_metadata["total_tokens"] == 4

    def test_an_asynchronous_stream_adds_up(self, model: ChatOpenAI) -> None:
        async def ask() -> str:
            return "".join([chunk.text async for chunk in model.astream("Olá!")])

        assert asyncio.run(ask()) == "You said: Olá!"

    def test_a_tool_is_called_and_its_result_sent_back(
        self, vendors: ChatOpenAI, vendor: StubVendor
    ) -> None:
        answer_with(vendor, "tool_calls", content=None, tool_calls=[CALL])
        answer_with(vendor, "stop", content="18 °C.")
        question = HumanMessage("Olá!")
        bound = vendors.bind_tools([weather])
        asked = bound.invoke([question])
        assert isinstance(asked, AIMessage)
        [call] = asked.tool_calls
        assert (call["name"], call["args"]) == ("weather", {"city": "Lisboa"})
        result = weather.invoke(call)
        assert isinstance(result, ToolMessage)
        assert bound.invoke([question, asked, result]).text == "18 °C."
        sent = vendor.requests[1].json
        assert [tool["function"]["name"] for tool in sent["tools"]] == ["weather"]
        assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "tool"]
        assert sent["messages"][1]["tool_calls"][0]["id"] == "call_1"
        assert sent["messages"][2] == {
            "role": "tool",
            "tool_call_id": "call_1",
            "content": "18 °C in Lisboa",
        }

    def test_a_tool_call_may_be_streamed(self, vendors: ChatOpenAI, vendor: StubVendor) -> None:
        stream_tool_call(vendor)
        chunks = list(vendors.bind_tools([weather]).stream("Olá!"))
        whole: Any = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        [call] = whole.tool_calls
        assert (call["id"], call["args"]) == ("call_1", {"city": "Lisboa"})
        assert whole.usage_metadata["total_tokens"] == 14

    def test_errors_are_those_of_the_sdk(self, model: ChatOpenAI) -> None:
        with pytest.raises(openai.NotFoundError):
            model.invoke("Olá!", model="gpt-unknown")
        with pytest.raises(openai.APIError, match="broke off"):
            list(model.stream("mock:break and go"))


class TestLlm:
    @pytest.fixture
    def environment(self, base_url: str, tmp_path: Path) -> dict[str, str]:
        """Give `llm` its own folder, with this server's model as default."""
        ours = {
            "model_id": "ours",
            "model_name": "mock-1",
            "api_base": base_url,
            "api_key_name": "ours",
        }
        (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([ours]))  # JSON is YAML
        (tmp_path / "keys.json").write_text(json.dumps({"ours": KEY}))
        (tmp_path / "default_model.txt").write_text("ours")
        return {"PATH": os.environ["PATH"], "LLM_USER_PATH": str(tmp_path)}

    def test_prompts_are_answered_plain_and_streamed_and_continued(
        self, environment: dict[str, str]
    ) -> None:
        def llm(*arguments: str) -> tuple[str, str]:
            done = subprocess.run(
                [Path(sys.executable).with_name("llm"), *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout, done.stderr

        streamed, usage = llm("prompt", "--usage", "--system", "Be kind.", "Olá!")
        assert streamed == "You said: Olá!\n"
        assert "3 input, 3 output" in usage
        continued, usage = llm("prompt", "--no-stream", "--continue", "--usage", "E?")
        assert continued == "You said: E?\n"
        assert "7 input, 3 output" in usage  # including the previous turn
