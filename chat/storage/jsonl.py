"""Records as JSON lines, without loss.

Times are in ISO 8601 and costs are strings of digits, so that a record is the same line from either
storage.
"""

import re
from dataclasses import fields
from datetime import UTC
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

from chat.storage.base import (
    MAX_ID_LENGTH,
    OWNER_PATTERN,
    USER_ID_PATTERN,
    Earlier,
    ErrorInfo,
    InteractionRecord,
    Transcript,
    plain_digits,
)
from providers.base import COST_DECIMALS, Usage
from providers.router import Attempt

# Words of a command line have them for bytes that are not UTF-8.
SURROGATE = re.compile(r"[\ud800-\udfff]")
DIGEST = re.compile(r"[0-9a-f]{32}")
# SQLite's largest integer.
MAX_INTEGER = 2**63 - 1
# With 12 decimals these are the 24 digits of SQLite's column.
MAX_COST_USD = Decimal(10**12)
KINDS: tuple[type, ...] = (InteractionRecord, Usage, ErrorInfo, Attempt, Earlier, Transcript)
NAMES = {kind: {field.name for field in fields(kind)} for kind in KINDS}


def to_line(record: InteractionRecord) -> bytes:
    """Return the record as a line of a file."""
    return orjson.dumps(record, default=_plain, option=orjson.OPT_APPEND_NEWLINE)


def to_json(record: InteractionRecord) -> dict[str, Any]:
    """Return the record in JSON's types."""
    data: dict[str, Any] = orjson.loads(to_line(record))
    return data


def from_json(data: Any) -> InteractionRecord:
    """Return the record of `to_json`. Raises ValueError with the reason for anything else.

    Fields newer than the file may be missing. Unknown fields are refused: a newer version wrote
    them, and they would be lost.
    """
    # Imported here because only commands that read records need it.
    import msgspec

    try:
        record = msgspec.convert(data, InteractionRecord)
    except msgspec.ValidationError as exc:  # it is a ValueError, but of no help to its readers
        raise ValueError(f"this is not a record: {exc}") from None
    _check_known(data, InteractionRecord)
    _check_known(data.get("usage"), Usage)
    _check_known(data.get("error"), ErrorInfo)
    _check_known(data.get("earlier"), Earlier)
    _check_known(data.get("transcript"), Transcript)
    for attempt in data.get("attempts", ()):
        _check_known(attempt, Attempt)
        _check_known(attempt.get("usage"), Usage)
    if "status" not in data:
        raise ValueError("this is not a record: it has no status")
    _check_storable(record)
    return record


def is_valid_owner(text: str) -> bool:
    return _is_id(text, OWNER_PATTERN)


def is_valid_user_id(text: str) -> bool:
    return _is_id(text, USER_ID_PATTERN) and SURROGATE.search(text) is None


def _is_id(text: str, pattern: str) -> bool:
    return len(text) <= MAX_ID_LENGTH and re.fullmatch(pattern, text) is not None


def _check_known(data: dict[str, Any] | None, kind: type) -> None:
    if unknown := (data or {}).keys() - NAMES[kind]:
        names = ", ".join(sorted(unknown))
        raise ValueError(f"unknown to this version: {names}; was it written by a newer one?")


def _check_storable(record: InteractionRecord) -> None:
    """Raise ValueError for values of the right type that a store cannot keep."""
    UUID(record.interaction_id)
    times = (record.created_at, record.deadline_at, record.expires_at)
    if any(time is not None and time.tzinfo is None for time in times):
        raise ValueError("a time has no time zone")
    try:
        # A time near the year 1 or 9999 can leave the calendar when it becomes UTC.
        [time.astimezone(UTC) for time in times if time is not None]
    except OverflowError:
        raise ValueError("a time is out of range") from None
    _check_number(record.latency_ms)
    if earlier := record.earlier:
        _check_number(earlier.messages)
        if not earlier.records:
            raise ValueError("the earlier records are missing")
        for id_ in (earlier.root, *earlier.records):
            UUID(id_)
    if record.transcript and not DIGEST.fullmatch(record.transcript.digest):
        raise ValueError("the transcript's digest is not valid")
    for usage in (record.usage, *(attempt.usage for attempt in record.attempts)):
        _check_usage(usage)
    if not (is_valid_user_id(record.user_id) and is_valid_owner(record.owner)):
        raise ValueError("owner or userId is not valid")
    if not record.conversation_id or (record.error and not record.error.code):
        raise ValueError("the conversation id or the error code is empty")


def _check_usage(usage: Usage) -> None:
    """Raise ValueError for an amount out of range."""
    tokens = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    for number in (*tokens, usage.cached_tokens, usage.reasoning_tokens):
        _check_number(number)
    cost = usage.cost_usd
    if cost is not None and not (
        cost.is_finite() and 0 <= cost < MAX_COST_USD and cost == round(cost, COST_DECIMALS)
    ):
        raise ValueError("the cost is not an amount in US dollars with up to 12 decimals")


def _check_number(number: int | None) -> None:
    if number is not None and not 0 <= number <= MAX_INTEGER:
        raise ValueError("a number is negative or too large")


def _plain(value: Any) -> str:
    if isinstance(value, Decimal):
        return plain_digits(value)
    raise TypeError(type(value).__name__)
