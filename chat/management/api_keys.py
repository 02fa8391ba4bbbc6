"""Shared by the commands on API keys."""

import re
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError

from chat.storage import backend
from chat.storage.base import API_KEY_PREFIX, ApiKey
from chat.usage import format_usd


def find_key(text: str) -> ApiKey:
    """Return the key with this id, prefix or full text. Raises CommandError, StorageUnavailable."""
    match = re.fullmatch(rf"(?:{API_KEY_PREFIX}_)?([0-9a-f]{{16}})(?:_[0-9a-f]*)?", text)
    key = backend().api_keys.get(match[1]) if match else None
    if key is None:
        raise CommandError("Unknown API key. list_api_keys lists the existing ones.")
    return key


def key_label(key: ApiKey) -> str:
    return f"{key.prefix} ({key.name}, of {key.owner})"


def describe_key(key: ApiKey, now: datetime) -> dict[str, Any]:
    """Return a key's public fields in JSON's types, without its digest."""
    return {
        "key_id": key.key_id,
        "prefix": key.prefix,
        "owner": key.owner,
        "name": key.name,
        "status": key.status_at(now),
        "created_at": _iso(key.created_at),
        "expires_at": _iso(key.expires_at),
        "revoked_at": _iso(key.revoked_at),
        "last_used_at": _iso(key.last_used_at),
        "rate_limit": key.rate_limit,
        "monthly_budget_usd": format_usd(key.monthly_budget_usd),
        "user_monthly_budget_usd": format_usd(key.user_monthly_budget_usd),
        "allowed_models": list(key.allowed_models),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")
