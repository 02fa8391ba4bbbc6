"""What stands before a store where not everything may be written (STORE_CONTENT, MASK_PII)."""

from typing import Any

from chat.privacy import redact, redact_imported
from chat.storage.base import InteractionRecord, InteractionStore
from chat.storage.bulk import BulkStore, ImportResult


class RedactingStore:
    """Writes of a record what may be kept of it. The rest is the store's own."""

    def __init__(self, store: InteractionStore) -> None:
        self._store = store

    def claim(self, record: InteractionRecord) -> InteractionRecord | None:
        return self._store.claim(redact(record))

    def take_over(self, record: InteractionRecord, holder: InteractionRecord) -> bool:
        return self._store.take_over(redact(record), holder)

    def settle(self, record: InteractionRecord) -> bool:
        return self._store.settle(redact(record))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class RedactingBulkStore:
    """Likewise, of records that come from elsewhere."""

    def __init__(self, store: BulkStore) -> None:
        self._store = store

    def add(self, records: list[InteractionRecord]) -> ImportResult:
        return self._store.add([redact_imported(record) for record in records])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
