"""Answers that may be given again (ENABLE_CACHE).

The cache holds ids alone. The answer is read from its record, so that an erased record is never
answered from, and what is cached needs no erasing of its own.
"""

import hashlib
import logging

import orjson
from django.conf import settings
from django.core.cache import cache

from chat.storage import backend
from chat.storage.base import InteractionRecord, Status
from chat.storage.errors import StorageUnavailable

logger = logging.getLogger(__name__)


def get(claim: InteractionRecord) -> InteractionRecord | None:
    """The record of the same question, if its answer may be given again."""
    if not (settings.ENABLE_CACHE and settings.STORE_CONTENT):
        return None
    try:
        interaction_id = cache.get(_key(claim))
        record = backend().interactions.get(interaction_id) if interaction_id else None
    except StorageUnavailable:
        return None  # a cache that cannot be read has no answer
    return record if record and record.status is Status.OK and not record.lacks_content else None


def put(claim: InteractionRecord, answer: InteractionRecord) -> None:
    """Keep an answer that is whole, unfiltered, and from the provider that was asked first."""
    whole = answer.finish_reason == "stop" and answer.provider == claim.provider
    if settings.ENABLE_CACHE and settings.STORE_CONTENT and whole:
        try:
            cache.set(_key(claim), answer.interaction_id, settings.CACHE_TTL_SECONDS)
        except StorageUnavailable:
            logger.warning("an answer could not be cached")


def _key(claim: InteractionRecord) -> str:
    """Everything that shapes an answer, and whose it is."""
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
    digest = hashlib.sha256(orjson.dumps(shape, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return f"answer:{digest}"
