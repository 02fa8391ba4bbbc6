"""Usage counters on Django's ORM: a row for each day and name, added to by one statement."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date
from typing import Any

from django.db.models import Q, QuerySet, Sum
from django.utils import timezone

from chat.models import UsageCount
from chat.storage.base import (
    COUNT_FIELDS,
    CounterKind,
    InteractionRecord,
    Reservation,
    UsageCounts,
    UserPage,
    counter_expiry,
    counters_for,
)
from chat.storage.orm.connection import translate_errors
from chat.storage.orm.sql import stored_time

COLUMNS = ("owner", "by", "name", "date", "expires_at", *COUNT_FIELDS)
INCREMENTS = ", ".join(f"{field} = {field} + excluded.{field}" for field in COUNT_FIELDS)
COUNT = f"""
    INSERT INTO chat_usagecount ({", ".join(f'"{column}"' for column in COLUMNS)})
    VALUES ({", ".join(["?"] * len(COLUMNS))})
    ON CONFLICT (owner, "by", name, date)
    DO UPDATE SET {INCREMENTS}, expires_at = excluded.expires_at"""
DELETE = 'DELETE FROM chat_usagecount WHERE owner = ? AND "by" = ? AND name = ?'
SUMS = {field: Sum(field) for field in COUNT_FIELDS}


def count(
    connection: sqlite3.Connection,
    records: Iterable[InteractionRecord],
    reservations: Sequence[Reservation] = (),
) -> None:
    """Count records, in the transaction that settles them."""
    rows: list[tuple[Any, ...]] = []
    for record in records:
        counts, day = UsageCounts.of(record), record.created_at.astimezone(UTC).date().isoformat()
        numbers = [getattr(counts, field) for field in COUNT_FIELDS]
        for by, name in counters_for(record, reservations):
            expiry = counter_expiry(record, by)
            expires_at = expiry and stored_time(expiry)
            rows.append((record.owner, by, name, day, expires_at, *numbers))
    connection.executemany(COUNT, rows)


def delete_user_counts(connection: sqlite3.Connection, owner: str, user_id: str) -> None:
    connection.execute(DELETE, (owner, CounterKind.USER, user_id))


class OrmUsageStore:
    """See `UsageStore`."""

    @translate_errors()
    def daily(
        self, owner: str, by: CounterKind, first: date, last: date
    ) -> dict[tuple[date, str], UsageCounts]:
        return {(row.date, row.name): _counts(vars(row)) for row in _rows(owner, by, first, last)}

    @translate_errors()
    def users(
        self, owner: str, first: date, last: date, *, limit: int, after: str = ""
    ) -> UserPage:
        rows = _rows(owner, CounterKind.USER, first, last).filter(name__gt=after)
        sums = rows.values("name").annotate(**SUMS).order_by("name")[: limit + 1]
        found = {row["name"]: _counts(row) for row in sums}
        names = list(found)[:limit]
        return UserPage(
            users={name: found[name] for name in names},
            next_after=names[-1] if len(found) > limit else None,
        )

    @translate_errors()
    def owners(self) -> list[str]:
        return list(UsageCount.objects.values_list("owner", flat=True).distinct())

    @translate_errors()
    def month(self, owner: str, by: CounterKind, name: str, day: date) -> UsageCounts:
        rows = UsageCount.objects.filter(
            owner=owner, by=by, name=name, date__year=day.year, date__month=day.month
        )
        return _counts(rows.aggregate(**SUMS))


def _rows(owner: str, by: CounterKind, first: date, last: date) -> QuerySet[UsageCount]:
    unexpired = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    return UsageCount.objects.filter(unexpired, owner=owner, by=by, date__range=(first, last))


def _counts(row: Mapping[str, Any]) -> UsageCounts:
    return UsageCounts(**{field: row[field] or 0 for field in COUNT_FIELDS})
