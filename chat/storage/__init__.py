"""The chosen stores; only their modules are imported."""

import functools
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string

from chat.storage.base import InteractionStore
from chat.storage.bulk import BulkStore
from chat.storage.keys import KeyStore
from chat.storage.usage import UsageStore

STORES = {
    "sqlite": "chat.storage.orm.OrmStore",
    "dynamodb": "chat.storage.dynamodb.DynamoStore",
}
KEY_STORES = {
    "sqlite": "chat.storage.orm_keys.OrmKeys",
    "dynamodb": "chat.storage.dynamodb_keys.DynamoKeys",
}
USAGE_STORES = {
    "sqlite": "chat.storage.orm_usage.OrmUsage",
    "dynamodb": "chat.storage.dynamodb_usage.DynamoUsage",
}
BULK_STORES = {
    "sqlite": "chat.storage.orm_bulk.OrmBulk",
    "dynamodb": "chat.storage.dynamodb_bulk.DynamoBulk",
}


@functools.cache
def store() -> InteractionStore:
    """The store of interactions that STORAGE names, made once per process."""
    chosen: InteractionStore = import_string(STORES[settings.STORAGE])()
    if settings.MASK_PII or not settings.STORE_CONTENT:
        chosen = import_string("chat.storage.private.PrivateStore")(chosen)
    return chosen


def key_store() -> KeyStore:
    """The store of managed keys that goes with it."""
    chosen: KeyStore = _made(KEY_STORES[settings.STORAGE])
    return chosen


def usage_store() -> UsageStore:
    """The store of the counts that goes with it."""
    chosen: UsageStore = _made(USAGE_STORES[settings.STORAGE])
    return chosen


def bulk_store(storage: str = "") -> BulkStore:
    """Where the records are, for work on many of them; another one's than STORAGE by its name."""
    chosen: BulkStore = import_string(BULK_STORES[storage or settings.STORAGE])()
    if settings.MASK_PII or not settings.STORE_CONTENT:
        chosen = import_string("chat.storage.private.PrivateBulkStore")(chosen)
    return chosen


@functools.cache
def _made(name: str) -> Any:
    return import_string(name)()
