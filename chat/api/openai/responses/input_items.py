"""Input items as messages of chat completions, and messages of a record as input items.

https://platform.openai.com/docs/api-reference/responses/create#responses-create-input
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from chat.api.openai.responses import custom_tools
from chat.api.openai.responses.ids import item_id, record_of_item
from chat.api.openai.responses.output_items import answer_items, message_items, text_part
from chat.api.openai.responses.parameters import NEUTRAL_VALUES, other_fields
from chat.api.openai.responses.vendor_fields import (
    MEDIA,
    SHOWN,
    VendorFields,
    client_fields,
    decoded,
    fields_of,
    fields_on_record,
)
from chat.conversation import asked_messages, input_messages, with_audio_by_id
from chat.errors import ValidationFailed, field_error
from chat.storage.base import InteractionRecord
from providers.base import INSTRUCTION_ROLES, OPENAI_CALL_FIELDS, Message
from providers.parsing import as_list, as_str, get_path

Item = Mapping[str, Any]
# The beginning of a path in a message -> that of the path in the request:
# `.content` -> `input[1].output`.
Paths = dict[str, str]

ASKING_ROLES = ("user", *INSTRUCTION_ROLES)
RESULTS = ("function_call_output", "custom_tool_call_output")
# A client's parameter may have such a name, too, with any number.
MESSAGE_PATH = re.compile(r"messages\[([0-9]{1,9})\](?=[.\[]|\Z)")
STREAMED_AGAIN = re.compile(r"\A((?:msg|rs)_.{36})_[0-9]+\Z")
ANSWER_ITEMS = ("message", "reasoning", "function_call", "custom_tool_call")
# Type of an item -> the beginning of its id; of a tool's result `out`.
ID_KINDS = dict(zip(ANSWER_ITEMS, ("msg", "rs", "fc", "ctc"), strict=True))
# Fields of items that are translated, or that change nothing. The others go to the vendor.
_OF_ALL = {"type", "id", "status", "created_by"}
MESSAGE_FIELDS = {*_OF_ALL, "role", "content", "phase", "end_turn"}
CALL_FIELDS = {*_OF_ALL, "call_id", "name", "arguments", "input", "parsed_arguments"}
RESULT_FIELDS = {*_OF_ALL, "call_id", "output", "phase"}
# Fields of chat completions that items express in their own way.
CHAT_FIELDS = ("tool_calls", "function_call", "refusal", "tool_call_id", "function", "custom")


def referenced_records(items: Sequence[Item]) -> list[str]:
    """Return the ids of the records that items refer to instead of repeating their content."""
    named = (
        record_of_item(item.get("id"))
        for item in items
        if item.get("type") == "item_reference"
        or _has_media(item)
        or (item.get("type") == "reasoning" and not item.get("encrypted_content"))
    )
    return list(dict.fromkeys(filter(None, named)))


def to_messages(
    items: Sequence[Item], records: Mapping[str, InteractionRecord]
) -> list[tuple[dict[str, Any], Paths]]:
    """Return the items as messages, each with its paths.

    `records` are those of `referenced_records` that the caller may read. Raises ValidationFailed
    for an invalid item.
    """
    messages: list[tuple[dict[str, Any], Paths]] = []
    answer = _Answer()
    referred: set[str] = set()
    known = _Records(records)
    for number, given in enumerate(items):
        read = _ItemReader(number, known)
        item = read.resolved(given)
        if given.get("type") == "item_reference":
            if item["id"] in referred:
                continue
            referred.add(item["id"])
        if read.is_of_answer(item):
            if answer.ends_before(item):
                messages += answer.messages()
                answer = _Answer()
            read.into(answer, item)
        else:
            messages += [*answer.messages(), (read.message(item), read.paths(item))]
            answer = _Answer()
    return [*messages, *answer.messages()]


def input_path(path: str, paths: Sequence[Paths]) -> str:
    """Return the path in the request for one in the messages, such as `messages[1].foo`."""
    match = MESSAGE_PATH.match(path)
    if match is None or int(match[1]) >= len(paths):
        return path
    rest, known = path[match.end() :], paths[int(match[1])]
    start = max((each for each in known if _begins_with(rest, each)), key=len)
    return known[start] + rest[len(start) :]


def _begins_with(path: str, start: str) -> bool:
    return path.startswith(start) and path[len(start) :][:1] in ("", ".", "[")


class _Answer:
    """An assistant's message, which is split into several items."""

    def __init__(self) -> None:
        self.records: set[str] = set()  # from which its items are
        self.paths: Paths = {}
        self.texts: list[Any] = []
        self.refusals: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.others: dict[str, Any] = {}
        self.vendor_fields = VendorFields()

    def ends_before(self, item: Item) -> bool:
        """Return whether an item begins another answer. Calls do not: their results come next."""
        if item["type"] not in ("message", "reasoning") or self.calls:
            return False
        if record_of_item(item.get("id")) in self.records:
            return False
        return bool(self.texts or self.refusals or self.others) and not _comes_after(item)

    def messages(self) -> list[tuple[dict[str, Any], Paths]]:
        """Return the message; nothing for thoughts without an answer, which vendors refuse."""
        refusal = "".join(self.refusals)
        if not (self.texts or refusal or self.calls or self.others):
            return []
        content = _answer_content(self.texts)
        message: dict[str, Any] = {**self.others, "role": "assistant", "content": content}
        if refusal:
            message["refusal"] = refusal
        if self.calls:
            message["tool_calls"] = self.calls
        return [(self.vendor_fields.added_to(with_audio_by_id(message)), self.paths)]


class _Records:
    """The records that items refer to, each read once: a request may refer to one many times."""

    def __init__(self, records: Mapping[str, InteractionRecord]) -> None:
        self._records = records
        self._items = cache(lambda id_: {item["id"]: item for item in answer_items(records[id_])})
        self._fields = cache(lambda id_: fields_on_record(records[id_]))

    def item(self, item_id: object) -> Item | None:
        """Return the item of an answer; None if there is none, or its record is not known."""
        record_id = record_of_item(item_id)
        if record_id not in self._records:
            return None
        # A stream may show a message or the thoughts in several items: a record has one.
        return self._items(record_id).get(STREAMED_AGAIN.sub(r"\1", as_str(item_id)))

    def fields(self, item_id: object) -> VendorFields | None:
        """Return the vendor's fields of an item's answer; None if its record is not known."""
        record_id = record_of_item(item_id)
        return self._fields(record_id) if record_id in self._records else None


class _ItemReader:
    """Read the item at a position of the input."""

    def __init__(self, number: int, records: _Records) -> None:
        self._number = number
        self._path = f"input[{number}]"
        self._records = records

    def resolved(self, item: Item) -> Item:
        """Return the item with its type, or the one that it refers to."""
        if item.get("type") == "item_reference":
            # The caller's own records only, so an item of another owner is not found either.
            found = self._records.item(item.get("id"))
            if found is None:
                raise self.error(f"there is no item {item.get('id')!r}", "not_found")
            return found
        return {**item, "type": item.get("type") or "message"}

    def is_of_answer(self, item: Item) -> bool:
        if item["type"] == "message":
            return item.get("role") == "assistant"
        return item["type"] in ANSWER_ITEMS

    def message(self, item: Item) -> dict[str, Any]:
        """Return the message of a user's item, or of a tool's result."""
        if item["type"] in RESULTS:
            output = self._parts(item.get("output"), "output") or ""
            result = {"tool_call_id": self._text(item, "call_id"), "content": output}
            return {**self._other_fields(item, RESULT_FIELDS), "role": "tool", **result}
        if item["type"] != "message":
            raise self.error(f"type {item['type']!r} is not supported", "unsupported")
        if item.get("role") not in ASKING_ROLES:
            raise self.error(f"role is one of {', '.join((*ASKING_ROLES, 'assistant'))}")
        content = self._parts(item.get("content"), "content")
        if content is None:
            raise self.error("content is missing")
        return {
            **self._other_fields(item, MESSAGE_FIELDS),
            "role": item["role"],
            "content": content,
        }

    def paths(self, item: Item) -> Paths:
        """Return the paths of a user's item, or of a tool's result."""
        name = "output" if item["type"] in RESULTS else "content"
        return {"": self._path, ".content": f"{self._path}.{name}"}

    def into(self, answer: _Answer, item: Item) -> None:
        """Add an item of an answer."""
        answer.paths.setdefault("", self._path)
        if record_id := record_of_item(item.get("id")):
            answer.records.add(record_id)
        match item["type"]:
            case "message":
                others = self._other_fields(item, MESSAGE_FIELDS)
                answer.others |= others
                answer.paths |= {f".{name}": f"{self._path}.{name}" for name in others}
                self._add_text(answer, item.get("content"))
                self._add_origin(answer, item)
            case "reasoning":
                self._add_reasoning(answer, item)
            case "function_call":
                function = {"name": self._text(item, "name"), "arguments": item.get("arguments")}
                if not isinstance(function["arguments"], str):
                    raise self.error("arguments are a string")
                self._add_call(answer, item, function)
            case _:
                arguments = custom_tools.arguments_of(self._any_text(item, "input"))
                function = {"name": self._text(item, "name"), "arguments": arguments}
                self._add_call(answer, item, function)

    def error(self, fault: str, code: str = "invalid") -> ValidationFailed:
        detail = f"Item {self._number}: {fault}."
        return ValidationFailed(errors=[field_error("input", code, detail)])

    def _other_fields(self, item: Item, known: set[str]) -> dict[str, Any]:
        """Return the fields that go to the vendor unchanged."""
        for name in CHAT_FIELDS:
            if item.get(name) not in NEUTRAL_VALUES:
                raise self.error(f"{name} is for chat completions", "unsupported")
        return other_fields(item, {*known, *CHAT_FIELDS})

    def _add_call(self, answer: _Answer, item: Item, function: dict[str, Any]) -> None:
        call = {"id": self._text(item, "call_id"), "type": "function", "function": function}
        answer.paths[f".tool_calls[{len(answer.calls)}]"] = self._path
        answer.calls.append({**self._other_fields(item, CALL_FIELDS), **call})

    def _add_text(self, answer: _Answer, content: Any) -> None:
        for place, part in enumerate(self._parts_list(content, "content")):
            if part.get("type") == "refusal":
                if refusal := self._any_text(part, "refusal"):
                    answer.refusals.append(refusal)
            else:
                answer.paths[f".content[{len(answer.texts)}]"] = f"{self._path}.content[{place}]"
                answer.texts.append(self._part(part))

    def _add_reasoning(self, answer: _Answer, item: Item) -> None:
        """Add the vendor's fields: of the carrier, else of the record, else the thoughts alone."""
        if carrier := item.get("encrypted_content"):
            found = decoded(carrier) if isinstance(carrier, str) else None
            if found is None:
                raise self.error("encrypted_content was not written by this service")
            answer.vendor_fields = found
        elif (fields := self._records.fields(item.get("id"))) is not None:
            answer.vendor_fields = fields
        elif thoughts := _thoughts(item):
            answer.vendor_fields = VendorFields({"reasoning_content": thoughts})

    def _add_origin(self, answer: _Answer, item: Item) -> None:
        """Add the vendor of an answer's media, unless a reasoning item names it."""
        if not _has_media(item) or answer.vendor_fields.provider:
            return
        if (origin := self._records.fields(item.get("id"))) is not None:
            answer.vendor_fields = replace(
                answer.vendor_fields, provider=origin.provider, model=origin.model
            )

    def _parts(self, content: Any, name: str) -> Any:
        """Return the content of a message: a text, or parts."""
        parts = [self._part(part) for part in self._parts_list(content, name)]
        return _content(parts)

    def _parts_list(self, content: Any, name: str) -> list[Item]:
        if isinstance(content, str):
            content = [{"type": "input_text", "text": content}]
        if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
            raise self.error(f"{name} is a string or a list of parts")
        return content

    def _part(self, part: Item) -> dict[str, Any]:
        """Return a content part in chat completions' terms, with the fields that are unknown."""
        kind = part.get("type")
        rest = {name: value for name, value in part.items() if value is not None}
        match kind:
            case "input_text" | "output_text" | "text":
                for name in ("annotations", "logprobs", "parsed"):
                    rest.pop(name, None)
                return {**rest, "type": "text", "text": self._any_text(part, "text")}
            case "input_image":
                detail = {"detail": rest.pop("detail")} if "detail" in rest else {}
                if not rest.get("image_url"):
                    raise self.error("an input_image without image_url", "unsupported")
                url = self._any_text(rest, "image_url")
                return {**rest, "type": "image_url", "image_url": {"url": url, **detail}}
            case "input_file":
                names = [name for name in ("filename", "file_id", "detail") if name in rest]
                file: dict[str, Any] = {name: rest.pop(name) for name in names}
                url = rest.pop("file_url", None)
                if (data := rest.pop("file_data", url)) is not None:
                    file["file_data"] = data
                if not all(isinstance(value, str) for value in file.values()) or not file:
                    raise self.error("an input_file has file_data, a file_url or a file_id")
                return {**rest, "type": "file", "file": file}
            case "input_audio":
                if not isinstance(part.get("input_audio"), dict):
                    raise self.error("an input_audio has an object input_audio")
                return rest
            case _:
                raise self.error(f"content of type {kind!r} is not supported", "unsupported")

    def _text(self, item: Item, name: str) -> str:
        if not (text := self._any_text(item, name)):
            raise self.error(f"{name} is missing")
        return text

    def _any_text(self, item: Item, name: str) -> str:
        text = item.get(name)
        if not isinstance(text, str):
            raise self.error(f"{name} is a string")
        return text


def _content(parts: list[dict[str, Any]]) -> Any:
    """Return a single plain text as a string, which all vendors accept; None without parts."""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return parts[0]["text"]
    return parts or None


def _answer_content(parts: list[dict[str, Any]]) -> Any:
    """Return the content of an answer: one text, unless its parts have fields of their own."""
    if parts and all(part.keys() == {"type", "text"} for part in parts):
        return "".join(part["text"] for part in parts)
    return parts or None


def _comes_after(item: Item) -> bool:
    """Return whether a reasoning item belongs to the answer before it."""
    found = decoded(as_str(item.get("encrypted_content")))
    return item["type"] == "reasoning" and found is not None and found.after


def _has_media(item: Item) -> bool:
    return any(item.get(name) for name in MEDIA)


def _thoughts(item: Item) -> str:
    parts = [*as_list(item.get("content")), *as_list(item.get("summary"))]
    texts = (as_str(get_path(part, "text")) for part in parts)
    return "\n\n".join(filter(None, texts))


# --- The way back ---------------------------------------------------------------------------------


def input_items(record: InteractionRecord) -> list[dict[str, Any]]:
    """Return a record's request as items, without its instructions."""
    custom = custom_tools.names(record.parameters)
    types: dict[str, str] = {}  # of the calls, by their ids
    items: list[dict[str, Any]] = []
    for message in input_messages(asked_messages(record), record.system):
        if message.get("role") == "assistant":
            answered = list(_answered_items(message, custom))
            types |= {item["call_id"]: item["type"] for item in answered if "call_id" in item}
            items += answered
        else:
            items.append(_asked_item(message, types))
    request = f"in_{record.interaction_id}"
    return [
        {**item, "id": item_id(ID_KINDS.get(item["type"], "out"), request, number)}
        for number, item in enumerate(items)
    ]


def _answered_items(message: Message, custom: set[str]) -> Iterator[dict[str, Any]]:
    others = client_fields(message, SHOWN)
    calls = [client_fields(call, OPENAI_CALL_FIELDS) for call in message.get("tool_calls") or ()]
    vendors = {name: value for name, value in message.items() if name not in others}
    if calls:
        vendors["tool_calls"] = [
            {name: value for name, value in call.items() if name not in added}
            for call, added in zip(message["tool_calls"], calls, strict=True)
        ]
    fields = fields_of(vendors, "", None)
    of_calls = iter(calls)
    for item in message_items(message, "", custom, vendor_fields=fields, others=others):
        if item["type"] == "message":
            yield {**item, "content": _shown_answer(message.get("content"), item["content"])}
        else:
            yield {**next(of_calls), **item} if "call_id" in item else item


def _shown_answer(content: Any, shown: list[Any]) -> list[Any]:
    """Return the parts of an answer, with their other fields if all of them are texts."""
    parts = as_list(content)
    if not parts or any(get_path(part, "type") != "text" for part in parts):
        return shown
    refusals = [part for part in shown if part["type"] == "refusal"]
    return [*({**part, **text_part(as_str(part.get("text")))} for part in parts), *refusals]


def _asked_item(message: Message, types: Mapping[str, str]) -> dict[str, Any]:
    if message.get("role") in ("tool", "function"):
        call_id = as_str(message.get("tool_call_id"))
        custom = types.get(call_id) == "custom_tool_call"
        content = message.get("content")
        output = content if isinstance(content, str) else _shown_parts(content)
        type_ = "custom_tool_call_output" if custom else "function_call_output"
        fields = {"type": type_, "status": "completed", "call_id": call_id, "output": output}
        return {**other_fields(message, ("role", "content", "tool_call_id")), **fields}
    content = _shown_parts(message.get("content"))
    fields = {"type": "message", "status": "completed", "role": message["role"], "content": content}
    return {**message, **fields}


def _shown_parts(content: Any) -> list[Any]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    return [_shown_part(part) for part in as_list(content)]


def _shown_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    match part["type"]:
        case "text":
            return {**part, "type": "input_text"}
        case "image_url":
            rest = {name: value for name, value in part.items() if name != "image_url"}
            return {**rest, "type": "input_image", "detail": "auto", **_flat_image(part)}
        case "file":
            rest = {name: value for name, value in part.items() if name != "file"}
            return {**rest, "type": "input_file", **part["file"]}
    return part


def _flat_image(part: Mapping[str, Any]) -> dict[str, Any]:
    detail = get_path(part, "image_url", "detail")
    shown = {"image_url": get_path(part, "image_url", "url")}
    return {**shown, "detail": detail} if detail else shown
