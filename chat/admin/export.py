"""Export a list of interactions as a stream, in constant memory."""

import csv
import re
from collections.abc import Iterator
from typing import Any

import orjson
from django.db.models import QuerySet

from chat.models import Interaction
from chat.storage.columns import to_columns
from chat.storage.jsonl import to_line
from chat.storage.orm.interactions import after, read_whole
from chat.storage.orm.sql import COLUMNS

# Records read per transaction. One long transaction would keep SQLite from checkpointing its WAL.
BATCH = 500
# The start of a cell that a spreadsheet would run as a formula (OWASP, CSV injection), also if it
# separates cells by `;` or tabs.
FORMULA = re.compile(r"(^|[;\t])(?=[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20])")


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
            yield writer.writerow([_cell(row[name]) for name in COLUMNS])


def _newest_first(queryset: QuerySet[Interaction]) -> Iterator[list[Interaction]]:
    rest = queryset.order_by("-created_at", "-pk")
    batch = list(rest[:BATCH])
    while batch:
        yield batch
        place = (batch[-1].created_at, batch[-1].pk)
        batch = list(after(rest, place, newest_first=True)[:BATCH])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        value = orjson.dumps(value).decode()
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return FORMULA.sub(r"\1'", text)


class _Echo:
    """A file whose write() returns the text, so that csv.writer does too."""

    def write(self, text: str) -> str:
        return text
