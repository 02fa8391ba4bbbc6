"""The service's answers in OpenAI's shapes."""

from typing import Any

from chat.api.openai.errors import rendered
from chat.api.streaming import one_line
from chat.errors import Problem
from chat.service import ChatResult, Delta
from chat.storage.base import InteractionRecord


def render_result(answer: ChatResult) -> dict[str, Any]:
    """A chat completion; `interaction_id` leads to its record."""
    record = answer.record
    calls = {"tool_calls": list(record.tool_calls)} if record.tool_calls else {}
    content = record.response or (None if record.tool_calls else "")
    message = {"role": "assistant", "content": content, "refusal": None, **calls}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": record.finish_reason,
    }
    return {
        **_head(record, "chat.completion"),
        "model": record.model,
        "choices": [choice],
        "usage": _usage(record),
        "interaction_id": record.interaction_id,
        **({} if answer.recorded else {"recorded": False}),
    }


class CompletionChunkFormat:
    """The chunks of one streamed completion."""

    def __init__(self, *, include_usage: bool) -> None:
        self._usage: dict[str, Any] = {"usage": None} if include_usage else {}
        self._model = ""

    def delta(self, delta: Delta) -> bytes:
        return self._begin(delta.record, delta.model) + self._chunk(
            delta.record, {"content": delta.text}
        )

    def done(self, answer: ChatResult) -> bytes:
        record = answer.record
        written = b""
        if not self._model:
            text = {"content": record.response} if record.response else None
            written = self._begin(record, record.model)
            written += self._chunk(record, text) if text else b""
        for index, call in enumerate(record.tool_calls):
            written += self._chunk(record, {"tool_calls": [{"index": index, **call}]})
        written += self._chunk(record, {}, record.finish_reason)
        if self._usage:
            last = {**self._head(record), "choices": [], "usage": _usage(record)}
            written += _data(last)
        return written + b"data: [DONE]\n\n"

    def error(self, problem: Problem, request_id: str) -> bytes:
        return _data({**rendered(problem)[1], "request_id": request_id})

    def _begin(self, record: InteractionRecord, model: str) -> bytes:
        """The first chunk tells the role. All of them have the model of the first."""
        if self._model:
            return b""
        self._model = model
        return self._chunk(record, {"role": "assistant", "content": "", "refusal": None})

    def _chunk(
        self, record: InteractionRecord, delta: dict[str, Any], finish: str | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data({**self._head(record), "choices": [choice], **self._usage})

    def _head(self, record: InteractionRecord) -> dict[str, Any]:
        return {**_head(record, "chat.completion.chunk"), "model": self._model}


def model(id_: str, provider: str) -> dict[str, Any]:
    """A model; when its vendor made it is unknown, and the field is needed."""
    return {"id": id_, "object": "model", "created": 0, "owned_by": provider}


def _head(record: InteractionRecord, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{record.interaction_id}",
        "object": kind,
        "created": int(record.created_at.timestamp()),
        "system_fingerprint": None,
    }


def _usage(record: InteractionRecord) -> dict[str, Any] | None:
    """Tokens; null when they are unknown, as these clients count with what is there."""
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


def _data(chunk: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % one_line(chunk)
