"""Python's clients against the mock, an OpenAI-compatible vendor, Gemini and Bedrock."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, NotFoundError, OpenAI
from pydantic import BaseModel, SecretStr
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.conftest import BEDROCK, GEMINI, MOCK, MODELS, OPENAI, PROMPT
from tests.clients.stub_model import CITIES, SIGNATURE, THOUGHT
from tests.factories import KEY
from tests.stub_vendor import StubVendor

RESULTS = [f"18 °C in {city}" for city in CITIES]


class Forecast(BaseModel):
    city: str
    celsius: int


def weather(city: str) -> str:
    """The weather in a city."""
    return f"18 °C in {city}"


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "strict": True, "parameters": SCHEMA}}
]
FLAT_TOOL = {"type": "function", "name": "weather", "strict": True, "parameters": SCHEMA}

plain_and_streamed = pytest.mark.parametrize("streamed", [False, True])
all_models = pytest.mark.parametrize("model", MODELS)
# A client that leaves out a message's `reasoning_content` cannot use the reasoner with tools.
no_reasoner = pytest.mark.parametrize("model", [MOCK, OPENAI, GEMINI, BEDROCK])


class TestOpenAI:
    @pytest.fixture
    def client(self, base_url: str) -> Iterator[OpenAI]:
        with OpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
            yield client

    @all_models
    @plain_and_streamed
    def test_an_agent_calls_two_tools_at_once(
        self, client: OpenAI, vendor: StubVendor, model: str, streamed: bool
    ) -> None:
        def ask() -> Any:
            options: Any = {"model": model, "messages": messages, "tools": TOOLS}
            if not streamed:
                return client.chat.completions.create(**options).choices[0].message
            with client.chat.completions.stream(**options) as stream:
                return stream.get_final_completion().choices[0].message

        messages: list[Any] = [{"role": "user", "content": PROMPT}]
        called = ask()
        messages.append(called)
        for call in called.tool_calls:
            content = weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
        answer = ask()
        assert all(result in answer.content for result in RESULTS)
        if model == GEMINI:
            calling = vendor.requests[1].json["contents"][1]["parts"]
            assert [part.get("thoughtSignature") for part in calling] == [SIGNATURE, None]

    @all_models
    @plain_and_streamed
    def test_an_answer_is_parsed_and_has_its_thoughts(
        self, client: OpenAI, model: str, streamed: bool
    ) -> None:
        options: Any = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT}],
            "response_format": Forecast,
            "reasoning_effort": "low",
        }
        if streamed:
            with client.chat.completions.stream(**options) as stream:
                deltas = [event.chunk for event in stream if event.type == "chunk"]
                message: Any = stream.get_final_completion().choices[0].message
            pieces = (getattr(chunk.choices[0].delta, "reasoning_content", "") for chunk in deltas)
            assert "".join(piece or "" for piece in pieces) == THOUGHT
        else:
            message = client.chat.completions.parse(**options).choices[0].message
        assert isinstance(message.parsed, Forecast)
        assert message.reasoning_content == THOUGHT


class TestResponses:
    """openai-python's `responses`."""

    @pytest.fixture
    def client(self, base_url: str) -> Iterator[OpenAI]:
        with OpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
            yield client

    @all_models
    @plain_and_streamed
    @pytest.mark.parametrize("stored", [True, False])
    def test_an_agent_calls_two_tools_at_once(
        self, client: OpenAI, vendor: StubVendor, model: str, streamed: bool, stored: bool
    ) -> None:
        def ask(items: list[Any], **fields: Any) -> Any:
            request: Any = {"model": model, "tools": [FLAT_TOOL], "input": items, **fields}
            if not streamed:
                return client.responses.create(**request)
            with client.responses.stream(**request) as stream:
                for event in stream:
                    assert event.type != "error"
                return stream.get_final_response()

        stateless = {"store": False, "include": ["reasoning.encrypted_content"]}
        items: list[Any] = [{"role": "user", "content": PROMPT}]
        called = ask(items, **({} if stored else stateless))
        results: list[Any] = [
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": weather(**json.loads(call.arguments)),
            }
            for call in called.output
            if call.type == "function_call"
        ]
        if stored:
            answer = ask(results, previous_response_id=called.id)
        else:
            answer = ask([*items, *called.output, *results], **stateless)
        assert all(result in answer.output_text for result in RESULTS)
        if model == GEMINI:
            assert SIGNATURE in vendor.requests[-1].body.decode()

    @all_models
    @plain_and_streamed
    def test_an_answer_is_parsed(self, client: OpenAI, model: str, streamed: bool) -> None:
        request: Any = {"model": model, "input": PROMPT, "text_format": Forecast}
        request["reasoning"] = {"effort": "low"}
        if streamed:
            with client.responses.stream(**request) as stream:
                stream.until_done()
                answer = stream.get_final_response()
        else:
            answer = client.responses.parse(**request)
        assert isinstance(answer.output_parsed, Forecast)
        [reasoning] = [item for item in answer.output if item.type == "reasoning"]
        assert [part.text for part in reasoning.summary] == [THOUGHT]

    def test_a_response_is_retrieved_and_deleted(self, client: OpenAI) -> None:
        answer = client.responses.create(model=MOCK, input="Hi")
        assert client.responses.retrieve(answer.id).output_text == "You said: Hi"
        [item] = client.responses.input_items.list(answer.id)
        assert item.type == "message"
        client.responses.delete(answer.id)
        with pytest.raises(NotFoundError):
            client.responses.retrieve(answer.id)


class TestLangChain:
    @pytest.fixture
    def chat(self, base_url: str, model: str) -> ChatOpenAI:
        return ChatOpenAI(base_url=base_url, api_key=SecretStr(KEY), model=model)

    @no_reasoner
    @plain_and_streamed
    def test_an_agent_calls_two_tools_at_once(self, chat: ChatOpenAI, streamed: bool) -> None:
        def ask() -> Any:
            if not streamed:
                return bound.invoke(messages)
            first, *others = bound.stream(messages)
            return sum(others, first)

        bound = chat.bind_tools([weather])
        messages: list[Any] = [HumanMessage(PROMPT)]
        called = ask()
        assert isinstance(called, AIMessage)
        messages += [called, *(tool(weather).invoke(call) for call in called.tool_calls)]
        assert all(result in ask().text for result in RESULTS)

    @all_models
    @pytest.mark.parametrize("method", ["json_schema", "function_calling"])
    def test_an_answer_is_parsed(self, chat: ChatOpenAI, method: Any) -> None:
        answer = chat.with_structured_output(Forecast, method=method).invoke("Lisboa?")
        assert isinstance(answer, Forecast)


class TestPydanticAI:
    @pytest.fixture
    def run(self, base_url: str, model: str) -> Callable[..., Any]:
        """A function that runs an agent, and returns its output."""

        async def run(prompt: str, *, streamed: bool = False, **options: Any) -> Any:
            async with AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
                chat = OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client))
                agent = Agent(chat, **options)
                if not streamed:
                    return (await agent.run(prompt)).output
                async with agent.run_stream(prompt) as result:
                    return await result.get_output()

        return lambda *arguments, **options: asyncio.run(run(*arguments, **options))

    @all_models
    @plain_and_streamed
    def test_an_agent_calls_two_tools_at_once(
        self, run: Callable[..., Any], streamed: bool
    ) -> None:
        answer = run(PROMPT, streamed=streamed, tools=[weather])
        assert all(result in answer for result in RESULTS)

    @all_models
    @pytest.mark.parametrize("output", [Forecast, NativeOutput(Forecast)])
    def test_an_answer_is_parsed(self, run: Callable[..., Any], output: Any) -> None:
        assert isinstance(run("Lisboa?", output_type=output), Forecast)


# With `-responses`, `llm` asks by the Responses API.
LLM_MODELS = [f"{model}{by}" for model in (OPENAI, GEMINI, BEDROCK) for by in ("", "-responses")]


class TestLlm:
    @pytest.fixture
    def run(self, base_url: str, tmp_path: Path) -> Any:
        """A function that runs `llm` in a folder of its own, with this server's models."""
        models = [
            {
                "model_id": f"our-{model}",
                "model_name": model,
                "api_base": base_url,
                "api_key_name": "ours",
                "supports_tools": True,
                "supports_schema": True,
            }
            for model in (OPENAI, GEMINI, BEDROCK)
        ]
        models += [
            {**each, "model_id": f"{each['model_id']}-responses", "responses": True}
            for each in models
        ]
        (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML
        (tmp_path / "keys.json").write_text(json.dumps({"ours": KEY}))

        def llm(*arguments: str) -> str:
            done = subprocess.run(
                [Path(sys.executable).with_name("llm"), *arguments],
                env={"PATH": os.environ["PATH"], "LLM_USER_PATH": str(tmp_path)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        return llm

    @pytest.mark.parametrize("model", LLM_MODELS)
    def test_two_tools_are_called_at_once(self, run: Any, model: str) -> None:
        source = 'def weather(city: str) -> str:\n    return f"18 °C in {city}"'
        answer = run("-m", f"our-{model}", "--functions", source, PROMPT)
        assert all(result in answer for result in RESULTS)

    @pytest.mark.parametrize("model", LLM_MODELS)
    def test_an_answer_has_the_schema(self, run: Any, model: str) -> None:
        answer = run("-m", f"our-{model}", "--schema", "city, celsius int", "Lisboa?")
        Forecast.model_validate_json(answer)
