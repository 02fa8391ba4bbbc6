"""API keys on Django's ORM: SQLite."""

from datetime import datetime

from django.db import IntegrityError

from chat import models
from chat.storage.base import ApiKey
from chat.storage.columns import api_key_from_columns
from chat.storage.orm.connection import translate_errors
from chat.storage.orm.sql import stored_time
from chat.storage.orm.write_queue import write, write_queue

TOUCH = "UPDATE chat_apikey SET last_used_at = ? WHERE key_id = ?"


class OrmApiKeyStore:
    """See `ApiKeyStore`. Each write is one statement."""

    def add(self, key: ApiKey) -> bool:
        with write_queue():
            try:
                models.ApiKey(**key._asdict()).save(force_insert=True)
            except IntegrityError:
                return False
        return True

    @translate_errors()
    def get(self, key_id: str) -> ApiKey | None:
        found = models.ApiKey.objects.filter(key_id=key_id).first()
        return None if found is None else api_key_from_columns(found)

    def replace(self, before: ApiKey, after: ApiKey) -> bool:
        # A rotation changes the digest, a revocation the time: neither overwrites the other.
        as_read = models.ApiKey.objects.filter(
            key_id=before.key_id, digest=before.digest, revoked_at=before.revoked_at
        )
        with write_queue():
            return as_read.update(**after._asdict()) == 1

    def touch(self, key_id: str, used_at: datetime) -> None:
        write(lambda connection: connection.execute(TOUCH, (stored_time(used_at), key_id)))

    @translate_errors()
    def all(self) -> list[ApiKey]:
        return [
            api_key_from_columns(found)
            for found in models.ApiKey.objects.order_by("created_at", "key_id")
        ]
