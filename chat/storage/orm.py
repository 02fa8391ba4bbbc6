"""The store on Django's ORM: SQLite on a laptop."""

import time
from collections.abc import Sequence
from datetime import datetime

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from chat.errors import StorageUnavailable
from chat.models import Interaction
from chat.storage.base import Page, Record
from chat.storage.cursors import conversation_list, page_of, position_of, user_list
from chat.storage.orm_access import database_errors, immediately, writing
from chat.storage.orm_statements import insert, update
from chat.storage.orm_usage import count, expired_counts, user_counts
from chat.storage.rows import record_of, row

SWEEP_SECONDS = 60.0
# The holder of an id may expire, or be erased, while it is looked at.
CLAIM_TRIES = 3


class OrmStore:
    """See `InteractionStore`. Each write is one statement or one transaction, and so atomic."""

    def __init__(self) -> None:
        self._swept_at = time.monotonic()

    @writing
    def claim(self, record: Record) -> Record | None:
        self._sweep()
        for _ in range(CLAIM_TRIES):
            if insert(record):
                return None
            if holder := self.get(record.interaction_id):
                return holder
            _expired().filter(interaction_id=record.interaction_id).delete()
        raise StorageUnavailable

    @writing
    def take_over(self, record: Record, holder: Record) -> bool:
        return _unchanged(holder).update(**row(record)) == 1

    @writing
    def settle(self, record: Record) -> bool:
        with immediately():
            settled = update(record)
            if settled:
                count(record)
        return settled

    @database_errors
    def get(self, interaction_id: str) -> Record | None:
        found = _alive().filter(interaction_id=interaction_id).first()
        return None if found is None else record_of(found)

    @database_errors
    def get_many(self, interaction_ids: Sequence[str]) -> dict[str, Record]:
        found = _alive().filter(interaction_id__in=interaction_ids)
        return {row.interaction_id: record_of(row) for row in found.order_by()}

    @database_errors
    def page(
        self,
        owner: str,
        user_id: str,
        *,
        limit: int,
        cursor: str | None = None,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> Page:
        rows, list_name = _alive().filter(owner=owner, user_id=user_id), user_list(owner, user_id)
        if since is not None:
            rows = rows.filter(created_at__gte=since)
        if before is not None:
            rows = rows.filter(created_at__lt=before)
        if cursor is not None:
            # The first condition lets SQLite seek in the index, which it would not for an OR.
            created_at, last = position_of(cursor, list_name)
            rows = rows.filter(created_at__lte=created_at).exclude(
                created_at=created_at, interaction_id__gte=last
            )
        found = [record_of(row) for row in rows.order_by("-created_at", "-pk")[: limit + 1]]
        return page_of(found, limit, list_name)

    @database_errors
    def conversation(
        self, owner: str, conversation_id: str, *, limit: int, cursor: str | None = None
    ) -> Page:
        rows = _alive().filter(owner=owner, conversation_id=conversation_id)
        list_name = conversation_list(owner, conversation_id)
        if cursor is not None:
            created_at, last = position_of(cursor, list_name)
            rows = rows.filter(created_at__gte=created_at).exclude(
                created_at=created_at, interaction_id__lte=last
            )
        found = [record_of(row) for row in rows.order_by("created_at", "pk")[: limit + 1]]
        return page_of(found, limit, list_name)

    @writing
    def erase(self, owner: str, user_id: str, *, limit: int) -> int:
        first = Interaction.objects.filter(owner=owner, user_id=user_id).order_by("-created_at")
        with transaction.atomic():
            user_counts(owner, user_id).delete()
            return Interaction.objects.filter(pk__in=first.values("pk")[:limit]).delete()[0]

    @database_errors
    def ping(self) -> None:
        Interaction.objects.order_by().values_list("pk").first()

    def _sweep(self) -> None:
        """Delete what has expired, at most once a minute in each process."""
        now = time.monotonic()
        if now - self._swept_at > SWEEP_SECONDS:
            self._swept_at = now
            _expired().delete()
            expired_counts().delete()


def _alive() -> QuerySet[Interaction]:
    return Interaction.objects.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()))


def _expired() -> QuerySet[Interaction]:
    return Interaction.objects.filter(expires_at__lte=timezone.now())


def _unchanged(record: Record) -> QuerySet[Interaction]:
    return Interaction.objects.filter(
        interaction_id=record.interaction_id, status=record.status, deadline_at=record.deadline_at
    )
