"""The events of a streamed response.

https://platform.openai.com/docs/api-reference/responses-streaming

Items open as the pieces of the answer arrive: thoughts, a message, tool calls. Thoughts and
messages are done when another item opens. Tool calls are done when the answer ends, because some
vendors interleave the pieces of several calls.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from chat.api.openai.errors import render_problem
from chat.api.openai.responses import custom_tools
from chat.api.openai.responses.ids import item_id
from chat.api.openai.responses.output_items import (
    call_item,
    incomplete_reason,
    message_item,
    reasoning_item,
    refusal_part,
    shown_annotation,
    shown_logprobs,
    text_part,
)
from chat.api.openai.responses.render import ResponseRenderer
from chat.api.openai.responses.vendor_fields import (
    MEDIA,
    VendorFields,
    fields_of,
    fields_on_record,
)
from chat.api.streaming import event
from chat.errors import Problem
from chat.service import AnswerDelta, ChatResult
from chat.storage.base import InteractionRecord
from chat.storage.transcripts import answered_message
from providers.accumulator import joined
from providers.base import DeltaThoughts, Message, content_text
from providers.parsing import as_list, as_str, get_path

# The fields of a response that differ while it is being streamed.
IN_PROGRESS = {
    "status": "in_progress",
    "completed_at": None,
    "error": None,
    "incomplete_details": None,
    "usage": None,
}
MEDIA_NAMES = frozenset(MEDIA)
# The name of an event, and its fields without those that all events of an item have.
Event = tuple[str, dict[str, Any]]


class OutputItem(Protocol):
    """An item that is being streamed."""

    id: str

    def snapshot(self, status: str) -> dict[str, Any]:
        """Return the item as it is now."""

    def close(self) -> Iterator[Event]:
        """Yield the events that end its parts."""


class ReasoningItem:
    """Thoughts, as one part of the summary."""

    id_kind: ClassVar[str] = "rs"

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.encoded: str | None = None
        self._texts: list[str] = []

    def add(self, text: str) -> Iterator[Event]:
        if not self._texts:
            yield self._part_event("added", "")
        self._texts.append(text)
        yield "response.reasoning_summary_text.delta", {"summary_index": 0, "delta": text}

    def snapshot(self, status: str) -> dict[str, Any]:
        return reasoning_item(self.id, "".join(self._texts), self.encoded)

    def close(self) -> Iterator[Event]:
        if self._texts:
            text = "".join(self._texts)
            yield "response.reasoning_summary_text.done", {"summary_index": 0, "text": text}
            yield self._part_event("done", text)

    def _part_event(self, kind: str, text: str) -> Event:
        part = {"type": "summary_text", "text": text}
        return f"response.reasoning_summary_part.{kind}", {"summary_index": 0, "part": part}


class MessageItem:
    """Text and refusal, each as a content part, and media as fields of the item."""

    id_kind: ClassVar[str] = "msg"

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.media: list[Message] = []  # in pieces
        self._parts: list[dict[str, Any]] = []  # the ones that are done
        self._kind = ""  # of the open part
        self._texts: list[str] = []
        self._logprobs: list[Any] = []
        self._annotations: list[Any] = []

    def add(self, text: str, logprobs: Any, refusal: str, annotations: Any) -> Iterator[Event]:
        if text:
            yield from self._add_text(text, logprobs)
        if refusal:
            yield from self._add_refusal(refusal)
        if annotations:
            yield from self._add_annotations(annotations)

    def _add_text(self, text: str, logprobs: Any) -> Iterator[Event]:
        yield from self._open_part("output_text")
        self._texts.append(text)
        self._logprobs += (shown := shown_logprobs(logprobs))
        fields = {"content_index": len(self._parts), "delta": text, "logprobs": shown}
        yield "response.output_text.delta", fields

    def _add_refusal(self, text: str) -> Iterator[Event]:
        yield from self._open_part("refusal")
        self._texts.append(text)
        yield "response.refusal.delta", {"content_index": len(self._parts), "delta": text}

    def _add_annotations(self, annotations: Any) -> Iterator[Event]:
        yield from self._open_part("output_text")
        for annotation in as_list(annotations):
            number, shown = len(self._annotations), shown_annotation(annotation)
            self._annotations.append(annotation)
            place = {"content_index": len(self._parts), "annotation_index": number}
            yield "response.output_text.annotation.added", {**place, "annotation": shown}

    def snapshot(self, status: str) -> dict[str, Any]:
        return message_item(self.id, self._parts, status) | joined(self.media)

    def close(self) -> Iterator[Event]:
        if not self._kind:
            return
        part, place = self._part(), {"content_index": len(self._parts)}
        text = "".join(self._texts)
        if self._kind == "refusal":
            yield "response.refusal.done", {**place, "refusal": text}
        else:
            yield "response.output_text.done", {**place, "text": text, "logprobs": self._logprobs}
        yield "response.content_part.done", {**place, "part": part}
        self._parts.append(part)
        self._kind, self._texts, self._logprobs, self._annotations = "", [], [], []

    def _open_part(self, kind: str) -> Iterator[Event]:
        if self._kind == kind:
            return
        yield from self.close()
        self._kind = kind
        place = {"content_index": len(self._parts)}
        yield "response.content_part.added", {**place, "part": self._part()}

    def _part(self) -> dict[str, Any]:
        text = "".join(self._texts)
        if self._kind == "refusal":
            return refusal_part(text)
        return {**text_part(text, self._annotations), "logprobs": self._logprobs}


class CallItem:
    """A tool call. The input of a custom tool that the vendor has as a function comes whole."""

    def __init__(self, record: InteractionRecord, number: int, call: Mapping[str, Any]) -> None:
        self._interaction_id = record.interaction_id
        self._number = number
        self._custom = custom_tools.names(record.parameters)
        self._kind = as_str(call.get("type")) or "function"
        self._field = "input" if self._kind == "custom" else "arguments"
        self._call_id = call.get("id")
        self._name = as_str(get_path(call, self._kind, "name"))
        self._texts: list[str] = []
        item = self.snapshot("in_progress")
        self.id = str(item["id"])
        self._is_custom = item["type"] == "custom_tool_call"
        # A vendor's function has the text inside of JSON, of which no half can be shown.
        self._waits = self._is_custom and self._kind == "function"

    def add(self, piece: Mapping[str, Any]) -> Iterator[Event]:
        if text := as_str(get_path(piece, self._kind, self._field)):
            self._texts.append(text)
            if not self._waits:
                yield self._delta(text)

    def snapshot(self, status: str) -> dict[str, Any]:
        value = {"name": self._name, self._field: "".join(self._texts)}
        call = {"id": self._call_id, "type": self._kind, self._kind: value}
        return call_item(self._interaction_id, self._number, call, self._custom, status)

    def close(self) -> Iterator[Event]:
        item = self.snapshot("completed")
        if not self._is_custom:
            fields = {"name": self._name, "arguments": item["arguments"]}
            yield "response.function_call_arguments.done", fields
            return
        if self._waits and item["input"]:
            yield self._delta(item["input"])
        yield "response.custom_tool_call_input.done", {"input": item["input"]}

    def _delta(self, text: str) -> Event:
        kind = "custom_tool_call_input" if self._is_custom else "function_call_arguments"
        return f"response.{kind}.delta", {"delta": text}


class ResponseEventFormat:
    """The events of one response (a `StreamFormat`)."""

    def __init__(self, renderer: ResponseRenderer) -> None:
        self._renderer = renderer
        self._begun = False
        self._sequence = 0
        self._items: list[OutputItem] = []
        self._open: ReasoningItem | MessageItem | None = None
        self._calls: dict[int, CallItem] = {}  # by the index of the call
        self._shown: dict[int, dict[str, Any]] = {}  # the items that are done
        self._deltas: list[Message] = []
        self._thoughts = DeltaThoughts()
        self._vendor_fields: VendorFields | None = None  # that the reasoning item has

    def delta(self, delta: AnswerDelta) -> bytes:
        begun = self._begin(delta.record, delta.delta.model or delta.model)
        message, extras = delta.delta.message, delta.delta.extras
        self._deltas.append(message)
        return begun + b"".join(
            self._add(delta.record, delta.provider, delta.model, message, extras)
        )

    def done(self, result: ChatResult) -> bytes:
        record = result.record
        written = b"" if self._begun else self._whole(record)
        written += b"".join(self._finish(record))
        kind = "incomplete" if incomplete_reason(record) else "completed"
        output = [self._shown[index] for index in sorted(self._shown)]
        response = self._renderer.streamed(result, output)
        return written + self._event(f"response.{kind}", response=response)

    def error(self, problem: Problem, request_id: str) -> bytes:
        """Write `response.failed`; before there is a record, an event that is the error."""
        record = problem.record
        if record is None:
            _, body = render_problem(problem)
            fields = {name: body["error"][name] for name in ("code", "message", "param")}
            return self._event("error", **fields, request_id=request_id)
        written = self._begin(record, record.model) + b"".join(self._close_all("incomplete"))
        response = self._renderer.response(record)
        return written + self._event("response.failed", response=response)

    def _begin(self, record: InteractionRecord, model: str) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        begun = {**IN_PROGRESS, "model": model}
        response = self._renderer.response(record, []) | begun
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def _whole(self, record: InteractionRecord) -> bytes:
        """Write a stored answer, of which nothing was streamed before."""
        message = dict(answered_message(record))
        calls = enumerate(message.get("tool_calls") or ())
        message["tool_calls"] = [{"index": index, **call} for index, call in calls]
        self._deltas.append({"tool_calls": message["tool_calls"], **record.message})
        fields = fields_on_record(record)
        pieces = self._add(record, fields.provider, fields.model, message, record.extras)
        return self._begin(record, record.model) + b"".join(pieces)

    def _add(
        self,
        record: InteractionRecord,
        provider: str,
        model: str | None,
        message: Message,
        extras: Mapping[str, Any],
    ) -> Iterator[bytes]:
        """Write a piece of the answer."""
        source = (provider, model)
        if thoughts := self._thoughts.add(message):
            reasoning = self._open
            if not isinstance(reasoning, ReasoningItem):
                reasoning = ReasoningItem(self._next_id(record, ReasoningItem))
                yield from self._open_item(reasoning, source)
            yield from self._written(reasoning, reasoning.add(thoughts))
        text, refusal = content_text(message.get("content")), as_str(message.get("refusal"))
        annotations = message.get("annotations")
        has_media = not MEDIA_NAMES.isdisjoint(message)
        if text or refusal or annotations or has_media:
            answer = self._open
            if not isinstance(answer, MessageItem):
                answer = MessageItem(self._next_id(record, MessageItem))
                yield from self._open_item(answer, source)
            if has_media:
                answer.media.append({name: message[name] for name in MEDIA if name in message})
            logprobs = get_path(extras, "logprobs", "content")
            yield from self._written(answer, answer.add(text, logprobs, refusal, annotations))
        for piece in message.get("tool_calls") or ():
            call = self._calls.get(piece["index"])
            if call is None:
                call = self._calls[piece["index"]] = CallItem(record, len(self._calls), piece)
                yield from self._open_item(call, source)
            yield from self._written(call, call.add(piece))

    def _open_item(self, item: OutputItem, source: tuple[str, str | None]) -> Iterator[bytes]:
        yield from self._close_open(source)
        self._items.append(item)
        self._open = item if isinstance(item, ReasoningItem | MessageItem) else None
        added = {"output_index": len(self._items) - 1, "item": item.snapshot("in_progress")}
        yield self._event("response.output_item.added", **added)

    def _close_open(self, source: tuple[str, str | None]) -> Iterator[bytes]:
        """Write the end of the thoughts or the message that is open."""
        item, self._open = self._open, None
        if isinstance(item, ReasoningItem) and self._vendor_fields is None:
            self._vendor_fields = fields_of(joined(self._deltas), *source)
            if self._renderer.carries_vendor_fields:
                item.encoded = self._vendor_fields.encoded()
        if item:
            yield from self._close(item, "completed")

    def _finish(self, record: InteractionRecord) -> Iterator[bytes]:
        """Write the end of all items, and the vendor's fields beside them."""
        status = "incomplete" if incomplete_reason(record) else "completed"
        fields = fields_on_record(record)
        source = (fields.provider, fields.model)
        if isinstance(self._open, ReasoningItem):
            yield from self._close_open(source)
        yield from self._close_all(status)
        if self._wants_vendor_fields(fields):
            item = ReasoningItem(self._next_id(record, ReasoningItem))
            if self._renderer.carries_vendor_fields:
                item.encoded = replace(fields, after=True).encoded()
            yield from self._open_item(item, source)
            yield from self._close_all("completed")

    def _wants_vendor_fields(self, fields: VendorFields) -> bool:
        """Return whether the client still lacks the vendor's fields."""
        if not fields:
            return False
        if self._renderer.carries_vendor_fields:
            return fields != self._vendor_fields
        return self._vendor_fields is None and self._renderer.store

    def _close_all(self, status: str) -> Iterator[bytes]:
        self._open = None
        for number, item in enumerate(self._items):
            if number not in self._shown:
                yield from self._close(item, status)

    def _close(self, item: OutputItem, status: str) -> Iterator[bytes]:
        yield from self._written(item, item.close())
        index = self._items.index(item)
        self._shown[index] = item.snapshot(status)
        yield self._event("response.output_item.done", output_index=index, item=self._shown[index])

    def _next_id(
        self, record: InteractionRecord, kind: type[ReasoningItem] | type[MessageItem]
    ) -> str:
        number = sum(isinstance(item, kind) for item in self._items)
        return item_id(kind.id_kind, record.interaction_id, number)

    def _written(self, item: OutputItem, events: Iterable[Event]) -> Iterator[bytes]:
        place = {"item_id": item.id, "output_index": self._items.index(item)}
        for name, fields in events:
            yield self._event(name, **place, **fields)

    def _event(self, name: str, /, **fields: Any) -> bytes:
        number, self._sequence = self._sequence, self._sequence + 1
        return event(name, {"type": name, "sequence_number": number, **fields})
