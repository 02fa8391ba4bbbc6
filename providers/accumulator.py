"""Assistants' messages in OpenAI's terms, put together from the pieces of a stream, and repaired.

OpenAI-compatible servers number the pieces of tool calls in their own ways, write arguments as
objects, or send a local model's thoughts as text. Clients get the same message from all of them.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any
from uuid import uuid4

import orjson

from providers.parsing import as_list, as_str, clean_text, get_path, identifier

# Servers that do not recognize a local model's thoughts send them as text before the answer.
THINK_START, THINK_END = "<think>", "</think>"
# A chat template that ends with the opening tag leaves only the closing one in the answer.
_UNQUOTED_TAG = re.compile(r"(?<![`'\"])</?think>")

# Strings in these fields are whole in each piece; those in all others are continued.
_WHOLE_STRINGS = {"id", "type", "name", "format", "thought_signature"}
# Content parts that are thoughts -> their text, or list of texts: Mistral's, Databricks's.
_THOUGHTS = {"thinking": "thinking", "reasoning": "summary"}
# Strings of OpenRouter's `reasoning_details` that are continued.
_CONTINUED_STRINGS = {"text", "summary", "data", "signature"}

MAX_DEPTH = 100  # of a value in a value; deeper ones cannot be encoded


class Accumulator:
    """Put together one assistant's message, and repair each piece on its way.

    `broken_call` names a tool call whose arguments are not whole JSON, once all has been added.
    """

    def __init__(self) -> None:
        self.broken_call: str | None = None
        self._deltas: list[dict[str, Any]] = []
        self._calls = _Calls()
        self._function_call: _Call | None = None  # the legacy field
        self._thoughts = _Thoughts()
        self._texts: dict[str, _Text] = {}
        self._inner_texts: dict[tuple[str, ...], _Text] = {}  # inside objects

    @property
    def message(self) -> dict[str, Any]:
        """The message so far, without its role."""
        return joined(self._deltas)

    def add(self, delta: Mapping[str, Any]) -> dict[str, Any]:
        """Add a piece. Return what a client may see of it now, which may be empty."""
        shown: dict[str, Any] = {}
        for name, value in delta.items():
            if value is None or value in ("", [], {}) or name == "role":
                continue
            if name == "content":
                self._add_content(shown, value)
            elif name == "tool_calls":
                if pieces := self._calls.add(as_list(value)):
                    shown[name] = pieces
            elif name == "function_call":
                self._add_function_call(shown, value)
            elif name == "reasoning_details":
                shown[name] = [self._clean_detail(each) for each in as_list(value)]
            elif isinstance(value, str):
                self._add_text(shown, name, value)
            elif isinstance(value, dict):
                shown[name] = self._clean_object(value, name)
            else:
                shown[name] = clean_value(value)
        return self._keep(shown)

    def add_whole(self, message: Mapping[str, Any]) -> None:
        """Add a message that was not streamed."""
        content = as_str(message.get("content"))
        tag = THINK_END in content and _UNQUOTED_TAG.search(content)
        if tag and tag[0] == THINK_END:
            thoughts = as_str(message.get("reasoning_content")) + content[: tag.start()]
            answer = content[tag.end() :].lstrip()
            message = {**message, "reasoning_content": thoughts, "content": answer}
        self.add(message)
        self.finish()

    def finish(self) -> dict[str, Any]:
        """Return what was held back, and what is needed to complete the message."""
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
            self.broken_call = self.broken_call or (None if call.whole else call.name)
        return self._keep(shown)

    def _keep(self, shown: dict[str, Any]) -> dict[str, Any]:
        if shown:
            self._deltas.append(shown)
        return shown

    def _add_content(self, shown: dict[str, Any], value: Any) -> None:
        """Add content: a string, or a list of parts (Mistral's thoughts, images)."""
        if isinstance(value, str):
            self._show_content(shown, self._text("content").add(value))
        for part in as_list(value):
            kind = get_path(part, "type")
            if kind == "text":
                self._show_content(shown, self._text("content").add(as_str(part.get("text"))))
            elif kind == "refusal":
                self._add_text(shown, "refusal", as_str(part.get("refusal")))
            elif kind in _THOUGHTS:
                self._add_text(shown, "reasoning_content", _plain_text(part.get(_THOUGHTS[kind])))
            elif kind == "image_url":
                shown.setdefault("images", []).append(clean_value(part))

    def _add_function_call(self, shown: dict[str, Any], value: Any) -> None:
        call = self._function_call or _Call(0, "function", vendor_index=None)
        self._function_call = call
        call.name = call.name or clean_text(as_str(get_path(value, "name")))
        _show_function_call(shown, call.add(_arguments_text(get_path(value, "arguments")), {}))

    def _show_content(self, shown: dict[str, Any], text: str) -> None:
        thought, visible = self._thoughts.add(text)
        _append(shown, "reasoning_content", thought)
        _append(shown, "content", visible)

    def _add_text(self, shown: dict[str, Any], name: str, value: str) -> None:
        whole = name in _WHOLE_STRINGS
        _append(shown, name, clean_text(value) if whole else self._text(name).add(value))

    def _text(self, name: str) -> "_Text":
        return self._texts.setdefault(name, _Text())

    def _clean_detail(self, detail: Any) -> Any:
        if not isinstance(detail, dict):
            return clean_value(detail)
        return self._clean_object(detail, str(detail.get("type")), str(detail.get("index")))

    def _clean_object(self, value: dict[str, Any], *path: str) -> dict[str, Any]:
        """Clean an object whose texts go on in later pieces of the same path."""
        return {
            clean_text(name): self._inner_texts.setdefault((*path, name), _Text()).add(each)
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
            key = None if index is None else (get_path(element, "type"), str(index))
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


class _Text:
    """A text whose pieces may split a character: half a surrogate pair waits for the other."""

    def __init__(self) -> None:
        self._half = ""

    def add(self, piece: str) -> str:
        if not self._half and piece.isascii():
            return piece.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in piece else piece
        piece = self._half + piece
        self._half = piece[-1] if piece and "\ud800" <= piece[-1] <= "\udbff" else ""
        return clean_text(piece[: len(piece) - len(self._half)])

    def finish(self) -> str:
        half, self._half = self._half, ""
        return clean_text(half)


class _Thoughts:
    """Tell thoughts in `<think>` tags before the answer from its text.

    A closing tag without an opening one is left out: what came before it has been shown as text.
    """

    def __init__(self) -> None:
        self._held = ""
        self._state = "start"
        self._tagged = False
        self._previous = ""  # the last character of the text so far

    def add(self, piece: str) -> tuple[str, str]:
        """Return the thoughts and the text that are certain now."""
        if self._state == "text":
            return "", self._visible(piece)
        thoughts: list[str] = []
        self._held += piece
        while self._state != "text":
            if self._state == "start":
                if self._begins():
                    return "".join(thoughts), ""
                continue
            thought, end, rest = self._held.partition(THINK_END)
            if not end:
                thought, self._held = _split_partial_tag(thought)
                return "".join([*thoughts, thought]), ""
            thoughts.append(thought)
            self._held, self._state = rest, "start"
        text, self._held = self._held, ""
        return "".join(thoughts), self._visible(text)

    def finish(self) -> tuple[str, str]:
        held, self._held = self._held, ""
        if self._state == "thoughts":
            return held, ""
        return "", "" if self._tagged and not held.strip() else held

    def _begins(self) -> bool:
        """Look for the next tag. Return whether more text is needed for that."""
        text = self._held.lstrip()
        if text.startswith(THINK_START):
            self._held, self._state, self._tagged = text[len(THINK_START) :], "thoughts", True
            return False
        if text.startswith(THINK_END):
            self._held, self._tagged = text[len(THINK_END) :], True
            return False
        if THINK_START.startswith(text) or THINK_END.startswith(text):
            return True
        self._held = text if self._tagged else self._held
        self._state = "text"
        return False

    def _visible(self, piece: str) -> str:
        """Return the text without a lone closing tag; the beginning of a tag is held back."""
        if self._tagged or not (self._held or "<" in piece):
            self._previous = piece[-1:] or self._previous
            return piece
        start = len(self._previous)
        text = self._previous + self._held + piece
        if tag := _UNQUOTED_TAG.search(text, start):
            self._tagged, self._held = True, ""
            rest = text[tag.end() :] if tag[0] == THINK_END else text[tag.start() :]
            return text[start : tag.start()] + rest
        text, self._held = _split_partial_tag(text[start:])
        self._previous = text[-1:] or self._previous
        return text


def _split_partial_tag(text: str) -> tuple[str, str]:
    """Return the text, and what may be the beginning of a tag at its end."""
    start = text.rfind("<")
    if start < 0 or not (
        THINK_START.startswith(text[start:]) or THINK_END.startswith(text[start:])
    ):
        return text, ""
    return text[:start], text[start:]


class _Call:
    """A tool call in the making. `kind` is `function` or `custom`."""

    def __init__(self, index: int, kind: str, *, vendor_index: int | None) -> None:
        self.index = index
        self.kind = kind
        self.vendor_index = vendor_index
        self.id = ""
        self.name = ""
        self.vendor_ids: set[str] = set()
        self.shown = False
        self.name_repeated = False  # after the last text
        self._arguments = _Text()
        self._pieces: list[str] = []
        self._others: dict[str, Any] = {}  # that came before the name

    @property
    def arguments(self) -> str:
        return "".join(self._pieces)

    @property
    def whole(self) -> bool:
        """Whether the arguments are whole JSON; a custom tool takes any text."""
        return self.kind == "custom" or _is_json(self.arguments)

    @property
    def ended(self) -> bool:
        """Whether no more text can follow, because the arguments are a whole JSON object."""
        last = self._pieces[-1].rstrip() if self._pieces else ""
        if self.kind == "custom" or (last and not last.endswith("}")):
            return False  # without a look at all of it, for servers that repeat the name each time
        return _is_json(self.arguments)

    def add(self, arguments: str, others: dict[str, Any]) -> dict[str, Any] | None:
        """Add a piece. Return what clients should see: nothing before the name is known."""
        text = self._arguments.add(arguments)
        if text:
            self._pieces.append(text)
        if not self.name:
            self._others |= others
            return None
        if not self.shown:
            self.shown = True
            return {
                "index": self.index,
                "id": self.id,
                "type": self.kind,
                **self._others,
                **others,
                self.kind: {"name": self.name, self._text_field: self.arguments},
            }
        if text:
            others = {**others, self.kind: {self._text_field: text}}
        return {"index": self.index, **others} if others else None

    def finish(self) -> dict[str, Any] | None:
        """Return the last piece: the arguments of a call without any are an empty object."""
        rest = self._arguments.finish()
        if self.kind == "function" and not self.arguments.strip():
            rest = "{}"
        return self.add(rest, {}) if rest and self.name else None

    @property
    def _text_field(self) -> str:
        return "input" if self.kind == "custom" else "arguments"


class _Calls:
    """The tool calls of one message, numbered in the order in which they begin.

    A piece belongs to the call of its index, or of its id where it has no index, or else to the
    last call. A name begins another call when it is another name, when it comes with another id or
    with a call of the same delta, and when text follows it after arguments that are whole.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def add(self, pieces: list[Any]) -> list[dict[str, Any]]:
        """Return the pieces as clients should see them."""
        begun: list[_Call] = []
        known = [piece for piece in pieces if isinstance(piece, dict)]
        if None not in map(_vendor_index, known):
            known.sort(key=lambda piece: int(piece["index"]))
        shown = (self._add(piece, begun) for piece in known)
        return [piece for piece in shown if piece]

    def finish(self) -> tuple[list[dict[str, Any]], str | None]:
        """Return the last pieces of calls, and the name of a call with broken arguments."""
        shown = [piece for call in self._calls if (piece := call.finish())]
        broken = (call.name for call in self._calls if call.name and not call.whole)
        return shown, next(broken, None)

    def _add(self, piece: dict[str, Any], begun: list[_Call]) -> dict[str, Any] | None:
        kind = "custom" if piece.get("type") == "custom" or "custom" in piece else "function"
        index = _vendor_index(piece)
        vendor_id = clean_text(as_str(piece.get("id")))
        name = clean_text(as_str(get_path(piece, kind, "name")))
        text_field = "input" if kind == "custom" else "arguments"
        arguments = _arguments_text(get_path(piece, kind, text_field))
        call = self._find(index, vendor_id)
        if call and call.name_repeated and arguments.strip():
            name = name or call.name
        if call is None or _begins_another(call, vendor_id, name, arguments, begun):
            call = _Call(len(self._calls), kind, vendor_index=index)
            call.id = self._unique_id(vendor_id)
            self._calls.append(call)
            begun.append(call)
        repeated = call.name_repeated and not arguments.strip()
        call.name_repeated = repeated or bool(call.name and name)
        call.vendor_ids |= {vendor_id} - {""}
        call.name = call.name or name
        names = piece.keys() - ("index", "id", "type", kind)
        others = {key: clean_value(piece[key]) for key in names if piece[key] is not None}
        return call.add(arguments, others)

    def _find(self, index: int | None, vendor_id: str) -> _Call | None:
        """Return the call that a piece may belong to."""
        for call in self._calls:
            if vendor_id in call.vendor_ids and index in (None, call.vendor_index):
                return call
        found = (call for call in reversed(self._calls) if index in (None, call.vendor_index))
        return next(found, None)

    def _unique_id(self, vendor_id: str) -> str:
        taken = any(call.id == vendor_id for call in self._calls)
        return f"call_{uuid4().hex}" if taken or not vendor_id else vendor_id


def _begins_another(
    call: _Call, vendor_id: str, name: str, arguments: str, begun: list[_Call]
) -> bool:
    """Return whether a piece begins a call of its own, and does not continue `call`."""
    if not name:
        return False
    if call in begun or name != (call.name or name):
        return True
    if vendor_id and call.vendor_ids and vendor_id not in call.vendor_ids:
        return True
    return bool(arguments.strip()) and call.ended


def _vendor_index(piece: Mapping[str, Any]) -> int | None:
    """Return the number of a piece's call, which some servers write as a string."""
    text = identifier(piece.get("index"))
    return int(text) if text.isdecimal() else None


def _show_function_call(shown: dict[str, Any], piece: dict[str, Any] | None) -> None:
    if piece:
        shown["function_call"] = piece["function"]


def _plain_text(value: Any) -> str:
    """Return a text, or the texts of a list of parts."""
    return as_str(value) or "".join(as_str(get_path(part, "text")) for part in as_list(value))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _arguments_text(arguments: Any) -> str:
    """Return a piece of arguments as text. Some servers send them whole, as an object."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return orjson.dumps(clean_value(arguments), default=float).decode()


def _append(fields: dict[str, Any], name: str, text: str) -> None:
    if text:
        fields[name] = fields.get(name, "") + text


def clean_value(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Return a vendor's JSON value that can be encoded and stored, cut off below `depth`."""
    if isinstance(value, str):
        return clean_text(value)
    if depth == 0:
        return None
    if isinstance(value, list):
        return [clean_value(each, depth - 1) for each in value]
    if isinstance(value, dict):
        return {clean_text(name): clean_value(each, depth - 1) for name, each in value.items()}
    if isinstance(value, float | Decimal) or (type(value) is int and value.bit_length() > 63):
        return _finite(value)
    return value


def _finite(number: float | Decimal) -> float | None:
    try:
        number = float(number)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
