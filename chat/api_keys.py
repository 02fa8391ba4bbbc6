"""Managed API keys: made, verified, rotated, revoked.

A key reads `sca_<id>_<secret>`. The id finds it, in one read by primary key; of the whole, an HMAC
is kept, whose key follows from SECRET_KEY. What was read serves this process for half a minute
(CACHES): so long the storage may fail, and after it a revocation has arrived everywhere.
"""

import hmac
import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.conf import settings
from django.core.cache import caches
from django.utils.crypto import salted_hmac

from chat.errors import InvalidApiKey
from chat.storage import backend
from chat.storage.base import API_KEY_PREFIX, ApiKey
from chat.storage.errors import StorageUnavailable
from chat.telemetry.context import server_timing

logger = logging.getLogger(__name__)

FORMAT = re.compile(rf"{API_KEY_PREFIX}_([0-9a-f]{{16}})_[0-9a-f]{{64}}")
# How exactly the time of the last use is known: a write for each request would be too dear.
USE_NOTED_EVERY = timedelta(hours=1)


class KeyChanged(Exception):
    """Somebody else rotated or revoked the key meanwhile."""


def verify(presented: str) -> ApiKey:
    """The key that is presented, if it is good. Raises InvalidApiKey, StorageUnavailable."""
    match = FORMAT.fullmatch(presented)
    if not match:
        raise InvalidApiKey
    now, digests = datetime.now(UTC), _digests(presented)
    key: ApiKey | None = caches["keys"].get(match[1])
    if key is None or not _matches(key, digests, now):  # it may have been rotated
        key = _read(match[1], digests, now)
    if key.status_at(now) != "active":
        raise InvalidApiKey
    return key


def create(
    *,
    owner: str,
    name: str,
    expires_at: datetime | None = None,
    rate_limit: int | None = None,
    monthly_budget_usd: Decimal | None = None,
    allowed_models: Sequence[str] = (),
) -> tuple[ApiKey, str]:
    """A new key, and its text, which is nowhere else. Raises StorageUnavailable."""
    key_id = secrets.token_hex(8)
    text = _text(key_id)
    key = ApiKey(
        key_id=key_id,
        owner=owner,
        name=name,
        digest=_digest(text, settings.SECRET_KEY),
        created_at=datetime.now(UTC),
        expires_at=expires_at,
        rate_limit=rate_limit,
        monthly_budget_usd=monthly_budget_usd,
        allowed_models=tuple(allowed_models),
    )
    if not backend().api_keys.add(key):
        raise StorageUnavailable("The id of the new key is taken; try again.")
    return key, text


def rotate(key: ApiKey, *, grace: timedelta) -> tuple[ApiKey, str]:
    """The key with a new secret, and its new text; the old one goes on being good for `grace`.

    Its id stays, and with it its owner, its limits, and what was counted. Raises KeyChanged,
    StorageUnavailable.
    """
    text = _text(key.key_id)
    rotated = replace(
        key,
        digest=_digest(text, settings.SECRET_KEY),
        previous_digest=key.digest,
        previous_until=datetime.now(UTC) + grace,
    )
    _replace(key, rotated)
    return rotated, text


def revoke(key: ApiKey) -> ApiKey:
    """The key, revoked for good. Raises KeyChanged, StorageUnavailable."""
    revoked = replace(key, revoked_at=datetime.now(UTC))
    _replace(key, revoked)
    return revoked


def _replace(before: ApiKey, after: ApiKey) -> None:
    if not backend().api_keys.replace(before, after):
        raise KeyChanged


def _read(key_id: str, digests: Sequence[str], now: datetime) -> ApiKey:
    """The key as the storage has it; what it does not have is not looked for again at once."""
    refused = caches["refused_keys"]
    if refused.get(digests[0]):
        raise InvalidApiKey
    with server_timing("storage"):
        key = backend().api_keys.get(key_id)
        if key is None or not _matches(key, digests, now):
            refused.set(digests[0], True)
            raise InvalidApiKey
        key = _used(key, now)
    caches["keys"].set(key_id, key)
    return key


def _used(key: ApiKey, now: datetime) -> ApiKey:
    """The key, its use noted if it is time to; a failure to is nobody's trouble."""
    if key.last_used_at and now - key.last_used_at < USE_NOTED_EVERY:
        return key
    try:
        backend().api_keys.touch(key.key_id, now)
    except StorageUnavailable:
        logger.warning("the use of a key could not be noted")
    return replace(key, last_used_at=now)


def _text(key_id: str) -> str:
    return f"{API_KEY_PREFIX}_{key_id}_{secrets.token_hex(32)}"


def _digests(text: str) -> list[str]:
    """Under the present SECRET_KEY, and under those before it that are still good."""
    return [_digest(text, each) for each in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)]


def _digest(text: str, secret: str) -> str:
    return salted_hmac("chat.keys", text, secret=secret, algorithm="sha256").hexdigest()


def _matches(key: ApiKey, digests: Sequence[str], now: datetime) -> bool:
    good = key.digests_at(now)
    return any(hmac.compare_digest(kept, digest) for kept in good for digest in digests)
