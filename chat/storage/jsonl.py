"""A record as a JSON object and back, without loss."""

from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from chat.storage.base import Failure, Record, Status
from providers.base import Usage
from providers.router import Attempt

# Without these a record cannot be stored.
TEXTS = ("owner", "user_id", "prompt", "conversation_id", "model", "provider", "request_id")


def to_json(record: Record) -> dict[str, Any]:
    """The record in JSON's types: times in ISO 8601, the cost as a string."""
    cost = record.usage.cost_usd
    expires_at = record.expires_at
    return {
        **asdict(record),
        "created_at": record.created_at.isoformat(),
        "deadline_at": record.deadline_at.isoformat(),
        "expires_at": None if expires_at is None else expires_at.isoformat(),
        "status": record.status.value,
        "usage": {**asdict(record.usage), "cost_usd": None if cost is None else str(cost)},
    }


def from_json(data: dict[str, Any]) -> Record:
    """The record that `to_json` was given. Raises ValueError for anything else."""
    try:
        UUID(data["interaction_id"])
        if not all(isinstance(data[name], str) for name in TEXTS):
            raise ValueError("a text of the record is none")
        usage = data["usage"]
        cost = usage["cost_usd"]
        if cost is not None and not Decimal(cost).is_finite():
            raise ValueError("the cost is no number")
        error = data["error"]
        expires_at = data.get("expires_at")
        return Record(
            **{
                **data,
                "created_at": datetime.fromisoformat(data["created_at"]),
                "deadline_at": datetime.fromisoformat(data["deadline_at"]),
                "expires_at": None if expires_at is None else datetime.fromisoformat(expires_at),
                "status": Status(data["status"]),
                "usage": Usage(**{**usage, "cost_usd": None if cost is None else Decimal(cost)}),
                "ancestors": tuple(data.get("ancestors", ())),
                "tool_calls": tuple(data.get("tool_calls", ())),
                "error": None if error is None else Failure(**error),
                "attempts": tuple(Attempt(**attempt) for attempt in data["attempts"]),
            }
        )
    except (AttributeError, KeyError, TypeError, ArithmeticError) as exc:
        raise ValueError("this is not a record") from exc
