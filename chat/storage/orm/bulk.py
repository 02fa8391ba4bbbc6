"""Records in bulk on the local store."""

import json
from datetime import UTC, datetime
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from chat.models import Interaction
from chat.storage.base import InteractionRecord, Status
from chat.storage.bulk import Batch, ImportResult, PurgeResult, Selection, newest_by_id, supersedes
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
    def expected(self, chosen: Selection) -> int | None:
        return _rows(chosen).count()

    @translate_errors
    def scan(self, chosen: Selection, *, limit: int, cursor: str | None = None) -> Batch:
        rows = list(_after(chosen, cursor).values_list(*COLUMNS, named=True)[:limit])
        now = timezone.now()
        found = (
            from_columns(row)
            for row in rows
            if chosen.takes(row.owner, row.user_id)
            and (row.expires_at is None or row.expires_at > now)
        )
        return Batch(records=tuple(found), seen=len(rows), cursor=_cursor(rows, limit))

    @writing
    def add(self, records: list[InteractionRecord]) -> ImportResult:
        wanted = newest_by_id(records)
        with transaction.atomic():
            held = Interaction.objects.filter(pk__in=wanted).order_by()
            columns = ("pk", "status", "deadline_at", "expires_at")
            now, gone, replaced = timezone.now(), [], 0
            for id_, status, deadline_at, expires_at in held.values_list(*columns):
                expired = expires_at is not None and expires_at <= now
                if expired or supersedes(wanted[id_], Status(status), deadline_at):
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
        self, chosen: Selection, *, limit: int, cursor: str | None = None, dry_run: bool = False
    ) -> PurgeResult:
        columns = ("interaction_id", "created_at", "owner", "user_id")
        rows = list(_after(chosen, cursor).values_list(*columns, named=True)[:limit])
        ids = [row.interaction_id for row in rows if chosen.takes(row.owner, row.user_id)]
        # What was asked anew meanwhile, under the same id, is not as old any more.
        records = len(ids) if dry_run else _rows(chosen).filter(pk__in=ids).delete()[0]
        return PurgeResult(records=records, seen=len(rows), cursor=_cursor(rows, limit))


def _rows(chosen: Selection) -> QuerySet[Interaction]:
    rows = Interaction.objects.order_by("created_at", "pk")
    if chosen.of_one_user:
        rows = rows.filter(owner=chosen.owner, user_id=chosen.user)
    if chosen.since is not None:
        rows = rows.filter(created_at__gte=chosen.since)
    if chosen.before is not None:
        rows = rows.filter(created_at__lt=chosen.before)
    return rows


def _after(chosen: Selection, cursor: str | None) -> QuerySet[Interaction]:
    rows = _rows(chosen)
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
