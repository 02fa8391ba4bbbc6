"""Export a list of interactions as a stream, in constant memory."""

import csv
from collections.abc import Iterator

from django.db.models import QuerySet

from chat.management.csv_cells import cell
from chat.models import Interaction
from chat.storage.columns import to_columns
from chat.storage.jsonl import to_line
from chat.storage.orm.interactions import after, read_whole
from chat.storage.orm.sql import COLUMNS

# Records read per transaction. One long transaction would keep SQLite from checkpointing its WAL.
BATCH = 500


def json_lines(queryset: QuerySet[Interaction]) -> Iterator[bytes]:
    """Yield a JSON line for each record, as `chat.storage.jsonl` writes them."""
    for batch in _newest_first(queryset):
        yield from map(to_line, read_whole(batch))


def csv_lines(queryset: QuerySet[Interaction]) -> Iterator[str]:
    """Yield CSV lines, a column for each field. The BOM makes spreadsheets read UTF-8."""
    writer = csv.writer(_Echo(), quoting=csv.QUOTE_ALL)
    yield "\N{BYTE ORDER MARK}" + writer.writerow(COLUMNS)
    for batch in _newest_first(queryset):
        for record in read_whole(batch):
            row = to_columns(record)
            yield writer.writerow([cell(row[name]) for name in COLUMNS])


def _newest_first(queryset: QuerySet[Interaction]) -> Iterator[list[Interaction]]:
    rest = queryset.order_by("-created_at", "-pk")
    batch = list(rest[:BATCH])
    while batch:
        yield batch
        place = (batch[-1].created_at, batch[-1].pk)
        batch = list(after(rest, place, newest_first=True)[:BATCH])


class _Echo:
    """A file whose write() returns the text, so that csv.writer does too."""

    def write(self, text: str) -> str:
        return text
