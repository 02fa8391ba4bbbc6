"""Reuse the answer when a user repeats a request (ENABLE_CACHE).

The cache holds only record ids. The answer is read from its record, so an erased record cannot
answer, and erasing a user needs no cache invalidation.
"""

import hashlib
import logging

import orjson
from django.conf import settings
from django.core.cache import cache

from chat.storage import backend
from chat.storage.base import InteractionRecord, Status
from chat.storage.errors import StorageUnavailable
from chat.telemetry.context import server_timing

logger = logging.getLogger(__name__)


def get(claim: InteractionRecord) -> InteractionRecord | None:
    """Return the record whose answer may be reused for this claim."""
    if not (settings.ENABLE_CACHE and settings.STORE_CONTENT):
        return None
    try:
        with server_timing("storage"):
            interaction_id = cache.get(_key(claim))
            record = backend().interactions.get(interaction_id) if interaction_id else None
    except StorageUnavailable:
        return None  # treat an unreadable cache as a miss
    return record if record and record.status is Status.OK and not record.lacks_content else None


def put(claim: InteractionRecord, answer: InteractionRecord) -> None:
    """Cache an answer that is complete, unfiltered, and from the preferred provider."""
    whole = answer.finish_reason == "stop" and answer.provider == claim.provider
    if settings.ENABLE_CACHE and settings.STORE_CONTENT and whole:
        try:
            with server_timing("storage"):
                cache.set(_key(claim), answer.interaction_id, settings.CACHE_TTL_SECONDS)
        except StorageUnavailable:
            # The answer itself is settled: only its reuse is lost.
            logger.warning("answer not cached")


def _key(claim: InteractionRecord) -> str:
    """Return a digest of the owner, the user and everything that affects the answer."""
    shape = [
        claim.owner,
        claim.user_id,
        claim.provider,
        claim.model,
        claim.system,
        claim.prompt,
        claim.parameters,
        claim.ancestors,
    ]
    # Hashed: a key of Django's caches has at most 250 characters, and names no user.
    digest = hashlib.sha256(orjson.dumps(shape, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return f"answer:{digest}"
