"""The keys on the local store."""

from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from django.db import IntegrityError

from chat import models
from chat.storage.base import ApiKey
from chat.storage.orm.connection import translate_errors, writing

COLUMNS = [field.name for field in fields(ApiKey)]


class OrmApiKeyStore:
    """See `ApiKeyStore`. Each write is one statement, and so atomic."""

    @writing
    def add(self, key: ApiKey) -> bool:
        try:
            models.ApiKey(**_row(key)).save(force_insert=True)
        except IntegrityError:
            return False
        return True

    @translate_errors
    def get(self, key_id: str) -> ApiKey | None:
        found = models.ApiKey.objects.filter(key_id=key_id).first()
        return None if found is None else key_of(found)

    @writing
    def replace(self, before: ApiKey, after: ApiKey) -> bool:
        unchanged = models.ApiKey.objects.filter(
            key_id=before.key_id, digest=before.digest, revoked_at=before.revoked_at
        )
        return unchanged.update(**_row(after)) == 1

    @writing
    def touch(self, key_id: str, used_at: datetime) -> None:
        models.ApiKey.objects.filter(key_id=key_id).update(last_used_at=used_at)

    @translate_errors
    def all(self) -> list[ApiKey]:
        return [key_of(found) for found in models.ApiKey.objects.order_by("created_at", "key_id")]


def _row(key: ApiKey) -> dict[str, Any]:
    return {**asdict(key), "allowed_models": list(key.allowed_models)}


def key_of(row: models.ApiKey) -> ApiKey:
    columns = {name: getattr(row, name) for name in COLUMNS}
    return ApiKey(**{**columns, "allowed_models": tuple(row.allowed_models)})
