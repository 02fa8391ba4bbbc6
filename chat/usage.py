"""Usage reports: requests, tokens and cost of an owner, by day, model or user."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from django.core import signing

from chat.storage import backend
from chat.storage.base import CounterKind, UsageCounts, plain_digits
from chat.storage.errors import InvalidCursor
from chat.telemetry.context import server_timing

DEFAULT_DAYS = 30
MAX_DAYS = 366


def format_usd(amount: Decimal | None) -> str | None:
    return None if amount is None else plain_digits(amount)


class UsageGroup(StrEnum):
    DATE = "date"
    MODEL = "model"
    USER = "user"


class DateRange(NamedTuple):
    """Days in UTC, both inclusive."""

    first: date
    last: date


class Report(NamedTuple):
    """One page of usage by group, in order, and the total of the whole period."""

    groups: dict[str, UsageCounts]
    total: UsageCounts
    next_cursor: str | None = None


def report(
    *,
    owner: str,
    period: DateRange,
    group_by: UsageGroup,
    limit: int = 100,
    cursor: str | None = None,
) -> Report:
    """Return the usage of an owner by day, model or user.

    Only users come in pages of `limit`. Raises InvalidCursor for a cursor that is not of this
    owner's users, StorageUnavailable.
    """
    with server_timing("storage"):
        # Each record counts under one model, so the sum over the models is the owner's total.
        daily = backend().usage.daily(owner, CounterKind.MODEL, period.first, period.last)
        total = sum(daily.values(), UsageCounts())
        if group_by is UsageGroup.USER:
            after = "" if cursor is None else _decode_cursor(owner, cursor)
            page = backend().usage.users(owner, period.first, period.last, limit=limit, after=after)
            last = page.next_after
            next_cursor = None if last is None else signing.dumps(last, salt=_salt(owner))
            return Report(groups=dict(page.users), total=total, next_cursor=next_cursor)
    if group_by is UsageGroup.DATE:
        groups = sum_by_name((day.isoformat(), counts) for (day, _), counts in daily.items())
    else:
        groups = sum_by_name((model, counts) for (_, model), counts in daily.items())
    return Report(groups=groups, total=total)


def sum_by_name(pairs: Iterable[tuple[str, UsageCounts]]) -> dict[str, UsageCounts]:
    """Return the sum of the counts under each name, ordered by name."""
    sums: dict[str, UsageCounts] = {}
    for name, counts in pairs:
        sums[name] = sums.get(name, UsageCounts()) + counts
    return dict(sorted(sums.items()))


def last_days(days: int) -> DateRange:
    """Return the last `days` days (UTC), today included."""
    today = datetime.now(UTC).date()
    return DateRange(first=today - timedelta(days=days - 1), last=today)


def _decode_cursor(owner: str, cursor: str) -> str:
    try:
        return str(signing.loads(cursor, salt=_salt(owner)))
    except signing.BadSignature as exc:
        raise InvalidCursor from exc


def _salt(owner: str) -> str:
    # The owner is in the salt, so that a cursor of one owner is invalid for another.
    return f"usage {owner}"
