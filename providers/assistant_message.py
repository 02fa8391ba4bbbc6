"""The assistant's message of a chat completion: its text and tool calls, whole or streamed."""

import re
from typing import Any

from providers.parsing import as_list, as_str, clean_text, get_path, token_count

# Servers that do not recognize a local model's thoughts send them as text before the answer.
THINK_START, THINK_END = "<think>", "</think>"
_THOUGHTS = re.compile(r"\A(?:\s*<think>.*?(?:</think>\s*|\Z))+", re.DOTALL)


def visible_text(content: Any) -> str:
    """Return the text of a message's content, without the model's thoughts."""
    return _THOUGHTS.sub("", _content_text(content))


def tool_calls(reported: Any) -> tuple[dict[str, Any], ...]:
    """Return a message's tool calls in one shape, without calls that name no function."""
    calls = []
    for number, call in enumerate(as_list(reported)):
        name, arguments = (
            clean_text(as_str(get_path(call, "function", key))) for key in ("name", "arguments")
        )
        if name:
            function = {"name": name, "arguments": arguments or "{}"}
            call_id = clean_text(as_str(get_path(call, "id"))) or f"call_{number}"
            calls.append({"id": call_id, "type": "function", "function": function})
    return tuple(calls)


class StreamAccumulator:
    """Rebuild the body of a chat completion from the chunks of its stream.

    `finished` is whether the end of the answer has arrived.
    """

    def __init__(self) -> None:
        self.finished = False
        self._pieces: list[str] = []
        self._buffer: str | None = ""
        self._dropped_thoughts = False
        self._finish_reason: str | None = None
        self._model: Any = None
        self._usage: Any = None
        self._refused = False
        self._calls: dict[int, dict[str, Any]] = {}

    def add(self, chunk: dict[str, Any]) -> str:
        """Add a chunk. Return its visible text, which may be empty.

        A repeated model or usage replaces the one before; Groq has its own place for the usage.
        """
        self._model = chunk.get("model") or self._model
        self._usage = chunk.get("usage") or get_path(chunk, "x_groq", "usage") or self._usage
        choice = get_path(chunk, "choices", 0)
        delta = get_path(choice, "delta")
        if finish_reason := as_str(get_path(choice, "finish_reason")):
            self._finish_reason = self._finish_reason or finish_reason
            self.finished = True
        self._refused = self._refused or bool(get_path(delta, "refusal"))
        for call in as_list(get_path(delta, "tool_calls")):
            self._add_call(call)
        text = self._visible(clean_text(_content_text(get_path(delta, "content"))))
        self._pieces.append(text)
        return text

    @property
    def text(self) -> str:
        """The visible text so far."""
        return "".join(self._pieces)

    def body(self) -> dict[str, Any]:
        """Return the chunks so far in the shape of an answer that was not streamed."""
        message = {
            "content": self.text or self._buffer,
            "refusal": self._refused,
            "tool_calls": [call for _, call in sorted(self._calls.items())],
        }
        choice = {"message": message, "finish_reason": self._finish_reason}
        return {"model": self._model, "usage": self._usage, "choices": [choice]}

    def _add_call(self, delta: Any) -> None:
        """Add a delta of a tool call. The first one has the name, later ones add arguments."""
        index = token_count(get_path(delta, "index"))
        if index is None:  # some servers send each call whole, without an index
            index = len(self._calls)
        call = self._calls.setdefault(index, {"id": "", "function": {"name": "", "arguments": ""}})
        call["id"] = as_str(get_path(delta, "id")) or call["id"]
        function = call["function"]
        function["name"] = as_str(get_path(delta, "function", "name")) or function["name"]
        function["arguments"] += as_str(get_path(delta, "function", "arguments"))

    def _visible(self, piece: str) -> str:
        """Return the text to show now.

        Thoughts before the answer are dropped. Text that may be the start of thoughts is kept in
        the buffer, which is None once the answer has begun.
        """
        if self._buffer is None:
            return piece
        self._buffer += piece
        while (text := self._buffer.lstrip()).startswith(THINK_START):
            _, end, rest = text.partition(THINK_END)
            if not end:
                return ""
            self._buffer, self._dropped_thoughts = rest, True
        if self._dropped_thoughts:
            self._buffer = text
        if THINK_START.startswith(text):
            return ""
        visible, self._buffer = self._buffer, None
        return visible


def _content_text(content: Any) -> str:
    """Return the text of a content: a string, an array of parts, or null."""
    if isinstance(content, list):
        parts = [part for part in content if get_path(part, "type") == "text"]
        content = "".join(as_str(part.get("text")) for part in parts)
    return as_str(content)
