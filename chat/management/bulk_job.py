"""Shared by the commands on many records: what they work on, and the loops over pages."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError

from chat.storage.base import Batch, BulkStore, PurgeResult, Selection

PAGE = 500


class BulkJob:
    """A selection of records, identified across runs by the words of its command line.

    It ends at the time when it began: later records belong to the next run.
    """

    def __init__(self, options: Mapping[str, Any], **more: str) -> None:
        since, before = options["since"], options["before"]
        self.words = {
            **more,
            "since": since and since.words,
            "before": before and before.words,
            "owner": options["owner"],
            "user": options["user"],
        }
        self.since = since and since.moment
        self.before = before.moment if before else datetime.now(UTC)
        if self.since and self.since >= self.before:
            raise CommandError("--since must be earlier than --before.")

    @property
    def selection(self) -> Selection:
        return Selection(
            since=self.since,
            before=self.before,
            owner=self.words["owner"],
            user=self.words["user"],
        )

    def state(self, **more: Any) -> dict[str, Any]:
        """Return what a checkpoint saves about this job."""
        since = self.since and self.since.isoformat()
        return {"task": self.words, "since": since, "before": self.before.isoformat(), **more}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take over the period of the interrupted run: `7d` keeps its first meaning."""
        self.since = state["since"] and datetime.fromisoformat(state["since"])
        self.before = datetime.fromisoformat(state["before"])


def scan(store: BulkStore, selection: Selection, *, cursor: str | None = None) -> Iterator[Batch]:
    """Read the selection page by page, from the cursor on."""
    while True:
        batch = store.scan(selection, limit=PAGE, cursor=cursor)
        yield batch
        cursor = batch.cursor
        if cursor is None:
            return


def purge(store: BulkStore, selection: Selection, *, dry_run: bool) -> Iterator[PurgeResult]:
    """Delete the selection page by page; a dry run only counts."""
    cursor = None
    while True:
        result = store.purge(selection, limit=PAGE, cursor=cursor, dry_run=dry_run)
        yield result
        cursor = result.cursor
        if cursor is None:
            return
