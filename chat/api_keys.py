"""Managed API keys: create, verify, rotate, revoke.

A key is the text `sca_<id>_<secret>`. It is found by its id, with one read by primary key. Storage
has only an HMAC of the text, keyed by SECRET_KEY. Each process caches keys for 30 s (CACHES): a
revocation takes up to 30 s, and cached keys survive a short storage outage.
"""

import hmac
import logging
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.conf import settings
from django.core.cache import caches
from django.utils.crypto import salted_hmac

from chat.errors import InvalidApiKey
from chat.storage import backend
from chat.storage.base import API_KEY_PREFIX, ApiKey
from chat.storage.errors import StorageUnavailable
from chat.storage.time_limit import storage_deadline
from chat.telemetry.context import server_timing
from providers.deadline import Deadline

logger = logging.getLogger(__name__)

# Any other text is refused without a read of the storage.
FORMAT = re.compile(rf"{API_KEY_PREFIX}_([0-9a-f]{{16}})_[0-9a-f]{{64}}")
# `last_used_at` is written at most this often, because a write per request would cost too much.
TOUCH_INTERVAL = timedelta(hours=1)
# The longest wait for that write. On SQLite a tenth of it is for the writer's turn.
TOUCH_SECONDS = 5.0


class KeyChanged(Exception):
    """The key was rotated or revoked concurrently."""


def verify(presented: str) -> ApiKey:
    """Return the active key with this text. Raises InvalidApiKey, StorageUnavailable."""
    match = FORMAT.fullmatch(presented)
    if not match:
        raise InvalidApiKey
    now, digests = datetime.now(UTC), _digests(presented)
    key: ApiKey | None = caches["keys"].get(match[1])
    if key is None or not _matches(key, digests, now):  # the cached one may be outdated
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
    user_monthly_budget_usd: Decimal | None = None,
    allowed_models: Sequence[str] = (),
) -> tuple[ApiKey, str]:
    """Create a key, and return it with its text, which is not stored. Raises StorageUnavailable."""
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
        user_monthly_budget_usd=user_monthly_budget_usd,
        allowed_models=tuple(allowed_models),
    )
    if not backend().api_keys.add(key):
        raise StorageUnavailable("The id of the new key is taken; try again.")
    return key, text


def rotate(key: ApiKey, *, grace: timedelta) -> tuple[ApiKey, str]:
    """Give the key a new secret, and return it with its new text; the old one expires in `grace`.

    The key keeps its id, owner, limits and usage. Raises KeyChanged, StorageUnavailable.
    """
    text = _text(key.key_id)
    rotated = key._replace(
        digest=_digest(text, settings.SECRET_KEY),
        previous_digest=key.digest,
        previous_until=datetime.now(UTC) + grace,
    )
    _replace(key, rotated)
    return rotated, text


def revoke(key: ApiKey) -> ApiKey:
    """Revoke the key for good. Raises KeyChanged, StorageUnavailable."""
    revoked = key._replace(revoked_at=datetime.now(UTC))
    _replace(key, revoked)
    return revoked


def _replace(before: ApiKey, after: ApiKey) -> None:
    if not backend().api_keys.replace(before, after):
        raise KeyChanged


def _read(key_id: str, digests: Sequence[str], now: datetime) -> ApiKey:
    """Read the key from storage, and cache it or its refusal. Raises InvalidApiKey."""
    refused = caches["refused_keys"]
    # Refusals are cached as well, so that a flood of unknown keys costs no reads.
    if refused.get(digests[0]):
        raise InvalidApiKey
    with server_timing("storage"):
        key = backend().api_keys.get(key_id)
        if key is None or not _matches(key, digests, now):
            refused.set(digests[0], True)
            raise InvalidApiKey
        key = _touch(key, now)
    caches["keys"].set(key_id, key)
    return key


def _touch(key: ApiKey, now: datetime) -> ApiKey:
    """Write the time of use if TOUCH_INTERVAL has passed; a failed write is only logged."""
    if key.last_used_at and now - key.last_used_at < TOUCH_INTERVAL:
        return key
    try:
        with storage_deadline(Deadline(TOUCH_SECONDS), narrow=True):
            backend().api_keys.touch(key.key_id, now)
    except StorageUnavailable:
        logger.warning("last use of an API key not written")
    return key._replace(last_used_at=now)


def _text(key_id: str) -> str:
    return f"{API_KEY_PREFIX}_{key_id}_{secrets.token_hex(32)}"


def _digests(text: str) -> list[str]:
    """Return the digests of a key under SECRET_KEY and under SECRET_KEY_FALLBACKS."""
    return [_digest(text, each) for each in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)]


def _digest(text: str, secret: str) -> str:
    # A fast hash, unlike one for passwords: nobody can try 256 random bits.
    return salted_hmac("chat.keys", text, secret=secret, algorithm="sha256").hexdigest()


def _matches(key: ApiKey, digests: Sequence[str], now: datetime) -> bool:
    valid = key.digests_at(now)
    return any(hmac.compare_digest(stored, digest) for stored in valid for digest in digests)
