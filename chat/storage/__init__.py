"""The chosen stores; only their modules are imported."""

import functools
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string

from chat.storage.api_keys import ApiKeyStore
from chat.storage.base import InteractionStore
from chat.storage.bulk import BulkStore
from chat.storage.usage import UsageStore

STORES = {
    "sqlite": "chat.storage.orm.interactions.OrmInteractionStore",
    "dynamodb": "chat.storage.dynamodb.interactions.DynamoInteractionStore",
}
KEY_STORES = {
    "sqlite": "chat.storage.orm.api_keys.OrmApiKeyStore",
    "dynamodb": "chat.storage.dynamodb.api_keys.DynamoApiKeyStore",
}
USAGE_STORES = {
    "sqlite": "chat.storage.orm.usage.OrmUsageStore",
    "dynamodb": "chat.storage.dynamodb.usage.DynamoUsageStore",
}
BULK_STORES = {
    "sqlite": "chat.storage.orm.bulk.OrmBulkStore",
    "dynamodb": "chat.storage.dynamodb.bulk.DynamoBulkStore",
}


@functools.cache
def store() -> InteractionStore:
    """The store of interactions that STORAGE names, made once per process."""
    chosen: InteractionStore = import_string(STORES[settings.STORAGE])()
    if settings.MASK_PII or not settings.STORE_CONTENT:
        chosen = import_string("chat.storage.redaction.RedactingStore")(chosen)
    return chosen


def key_store() -> ApiKeyStore:
    """The store of managed keys that goes with it."""
    chosen: ApiKeyStore = _made(KEY_STORES[settings.STORAGE])
    return chosen


def usage_store() -> UsageStore:
    """The store of the counts that goes with it."""
    chosen: UsageStore = _made(USAGE_STORES[settings.STORAGE])
    return chosen


def bulk_store(storage: str = "") -> BulkStore:
    """Where the records are, for work on many of them; another one's than STORAGE by its name."""
    chosen: BulkStore = import_string(BULK_STORES[storage or settings.STORAGE])()
    if settings.MASK_PII or not settings.STORE_CONTENT:
        chosen = import_string("chat.storage.redaction.RedactingBulkStore")(chosen)
    return chosen


@functools.cache
def _made(name: str) -> Any:
    return import_string(name)()
