"""The interaction writes of every request as SQL statements that are built once.

Django's ORM would compile each anew, which takes longer than SQLite takes to run it. A statement
that returns rows commits only when all of them have been read.
"""

import functools
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson
from django.db import connection as django_connection
from django.db import models

from chat.models import Interaction
from chat.storage.base import InteractionRecord
from chat.storage.columns import outcome_columns, to_columns

INSERT = "INSERT INTO chat_interaction ({names}) VALUES ({values}) ON CONFLICT DO NOTHING"
UPDATE = """
    UPDATE chat_interaction SET {assignments}
    WHERE interaction_id = ? AND deadline_at = ? AND status = 'pending'"""
DELETE = "DELETE FROM chat_interaction WHERE interaction_id = ?"


def insert(connection: sqlite3.Connection, record: InteractionRecord) -> bool:
    """Insert a record; return False if its id is taken."""
    columns = to_columns(record)
    return connection.execute(_insert(tuple(columns)), _adapted(columns)).rowcount == 1


def insert_many(connection: sqlite3.Connection, records: Iterable[InteractionRecord]) -> None:
    """Insert records whose ids are free."""
    rows = [to_columns(record) for record in records]
    if rows:
        connection.executemany(_insert(tuple(rows[0])), map(_adapted, rows))


def update(connection: sqlite3.Connection, record: InteractionRecord) -> bool:
    """Write the outcome of a claim; return False if the claim is gone."""
    columns = outcome_columns(record)
    claim = {"interaction_id": record.interaction_id, "deadline_at": record.deadline_at}
    values = [*_adapted(columns), *_adapted(claim)]
    return connection.execute(_update(tuple(columns)), values).rowcount == 1


def delete_many(connection: sqlite3.Connection, interaction_ids: Iterable[str]) -> None:
    connection.executemany(DELETE, ((id_,) for id_ in interaction_ids))


@functools.cache
def _insert(columns: tuple[str, ...]) -> str:
    names, values = map(_quoted, columns), ["?"] * len(columns)
    return INSERT.format(names=", ".join(names), values=", ".join(values))


@functools.cache
def _update(columns: tuple[str, ...]) -> str:
    return UPDATE.format(assignments=", ".join(f"{_quoted(name)} = ?" for name in columns))


def _quoted(name: str) -> str:
    return f'"{name}"'


def _adapted(columns: Mapping[str, Any]) -> list[Any]:
    """Return the values as Django's fields store them."""
    return [
        ADAPTERS[name](value) if name in ADAPTERS and value is not None else value
        for name, value in columns.items()
    ]


def _adapter(field: "models.Field[Any, Any]") -> Callable[[Any], Any] | None:
    operations = django_connection.ops
    match field:
        case models.DateTimeField():
            return lambda value: operations.adapt_datetimefield_value(value)
        case models.DecimalField(max_digits=digits, decimal_places=places):
            return lambda value: operations.adapt_decimalfield_value(value, digits, places)
        case models.JSONField():
            return lambda value: orjson.dumps(value).decode()
        case _:
            return None


ADAPTERS = {
    field.name: adapter
    for field in Interaction._meta.concrete_fields
    if (adapter := _adapter(field))
}
