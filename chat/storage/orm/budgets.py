"""Reservations on SQLite: rows that live from the claim of a record to its settlement."""

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime

from chat.storage.base import InteractionRecord, Reservation
from chat.storage.errors import BudgetSpent
from chat.storage.orm.sql import stored_time

COMMITTED = """
    SELECT (
        SELECT COALESCE(SUM(cost), 0) FROM chat_usagecount
        WHERE owner = :owner AND "by" = :by AND name = :name AND date BETWEEN :first AND :last
    ) + (
        SELECT COALESCE(SUM(amount), 0) FROM chat_reservation
        WHERE owner = :owner AND "by" = :by AND name = :name AND expires_at > :now
    )"""
RESERVE = """
    INSERT INTO chat_reservation (interaction_id, owner, "by", name, amount, expires_at)
    VALUES (?, ?, ?, ?, ?, ?)"""
RELEASE = "DELETE FROM chat_reservation WHERE interaction_id = ?"


def check(
    connection: sqlite3.Connection, record: InteractionRecord, reservations: Sequence[Reservation]
) -> None:
    """Raise BudgetSpent if one of the budgets is spent or reserved."""
    now = datetime.now(UTC)
    month = now.date().isoformat()[:7]
    for each in reservations:
        values = {
            "owner": record.owner,
            "by": each.by,
            "name": each.name,
            # Dates are compared as text, in which no day of a month comes after 31.
            "first": f"{month}-01",
            "last": f"{month}-31",
            "now": stored_time(now),
        }
        [committed] = connection.execute(COMMITTED, values).fetchone()
        if committed >= each.limit:
            raise BudgetSpent


def reserve(
    connection: sqlite3.Connection, record: InteractionRecord, reservations: Sequence[Reservation]
) -> None:
    """Write the reservations of a claim, in its transaction; they replace those of the same id."""
    release(connection, record)
    rows = [
        (
            record.interaction_id,
            record.owner,
            each.by,
            each.name,
            each.amount,
            stored_time(each.until),
        )
        for each in reservations
    ]
    connection.executemany(RESERVE, rows)


def release(connection: sqlite3.Connection, record: InteractionRecord) -> None:
    connection.execute(RELEASE, (record.interaction_id,))
