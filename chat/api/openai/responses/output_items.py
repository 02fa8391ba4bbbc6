"""Answers as output items: `reasoning`, `message` and calls of tools, in this order."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from chat.api.openai.responses import custom_tools
from chat.api.openai.responses.ids import item_id
from chat.api.openai.responses.vendor_fields import MEDIA, VendorFields, fields_on_record
from chat.storage.base import InteractionRecord, Status
from chat.storage.transcripts import answered_message
from providers.base import Message, content_text, reasoning_text
from providers.parsing import as_list, as_str, get_path

# Finish reason of an incomplete answer -> the reason that the response gives.
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def incomplete_reason(record: InteractionRecord) -> str | None:
    """Return why an answer is incomplete; None for a whole one and for a model's refusal."""
    refusal = record.message.get("refusal")
    if record.status is not Status.OK or (refusal and refusal == record.response):
        return None
    return INCOMPLETE.get(record.finish_reason or "")


def answer_items(record: InteractionRecord, *, carrier: bool = False) -> list[dict[str, Any]]:
    """Return the answer of a record. With `carrier` reasoning has its `encrypted_content`."""
    whole = record.status is Status.OK and not incomplete_reason(record)
    return list(
        message_items(
            answered_message(record),
            record.interaction_id,
            custom_tools.names(record.parameters),
            status="completed" if whole else "incomplete",
            logprobs=get_path(record.extras, "logprobs", "content"),
            vendor_fields=fields_on_record(record),
            carrier=carrier,
        )
    )


def message_items(
    message: Message,
    interaction_id: str,
    custom: Collection[str],
    *,
    status: str = "completed",
    logprobs: Any = None,
    vendor_fields: VendorFields,
    carrier: bool = False,
    others: Message | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the items of an assistant's message.

    `custom` are the names of custom tools, `others` more fields of the message's item.
    """
    if vendor_fields:
        thoughts = reasoning_text(message)
        encoded = vendor_fields.encoded() if carrier else None
        yield reasoning_item(item_id("rs", interaction_id), thoughts, encoded)
    parts = list(_parts(message, logprobs))
    more = {**(others or {}), **{name: message[name] for name in MEDIA if message.get(name)}}
    if parts or more:
        yield {**more, **message_item(item_id("msg", interaction_id), parts, status)}
    for number, call in enumerate(message.get("tool_calls") or ()):
        yield call_item(interaction_id, number, call, custom, status)


def reasoning_item(id_: str, thoughts: str | None, encoded: str | None) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": thoughts}] if thoughts else []
    item = {"id": id_, "type": "reasoning", "summary": summary}
    return item if encoded is None else {**item, "encrypted_content": encoded}


def message_item(id_: str, parts: Sequence[dict[str, Any]], status: str) -> dict[str, Any]:
    fields = {"status": status, "role": "assistant", "content": list(parts)}
    return {"id": id_, "type": "message", **fields}


def text_part(text: str, annotations: Any = None, logprobs: Any = None) -> dict[str, Any]:
    return {
        "type": "output_text",
        "text": text,
        "annotations": [shown_annotation(each) for each in as_list(annotations)],
        "logprobs": shown_logprobs(logprobs),
    }


def refusal_part(refusal: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": refusal}


def call_item(
    interaction_id: str,
    number: int,
    call: Mapping[str, Any],
    custom: Collection[str],
    status: str = "completed",
) -> dict[str, Any]:
    """Return a tool call of chat completions as an item."""
    kind = "custom" if call.get("type") == "custom" else "function"
    name = as_str(get_path(call, kind, "name"))
    fields = {"status": status, "call_id": call.get("id"), "name": name}
    text = as_str(get_path(call, kind, "input" if kind == "custom" else "arguments"))
    if kind == "custom" or name in custom:
        text = text if kind == "custom" else custom_tools.input_of(text)
        id_ = item_id("ctc", interaction_id, number)
        return {"id": id_, "type": "custom_tool_call", **fields, "input": text}
    id_ = item_id("fc", interaction_id, number)
    return {"id": id_, "type": "function_call", **fields, "arguments": text}


def shown_annotation(annotation: Any) -> Any:
    """Return a citation in the flat form of responses; other annotations unchanged."""
    citation = get_path(annotation, "url_citation")
    if not isinstance(citation, Mapping):
        return annotation
    # OpenAI's types require these, and vendors may leave them out.
    needed = {"start_index": 0, "end_index": 0, "title": "", "url": ""}
    return {"type": "url_citation", **needed, **citation}


def shown_logprobs(logprobs: Any) -> list[dict[str, Any]]:
    """Return log probabilities with their bytes, which some vendors leave out."""
    shown = []
    for each in as_list(logprobs):
        top = [_with_bytes(one) for one in as_list(get_path(each, "top_logprobs"))]
        shown.append({**_with_bytes(each), "top_logprobs": top})
    return shown


def _with_bytes(logprob: Any) -> dict[str, Any]:
    token = as_str(get_path(logprob, "token"))
    given = get_path(logprob, "bytes")
    bytes_ = list(token.encode()) if given is None else given
    return {"token": token, "bytes": bytes_, "logprob": get_path(logprob, "logprob") or 0.0}


def _parts(message: Message, logprobs: Any) -> Iterator[dict[str, Any]]:
    if text := content_text(message.get("content")):
        yield text_part(text, message.get("annotations"), logprobs)
    if refusal := as_str(message.get("refusal")):
        yield refusal_part(refusal)
