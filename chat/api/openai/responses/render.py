"""Records as responses.

https://platform.openai.com/docs/api-reference/responses/object
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from chat.api.openai.chat_completions import (
    INNER_EXTRAS,
    completion_details,
    prompt_details,
)
from chat.api.openai.responses.ids import response_id
from chat.api.openai.responses.output_items import answer_items, incomplete_reason
from chat.api.openai.responses.parameters import ENCRYPTED_CONTENT, shown_parameters
from chat.api.openai.serializers import ANONYMOUS
from chat.service import ChatResult
from chat.storage.base import InteractionRecord, Status
from chat.usage import format_usd

STATUSES = {
    Status.PENDING: "in_progress",
    Status.OK: "completed",
    Status.ERROR: "failed",
    Status.ABORTED: "cancelled",
}
# Our code of an error -> OpenAI's, of which there are few; any other is `server_error`.
ERROR_CODES = {
    "provider_rejected": "invalid_prompt",
    "content_filtered": "invalid_prompt",
    "provider_unavailable": "rate_limit_exceeded",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRenderer:
    """Write records as responses. `include` and `store` are the request's."""

    include: Collection[str] = ()
    store: bool = True

    @property
    def carries_vendor_fields(self) -> bool:
        return ENCRYPTED_CONTENT in self.include

    def result(self, result: ChatResult) -> dict[str, Any]:
        """Return a new response."""
        return self.response(result.record) | _recorded(result)

    def streamed(self, result: ChatResult, output: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return a new response with the items that were streamed."""
        return self.response(result.record, output) | _recorded(result)

    def response(
        self, record: InteractionRecord, output: Sequence[dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        """Return the response of a record: with this output, or else that of the record."""
        if output is None:
            output = answer_items(record, carrier=self.carries_vendor_fields)
        return _extras(record) | {
            "id": response_id(record.interaction_id),
            "object": "response",
            "created_at": int(record.created_at.timestamp()),
            "background": False,
            **_outcome(record),
            "instructions": record.system,
            "max_tool_calls": None,
            "metadata": dict(record.metadata),
            "model": record.model,
            "output": list(output),
            "previous_response_id": record.previous_interaction_id
            and response_id(record.previous_interaction_id),
            "store": self.store,
            "truncation": "disabled",
            "usage": _usage(record),
            "user": None if record.user_id == ANONYMOUS else record.user_id,
            **shown_parameters(record.parameters),
            "service_tier": record.extras.get("service_tier")
            or record.parameters.get("service_tier"),
            "interaction_id": record.interaction_id,
        }


def _recorded(result: ChatResult) -> dict[str, bool]:
    return {} if result.recorded else {"recorded": False}


def _outcome(record: InteractionRecord) -> dict[str, Any]:
    status, incomplete = record.status_at(datetime.now(UTC)), incomplete_reason(record)
    ended = record.created_at.timestamp() + (record.latency_ms or 0) / 1000
    return {
        "status": "incomplete" if incomplete else STATUSES[status],
        "completed_at": int(ended) if status is Status.OK and not incomplete else None,
        "error": _error(record),
        "incomplete_details": {"reason": incomplete} if incomplete else None,
    }


def _error(record: InteractionRecord) -> dict[str, str] | None:
    error = record.error
    if error is None:
        return None
    return {"code": ERROR_CODES.get(error.code, "server_error"), "message": error.detail}


def _extras(record: InteractionRecord) -> dict[str, Any]:
    """Return the vendor's fields beside the message, such as `citations`."""
    extras = {name: each for name, each in record.extras.items() if name not in INNER_EXTRAS}
    return {**record.extras.get("choice", {}), **extras}


def _usage(record: InteractionRecord) -> dict[str, Any] | None:
    """Return the tokens, or None if they are unknown. OpenAI's types require these details."""
    usage = record.usage
    if not usage.reported:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": 0,
            "cache_write_tokens": 0,
            **prompt_details(record),
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0, **completion_details(record)},
        "total_tokens": usage.total_tokens,
        "cost_usd": format_usd(usage.cost_usd),
    }
