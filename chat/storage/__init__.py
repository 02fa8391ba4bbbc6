"""The chosen store of interactions; only its module is imported."""

import functools

from django.conf import settings
from django.utils.module_loading import import_string

from chat.storage.base import InteractionStore

STORES = {
    "sqlite": "chat.storage.orm.OrmStore",
    "dynamodb": "chat.storage.dynamodb.DynamoStore",
}


@functools.cache
def store() -> InteractionStore:
    """The store that STORAGE names, made once per process."""
    chosen: InteractionStore = import_string(STORES[settings.STORAGE])()
    return chosen
