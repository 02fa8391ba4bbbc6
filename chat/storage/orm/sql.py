"""The interaction writes of every request as SQL statements that are built once.

Django's ORM would compile each anew, which takes longer than SQLite takes to run it. A statement
that returns rows commits only when all of them have been read.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from django.db import connection as django_connection
from django.db import models

from chat.models import Interaction
from chat.storage.base import InteractionRecord
from chat.storage.columns import SETTLED, outcome_columns, to_columns

COLUMNS = [field.attname for field in Interaction._meta.concrete_fields]
# A taken id is no error: a repeated idempotency key finds the first request's record.
INSERT = f"""
    INSERT INTO chat_interaction ({", ".join(COLUMNS)})
    VALUES ({", ".join(f":{name}" for name in COLUMNS)}) ON CONFLICT DO NOTHING"""  # noqa: S608  (our own names)
# A take-over sets another deadline, so a late settlement of the first claim finds no row.
UPDATE = f"""
    UPDATE chat_interaction SET {", ".join(f"{name} = :{name}" for name in SETTLED)}
    WHERE interaction_id = :interaction_id AND deadline_at = :deadline_at
    AND status = 'pending'"""  # noqa: S608  (our own names)
TAKEN_OVER = "SELECT 1 FROM chat_interaction WHERE interaction_id = ? AND deadline_at != ?"
DELETE_AS_READ = """
    DELETE FROM chat_interaction
    WHERE interaction_id = :interaction_id AND status = :status AND deadline_at = :deadline_at"""
DELETE = "DELETE FROM chat_interaction WHERE interaction_id = ?"
DELETE_DIGESTS = """
    UPDATE chat_interaction SET digest = NULL WHERE conversation_id IN (
        SELECT conversation_id FROM chat_interaction
        WHERE interaction_id = ? AND digest IS NOT NULL
    )"""
DELETE_OF_USER = """
    DELETE FROM chat_interaction WHERE interaction_id IN (
        SELECT interaction_id FROM chat_interaction WHERE owner = ? AND user_id = ?
        ORDER BY created_at DESC LIMIT ?
    )"""
DELETE_EXPIRED = f"{DELETE} AND expires_at <= ?"
SWEEP = [
    f"DELETE FROM {table} WHERE expires_at <= ?"  # noqa: S608  (our own names)
    for table in ("chat_interaction", "chat_usagecount", "chat_reservation")
]
SWEEP_CACHE = "DELETE FROM chat_cacheentry WHERE expires_at <= ?"


def insert(connection: sqlite3.Connection, record: InteractionRecord) -> bool:
    """Insert a record; return False if its id is taken."""
    return connection.execute(INSERT, _adapted(to_columns(record))).rowcount == 1


def insert_many(connection: sqlite3.Connection, records: Iterable[InteractionRecord]) -> None:
    """Insert records whose ids are free."""
    connection.executemany(INSERT, (_adapted(to_columns(record)) for record in records))


def update(connection: sqlite3.Connection, record: InteractionRecord) -> bool:
    """Write the outcome of a claim; return False if the claim is gone."""
    claim = {"interaction_id": record.interaction_id, "deadline_at": record.deadline_at}
    values = _adapted(outcome_columns(record) | claim)
    return connection.execute(UPDATE, values).rowcount == 1


def is_taken_over(connection: sqlite3.Connection, record: InteractionRecord) -> bool:
    """Return whether the record has another claim than this one."""
    values = (record.interaction_id, stored_time(record.deadline_at))
    return connection.execute(TAKEN_OVER, values).fetchone() is not None


def delete_as_read(connection: sqlite3.Connection, record: InteractionRecord) -> bool:
    """Delete a stored record; return False if it has changed since it was read."""
    names = ("interaction_id", "status", "deadline_at")
    values = _adapted({name: getattr(record, name) for name in names})
    return connection.execute(DELETE_AS_READ, values).rowcount == 1


def delete(connection: sqlite3.Connection, interaction_id: str) -> None:
    """Delete a record, and the digests of its conversation."""
    connection.execute(DELETE_DIGESTS, (interaction_id,))
    connection.execute(DELETE, (interaction_id,))


def delete_of_user(connection: sqlite3.Connection, owner: str, user_id: str, limit: int) -> int:
    """Delete the newest records of a user, and return their number."""
    return connection.execute(DELETE_OF_USER, (owner, user_id, limit)).rowcount


def delete_many(connection: sqlite3.Connection, interaction_ids: Iterable[str]) -> None:
    connection.executemany(DELETE, ((id_,) for id_ in interaction_ids))


def delete_expired(connection: sqlite3.Connection, interaction_id: str) -> None:
    """Delete a record if it has expired."""
    connection.execute(DELETE_EXPIRED, (interaction_id, _now()))


def sweep(connection: sqlite3.Connection) -> None:
    """Delete all that has expired."""
    for statement in SWEEP:
        connection.execute(statement, (_now(),))
    connection.execute(SWEEP_CACHE, (time.time(),))  # Django's caches count in seconds


def _now() -> str:
    return stored_time(datetime.now(UTC))


def stored_time(moment: datetime) -> str:
    """Return a moment as Django writes it; its own function takes five times as long."""
    return str(moment.astimezone(UTC).replace(tzinfo=None))


def _adapted(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as Django's fields store them."""
    adapted = dict(columns)
    for name, adapter in ADAPTERS.items():
        if (value := columns.get(name)) is not None:
            adapted[name] = adapter(value)
    return adapted


def _adapter(field: "models.Field[Any, Any]") -> Callable[[Any], Any] | None:
    operations = django_connection.ops
    match field:
        case models.DateTimeField():
            return stored_time
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
