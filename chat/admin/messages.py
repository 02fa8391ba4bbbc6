"""Messages in OpenAI's terms, as the admin's pages show them."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chat.storage.base import InteractionRecord
from providers.base import (
    INSTRUCTION_ROLES,
    REASONING_FIELDS,
    Message,
    content_text,
    reasoning_text,
)
from providers.parsing import as_objects

# Images that browsers show and the Content-Security-Policy allows. Pages load no foreign images.
IMAGE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
# A data URL of an image would fill the page.
MAX_STRING = 2000
# Message fields that the page shows separately.
PLACED = {"role", "content", "tool_calls", "images", "refusal", *REASONING_FIELDS}


def new_messages(messages: Sequence[Message]) -> list[Message]:
    """Return the messages after the last answer, without instructions."""
    roles = [message.get("role") for message in messages]
    last = max((n for n, role in enumerate(roles) if role == "assistant"), default=-1)
    return [each for each in messages[last + 1 :] if each.get("role") not in INSTRUCTION_ROLES]


def show_answer(record: InteractionRecord) -> dict[str, Any]:
    """Return the model's answer."""
    said = {**record.message, "content": record.response, "tool_calls": list(record.tool_calls)}
    return show_message({"role": "assistant", **said})


def show_message(message: Message, *, thumbnails: bool = True) -> dict[str, Any]:
    """Return the context of a message for the template message.html."""
    content = message.get("content")
    parts = as_objects(content)
    text, refusal = content_text(content), message.get("refusal")
    others: dict[str, Any] = {name: message[name] for name in message.keys() - PLACED}
    if rest := [part for part in parts if part.get("type") not in ("text", "refusal", "image_url")]:
        others["content"] = rest
    return {
        "role": message.get("role"),
        "text": "" if text == refusal else text,
        "refusal": refusal,
        "reasoning": reasoning_text(message),
        "calls": [_call(call) for call in as_objects(message.get("tool_calls"))],
        "images": _images([*parts, *as_objects(message.get("images"))], thumbnails=thumbnails),
        "others": pretty_json(others) if any(others.values()) else "",
    }


def _images(parts: Iterable[Mapping[str, Any]], *, thumbnails: bool) -> list[tuple[str, bool]]:
    """Return the addresses of images, and whether to show the image: others are shortened."""
    values = [part.get("image_url") for part in parts]
    urls = [value.get("url") if isinstance(value, Mapping) else value for value in values]
    return [
        (url, True) if thumbnails and IMAGE.fullmatch(url) else (_shorten(url), False)
        for url in urls
        if isinstance(url, str)
    ]


def pretty_json(value: Any) -> str:
    """Return JSON for readers: indented, with long strings shortened."""
    return json.dumps(_shorten(value), indent=2, ensure_ascii=False)


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return name and arguments of a call of a function or a custom tool."""
    called = call.get("custom") or call.get("function")
    called = called if isinstance(called, Mapping) else {}
    return {"name": called.get("name"), "arguments": called.get("arguments", called.get("input"))}


def _shorten(value: Any) -> Any:
    match value:
        case str() if len(value) > MAX_STRING:
            return f"{value[:100]}… ({len(value):,} characters)"
        case list() | tuple():
            return [_shorten(each) for each in value]
        case dict():
            return {name: _shorten(each) for name, each in value.items()}
    return value
