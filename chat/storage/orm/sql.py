"""The writes of every request, and of many records, as statements that are put together once.

Django's ORM would compile each of them anew, in longer than SQLite takes to run it.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson
from django.db import connection, models

from chat.models import Interaction
from chat.storage.base import InteractionRecord
from chat.storage.columns import outcome_columns, to_columns
from chat.storage.orm.connection import execute, executemany

INSERT = "INSERT INTO chat_interaction ({names}) VALUES ({values}) ON CONFLICT DO NOTHING"
UPDATE = """
    UPDATE chat_interaction SET {written}
    WHERE interaction_id = ? AND deadline_at = ? AND status = 'pending'"""


def insert(record: InteractionRecord) -> bool:
    """Write a new record; False where its id is taken."""
    columns = to_columns(record)
    return execute(_insert(tuple(columns)), _adapted(columns)).rowcount == 1


def insert_many(records: Iterable[InteractionRecord]) -> None:
    """Write new records, all of whose ids are free."""
    rows = [to_columns(record) for record in records]
    if rows:
        executemany(_insert(tuple(rows[0])), map(_adapted, rows))


def update(record: InteractionRecord) -> bool:
    """Write the outcome of a claim; False where it is no longer there."""
    columns = outcome_columns(record)
    claim = {"interaction_id": record.interaction_id, "deadline_at": record.deadline_at}
    values = [*_adapted(columns), *_adapted(claim)]
    return execute(_update(tuple(columns)), values).rowcount == 1


@functools.cache
def _insert(columns: tuple[str, ...]) -> str:
    names, values = map(_quoted, columns), ["?"] * len(columns)
    return INSERT.format(names=", ".join(names), values=", ".join(values))


@functools.cache
def _update(columns: tuple[str, ...]) -> str:
    return UPDATE.format(written=", ".join(f"{_quoted(name)} = ?" for name in columns))


def _quoted(name: str) -> str:
    return f'"{name}"'


def _adapted(columns: Mapping[str, Any]) -> list[Any]:
    """The values as Django's fields write them."""
    return [
        ADAPTERS[name](value) if name in ADAPTERS and value is not None else value
        for name, value in columns.items()
    ]


def _adapter(field: "models.Field[Any, Any]") -> Callable[[Any], Any] | None:
    match field:
        case models.DateTimeField():
            return lambda value: connection.ops.adapt_datetimefield_value(value)
        case models.DecimalField(max_digits=digits, decimal_places=places):
            return lambda value: connection.ops.adapt_decimalfield_value(value, digits, places)
        case models.JSONField():
            return lambda value: orjson.dumps(value).decode()
        case _:
            return None


ADAPTERS = {
    field.name: adapter
    for field in Interaction._meta.concrete_fields
    if (adapter := _adapter(field))
}
