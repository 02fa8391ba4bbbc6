"""Records in bulk on the local store."""

import json
from datetime import UTC, datetime
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from chat.models import Interaction
from chat.storage.base import (
    Batch,
    ImportResult,
    InteractionRecord,
    PurgeResult,
    Selection,
    Status,
    newest_by_id,
)
from chat.storage.columns import from_columns
from chat.storage.orm.connection import translate_errors, writing
from chat.storage.orm.sql import insert_many
from chat.storage.orm.usage import count

COLUMNS = [field.attname for field in Interaction._meta.concrete_fields]


class OrmBulkStore:
    """See `BulkStore`. Records come in the order of their creation, then of their ids.

    What SQL does not select by the index that gives the order is left out here: given the choice,
    SQLite would take another index, and sort all of the table for each batch.
    """

    @translate_errors
    def estimate(self, selection: Selection) -> int | None:
        return _rows(selection).count()

    @translate_errors
    def scan(self, selection: Selection, *, limit: int, cursor: str | None = None) -> Batch:
        rows = list(_after(selection, cursor).values_list(*COLUMNS, named=True)[:limit])
        now = timezone.now()
        found = (
            from_columns(row)
            for row in rows
            if selection.matches(row.owner, row.user_id)
            and (row.expires_at is None or row.expires_at > now)
        )
        return Batch(records=tuple(found), scanned=len(rows), cursor=_cursor(rows, limit))

    @writing
    def import_records(self, records: list[InteractionRecord]) -> ImportResult:
        wanted = newest_by_id(records)
        with transaction.atomic():
            held = Interaction.objects.filter(pk__in=wanted).order_by()
            columns = ("pk", "status", "deadline_at", "expires_at")
            now, gone, replaced = timezone.now(), [], 0
            for id_, status, deadline_at, expires_at in held.values_list(*columns):
                expired = expires_at is not None and expires_at <= now
                if expired or wanted[id_].supersedes(Status(status), deadline_at):
                    gone.append(id_)
                    replaced += not expired
                else:
                    del wanted[id_]
            Interaction.objects.filter(pk__in=gone).delete()
            written = wanted.values()
            insert_many(written)
            count(*(record for record in written if record.status is not Status.PENDING))
        return ImportResult(new=len(written) - replaced, replaced=replaced)

    @writing
    def purge(
        self, selection: Selection, *, limit: int, cursor: str | None = None, dry_run: bool = False
    ) -> PurgeResult:
        columns = ("interaction_id", "created_at", "owner", "user_id")
        rows = list(_after(selection, cursor).values_list(*columns, named=True)[:limit])
        ids = [row.interaction_id for row in rows if selection.matches(row.owner, row.user_id)]
        # What was asked anew meanwhile, under the same id, is not as old any more.
        records = len(ids) if dry_run else _rows(selection).filter(pk__in=ids).delete()[0]
        return PurgeResult(records=records, scanned=len(rows), cursor=_cursor(rows, limit))


def _rows(selection: Selection) -> QuerySet[Interaction]:
    rows = Interaction.objects.order_by("created_at", "pk")
    if selection.of_one_user:
        rows = rows.filter(owner=selection.owner, user_id=selection.user)
    if selection.since is not None:
        rows = rows.filter(created_at__gte=selection.since)
    if selection.before is not None:
        rows = rows.filter(created_at__lt=selection.before)
    return rows


def _after(selection: Selection, cursor: str | None) -> QuerySet[Interaction]:
    rows = _rows(selection)
    if cursor is None:
        return rows
    # The first condition lets SQLite seek in the index, which it would not for an OR.
    created_at, last = json.loads(cursor)
    moment = datetime.fromisoformat(created_at)
    return rows.filter(created_at__gte=moment).exclude(created_at=moment, pk__lte=last)


def _cursor(rows: list[Any], limit: int) -> str | None:
    if len(rows) < limit:
        return None
    return json.dumps([rows[-1].created_at.astimezone(UTC).isoformat(), rows[-1].interaction_id])
