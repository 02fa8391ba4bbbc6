"""What is counted of the interactions, and what a store of the counts must do.

A record is counted when it is settled, in the very write that settles it: by its model, its user,
and the managed key that it came with, on the day (UTC) on which it was accepted. So the counts of
a day are the sums over its settled records; what was erased or has expired since stays counted,
save by user. A try that fails, and another one under the same idempotency key, are two requests:
the record of the first is gone, what it cost is not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Protocol, Self

from chat.storage.base import InteractionRecord, Status

# Costs are counted in whole units of the last digit that a record keeps: 10**-12 US dollars.
COST_DECIMALS = 12


class CounterKind(StrEnum):
    MODEL = "model"
    USER = "user"
    KEY = "key"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageCounts:
    """Sums over settled records. What a record does not know (tokens, cost) adds nothing."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cost: int = 0

    @classmethod
    def of(cls, record: InteractionRecord) -> Self:
        usage = record.usage
        return cls(
            requests=1,
            errors=int(record.status is Status.ERROR),
            prompt_tokens=usage.prompt_tokens or 0,
            completion_tokens=usage.completion_tokens or 0,
            total_tokens=usage.total_tokens or 0,
            cost=round((usage.cost_usd or Decimal(0)).scaleb(COST_DECIMALS)),
        )

    @property
    def cost_usd(self) -> Decimal:
        return Decimal(self.cost).scaleb(-COST_DECIMALS)

    def __add__(self, other: "UsageCounts") -> "UsageCounts":
        return UsageCounts(
            **{name: getattr(self, name) + getattr(other, name) for name in COUNT_FIELDS}
        )


COUNT_FIELDS = tuple(field.name for field in fields(UsageCounts))


def counters_for(record: InteractionRecord) -> list[tuple[CounterKind, str]]:
    """Under which names a record is counted."""
    names = [(CounterKind.MODEL, record.model), (CounterKind.USER, record.user_id)]
    return names if record.key_id is None else [*names, (CounterKind.KEY, record.key_id)]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPage:
    """Counts by user, and after whom the next page begins; None is the end."""

    users: Mapping[str, UsageCounts]
    next_after: str | None = None


class UsageStore(Protocol):
    """Where the counts are. Any method raises StorageUnavailable when they are out of reach.

    What it takes to read them depends on the names and days that are asked for, and not on the
    number of records. Days are inclusive.
    """

    def daily(
        self, owner: str, by: CounterKind, first: date, last: date
    ) -> dict[tuple[date, str], UsageCounts]:
        """The counts of each day and name; of users, who may be many, `users` has them."""

    def users(
        self, owner: str, first: date, last: date, *, limit: int, after: str = ""
    ) -> UserPage:
        """The counts of up to `limit` users in the order of their ids, of those after `after`."""

    def month(self, owner: str, by: CounterKind, name: str, day: date) -> UsageCounts:
        """All that was counted under a name in the month of this day; consistent."""
