"""A record as a JSON object and back, without loss.

Times are in ISO 8601, and the cost is a string of plain digits: the same record is the same line,
whichever store it comes from.
"""

import re
from dataclasses import fields
from datetime import UTC
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

from chat.storage.base import ID_PATTERN, MAX_ID_LENGTH, ErrorInfo, InteractionRecord
from providers.base import COST_DECIMALS, Usage
from providers.router import Attempt

MAX_INTEGER = 2**63 - 1
MAX_COST_USD = Decimal(10**12)
KINDS: tuple[type, ...] = (InteractionRecord, Usage, ErrorInfo, Attempt)
NAMES = {kind: {field.name for field in fields(kind)} for kind in KINDS}


def to_line(record: InteractionRecord) -> bytes:
    """The record as a line of a file."""
    return orjson.dumps(record, default=_plain, option=orjson.OPT_APPEND_NEWLINE)


def to_json(record: InteractionRecord) -> dict[str, Any]:
    """The record in JSON's types."""
    data: dict[str, Any] = orjson.loads(to_line(record))
    return data


def from_json(data: Any) -> InteractionRecord:
    """The record that `to_json` was given. Raises ValueError, which says why, for anything else.

    What was added to records since then may be missing. What this version does not know must not:
    a newer one wrote it, and it would be lost.
    """
    import msgspec

    try:
        record = msgspec.convert(data, InteractionRecord)
    except msgspec.ValidationError as exc:  # it is a ValueError, but of no help to its readers
        raise ValueError(f"this is not a record: {exc}") from None
    _must_be_known(data, InteractionRecord)
    _must_be_known(data.get("usage"), Usage)
    _must_be_known(data.get("error"), ErrorInfo)
    for attempt in data.get("attempts", ()):
        _must_be_known(attempt, Attempt)
    if "status" not in data:
        raise ValueError("this is not a record: it has no status")
    _must_be_storable(record)
    return record


def is_valid_id(text: str) -> bool:
    """Return whether `text` can be an owner or a user id."""
    return len(text) <= MAX_ID_LENGTH and re.fullmatch(ID_PATTERN, text) is not None


def _must_be_known(data: dict[str, Any] | None, kind: type) -> None:
    if unknown := (data or {}).keys() - NAMES[kind]:
        names = ", ".join(sorted(unknown))
        raise ValueError(f"unknown to this version: {names}; was it written by a newer one?")


def _must_be_storable(record: InteractionRecord) -> None:
    """What the types leave open, and no store could keep."""
    UUID(record.interaction_id)
    times = (record.created_at, record.deadline_at, record.expires_at)
    usage, cost = record.usage, record.usage.cost_usd
    tokens = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    numbers = (*tokens, usage.cached_tokens, usage.reasoning_tokens, record.latency_ms)
    if any(time is not None and time.tzinfo is None for time in times):
        raise ValueError("a time has no time zone")
    try:
        [time.astimezone(UTC) for time in times if time is not None]
    except OverflowError:
        raise ValueError("a time is beyond the last that there is") from None
    if any(number is not None and not 0 <= number <= MAX_INTEGER for number in numbers):
        raise ValueError("a number is negative, or too large")
    if cost is not None and not (
        cost.is_finite() and 0 <= cost < MAX_COST_USD and cost == round(cost, COST_DECIMALS)
    ):
        raise ValueError("the cost is no amount of US dollars, down to 10**-12")
    if not (is_valid_id(record.user_id) and is_valid_id(record.owner)):
        raise ValueError("the owner or the user is none that there can be")
    if not record.conversation_id or (record.error and not record.error.code):
        raise ValueError("the conversation, or the code of the error, has no name")


def _plain(value: Any) -> str:
    """Digits alone, without zeros that a store may or may not keep."""
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    raise TypeError(type(value).__name__)
