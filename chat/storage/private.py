"""What stands before a store where not everything may be written (STORE_CONTENT, MASK_PII)."""

from typing import Any

from chat.privacy import kept, taken_over
from chat.storage.base import InteractionStore, Record
from chat.storage.bulk import Added, BulkStore


class PrivateStore:
    """Writes of a record what may be kept of it. The rest is the store's own."""

    def __init__(self, store: InteractionStore) -> None:
        self._store = store

    def claim(self, record: Record) -> Record | None:
        return self._store.claim(kept(record))

    def take_over(self, record: Record, holder: Record) -> bool:
        return self._store.take_over(kept(record), holder)

    def settle(self, record: Record) -> bool:
        return self._store.settle(kept(record))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class PrivateBulkStore:
    """Likewise, of records that come from elsewhere."""

    def __init__(self, store: BulkStore) -> None:
        self._store = store

    def add(self, records: list[Record]) -> Added:
        return self._store.add([taken_over(record) for record in records])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
