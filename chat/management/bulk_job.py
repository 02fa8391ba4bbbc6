"""Shared by the commands on many records: their selection, and the loop over pages."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypedDict, TypeVar

from django.conf import settings
from django.core.management.base import CommandError
from django.db import connection

from chat.management.progress import Progress
from chat.storage.base import Batch, BulkStore, InteractionRecord, PurgeResult, Selection

PAGE = 500
P = TypeVar("P", Batch, PurgeResult)
Note = Callable[[], str]


class JobState(TypedDict):
    """What a checkpoint saves of each job."""

    task: dict[str, str | None]
    since: datetime | None
    before: datetime
    cursor: str
    seen: int


class BulkJob:
    """A selection of records, identified across runs by its command line and its storage.

    Records created after the job began belong to the next run.
    """

    def __init__(self, options: Mapping[str, Any], storage: str) -> None:
        since, before = options["since"], options["before"]
        self.words: dict[str, str | None] = {
            "from": _ledger(storage),
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
            since=self.since, before=self.before, owner=self.words["owner"], user=self.words["user"]
        )

    def state(self, **more: Any) -> dict[str, Any]:
        """Return the state that a checkpoint saves."""
        since = self.since and self.since.isoformat()
        return {"task": self.words, "since": since, "before": self.before.isoformat(), **more}

    def resume(self, state: JobState) -> None:
        """Take over the period of the interrupted run: `7d` keeps its first meaning."""
        self.since, self.before = state["since"], state["before"]


def _ledger(storage: str) -> str:
    """Return which ledger this storage is: a file, or a table with its region and endpoint."""
    if storage == "sqlite":
        return f"sqlite {connection.settings_dict['NAME']}"
    place = (settings.TABLE_NAME, settings.AWS_REGION, settings.DYNAMODB_ENDPOINT)
    return " ".join([storage, *filter(None, place)])


def pages(
    read: Callable[..., P], progress: Progress, cursor: str | None = None, note: Note = str
) -> Iterator[P]:
    """Yield the pages that a bulk store reads, from the cursor on, and show the progress."""
    with progress:
        while True:
            page = read(limit=PAGE, cursor=cursor)
            yield page
            progress.update(page.scanned, note())
            cursor = page.cursor
            if cursor is None:
                return


def import_page(store: BulkStore, records: list[InteractionRecord], done: Counter[str]) -> None:
    """Import records, and add the outcome to `done`."""
    added = store.import_records(records)
    unchanged = len(records) - added.new - added.replaced
    done.update(read=len(records), new=added.new, replaced=added.replaced, unchanged=unchanged)
