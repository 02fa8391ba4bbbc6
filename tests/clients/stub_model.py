"""A model behind the stub vendor, in the dialects of OpenAI, Gemini and Bedrock.

It reads the request as a real one would, and refuses what real ones refuse:

- Asked with the tool `weather`, it calls it for two cities at once, and answers with the results.
  Any other tool it calls with FORECAST, if there is only one, else the first without arguments.
- A JSON schema is answered with FORECAST.
- With its calls it wants back what belongs to them: Gemini and Bedrock their signatures, the model
  `reasoner` its `reasoning_content`, and all a result for each call, in order.
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from providers.base import content_text
from tests.bedrock_frames import EVENT_STREAM
from tests.stub_bedrock import refusal, request_error, streamed
from tests.stub_vendor import Received, ScriptedResponse, json_response, stream_response

CITIES = ("Lisboa", "Porto")
FORECAST = {"city": "Lisboa", "celsius": 18}
THOUGHT = "Two cities."
HELLO = "Hello from the model."
SIGNATURE = "c2lnbmF0dXJl"
REASONER = "reasoner"
USAGE = (9, 5)


class Refused(Exception):
    """The request is one that the vendor answers with 400."""


def respond(received: Received) -> ScriptedResponse:
    """Answer a request in the dialect of its path."""
    if "/converse" in received.path:
        return _Bedrock(received).response()
    dialect = _Gemini if "enerateContent" in received.path else _OpenAI
    try:
        return dialect(received).response()
    except Refused as exc:
        return json_response({"error": {"message": str(exc), "code": 400}}, status=400)


def _decide(tools: Sequence[str], schema: bool, results: Sequence[str]) -> str | list[Any]:
    """Return a text, or calls: names and arguments."""
    others = [tool for tool in tools if tool != "weather"]
    if "weather" in tools and not results:
        return [("weather", {"city": city}) for city in CITIES]
    if others and (len(others) < len(tools) or not results):
        return [(others[0], FORECAST if len(others) == 1 else {})]
    if schema:
        return json.dumps(FORECAST)
    return f"The tools said: {', '.join(results)}." if results else HELLO


def _check_results(called: Sequence[Any], answered: Sequence[Any]) -> None:
    if list(called) != list(answered):
        raise Refused(f"the calls are {called}, their results {answered}")


class _OpenAI:
    def __init__(self, received: Received) -> None:
        self.body = received.json

    def response(self) -> ScriptedResponse:
        said = _decide(self._tools(), self._has_schema(), self._results())
        message: dict[str, Any] = {"reasoning_content": THOUGHT, "content": None}
        if isinstance(said, str):
            message["content"] = said
        else:
            message["tool_calls"] = [
                {
                    "id": f"call_{len(self.body['messages'])}_{number}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(arguments)},
                }
                for number, (name, arguments) in enumerate(said)
            ]
        finish = "stop" if isinstance(said, str) else "tool_calls"
        if self.body.get("stream"):
            return stream_response([*self._chunks(message, finish)], [0.0] * 100)
        choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}
        return json_response({**self._envelope(), "choices": [choice], "usage": _openai_usage()})

    def _tools(self) -> list[str]:
        return [tool["function"]["name"] for tool in self.body.get("tools", ())]

    def _has_schema(self) -> bool:
        return bool(self.body.get("response_format", {}).get("json_schema", {}).get("schema"))

    def _results(self) -> list[str]:
        """Return the results of the last turn's calls. Raises Refused."""
        messages = self.body["messages"]
        last = list(takewhile(lambda message: message["role"] == "tool", reversed(messages)))[::-1]
        if not last:
            return []
        calling = messages[-len(last) - 1]
        called = [call["id"] for call in calling["tool_calls"]]
        _check_results(called, [result["tool_call_id"] for result in last])
        if self.body["model"] == REASONER and calling.get("reasoning_content") != THOUGHT:
            raise Refused("The `reasoning_content` must be passed back to the API.")
        return [content_text(result["content"]) for result in last]

    def _chunks(self, message: dict[str, Any], finish: str) -> Iterator[bytes]:
        for delta in _deltas(message):
            yield self._chunk([{"index": 0, "delta": delta, "finish_reason": None}])
        yield self._chunk([{"index": 0, "delta": {}, "finish_reason": finish}])
        if self.body.get("stream_options", {}).get("include_usage"):
            yield self._chunk([], usage=_openai_usage())
        yield b"data: [DONE]\n\n"

    def _chunk(self, choices: list[Any], **fields: Any) -> bytes:
        event = {**self._envelope(), "object": "chat.completion.chunk", "choices": choices}
        return _event(event | fields)

    def _envelope(self) -> dict[str, Any]:
        model = self.body["model"]
        return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model}


def _deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": None}
    for name in ("reasoning_content", "content"):
        for word in re.findall(r"\S+\s*", message[name] or ""):
            yield {name: word}
    for index, call in enumerate(message.get("tool_calls", ())):
        function = call["function"]
        yield {"tool_calls": [{"index": index, **call, "function": {**function, "arguments": ""}}]}
        for piece in (function["arguments"][:5], function["arguments"][5:]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _openai_usage() -> dict[str, int]:
    prompt, completion = USAGE
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


class _Gemini:
    def __init__(self, received: Received) -> None:
        self.body = received.json
        self.streams = ":streamGenerateContent" in received.path
        self.config = self.body.get("generationConfig", {})

    def response(self) -> ScriptedResponse:
        said = _decide(self._tools(), "responseJsonSchema" in self.config, self._results())
        parts: list[dict[str, Any]] = []
        if self.config.get("thinkingConfig", {}).get("includeThoughts"):
            parts.append({"text": THOUGHT, "thought": True})
        if isinstance(said, str):
            parts.append({"text": said})
        else:
            parts += [{"functionCall": {"name": name, "args": args}} for name, args in said]
            parts[-len(said)]["thoughtSignature"] = SIGNATURE
        if self.streams:
            return stream_response([*self._chunks(parts)], [0.0] * len(parts))
        return json_response(_gemini_answer(parts, finishReason="STOP"))

    def _tools(self) -> list[str]:
        declared = [
            function
            for tool in self.body.get("tools", ())
            for function in tool["functionDeclarations"]
        ]
        return [function["name"] for function in declared]

    def _results(self) -> list[str]:
        """Return the results of the last turn's calls. Raises Refused."""
        calling, last = [{"parts": []}, *self.body["contents"]][-2:]
        answers = [each["functionResponse"] for each in _having(last, "functionResponse")]
        if not answers:
            return []
        parts = _having(calling, "functionCall")
        calls = [part["functionCall"] for part in parts]
        _check_results(
            [(call["name"], call.get("id")) for call in calls],
            [(answer["name"], answer.get("id")) for answer in answers],
        )
        if not parts[0].get("thoughtSignature"):
            raise Refused("Function call is missing a thought_signature in functionCall parts.")
        return [str(answer["response"].get("result", answer["response"])) for answer in answers]

    def _chunks(self, parts: list[dict[str, Any]]) -> Iterator[bytes]:
        for part in parts[:-1]:
            yield _event(_gemini_answer([part]))
        yield _event(_gemini_answer(parts[-1:], finishReason="STOP"))


def _having(content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [part for part in content["parts"] if name in part]


def _gemini_answer(parts: list[dict[str, Any]], **fields: str) -> dict[str, Any]:
    prompt, completion = USAGE
    return {
        "candidates": [{"content": {"role": "model", "parts": parts}, "index": 0, **fields}],
        "usageMetadata": {
            "promptTokenCount": prompt,
            "candidatesTokenCount": completion,
            "totalTokenCount": prompt + completion,
        },
        "modelVersion": "gemini-3-pro-preview",
    }


class _Bedrock:
    """A Claude that thinks if it is asked to."""

    def __init__(self, received: Received) -> None:
        self.received = received
        self.body = received.json
        self.thinks = "thinking" in self.body.get("additionalModelRequestFields", {})

    def response(self) -> ScriptedResponse:
        if error := request_error(self.received):
            return error
        try:
            answer = self._answer()
        except Refused as exc:
            return refusal("ValidationException", 400, {"message": str(exc)})
        if not self.received.path.endswith("-stream"):
            return json_response(answer)
        frames = streamed(answer)
        return stream_response(frames, [0.0] * len(frames), EVENT_STREAM)

    def _answer(self) -> dict[str, Any]:
        said = _decide(self._tools(), "outputConfig" in self.body, self._results())
        content: list[dict[str, Any]] = []
        if self.thinks:
            thought = {"text": THOUGHT, "signature": SIGNATURE}
            content.append({"reasoningContent": {"reasoningText": thought}})
        if isinstance(said, str):
            content.append({"text": said})
        else:
            turn = len(self.body["messages"])
            content += [
                {
                    "toolUse": {
                        "toolUseId": f"tooluse_{turn}_{number}",
                        "name": name,
                        "input": input_,
                    }
                }
                for number, (name, input_) in enumerate(said)
            ]
        prompt, completion = USAGE
        return {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": "end_turn" if isinstance(said, str) else "tool_use",
            "usage": {
                "inputTokens": prompt,
                "outputTokens": completion,
                "totalTokens": prompt + completion,
            },
            "metrics": {"latencyMs": 7},
        }

    def _tools(self) -> list[str]:
        tools = self.body.get("toolConfig", {}).get("tools", ())
        return [tool["toolSpec"]["name"] for tool in tools]

    def _results(self) -> list[str]:
        """Return the results of the last turn's calls. Raises Refused."""
        calling, last = [{"content": []}, *self.body["messages"]][-2:]
        results = [block["toolResult"] for block in last["content"] if "toolResult" in block]
        if not results:
            return []
        called = [block["toolUse"] for block in calling["content"] if "toolUse" in block]
        _check_results(
            [call["toolUseId"] for call in called], [result["toolUseId"] for result in results]
        )
        thought = calling["content"][0].get("reasoningContent", {}).get("reasoningText", {})
        if self.thinks and thought.get("signature") != SIGNATURE:
            raise Refused("Expected `thinking` with its signature before `tool_use`.")
        return [block["text"] for result in results for block in result["content"]]


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()
