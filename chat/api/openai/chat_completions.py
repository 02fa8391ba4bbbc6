"""Chat completions: the service's results in OpenAI's shapes."""

from typing import Any

from chat.api.openai.errors import render_problem
from chat.api.streaming import one_line
from chat.errors import Problem
from chat.service import ChatResult, Delta
from chat.storage.base import InteractionRecord


def render_result(result: ChatResult) -> dict[str, Any]:
    """Return a chat completion; `interaction_id` names its record."""
    record = result.record
    tool_calls = {"tool_calls": list(record.tool_calls)} if record.tool_calls else {}
    content = record.response or (None if record.tool_calls else "")
    message = {"role": "assistant", "content": content, "refusal": None, **tool_calls}
    return {
        **_head(record, "chat.completion"),
        "model": record.model,
        "choices": [_choice(record.finish_reason, message=message)],
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

    def delta(self, delta: Delta) -> bytes:
        first = self._first_chunk(delta.record, delta.model)
        return first + self._chunk(delta.record, {"content": delta.text})

    def done(self, result: ChatResult) -> bytes:
        record = result.record
        chunks = b""
        if not self._model:
            chunks = self._first_chunk(record, record.model)
            if record.response:
                chunks += self._chunk(record, {"content": record.response})
        for index, call in enumerate(record.tool_calls):
            chunks += self._chunk(record, {"tool_calls": [{"index": index, **call}]})
        chunks += self._chunk(record, {}, record.finish_reason)
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

    def _chunk(
        self, record: InteractionRecord, delta: dict[str, Any], finish_reason: str | None = None
    ) -> bytes:
        choices = [_choice(finish_reason, delta=delta)]
        return _event({**self._head(record), "choices": choices, **self._usage})

    def _head(self, record: InteractionRecord) -> dict[str, Any]:
        return {**_head(record, "chat.completion.chunk"), "model": self._model}


def render_model(id_: str, provider: str) -> dict[str, Any]:
    """Return a model object. `created` is required by OpenAI's clients, and unknown here."""
    return {"id": id_, "object": "model", "created": 0, "owned_by": provider}


def _head(record: InteractionRecord, object_: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{record.interaction_id}",
        "object": object_,
        "created": int(record.created_at.timestamp()),
        "system_fingerprint": None,
    }


def _choice(finish_reason: str | None, **content: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}


def _usage(record: InteractionRecord) -> dict[str, Any] | None:
    """Return the tokens, or None if they are unknown: clients would add up zeros."""
    usage = record.usage
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
    }


def _event(data: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % one_line(data)
