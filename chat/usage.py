"""What was used: reports of it, and budgets that end with it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from django.core import signing

from chat import telemetry
from chat.authentication import Caller
from chat.errors import BudgetExceeded, ValidationFailed
from chat.storage import usage_store
from chat.storage.usage import By, Counts, UserPage

DEFAULT_DAYS = 30
MAX_DAYS = 366


class Grouping(StrEnum):
    DATE = "date"
    MODEL = "model"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Days in UTC, both inclusive."""

    first: date
    last: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Counts by group, in order, their whole, and the cursor of more; None is the end.

    The total is of the period, whatever is on the page.
    """

    groups: dict[str, Counts]
    total: Counts
    next_cursor: str | None = None


def report(
    *,
    owner: str,
    period: Period,
    group_by: Grouping,
    limit: int = 100,
    cursor: str | None = None,
) -> Report:
    """What an owner used. Users come in pages of `limit`, from where the last one ended.

    Raises ValidationFailed for a cursor that is none of this owner's, StorageUnavailable.
    """
    with telemetry.timed("storage"):
        daily = usage_store().daily(owner, By.MODEL, period.first, period.last)
        total = sum(daily.values(), Counts())
        if group_by is Grouping.USER:
            page = _users(owner, period, limit, cursor)
            after = page.next_after
            next_cursor = None if after is None else signing.dumps(after, salt=_salt(owner))
            return Report(groups=dict(page.users), total=total, next_cursor=next_cursor)
    if group_by is Grouping.DATE:
        groups = grouped((day.isoformat(), counts) for (day, _), counts in daily.items())
    else:
        groups = grouped((model, counts) for (_, model), counts in daily.items())
    return Report(groups=groups, total=total)


def grouped(pairs: Iterable[tuple[str, Counts]]) -> dict[str, Counts]:
    """The sums by name, in the order of the names."""
    sums: dict[str, Counts] = {}
    for name, counts in pairs:
        sums[name] = sums.get(name, Counts()) + counts
    return dict(sorted(sums.items()))


def enforce_budget(caller: Caller) -> None:
    """Let a key spend its budget and no more; what is still being answered is not known yet.

    Raises BudgetExceeded, StorageUnavailable.
    """
    key = caller.key
    if key is None or key.monthly_budget_usd is None:
        return
    with telemetry.timed("storage"):
        spent = usage_store().month(key.owner, By.KEY, key.key_id, datetime.now(UTC).date())
    if spent.cost_usd >= key.monthly_budget_usd:
        raise BudgetExceeded


def last_days(days: int) -> Period:
    """The period of so many days that ends today."""
    today = datetime.now(UTC).date()
    return Period(first=today - timedelta(days=days - 1), last=today)


def _users(owner: str, period: Period, limit: int, cursor: str | None) -> UserPage:
    after = "" if cursor is None else _position(owner, cursor)
    return usage_store().users(owner, period.first, period.last, limit=limit, after=after)


def _position(owner: str, cursor: str) -> str:
    try:
        return str(signing.loads(cursor, salt=_salt(owner)))
    except signing.BadSignature as exc:
        error = {"field": "cursor", "code": "invalid", "detail": "This is no cursor of this list."}
        raise ValidationFailed(errors=[error]) from exc


def _salt(owner: str) -> str:
    return f"usage {owner}"
