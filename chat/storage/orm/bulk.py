"""Records in bulk on Django's ORM: SQLite."""

import json
from datetime import UTC, datetime
from typing import Any

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
    unexpired,
)
from chat.storage.columns import from_columns, parse_status
from chat.storage.orm.connection import translate_errors
from chat.storage.orm.interactions import Rows, after, created_within, read_kept
from chat.storage.orm.sql import COLUMNS, delete_many, insert_many
from chat.storage.orm.usage import count
from chat.storage.orm.write_queue import write_queue
from chat.storage.transcripts import compacted, restored


class OrmBulkStore:
    """See `BulkStore`. Records come in the order of their creation, then of their ids.

    SQL selects only by the index that gives this order, and Python does the rest: given a choice,
    SQLite takes another index and sorts the whole table for each batch.
    """

    @translate_errors()
    def estimate(self, selection: Selection) -> int | None:
        return _rows(selection).count()

    @translate_errors()
    def scan(self, selection: Selection, *, limit: int, cursor: str | None = None) -> Batch:
        rows = list(_after(selection, cursor).values_list(*COLUMNS, named=True)[:limit])
        selected = (row for row in rows if selection.matches(row.owner, row.user_id))
        found = restored(unexpired(map(from_columns, selected)), read_kept)
        return Batch(records=tuple(found), scanned=len(rows), cursor=_cursor(rows, limit))

    def import_records(self, records: list[InteractionRecord]) -> ImportResult:
        # A file may have a record twice, as a claim and as its outcome.
        new = compacted(newest_by_id(records), read_kept)
        with write_queue(locked=True) as connection:
            stored = Interaction.objects.filter(pk__in=new).order_by()
            columns = ("pk", "status", "deadline_at", "expires_at")
            now, gone, replaced = timezone.now(), [], 0
            for id_, status, deadline_at, expires_at in stored.values_list(*columns):
                expired = expires_at is not None and expires_at <= now
                if expired or new[id_].supersedes(parse_status(status), deadline_at):
                    gone.append(id_)
                    replaced += not expired
                else:
                    del new[id_]
            delete_many(connection, gone)
            insert_many(connection, new.values())
            settled = [record for record in new.values() if record.status is not Status.PENDING]
            count(connection, settled)
        return ImportResult(new=len(new) - replaced, replaced=replaced)

    def purge(
        self, selection: Selection, *, limit: int, cursor: str | None = None, dry_run: bool = False
    ) -> PurgeResult:
        columns = ("interaction_id", "created_at", "owner", "user_id")
        with write_queue():
            rows = list(_after(selection, cursor).values_list(*columns, named=True)[:limit])
            ids = [row.interaction_id for row in rows if selection.matches(row.owner, row.user_id)]
            # Another process may have taken a record over: it is as new as its claim then.
            records = len(ids) if dry_run else _rows(selection).filter(pk__in=ids).delete()[0]
        return PurgeResult(records=records, scanned=len(rows), cursor=_cursor(rows, limit))


def _rows(selection: Selection) -> Rows:
    rows = Interaction.objects.order_by("created_at", "pk")
    if selection.of_one_user:
        rows = rows.filter(owner=selection.owner, user_id=selection.user)
    return created_within(rows, selection.since, selection.before)


def _after(selection: Selection, cursor: str | None) -> Rows:
    rows = _rows(selection)
    if cursor is None:
        return rows
    timestamp, last = json.loads(cursor)
    return after(rows, (datetime.fromisoformat(timestamp), last))


def _cursor(rows: list[Any], limit: int) -> str | None:
    if len(rows) < limit:
        return None
    return json.dumps([rows[-1].created_at.astimezone(UTC).isoformat(), rows[-1].interaction_id])
