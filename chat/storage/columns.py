"""Records and API keys as flat columns, the same on both storages, and back."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from chat.storage.base import (
    ApiKey,
    Earlier,
    ErrorInfo,
    InteractionRecord,
    Status,
    Transcript,
)
from providers.base import Usage
from providers.router import Attempt

STATUSES = frozenset(Status)
EPOCH = datetime.fromtimestamp(0, UTC)
ATTEMPT = [field.name for field in fields(Attempt) if field.name != "usage"]
USAGE = [field.name for field in fields(Usage)]
# The fields of a record that are columns as they are: those of its outcome, and the others.
OUTCOME = (
    *("status", "provider", "model", "response", "tool_calls"),
    *("finish_reason", "cached", "latency_ms"),
)
# JSON objects of the outcome that most records do not have: an empty one is None in its column.
SPARSE = ("message", "extras")
NESTED = ("attempts", "error", "usage", "earlier", "transcript")
REQUEST = [
    field.name
    for field in fields(InteractionRecord)
    if field.name not in {*OUTCOME, *SPARSE, *NESTED}
]
# All columns that a settlement writes.
SETTLED = (
    *(*OUTCOME, *SPARSE, "attempts", "error_code", "error_detail", *USAGE),
    *("digest", "transcript"),
)


def to_columns(record: InteractionRecord) -> dict[str, Any]:
    """Return all columns of a record."""
    return {
        **{name: getattr(record, name) for name in REQUEST},
        "earlier": record.earlier and asdict(record.earlier),
        **outcome_columns(record),
    }


def outcome_columns(record: InteractionRecord) -> dict[str, Any]:
    """Return the columns that a settlement writes."""
    return {
        **{name: getattr(record, name) for name in OUTCOME},
        "message": record.message or None,
        "extras": record.extras or None,
        "attempts": [_attempt_columns(attempt) for attempt in record.attempts],
        "error_code": record.error and record.error.code,
        "error_detail": record.error and record.error.detail,
        **{name: getattr(record.usage, name) for name in USAGE},
        # None takes no room in an item of DynamoDB, False would.
        "estimated": record.usage.estimated or None,
        "digest": record.transcript and record.transcript.digest,
        "transcript": record.transcript and asdict(record.transcript),
    }


def from_columns(row: Any) -> InteractionRecord:
    """Return the record of an object with the columns as attributes.

    Columns that another version or a manual edit left missing or invalid are None there, and read
    as absent, so that one odd row does not hide the others.
    """
    created_at = row.created_at or EPOCH
    absent = {
        **dict.fromkeys(("owner", "user_id", "prompt", "provider", "model"), ""),
        "created_at": created_at,
        "deadline_at": created_at,
    }
    columns = {name: getattr(row, name) for name in (*REQUEST, *OUTCOME)}
    present = {name: value for name, value in columns.items() if value is not None}
    changed: dict[str, Any] = {
        "conversation_id": row.conversation_id or row.interaction_id,
        "status": parse_status(row.status),
        "ancestors": tuple(id_ for id_ in row.ancestors or () if isinstance(id_, str)),
        "tool_calls": tuple(call for call in row.tool_calls or () if isinstance(call, Mapping)),
        "message": row.message if isinstance(row.message, dict) else {},
        "extras": row.extras if isinstance(row.extras, dict) else {},
        "attempts": tuple(
            _attempt(each) for each in row.attempts or () if isinstance(each, Mapping)
        ),
        "usage": _usage({name: getattr(row, name) for name in USAGE}),
    }
    if row.earlier:
        changed["earlier"] = _earlier(row.earlier)
    if row.transcript:
        changed["transcript"] = _transcript(row.transcript)
    if row.error_code:
        changed["error"] = ErrorInfo(code=row.error_code, detail=row.error_detail or "")
    return InteractionRecord(**{**absent, **present, **changed})


def parse_status(value: str | None) -> Status:
    """Return the status of a column. Nothing would ever settle a record without a known one."""
    return Status(value) if value in STATUSES else Status.ABORTED


def api_key_from_columns(row: Any) -> ApiKey:
    """Return the API key of an object with its fields as attributes."""
    columns = {name: getattr(row, name) for name in ApiKey._fields}
    return ApiKey(**{**columns, "allowed_models": tuple(row.allowed_models or ())})


def _attempt_columns(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt in JSON's types, with the known fields of its usage."""
    entry = {name: getattr(attempt, name) for name in ATTEMPT}
    if attempt.usage.known:
        used = {name: getattr(attempt.usage, name) for name in USAGE}
        used["cost_usd"] = None if used["cost_usd"] is None else str(used["cost_usd"])
        used["estimated"] = used["estimated"] or None
        entry["usage"] = {name: value for name, value in used.items() if value is not None}
    return entry


def _attempt(entry: Mapping[str, Any]) -> Attempt:
    known: dict[str, Any] = {name: entry.get(name) for name in ATTEMPT}
    usage = entry.get("usage")
    return Attempt(**known, usage=_usage(usage) if isinstance(usage, Mapping) else Usage())


def _earlier(value: Any) -> Earlier | None:
    try:
        earlier = Earlier(**value)
        return replace(earlier, records=tuple(earlier.records))
    except TypeError:
        return None


def _transcript(value: Any) -> Transcript | None:
    try:
        return Transcript(**value)
    except TypeError:
        return None


def _usage(values: Mapping[str, Any]) -> Usage:
    known: dict[str, Any] = {name: values.get(name) for name in USAGE}
    try:
        cost = None if known["cost_usd"] is None else Decimal(known["cost_usd"])
    except (ArithmeticError, TypeError, ValueError):
        cost = None
    return Usage(**known | {"cost_usd": cost, "estimated": bool(known["estimated"])})
