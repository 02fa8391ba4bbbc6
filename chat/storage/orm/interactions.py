"""Interactions on Django's ORM: SQLite."""

import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial

from django.db.models import QuerySet
from django.utils import timezone

from chat.models import Interaction
from chat.storage.base import InteractionRecord, Page, Reservation, Turn
from chat.storage.columns import from_columns
from chat.storage.cursors import Position, build_page, conversation_scope, decode_cursor, user_scope
from chat.storage.errors import StorageUnavailable
from chat.storage.orm import budgets, sql
from chat.storage.orm.connection import translate_errors
from chat.storage.orm.usage import count, delete_user_counts
from chat.storage.orm.write_queue import write, write_queue
from chat.storage.transcripts import restored, turn_of

Rows = QuerySet[Interaction]

# SQLite has no TTL: now and then a claim deletes what has expired.
SWEEP_SECONDS = 60.0
# A taken id may expire or be deleted before its record is read.
CLAIM_TRIES = 3


class OrmInteractionStore:
    """See `InteractionStore`. Each write is one statement or one transaction."""

    def __init__(self) -> None:
        self._swept_at = time.monotonic()

    @translate_errors()
    def claim(
        self, record: InteractionRecord, *reservations: Reservation
    ) -> InteractionRecord | None:
        for _ in range(CLAIM_TRIES):
            if write(partial(_claim, record=record, reservations=reservations)):
                self._sweep()
                return None
            if holder := read_kept([record.interaction_id]):
                return holder[record.interaction_id]
            # An expired record that no sweep has deleted yet does not keep its id.
            write(partial(sql.delete_expired, interaction_id=record.interaction_id))
        raise StorageUnavailable

    def take_over(
        self, record: InteractionRecord, holder: InteractionRecord, *reservations: Reservation
    ) -> bool:
        return write(partial(_claim, record=record, reservations=reservations, holder=holder))

    def settle(self, record: InteractionRecord, *reservations: Reservation) -> bool:
        return write(partial(_settle, record=record, reservations=reservations))

    @translate_errors()
    def get(self, interaction_id: str) -> InteractionRecord | None:
        found = unexpired_rows().filter(interaction_id=interaction_id).first()
        return None if found is None else read_whole([found])[0]

    @translate_errors()
    def get_many(self, interaction_ids: Sequence[str]) -> dict[str, InteractionRecord]:
        found = restored(read_kept(interaction_ids).values(), read_kept)
        return {record.interaction_id: record for record in found}

    @translate_errors()
    def find_turn(self, digest: str) -> Turn | None:
        found = unexpired_rows().filter(digest=digest).order_by("-created_at").first()
        turn = None if found is None else turn_of(from_columns(found))
        if turn is None:
            return None
        # `delete` takes the digests of a conversation, because its messages may be incomplete.
        root = unexpired_rows().filter(pk=turn.root, digest__isnull=False)
        return turn if root.exists() else None

    @translate_errors()
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
        rows = created_within(unexpired_rows(), since, before).filter(owner=owner, user_id=user_id)
        return _page(rows, user_scope(owner, user_id), limit, cursor, newest_first=True)

    @translate_errors()
    def list_by_conversation(
        self, owner: str, conversation_id: str, *, limit: int, cursor: str | None = None
    ) -> Page:
        rows = unexpired_rows().filter(owner=owner, conversation_id=conversation_id)
        return _page(rows, conversation_scope(owner, conversation_id), limit, cursor)

    def delete(self, interaction_id: str) -> None:
        write(partial(sql.delete, interaction_id=interaction_id))

    def delete_by_user(self, owner: str, user_id: str, *, limit: int) -> int:
        with write_queue(locked=True) as connection:
            delete_user_counts(connection, owner, user_id)
            return sql.delete_of_user(connection, owner, user_id, limit)

    @translate_errors()
    def check(self) -> None:
        Interaction.objects.order_by().values_list("pk").first()

    def _sweep(self) -> None:
        """Delete what has expired, at most once a minute in each process.

        If another thread or process writes, a later request sweeps.
        """
        now = time.monotonic()
        if now - self._swept_at > SWEEP_SECONDS:
            self._swept_at = now
            with suppress(StorageUnavailable):
                write(sql.sweep, wait=False)


def _claim(
    connection: sqlite3.Connection,
    record: InteractionRecord,
    reservations: Sequence[Reservation],
    holder: InteractionRecord | None = None,
) -> bool:
    """Insert a record and its reservations, in place of the holder of its id.

    Return False if the id is taken, or the holder has changed since it was read.
    """
    budgets.check(connection, record, reservations)
    free = holder is None or sql.delete_as_read(connection, holder)
    inserted = free and sql.insert(connection, record)
    if inserted and reservations:
        budgets.reserve(connection, record, reservations)
    return inserted


def _settle(
    connection: sqlite3.Connection, record: InteractionRecord, reservations: Sequence[Reservation]
) -> bool:
    settled = sql.update(connection, record)
    if settled or sql.is_taken_over(connection, record):
        count(connection, [record], reservations)
    if settled and reservations:
        budgets.release(connection, record)
    return settled


def read_kept(interaction_ids: Sequence[str]) -> dict[str, InteractionRecord]:
    """Return the records that exist, by id, as they are kept."""
    found = unexpired_rows().filter(interaction_id__in=interaction_ids)
    return {row.interaction_id: from_columns(row) for row in found.order_by()}


def read_whole(rows: Iterable[Interaction]) -> list[InteractionRecord]:
    """Return the records of these rows, with the messages that earlier records hold."""
    return restored(map(from_columns, rows), read_kept)


def created_within(rows: Rows, since: datetime | None, before: datetime | None) -> Rows:
    """Select the records created in [since, before)."""
    if since is not None:
        rows = rows.filter(created_at__gte=since)
    return rows if before is None else rows.filter(created_at__lt=before)


def after(rows: Rows, position: Position, *, newest_first: bool = False) -> Rows:
    """Select the records after a position in the list."""
    # The first condition lets SQLite seek in the index, which it would not for an OR.
    created_at, last = position
    if newest_first:
        return rows.filter(created_at__lte=created_at).exclude(created_at=created_at, pk__gte=last)
    return rows.filter(created_at__gte=created_at).exclude(created_at=created_at, pk__lte=last)


def _page(
    rows: Rows, scope: str, limit: int, cursor: str | None, *, newest_first: bool = False
) -> Page:
    if cursor is not None:
        rows = after(rows, decode_cursor(cursor, scope), newest_first=newest_first)
    order = ("-created_at", "-pk") if newest_first else ("created_at", "pk")
    found = [from_columns(row) for row in rows.order_by(*order)[: limit + 1]]
    return build_page(found, limit, scope)


def unexpired_rows() -> Rows:
    """Return what has not expired; `exclude` keeps SQLite from using the index of expiry."""
    return Interaction.objects.exclude(expires_at__lte=timezone.now())
