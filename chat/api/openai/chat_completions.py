"""Chat completions: the service's results in OpenAI's shapes."""

from collections.abc import Mapping
from typing import Any

from chat.api.openai.errors import render_problem
from chat.api.streaming import one_line
from chat.errors import Problem
from chat.service import AnswerDelta, ChatResult
from chat.storage.base import InteractionRecord
from chat.storage.transcripts import answered_message
from providers.parsing import as_items, get_path

NO_EXTRAS: Mapping[str, Any] = {}
# Extras of an answer that belong into its choice or its usage.
INNER_EXTRAS = ("logprobs", "choice", "usage")


def render_result(result: ChatResult) -> dict[str, Any]:
    """Return a chat completion; `interaction_id` names its record."""
    record = result.record
    message = {"role": "assistant", "content": None, "refusal": None, **answered_message(record)}
    return {
        **_head(record, "chat.completion", record.extras),
        "model": record.model,
        "choices": [_choice(_finish_reason(record), record.extras, message=message)],
        "usage": _usage(record),
        "interaction_id": record.interaction_id,
        **({} if result.recorded else {"recorded": False}),
    }


class CompletionChunkFormat:
    """The chunks of one streamed completion (a `StreamFormat`).

    OpenAI's first chunk has the role alone. All chunks name one model: that of the first delta.
    """

    def __init__(self, *, include_usage: bool) -> None:
        self._usage: dict[str, Any] = {"usage": None} if include_usage else {}
        self._model = ""  # until the first chunk
        self._plain_head: dict[str, Any] = {}  # of a chunk without extras

    def delta(self, delta: AnswerDelta) -> bytes:
        first = self._first_chunk(delta.record, delta.delta.model or delta.model)
        return first + self._chunk(delta.record, delta.delta.message, delta.delta.extras)

    def done(self, result: ChatResult) -> bytes:
        record = result.record
        chunks = b"" if self._model else self._whole(record)
        recorded = {} if result.recorded else {"recorded": False}
        chunks += self._chunk(record, {}, recorded, finish_reason=_finish_reason(record))
        if self._usage:
            chunks += _event({**self._head(record), "choices": [], "usage": _usage(record)})
        return chunks + b"data: [DONE]\n\n"

    def error(self, problem: Problem, request_id: str) -> bytes:
        _, body = render_problem(problem)
        return _event({**body, "request_id": request_id})

    def _first_chunk(self, record: InteractionRecord, model: str) -> bytes:
        if self._model:
            return b""
        self._model = model
        return self._chunk(record, {"role": "assistant", "content": "", "refusal": None})

    def _whole(self, record: InteractionRecord) -> bytes:
        """Write a stored answer, of which nothing was streamed before."""
        message = {name: value for name, value in answered_message(record).items() if value}
        del message["role"]
        if "tool_calls" in message:
            numbered = enumerate(message["tool_calls"])
            message["tool_calls"] = [{"index": index, **call} for index, call in numbered]
        first = self._first_chunk(record, record.model)
        return first + (self._chunk(record, message, record.extras) if message else b"")

    def _chunk(
        self,
        record: InteractionRecord,
        delta: Mapping[str, Any],
        extras: Mapping[str, Any] = NO_EXTRAS,
        *,
        finish_reason: str | None = None,
    ) -> bytes:
        choices = [_choice(finish_reason, extras, delta=delta)]
        return _event({**self._head(record, extras), "choices": choices, **self._usage})

    def _head(
        self, record: InteractionRecord, extras: Mapping[str, Any] = NO_EXTRAS
    ) -> dict[str, Any]:
        # Nearly all chunks of a stream have the same head, so it is built once.
        if extras or not self._plain_head:
            head = {**_head(record, "chat.completion.chunk", extras), "model": self._model}
            if extras:
                return head
            self._plain_head = head
        return self._plain_head


def render_model(id_: str, provider: str) -> dict[str, Any]:
    """Return a model object. `created` is required by OpenAI's clients, and unknown here."""
    return {"id": id_, "object": "model", "created": 0, "owned_by": provider}


def _head(record: InteractionRecord, object_: str, extras: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "system_fingerprint": None,
        **{name: value for name, value in extras.items() if name not in INNER_EXTRAS},
        "id": f"chatcmpl-{record.interaction_id}",
        "object": object_,
        "created": int(record.created_at.timestamp()),
    }


def _choice(
    finish_reason: str | None, extras: Mapping[str, Any], **content: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "index": 0,
        **content,
        "logprobs": extras.get("logprobs"),
        **extras.get("choice", {}),
        "finish_reason": finish_reason,
    }


def _finish_reason(record: InteractionRecord) -> str | None:
    """Return the record's finish reason; for a model's refusal `stop`, as OpenAI does."""
    refusal = record.message.get("refusal")
    return "stop" if refusal and refusal == record.response else record.finish_reason


def _usage(record: InteractionRecord) -> dict[str, Any] | None:
    """Return the tokens, or None if they are unknown: clients would add up zeros."""
    usage = record.usage
    if not usage.reported:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": prompt_details(record),
        "completion_tokens_details": completion_details(record),
    }


def prompt_details(record: InteractionRecord) -> dict[str, Any]:
    """Return the known details of the prompt's tokens."""
    return _details(record, "prompt_tokens_details", cached_tokens=record.usage.cached_tokens)


def completion_details(record: InteractionRecord) -> dict[str, Any]:
    """Return the known details of the answer's tokens."""
    count = record.usage.reasoning_tokens
    return _details(record, "completion_tokens_details", reasoning_tokens=count)


def _details(record: InteractionRecord, name: str, **counts: int | None) -> dict[str, Any]:
    known = {field: count for field, count in counts.items() if count is not None}
    return {**known, **dict(as_items(get_path(record.extras, "usage", name)))}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % one_line(data)
