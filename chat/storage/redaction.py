"""What may be stored of an interaction (STORE_CONTENT, MASK_PII)."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from django.conf import settings
from django.utils.crypto import salted_hmac

from chat.storage.base import (
    Backend,
    Batch,
    BulkStore,
    ImportResult,
    InteractionRecord,
    InteractionStore,
    Page,
    PurgeResult,
    Selection,
)

# The parameters that tell nothing of the request's content.
ACCOUNTING_PARAMETERS = ("temperature", "top_p", "max_tokens")


def redact(record: InteractionRecord) -> InteractionRecord:
    """Return what may be stored of a record, whose request was masked on acceptance."""
    if not settings.STORE_CONTENT:
        return strip_content(record)
    if settings.MASK_PII and (record.response or record.tool_calls):
        # Its libraries take long to import: only deployments that mask wait for them.
        from chat.masking import mask_text, mask_value

        response = record.response and mask_text(record.response)
        return replace(record, response=response, tool_calls=tuple(mask_value(record.tool_calls)))
    return record


def redact_imported(record: InteractionRecord) -> InteractionRecord:
    """Return what may be stored of a record from elsewhere, its request masked too."""
    if settings.MASK_PII and settings.STORE_CONTENT:
        from chat.masking import mask_text, mask_value

        record = replace(
            record,
            prompt=mask_text(record.prompt),
            system=mask_value(record.system),
            parameters=mask_value(record.parameters),
            metadata={mask_text(name): mask_text(value) for name, value in record.metadata.items()},
        )
    return redact(record)


def strip_content(record: InteractionRecord) -> InteractionRecord:
    """Return the accounting of a record: user, time, model, usage and outcome, without texts."""
    parameters = record.parameters
    return replace(
        record,
        prompt="",
        system=None,
        parameters={name: parameters[name] for name in ACCOUNTING_PARAMETERS if name in parameters},
        metadata={},
        response=None,
        tool_calls=(),
        # The detail may quote the request, as the vendor does.
        error=record.error and replace(record.error, detail=""),
    )


def keyed_digest(digest: str) -> str:
    """Return an HMAC of a digest, so that short texts cannot be guessed without SECRET_KEY."""
    return salted_hmac("chat.privacy", digest, algorithm="sha256").hexdigest()


def redacting(stores: Backend) -> Backend:
    """Return the backend with every write of records redacted."""
    return replace(
        stores,
        interactions=RedactingStore(stores.interactions),
        bulk=RedactingBulkStore(stores.bulk),
    )


class RedactingStore:
    """Redact records before `store` writes them; pass everything else on."""

    def __init__(self, store: InteractionStore) -> None:
        self.store = store

    def claim(self, record: InteractionRecord) -> InteractionRecord | None:
        return self.store.claim(redact(record))

    def take_over(self, record: InteractionRecord, holder: InteractionRecord) -> bool:
        return self.store.take_over(redact(record), holder)

    def settle(self, record: InteractionRecord) -> bool:
        return self.store.settle(redact(record))

    def get(self, interaction_id: str) -> InteractionRecord | None:
        return self.store.get(interaction_id)

    def get_many(self, interaction_ids: Sequence[str]) -> dict[str, InteractionRecord]:
        return self.store.get_many(interaction_ids)

    def list_by_user(
        self,
        owner: str,
        user_id: str,
        *,
        limit: int,
        cursor: str | None = None,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> Page:
        return self.store.list_by_user(
            owner, user_id, limit=limit, cursor=cursor, since=since, before=before
        )

    def list_by_conversation(
        self, owner: str, conversation_id: str, *, limit: int, cursor: str | None = None
    ) -> Page:
        return self.store.list_by_conversation(owner, conversation_id, limit=limit, cursor=cursor)

    def delete_by_user(self, owner: str, user_id: str, *, limit: int) -> int:
        return self.store.delete_by_user(owner, user_id, limit=limit)

    def check(self) -> None:
        self.store.check()


class RedactingBulkStore:
    """Redact imported records before `store` writes them; pass everything else on."""

    def __init__(self, store: BulkStore) -> None:
        self.store = store

    def estimate(self, selection: Selection) -> int | None:
        return self.store.estimate(selection)

    def scan(self, selection: Selection, *, limit: int, cursor: str | None = None) -> Batch:
        return self.store.scan(selection, limit=limit, cursor=cursor)

    def import_records(self, records: list[InteractionRecord]) -> ImportResult:
        return self.store.import_records([redact_imported(record) for record in records])

    def purge(
        self, selection: Selection, *, limit: int, cursor: str | None = None, dry_run: bool = False
    ) -> PurgeResult:
        return self.store.purge(selection, limit=limit, cursor=cursor, dry_run=dry_run)
