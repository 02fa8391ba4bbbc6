"""Messages of chat completions in the terms of Google's Gemini API.

https://ai.google.dev/api/caching#Content describes contents and their parts, and
https://ai.google.dev/gemini-api/docs/thought-signatures what has to be sent back.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from providers import client_json
from providers.base import INSTRUCTION_ROLES, TEXT_PARTS, Message, content_text
from providers.media import inline_media, is_url, mime_type_of
from providers.parsing import as_list, as_str, get_path
from providers.translation import called_tool, tool_calls

# These models have a thinking budget instead of levels, and no mandatory thought signatures.
BEFORE_GEMINI_3 = re.compile(r"gemini-[12]\.|gemma-")

# Google accepts this instead of a signature, for calls that another model made.
_NO_SIGNATURE = "skip_thought_signature_validator"


class _Calls:
    """The tool calls of a conversation so far. If two have the same id, the newer one counts."""

    def __init__(self) -> None:
        self._count = 0
        self._by_id: dict[str, tuple[int, str]] = {}

    def add(self, call_id: str, function: str) -> None:
        self._count += 1
        self._by_id[call_id] = (self._count, function)

    def number(self, call_id: Any) -> float:
        """Return the number of a call; infinity for an unknown id."""
        return self._by_id.get(as_str(call_id), (math.inf, ""))[0]

    def function(self, call_id: Any) -> str:
        """Return the name of a call's function; empty for an unknown id."""
        return self._by_id.get(as_str(call_id), (0, ""))[1]


def to_instructions(messages: Iterable[Message]) -> Iterator[dict[str, Any]]:
    """Yield the parts of the system instruction, of messages in any place."""
    for message in messages:
        text = content_text(message.get("content"))
        if message.get("role") in INSTRUCTION_ROLES and text.strip():
            yield {"text": text}


def to_contents(messages: Sequence[Message], model: str) -> list[dict[str, Any]]:
    """Return the messages. Consecutive messages of one role become one content.

    Blank ones, such as empty answers, are left out, because Gemini refuses them. A blank last turn
    stays: without it the model would continue its own answer. Tool results form a content of their
    own, because their number must equal that of the calls.
    """
    contents: list[dict[str, Any]] = []
    calls = _Calls()
    places: dict[int, float] = {}  # of the results, by the `id()` of their part
    previous = None
    for message in messages:
        role = message.get("role")
        if role in INSTRUCTION_ROLES:
            continue
        if role == "assistant":
            parts = _answer_parts(message, model, calls)
        elif role in ("tool", "function"):
            parts = [_function_response(message, calls)]
            if role == "tool":
                places[id(parts[0])] = calls.number(message.get("tool_call_id"))
        else:
            parts = _parts(message.get("content"))
        if parts and role == previous:
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"role": "model" if role == "assistant" else "user", "parts": parts})
            previous = role
    for content in contents:
        # Results go in the order of their calls, as some models do not read the ids.
        content["parts"].sort(key=lambda part: places.get(id(part), 0))
    last = messages[-1]
    if last.get("role") == "user" and (not contents or contents[-1]["role"] == "model"):
        blank = {"text": content_text(last.get("content"))}
        contents.append({"role": "user", "parts": [blank]})
    return contents


def unsupported_parts(messages: Iterable[Message]) -> Iterator[str]:
    """Yield the names of the content parts that Gemini does not take."""
    for message in messages:
        if message.get("audio"):
            yield "audio"
        for part in as_list(message.get("content")):
            translated = _part(part)
            if translated is None and get_path(part, "file", "file_id"):
                yield "file_id"
            elif translated is None or not _has_place(translated, message.get("role")):
                yield as_str(part.get("type")) or "content"


def _has_place(part: dict[str, Any], role: Any) -> bool:
    if role in INSTRUCTION_ROLES:
        return "text" in part
    return role not in ("tool", "function") or "fileData" not in part


def _answer_parts(message: Message, model: str, calls: _Calls) -> list[dict[str, Any]]:
    """Return the parts of an assistant's message. Adds its calls to `calls`.

    In an answer without calls, Google puts the thought signature on the text. Nothing else of the
    thoughts must be sent back.
    """
    parts = [*_parts(message.get("content")), *_parts(message.get("refusal"))]
    own = tool_calls(message)
    if (signature := _signature(message)) and (parts or own):
        parts = parts or [{"text": ""}]
        parts[-1] = {**parts[-1], "thoughtSignature": signature}
    for image in as_list(message.get("images")):
        if part := _part(image):
            parts.append(_signed(part, _signature(image)))
    for number, call in enumerate(own):
        part = _function_call(call)
        calls.add(as_str(call.get("id")), part["functionCall"].get("name", ""))
        # Only the first one of parallel calls has a signature.
        default = "" if number or BEFORE_GEMINI_3.match(model) else _NO_SIGNATURE
        parts.append(_signed(part, _signature(call) or default))
    return parts


def _signature(carrier: Mapping[str, Any]) -> str:
    return as_str(get_path(carrier.get("extra_content"), "google", "thought_signature"))


def _signed(part: dict[str, Any], signature: str) -> dict[str, Any]:
    return {**part, "thoughtSignature": signature} if signature else part


def _function_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call. Raises RequestRejected."""
    name, arguments = called_tool(call)
    fields = {"id": call.get("id"), "name": name, "args": arguments}
    return {"functionCall": {key: value for key, value in fields.items() if value is not None}}


def _function_response(message: Message, calls: _Calls) -> dict[str, Any]:
    """Return the result of a tool call. Gemini takes an object; a text becomes its `result`."""
    call_id = message.get("tool_call_id")
    text = content_text(message.get("content"))
    result = client_json.parse_object(text)
    media = [part for part in _parts(message.get("content")) if "text" not in part]
    fields = {
        "id": call_id,
        "name": calls.function(call_id) or message.get("name") or call_id,
        "response": {"result": text} if result is None else result,
        "parts": media or None,
    }
    return {"functionResponse": {key: value for key, value in fields.items() if value is not None}}


def _parts(content: Any) -> list[dict[str, Any]]:
    """Return the parts of a message's content, without blank text."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    translated = [part for part in map(_part, as_list(content)) if part]
    return [part for part in translated if "text" not in part or part["text"].strip()]


def _part(part: Any) -> dict[str, Any] | None:
    """Return a content part in Gemini's terms; None for one that it does not take."""
    kind = as_str(get_path(part, "type"))
    value = get_path(part, kind)
    if kind in TEXT_PARTS:
        return {"text": as_str(value)}
    if kind in ("image_url", "video_url"):
        return _media(as_str(value) or as_str(get_path(value, "url")))
    if kind == "input_audio":
        kind, data = as_str(get_path(value, "format")), as_str(get_path(value, "data"))
        return _media(f"data:audio/{kind};base64,{data}") if kind else None
    if kind == "file":
        return _media(as_str(get_path(value, "file_data")), as_str(get_path(value, "filename")))
    return None


def _media(address: str, filename: str = "") -> dict[str, Any] | None:
    """Return the content of a data URL (or of base64 with a file name), or a URL as it is."""
    if is_url(address):
        mime_type = mime_type_of(filename or address)
        return {"fileData": {"fileUri": address} | ({"mimeType": mime_type} if mime_type else {})}
    media = inline_media(address, filename)
    return media and {"inlineData": {"mimeType": media.mime_type, "data": media.data}}
