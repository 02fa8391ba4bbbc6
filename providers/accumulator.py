"""Assemble and repair assistants' messages, in OpenAI's format, from the pieces of a stream.

Clients get the same message from all OpenAI-compatible servers.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from providers.clean_values import SplitText, clean_value
from providers.parsing import as_list, as_objects, as_str, clean_text, get_path
from providers.think_tags import ThinkTags, split_at_lone_end
from providers.tool_calls import ToolCall, ToolCalls, arguments_text

# Strings in these fields are whole in each piece; those in all others are continued.
_WHOLE_STRINGS = {"id", "type", "name", "format", "thought_signature"}
# The field for the content parts that have more than a text. OpenAI has no place for them.
CONTENT_PARTS = "content_parts"
TEXT_TYPES = ("text", "output_text")
# The fields of a part that is only text.
_PLAIN_PART = {"type", "text", "index", "id", "cache_control"}
# Content parts that are thoughts -> their text, or list of texts: Mistral's, Databricks's.
_THOUGHTS = {"thinking": "thinking", "reasoning": "summary"}
# Strings of OpenRouter's `reasoning_details` that are continued.
# All others, such as `format`, are whole in each piece, and would be repeated if joined.
_CONTINUED_STRINGS = {"text", "summary", "data", "signature"}


class Accumulator:
    """Assemble one assistant's message, and repair each piece on its way.

    Once all has been added, `broken_call` is the name of a tool call whose arguments are not whole
    JSON; empty for arguments without a name, None without a broken call.
    """

    def __init__(self) -> None:
        self.broken_call: str | None = None
        self._deltas: list[dict[str, Any]] = []
        self._calls = ToolCalls()
        self._function_call: ToolCall | None = None  # the legacy field
        self._thoughts = ThinkTags()
        self._signed = 0  # content parts
        self._texts: defaultdict[str, SplitText] = defaultdict(SplitText)
        # Those inside objects, by their path.
        self._inner_texts: defaultdict[tuple[str, ...], SplitText] = defaultdict(SplitText)

    @property
    def message(self) -> dict[str, Any]:
        """The message so far, without its role."""
        return joined(self._deltas)

    def add(self, delta: Mapping[str, Any]) -> dict[str, Any]:
        """Add a piece. Return the part that clients may see now, which may be empty."""
        shown: dict[str, Any] = {}
        for name, value in delta.items():
            if value is None or value in ("", [], {}) or name == "role":
                continue
            if name == "content":
                self._add_content(shown, value)
            elif name == "tool_calls":
                if pieces := self._calls.add(value):
                    shown[name] = pieces
            elif name == "function_call":
                self._add_function_call(shown, value)
            elif name == "reasoning_details":
                shown[name] = [self._clean_detail(each) for each in as_list(value)]
            else:
                self._add_field(shown, clean_text(name), value)
        return self._keep(shown)

    def add_text(self, text: str) -> dict[str, Any]:
        """Add a piece of the content. Return the part that clients may see now."""
        shown: dict[str, Any] = {}
        self._show_content(shown, self._texts["content"].add(text))
        return self._keep(shown)

    def add_whole(self, message: Mapping[str, Any]) -> None:
        """Add a message that was not streamed."""
        content = as_str(message.get("content"))
        thoughts, answer = split_at_lone_end(content)
        if answer != content:
            thoughts = as_str(message.get("reasoning_content")) + thoughts
            message = {**message, "reasoning_content": thoughts, "content": answer}
        self.add(message)
        self.finish()

    def finish(self) -> dict[str, Any]:
        """Return the pieces that were held back, and those that complete the message."""
        shown: dict[str, Any] = {}
        for name, text in self._texts.items():
            if name == "content":
                self._show_content(shown, text.finish())
            else:
                _append(shown, name, text.finish())
        thought, visible = self._thoughts.finish()
        _append(shown, "reasoning_content", thought)
        _append(shown, "content", visible)
        pieces, self.broken_call = self._calls.finish()
        if pieces:
            shown["tool_calls"] = pieces
        if call := self._function_call:
            _show_function_call(shown, call.finish())
            if self.broken_call is None and call.broken:
                self.broken_call = call.name
        return self._keep(shown)

    def _keep(self, shown: dict[str, Any]) -> dict[str, Any]:
        if shown:
            self._deltas.append(shown)
        return shown

    def _add_content(self, shown: dict[str, Any], value: Any) -> None:
        """Add content: a string, or a list of parts (Mistral's thoughts, images)."""
        if isinstance(value, str):
            self._show_content(shown, self._texts["content"].add(value))
        for part in as_list(value):
            kind = as_str(get_path(part, "type"))
            if kind in TEXT_TYPES:
                self._show_content(shown, self._texts["content"].add(as_str(part.get("text"))))
                if any(each for name, each in part.items() if name not in _PLAIN_PART):
                    _add_element(shown, CONTENT_PARTS, clean_value(part))
            elif kind == "refusal":
                self._add_text(shown, "refusal", as_str(part.get("refusal")))
            elif kind in _THOUGHTS:
                self._add_thoughts(shown, part, part.get(_THOUGHTS[kind]))
            elif kind == "image_url":
                _add_element(shown, "images", clean_value(part))
            elif kind:
                _add_element(shown, CONTENT_PARTS, clean_value(part))

    def _add_thoughts(self, shown: dict[str, Any], part: dict[str, Any], thoughts: Any) -> None:
        text = _plain_text(thoughts)
        self._add_text(shown, "reasoning_content", text)
        signed = [
            (part, text),
            *((each, as_str(each.get("text"))) for each in as_objects(thoughts)),
        ]
        for each, own in signed:
            if signature := as_str(each.get("signature")):
                detail = {"type": "reasoning.text", "text": own, "signature": signature}
                _add_element(
                    shown, "reasoning_details", clean_value(detail | {"index": self._signed})
                )
                self._signed += 1

    def _add_field(self, shown: dict[str, Any], name: str, value: Any) -> None:
        if isinstance(value, str):
            self._add_text(shown, name, value)
        elif isinstance(value, dict):
            shown[name] = self._clean_object(value, name)
        else:
            shown[name] = clean_value(value)

    def _add_function_call(self, shown: dict[str, Any], value: Any) -> None:
        call = self._function_call or ToolCall(0, "function", vendor_index=None)
        self._function_call = call
        call.name = call.name or clean_text(as_str(get_path(value, "name")))
        _show_function_call(shown, call.add(arguments_text(get_path(value, "arguments")), {}))

    def _show_content(self, shown: dict[str, Any], text: str) -> None:
        thought, visible = self._thoughts.add(text)
        _append(shown, "reasoning_content", thought)
        _append(shown, "content", visible)

    def _add_text(self, shown: dict[str, Any], name: str, value: str) -> None:
        whole = name in _WHOLE_STRINGS
        _append(shown, name, clean_text(value) if whole else self._texts[name].add(value))

    def _clean_detail(self, detail: Any) -> Any:
        if not isinstance(detail, dict):
            return clean_value(detail)
        return self._clean_object(detail, str(detail.get("type")), str(detail.get("index")))

    def _clean_object(self, value: dict[str, Any], *path: str) -> dict[str, Any]:
        """Clean an object whose texts continue in later pieces of the same path."""
        return {
            clean_text(name): self._inner_texts[*path, name].add(each)
            if isinstance(each, str) and name not in _WHOLE_STRINGS
            else clean_value(each)
            for name, each in value.items()
        }


def joined(deltas: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the message that repaired deltas make up, in time proportional to their size."""
    pieces: dict[str, list[Any]] = {}
    for delta in deltas:
        for name, value in delta.items():
            pieces.setdefault(name, []).append(value)
    return {name: _joined_values(name, values) for name, values in pieces.items()}


def _joined_values(name: str, values: list[Any]) -> Any:
    last = values[-1]
    if isinstance(last, str) and name not in _WHOLE_STRINGS:
        return "".join(value for value in values if isinstance(value, str))
    if isinstance(last, list):
        lists = [as_list(value) for value in values]
        if name == "reasoning_details":
            return _joined_details(lists)
        elements = [element for each in lists for element in each]
        return _joined_calls(elements) if name == "tool_calls" else elements
    if isinstance(last, dict):
        return joined(value for value in values if isinstance(value, dict))
    return last


def _joined_calls(pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    calls: dict[int, list[dict[str, Any]]] = {}
    for piece in pieces:
        rest = {name: value for name, value in piece.items() if name != "index"}
        calls.setdefault(piece["index"], []).append(rest)
    return [joined(parts) for _, parts in sorted(calls.items())]


def _joined_details(lists: list[list[Any]]) -> list[Any]:
    """Join the pieces of each detail: of an index, or else the last detail without one.

    Details of one list are different ones: a whole message has them in one.
    """
    groups: list[list[Any]] = []
    latest: dict[Any, list[Any]] = {}
    for elements in lists:
        begun: dict[Any, list[Any]] = {}
        for element in elements:
            index = get_path(element, "index")
            key = None if index is None else (str(get_path(element, "type")), str(index))
            group = latest.pop(key, None)
            if group is None or not _continues(element, group[0]):
                group = []
                groups.append(group)
            group.append(element)
            begun[key] = group
        latest |= begun
    return [group[0] if len(group) == 1 else _merged(group) for group in groups]


def _continues(element: Any, first: Any) -> bool:
    """Return whether a detail continues the one that began so."""
    if not (isinstance(element, dict) and isinstance(first, dict)):
        return False
    ids = {str(each["id"]) for each in (element, first) if each.get("id") is not None}
    same = len(ids) < 2 and element.get("type") == first.get("type")
    return same and (element.get("index") is not None or not _CONTINUED_STRINGS.isdisjoint(element))


def _merged(group: list[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    texts: dict[str, list[str]] = {}
    for element in group:
        for name, value in element.items():
            if name in _CONTINUED_STRINGS and isinstance(value, str):
                texts.setdefault(name, []).append(value)
                merged[name] = value
            elif value is not None or name not in merged:
                merged[name] = value
    return {**merged, **{name: "".join(values) for name, values in texts.items()}}


def _show_function_call(shown: dict[str, Any], piece: dict[str, Any] | None) -> None:
    if piece:
        shown["function_call"] = piece["function"]


def _plain_text(value: Any) -> str:
    """Return a text, or the texts of a list of parts."""
    return as_str(value) or "".join(as_str(get_path(part, "text")) for part in as_list(value))


def _add_element(fields: dict[str, Any], name: str, element: Any) -> None:
    fields[name] = elements = as_list(fields.get(name))
    elements.append(element)


def _append(fields: dict[str, Any], name: str, text: str) -> None:
    if text:
        fields[name] = as_str(fields.get(name)) + text
