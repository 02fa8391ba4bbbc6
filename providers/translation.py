"""Read chat completions' messages and parameters, for vendors with a dialect of their own."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from providers import client_json
from providers.base import (
    OPENAI_CALL_FIELDS,
    TEXT_PARTS,
    AnsweredMessage,
    CompletionRequest,
    Message,
)
from providers.errors import RequestRejected
from providers.parsing import as_list, as_str, get_path

# The fields of an object, and those of its own objects.
Fields = Mapping[str, "Fields | None"]
# The known fields of requests. Some are translated. The others are ignored: vendors and SDKs add
# them to answers, which clients send back.
_CALL_EXTRAS: Fields = dict.fromkeys(
    ("index", "extra_content", "cache_control", "provider_specific_fields")
)
_CALL_FIELDS: Fields = {
    **dict.fromkeys(OPENAI_CALL_FIELDS),
    **_CALL_EXTRAS,
    # SDKs add `parsed_arguments`.
    "function": {**dict.fromkeys(("name", "arguments", "parsed_arguments")), **_CALL_EXTRAS},
    "custom": dict.fromkeys(("name", "input")),
}
_MESSAGE_FIELDS: Fields = {
    **dict.fromkeys(("role", "content", "name", "tool_call_id", "cache_control", "refusal")),
    **dict.fromkeys(("annotations", "audio", "images", "extra_content", "citations")),
    **dict.fromkeys(("search_results", "thinking", "thinking_blocks", "provider_specific_fields")),
    **dict.fromkeys(("parsed", "executed_tools", "id", "index", "logprobs", "content_parts")),
    "tool_calls": _CALL_FIELDS,
    "function_call": dict.fromkeys(("name", "arguments")),
}
_REASONING = "reasoning"  # vendors have several fields that begin so
_PART_FIELDS: Fields = {
    **dict.fromkeys(("type", "cache_control", "prompt_cache_breakpoint", "annotations")),
    **dict.fromkeys(("citations", "logprobs", "extra_content", "id", "index")),
}
# OpenAI's Agents SDK for JavaScript repeats the message's fields in its text parts.
_ANSWERED_TEXT_FIELDS: Fields = {**dict.fromkeys(_MESSAGE_FIELDS), **_PART_FIELDS}
# The object of a content part, which has the name of the part's type. `detail` is a hint.
_MEDIA_FIELDS: Fields = {
    "image_url": dict.fromkeys(("url", "detail")),
    "video_url": dict.fromkeys(("url",)),
    "input_audio": dict.fromkeys(("data", "format")),
    "file": dict.fromkeys(("file_data", "file_id", "filename", "detail")),
}
_CHOSEN_TOOL_FIELDS: Fields = {"type": None, "function": {"name": None}}
_PARAMETER_FIELDS: Fields = {
    "tools": {
        **dict.fromkeys(("type", "cache_control")),
        "function": dict.fromkeys(("name", "description", "parameters", "strict", "cache_control")),
    },
    "tool_choice": {
        **_CHOSEN_TOOL_FIELDS,
        "allowed_tools": {"mode": None, "tools": _CHOSEN_TOOL_FIELDS},
    },
    "response_format": {
        "type": None,
        "json_schema": dict.fromkeys(("name", "description", "schema", "strict")),
    },
}

# Parameters that change nothing for such a vendor.
NEUTRAL_PARAMETERS = {
    *("store", "metadata", "user", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention", "stream_options"),
}
# Parameters that all of these vendors support, with some values only.
TAKEN_BY_ALL: dict[str, Callable[[Any], bool]] = {
    "tools": lambda tools: all(get_path(tool, "function", "name") for tool in tools),
    "function_call": lambda choice: choice in ("auto", "none"),
    "logprobs": lambda wanted: wanted is False,
    "top_logprobs": lambda count: count == 0,
}
_EMPTY_IS_A_REQUEST = {"web_search_options"}


def tool_calls(message: Message) -> list[Any]:
    """Return the tool calls of an assistant's message, with that of the legacy field."""
    legacy = message.get("function_call")
    return [*as_list(message.get("tool_calls")), *([{"function": legacy}] if legacy else [])]


def called_tool(call: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the name and the arguments of a tool call.

    Raises RequestRejected for arguments that are not a JSON object.
    """
    if name := get_path(call, "custom", "name"):  # a tool of OpenAI's, whose input is any text
        return name, {"input": get_path(call, "custom", "input")}
    text = get_path(call, "function", "arguments")
    arguments = client_json.parse_object(text) if text else {}
    if arguments is None:
        message = "The arguments of a tool call in the messages are not a JSON object."
        raise RequestRejected(message, reason="tool_call_arguments")
    return get_path(call, "function", "name"), arguments


def unsupported_parameters(
    parameters: Mapping[str, Any], supports: Callable[[str, Any], bool]
) -> Iterator[str]:
    """Yield the names of parameters whose value a vendor does not support.

    Of supported ones, yield the paths of unknown fields: `tools[1].function.foo`. Empty values
    request nothing, and are supported.
    """
    for name, value in parameters.items():
        requested = value not in ([], {}, "") or name in _EMPTY_IS_A_REQUEST
        if requested and not supports(name, value):
            yield name
        else:
            yield from _unknown_inside(name, value, _PARAMETER_FIELDS.get(name))
    if not parameters.get("tools") and parameters.get("tool_choice") not in (None, "auto", "none"):
        yield "tool_choice"


def unsupported_fields(request: CompletionRequest) -> Iterator[str]:
    """Yield the paths of unknown fields in the client's messages: `messages[1].content[0].foo`.

    Messages of earlier turns may have any: another vendor took or wrote them.
    """
    numbers = request.numbers or range(len(request.messages))
    for number, message in zip(numbers, request.messages, strict=True):
        if number is None:
            continue
        if isinstance(message, AnsweredMessage):
            message = message.without_vendor_fields()
        path = f"messages[{number}]"
        yield from _unknown_inside(path, message, _MESSAGE_FIELDS)
        for name in ("content", "images"):
            for place, part in enumerate(as_list(message.get(name))):
                kind = as_str(get_path(part, "type"))
                answered = message.get("role") == "assistant" and kind in TEXT_PARTS
                known = _ANSWERED_TEXT_FIELDS if answered else _PART_FIELDS
                known = {**known, kind: _MEDIA_FIELDS.get(kind)}
                yield from _unknown_inside(f"{path}.{name}[{place}]", part, known)


def _unknown_inside(path: str, value: Any, known: "Fields | None") -> Iterator[str]:
    """Yield the paths of unknown fields that have a value other than an empty one, 0 or false."""
    if known is None:
        return
    for number, each in enumerate(as_list(value)):
        yield from _unknown_inside(f"{path}[{number}]", each, known)
    if isinstance(value, Mapping):
        for name, each in value.items():
            if each and name not in known and not name.startswith(_REASONING):
                yield f"{path}.{name}"
        for name, fields in known.items():
            yield from _unknown_inside(f"{path}.{name}", value.get(name), fields)
