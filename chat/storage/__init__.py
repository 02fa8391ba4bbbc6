"""The ledger: interactions, API keys and usage, on SQLite (`orm`) or on DynamoDB (`dynamodb`)."""

import functools
from importlib import import_module

from django.conf import settings

from chat.storage.base import Backend

BACKENDS = {"sqlite": "chat.storage.orm", "dynamodb": "chat.storage.dynamodb"}


@functools.cache
def backend(storage: str = "") -> Backend:
    """Return the stores of `storage`, by default of STORAGE; only its modules are imported."""
    stores: Backend = import_module(BACKENDS[storage or settings.STORAGE]).backend()
    if settings.MASK_PII or not settings.STORE_CONTENT:
        from chat.storage.redaction import redacting

        return redacting(stores)
    return stores
