"""The tool calls of a message, put together from their pieces.

Servers number the pieces in their own ways, write arguments as objects, and leave out ids.
"""

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import orjson

from providers.clean_values import SplitText, clean_value
from providers.parsing import as_objects, as_str, clean_text, get_path, identifier


class ToolCall:
    """A tool call in the making. `kind` is `function` or `custom`."""

    def __init__(self, index: int, kind: str, *, vendor_index: int | None) -> None:
        self.index = index
        self.kind = kind
        self.vendor_index = vendor_index
        self.id = ""
        self.name = ""
        self.vendor_ids: set[str] = set()
        self.shown = False
        self.name_repeated = False  # since the last text
        self._arguments = SplitText()
        self._pieces: list[str] = []
        self._others: dict[str, Any] = {}  # fields that came before the name

    @property
    def arguments(self) -> str:
        return "".join(self._pieces)

    @property
    def broken(self) -> bool:
        """Whether it ended without a name for its arguments, or with arguments that are not JSON.

        A custom tool takes any text.
        """
        if not self.name:
            return bool(self.arguments.strip())
        return self.kind == "function" and not _is_json(self.arguments)

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


class ToolCalls:
    """The tool calls of one message, numbered in the order in which they begin.

    A piece belongs to the call with its index or its id, without either to the last call. A piece
    with a name begins a new call

    - if the name or the id differs from the call's,
    - if the call began in the same delta, or
    - if it has arguments and those of the call are whole.

    A piece with a new id and without a name begins one if the arguments of the call are whole.
    """

    def __init__(self) -> None:
        self._calls: list[ToolCall] = []
        self._ids: set[str] = set()
        # The first call of a vendor's id, alone and with the vendor's index.
        self._first: dict[str | tuple[str, int | None], ToolCall] = {}
        # The last call of a vendor's index.
        self._last: dict[int | None, ToolCall] = {}

    def add(self, pieces: Any) -> list[dict[str, Any]]:
        """Return the pieces as clients should see them."""
        begun: set[ToolCall] = set()
        known = as_objects(pieces)
        if None not in map(_vendor_index, known):
            # Calls are numbered as they begin: those of one delta begin in the vendor's order.
            known.sort(key=lambda piece: int(piece["index"]))
        shown = (self._add(piece, begun) for piece in known)
        return [piece for piece in shown if piece]

    def finish(self) -> tuple[list[dict[str, Any]], str | None]:
        """Return the last pieces of calls, and the name of a broken call, which may be empty."""
        shown = [piece for call in self._calls if (piece := call.finish())]
        broken = (call.name for call in self._calls if call.broken)
        return shown, next(broken, None)

    def _add(self, piece: dict[str, Any], begun: set[ToolCall]) -> dict[str, Any] | None:
        kind = "custom" if piece.get("type") == "custom" or "custom" in piece else "function"
        index = _vendor_index(piece)
        vendor_id = clean_text(as_str(piece.get("id")))
        name = clean_text(as_str(get_path(piece, kind, "name")))
        text_field = "input" if kind == "custom" else "arguments"
        arguments = arguments_text(get_path(piece, kind, text_field))
        call = self._find(index, vendor_id)
        if call and call.name_repeated and arguments.strip():
            name = name or call.name
        if call is None or _begins_another(call, vendor_id, name, arguments, begun):
            call = ToolCall(len(self._calls), kind, vendor_index=index)
            call.id = self._unique_id(vendor_id)
            self._calls.append(call)
            self._last[index] = call
            begun.add(call)
        repeated = call.name_repeated and not arguments.strip()
        call.name_repeated = repeated or bool(call.name and name)
        if vendor_id and vendor_id not in call.vendor_ids:
            self._remember(vendor_id, call)
        call.name = call.name or name
        names = piece.keys() - ("index", "id", "type", kind)
        known = ((name, piece[name]) for name in names)
        others = {clean_text(name): clean_value(each) for name, each in known if each is not None}
        return call.add(arguments, others)

    def _remember(self, vendor_id: str, call: ToolCall) -> None:
        """Remember an id of the vendor's for a call."""
        call.vendor_ids.add(vendor_id)
        for key in (vendor_id, (vendor_id, call.vendor_index)):
            known = self._first.setdefault(key, call)
            if call.index < known.index:
                self._first[key] = call

    def _find(self, index: int | None, vendor_id: str) -> ToolCall | None:
        """Return the call that a piece may belong to."""
        call = self._first.get(vendor_id if index is None else (vendor_id, index))
        if call is None and index is None:
            return self._calls[-1] if self._calls else None
        return call or self._last.get(index)

    def _unique_id(self, vendor_id: str) -> str:
        if not vendor_id or vendor_id in self._ids:
            vendor_id = f"call_{uuid4().hex}"
        self._ids.add(vendor_id)
        return vendor_id


def _begins_another(
    call: ToolCall, vendor_id: str, name: str, arguments: str, begun: set[ToolCall]
) -> bool:
    """Return whether a piece begins a call of its own, and does not continue `call`."""
    another_id = bool(vendor_id and call.vendor_ids) and vendor_id not in call.vendor_ids
    if not name:  # some servers write a new id into each piece
        return another_id and call.ended
    if another_id or call in begun or name != (call.name or name):
        return True
    return bool(arguments.strip()) and call.ended


def _vendor_index(piece: Mapping[str, Any]) -> int | None:
    """Return the number of a piece's call, which some servers write as a string."""
    text = identifier(piece.get("index"))
    return int(text) if text.isdecimal() else None


def _is_json(text: str) -> bool:
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


# Without NaN and Infinity, which Python reads and clients' parsers refuse.
_DECODER = json.JSONDecoder(parse_constant=_refuse)


def arguments_text(arguments: Any) -> str:
    """Return a piece of arguments as text. Some servers send them whole, as an object."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return orjson.dumps(clean_value(arguments), default=float).decode()
