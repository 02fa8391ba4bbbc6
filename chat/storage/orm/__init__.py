from chat.storage.base import Backend
from chat.storage.orm.api_keys import OrmApiKeyStore
from chat.storage.orm.bulk import OrmBulkStore
from chat.storage.orm.interactions import OrmInteractionStore
from chat.storage.orm.usage import OrmUsageStore


def backend() -> Backend:
    """Return the stores on Django's ORM: SQLite."""
    return Backend(
        interactions=OrmInteractionStore(),
        api_keys=OrmApiKeyStore(),
        usage=OrmUsageStore(),
        bulk=OrmBulkStore(),
    )
