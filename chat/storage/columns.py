"""A record as flat columns, the same on both storages, and back."""

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from chat.storage.base import ErrorInfo, InteractionRecord, Status
from providers.base import Usage
from providers.router import Attempt

EPOCH = datetime.fromtimestamp(0, UTC)
USAGE = [field.name for field in fields(Usage)]
ATTEMPT = [field.name for field in fields(Attempt)]


def to_columns(record: InteractionRecord) -> dict[str, Any]:
    """Return all columns of a record."""
    return {
        "interaction_id": record.interaction_id,
        "owner": record.owner,
        "user_id": record.user_id,
        "created_at": record.created_at,
        "deadline_at": record.deadline_at,
        "expires_at": record.expires_at,
        "request_id": record.request_id,
        "request_hash": record.request_hash,
        "key_id": record.key_id,
        "conversation_id": record.conversation_id,
        "previous_interaction_id": record.previous_interaction_id,
        "ancestors": list(record.ancestors),
        "prompt": record.prompt,
        "system": record.system,
        "parameters": record.parameters,
        "metadata": record.metadata,
        **outcome_columns(record),
    }


def outcome_columns(record: InteractionRecord) -> dict[str, Any]:
    """Return the columns that a settlement writes."""
    return {
        "status": record.status,
        "provider": record.provider,
        "model": record.model,
        "response": record.response,
        "tool_calls": list(record.tool_calls),
        "finish_reason": record.finish_reason,
        "cached": record.cached,
        "latency_ms": record.latency_ms,
        "attempts": [
            {name: getattr(attempt, name) for name in ATTEMPT} for attempt in record.attempts
        ],
        "error_code": record.error and record.error.code,
        "error_detail": record.error and record.error.detail,
        **{name: getattr(record.usage, name) for name in USAGE},
    }


def from_columns(row: Any) -> InteractionRecord:
    """Return the record of an object with the columns as attributes.

    Columns that another version or a manual edit left missing or invalid are None there, and read
    as absent, so that one odd row does not hide the others.
    """
    created_at = row.created_at or EPOCH
    return InteractionRecord(
        interaction_id=row.interaction_id,
        owner=row.owner or "",
        user_id=row.user_id or "",
        created_at=created_at,
        deadline_at=row.deadline_at or created_at,
        expires_at=row.expires_at,
        request_id=row.request_id or "",
        request_hash=row.request_hash,
        key_id=row.key_id,
        conversation_id=row.conversation_id or row.interaction_id,
        previous_interaction_id=row.previous_interaction_id,
        ancestors=tuple(id_ for id_ in row.ancestors or () if isinstance(id_, str)),
        prompt=row.prompt or "",
        system=row.system,
        parameters=row.parameters or {},
        metadata=row.metadata or {},
        status=Status(row.status or Status.ABORTED),
        provider=row.provider or "",
        model=row.model or "",
        response=row.response,
        tool_calls=tuple(call for call in row.tool_calls or () if isinstance(call, Mapping)),
        finish_reason=row.finish_reason,
        cached=bool(row.cached),
        latency_ms=row.latency_ms,
        attempts=tuple(_attempt(each) for each in row.attempts or () if isinstance(each, Mapping)),
        error=ErrorInfo(code=row.error_code, detail=row.error_detail or "")
        if row.error_code
        else None,
        usage=Usage(**{name: getattr(row, name) for name in USAGE}),
    )


def _attempt(entry: Mapping[str, Any]) -> Attempt:
    known: dict[str, Any] = {name: entry.get(name) for name in ATTEMPT}
    return Attempt(**known)
