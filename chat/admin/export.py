"""A list of interactions as a file, written as it is read: of any size, in little memory."""

import csv
import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
from django.db.models import QuerySet

from chat.models import Interaction
from chat.storage import columns
from chat.storage.jsonl import to_json

# How many records are read at a time. Each time is a transaction of its own, so that a download
# that takes hours does not keep SQLite from shortening its log.
BATCH = 500
# Where a spreadsheet would see a formula (OWASP, CSV injection), also one that separates by `;`.
FORMULA = re.compile(r"(^|[;\t])(?=[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20])")


def json_lines(queryset: QuerySet[Interaction]) -> Iterator[bytes]:
    """One record a line, without loss, as `chat.storage.jsonl` has them."""
    for row in _newest_first(queryset):
        yield orjson.dumps(to_json(columns.from_columns(row)), option=orjson.OPT_APPEND_NEWLINE)


def csv_lines(queryset: QuerySet[Interaction]) -> Iterator[str]:
    """For spreadsheets: a column for each field, in UTF-8 that they recognise."""
    writer = csv.writer(_Echo(), quoting=csv.QUOTE_ALL)
    names = [field.attname for field in Interaction._meta.concrete_fields]
    yield "\N{BYTE ORDER MARK}" + writer.writerow(names)
    for row in _newest_first(queryset):
        yield writer.writerow([_cell(getattr(row, name)) for name in names])


def _newest_first(queryset: QuerySet[Interaction]) -> Iterable[Interaction]:
    rest = queryset.order_by("-created_at", "-pk")
    batch = list(rest[:BATCH])
    while batch:
        yield from batch
        last = batch[-1]
        # The first condition lets SQLite seek in the index, which it would not for an OR.
        after = rest.filter(created_at__lte=last.created_at)
        batch = list(after.exclude(created_at=last.created_at, pk__gte=last.pk)[:BATCH])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        value = orjson.dumps(value).decode()
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return FORMULA.sub(r"\1'", text)


class _Echo:
    """A file that gives back what is written to it."""

    def write(self, text: str) -> str:
        return text
