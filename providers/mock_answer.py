"""The mock's words: texts, JSON for a schema and tool calls."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple
from uuid import uuid4

from providers.base import CompletionRequest, content_text
from providers.parsing import as_items, as_list, as_str, clean_text, get_path
from providers.schema_sample import sample

# The number of the prompt's characters that a made-up string repeats at most.
MAX_SAMPLE_CHARACTERS = 100

_WORD = re.compile(r"\s*\S+|\s+\Z")


class PromptedCall(NamedTuple):
    """A tool call in the prompt. If it has no arguments, the mock makes them up."""

    name: str
    arguments: str | None


def prompt(request: CompletionRequest) -> str:
    """Return the text of the user's last message, and the number of its images."""
    users = (message for message in reversed(request.messages) if message.get("role") == "user")
    content = next(users, {}).get("content")
    text = clean_text(content_text(content))
    images = sum(get_path(part, "type") == "image_url" for part in as_list(content))
    return f"{text} ({images} image{'s' * (images > 1)})" if images else text


def text(request: CompletionRequest, said: str) -> str:
    """Return the answer's text, in the format that the request asks for.

    Strings of JSON for a schema are what was `said`, or what the tools said.
    """
    results = _tool_results(request)
    result = "\n".join(results)
    plain = f"The tool said: {result}" if results else f"You said: {prompt(request)}"
    response_format = request.parameters.get("response_format")
    match get_path(response_format, "type"):
        case "json_schema":
            schema = get_path(response_format, "json_schema", "schema")
            return _made_up(schema, result if results else said)
        case "json_object":
            return _json({"answer": plain})
    return plain


def tool_calls(
    request: CompletionRequest, prompted: Sequence[PromptedCall], said: str
) -> list[dict[str, Any]]:
    """Return the tool calls that the prompt asks for and the request allows, or requires.

    There are none without tools, and none after a tool's result. A tool that the request does not
    have is called all the same: models do that, too.
    """
    tools = _tools(request.parameters)
    if not tools or _tool_results(request):
        return []
    calls = []
    for name, arguments in _chosen(request.parameters, prompted, list(tools)):
        kind, schema = tools.get(name, ("function", None))
        if kind == "custom":
            call = {"name": name, "input": arguments or _sample_text(said)}
        else:
            call = {"name": name, "arguments": arguments or _made_up(_of_object(schema), said)}
        calls.append({"id": f"call_{uuid4().hex}", "type": kind, kind: call})
    return calls


def all_text(message: Mapping[str, Any]) -> str:
    """Return all texts of a message: thoughts, content and the arguments of tool calls."""
    calls = [call[call["type"]] for call in message.get("tool_calls", ())]
    calls += [message["function_call"]] if "function_call" in message else []
    texts = [message.get("reasoning_content", ""), message.get("content", "")]
    return " ".join([*texts, *(call[_text_field(call)] for call in calls)])


def pieces(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the message in pieces of one word, as a stream has them."""
    for name, value in message.items():
        if name == "tool_calls":
            for index, call in enumerate(value):
                kind = call["type"]
                begin = {"id": call["id"], "type": kind}
                for piece in _call_pieces(call[kind]):
                    yield {name: [{"index": index, **begin, kind: piece}]}
                    begin = {}
        else:
            parts = _call_pieces(value) if name == "function_call" else _WORD.findall(value)
            for part in parts:
                yield {name: part}


def _call_pieces(call: dict[str, str]) -> Iterator[dict[str, str]]:
    field = _text_field(call)
    yield {**call, field: ""}
    for word in _WORD.findall(call[field]):
        yield {field: word}


def _text_field(call: dict[str, str]) -> str:
    return "input" if "input" in call else "arguments"


def _tool_results(request: CompletionRequest) -> list[str]:
    """Return the results that follow the model's last turn."""
    results = takewhile(
        lambda message: message.get("role") in ("tool", "function"), reversed(request.messages)
    )
    texts = [clean_text(content_text(message.get("content"))) for message in results]
    return texts[::-1]


def _tools(parameters: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Return the type and the schema of each tool, by its name."""
    functions = [{"function": each} for each in as_list(parameters.get("functions"))]
    tools = {}
    for tool in [*as_list(parameters.get("tools")), *functions]:
        kind = "custom" if get_path(tool, "custom") else "function"
        tools[_tool_name(tool)] = (kind, get_path(tool, kind, "parameters"))
    return tools


def _tool_name(tool: Any) -> str:
    """Return the name of a tool, or of a choice."""
    named = get_path(tool, "function") or get_path(tool, "custom") or tool
    return as_str(get_path(named, "name"))


def _chosen(
    parameters: Mapping[str, Any], prompted: Sequence[PromptedCall], names: list[str]
) -> Sequence[PromptedCall]:
    """Return the calls to make. If a call is required and the prompt has none: the first tool."""
    choice = parameters.get("tool_choice", parameters.get("function_call"))
    if isinstance(choice, dict):
        allowed = choice.get("allowed_tools") or {"mode": "required", "tools": [choice]}
        choice = get_path(allowed, "mode")
        names = [_tool_name(tool) for tool in as_list(get_path(allowed, "tools"))]
        known = set(names)
        prompted = [call for call in prompted if call.name in known]
    if choice == "none":
        return []
    if choice in ("required", "any"):
        prompted = prompted or [PromptedCall(name, None) for name in names[:1]]
    return prompted if parameters.get("parallel_tool_calls", True) else prompted[:1]


def _made_up(schema: Any, said: str) -> str:
    """Return JSON that is valid for the schema: an empty object without one."""
    return _json({} if schema is None else sample(schema, _sample_text(said)))


def _of_object(schema: Any) -> dict[str, Any]:
    """Return the schema of a tool's arguments, as an object even if the schema has no type."""
    return {"type": "object", **dict(as_items(schema))}


def _sample_text(said: str) -> str:
    return said[:MAX_SAMPLE_CHARACTERS].strip() or "text"


def _json(value: Any) -> str:
    return clean_text(json.dumps(value, ensure_ascii=False))
