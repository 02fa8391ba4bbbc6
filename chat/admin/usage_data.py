"""What the page of usage shows: counts from the counters, latencies and errors from the records.

Requests, tokens and cost are counted as records are settled, and reading them does not depend on
how many there are. Latencies and the codes of errors are read from two indexes that have all it
takes; percentiles are exact, by nearest rank. A day is one in UTC.
"""

import itertools
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import orjson
from django.db import connection
from django.db.models import Sum

from chat.admin.search import distinct
from chat.models import Interaction, UsageCount
from chat.storage.usage import COUNT_FIELDS, CounterKind, UsageCounts
from chat.usage import DateRange

PERCENTILES = (50, 95, 99)
LATENCIES = """
    SELECT json_group_array(latency_ms) FROM chat_interaction
    WHERE created_at >= %s AND created_at < %s AND latency_ms IS NOT NULL AND model = %s"""
ERRORS = """
    SELECT substr(created_at, 1, 10), error_code, count(*) FROM chat_interaction
    WHERE created_at >= %s AND created_at < %s AND error_code IS NOT NULL"""
# A plus sign keeps SQLite from choosing an index by this column, which lacks the others.
OF_OWNER = " AND +owner = %s"
OF_MODEL = " AND +model = %s"

Cell = tuple[date, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """What is asked for; no owner or no model is all of them."""

    period: DateRange
    owner: str | None = None
    model: str | None = None

    @property
    def days(self) -> list[date]:
        length = (self.period.last - self.period.first).days + 1
        return [self.period.first + timedelta(days=number) for number in range(length)]


@dataclass(frozen=True, slots=True)
class Figures:
    """By day and model: counts, and sorted latencies in milliseconds; by day and code: errors."""

    counts: Mapping[Cell, UsageCounts]
    latencies: Mapping[Cell, list[int]]
    errors: Mapping[Cell, int]
    models: list[str]


def figures(scope: UsageFilter) -> Figures:
    counts = _counts(scope)
    latencies = _latencies(scope)
    requests = Counter({model: 0 for _, model in (*counts, *latencies)})
    for (_, model), each in counts.items():
        requests[model] += each.requests
    models = [model for model, _ in requests.most_common()]
    return Figures(counts, latencies, _errors(scope), models)


def percentiles(lists: Sequence[Sequence[int]]) -> list[int | None]:
    """The smallest values that so many percent of all the values in sorted lists do not exceed.

    They are looked for by bisection: to merge the lists takes ten times as long.
    """
    filled = [each for each in lists if each]
    if not filled:
        return [None] * len(PERCENTILES)
    size = sum(map(len, filled))
    top = range(max(each[-1] for each in filled))

    def up_to(value: int) -> int:
        return sum(bisect_right(each, value) for each in filled)

    return [bisect_left(top, math.ceil(each * size / 100), key=up_to) for each in PERCENTILES]


def _counts(scope: UsageFilter) -> dict[Cell, UsageCounts]:
    owners = [scope.owner] if scope.owner else list(distinct(UsageCount, "owner"))
    rows = UsageCount.objects.filter(
        owner__in=owners, by=CounterKind.MODEL, date__range=(scope.period.first, scope.period.last)
    )
    if scope.model:
        rows = rows.filter(name=scope.model)
    sums = rows.values("date", "name").annotate(**{f"{name}_": Sum(name) for name in COUNT_FIELDS})
    found: Iterable[Mapping[str, Any]] = sums.order_by()
    return {
        (row["date"], row["name"]): UsageCounts(**{name: row[f"{name}_"] for name in COUNT_FIELDS})
        for row in found
    }


def _latencies(scope: UsageFilter) -> dict[Cell, list[int]]:
    """One query for each day and model: so each is read from the index as it lies there."""
    models = [scope.model] if scope.model else distinct(Interaction, "model")
    query = LATENCIES + (OF_OWNER if scope.owner else "")
    owner = [scope.owner] if scope.owner else []
    found: dict[Cell, list[int]] = {}
    with connection.cursor() as cursor:
        for model, day in itertools.product(models, scope.days):
            cursor.execute(query, [*_between(day, day), model, *owner])
            if values := orjson.loads(cursor.fetchone()[0]):
                found[day, model] = sorted(values)
    return found


def _errors(scope: UsageFilter) -> dict[Cell, int]:
    conditions = (OF_OWNER if scope.owner else "") + (OF_MODEL if scope.model else "")
    names = [name for name in (scope.owner, scope.model) if name]
    period = _between(scope.period.first, scope.period.last)
    with connection.cursor() as cursor:
        cursor.execute(f"{ERRORS}{conditions} GROUP BY 1, 2", [*period, *names])
        return {(date.fromisoformat(day), code): number for day, code, number in cursor.fetchall()}


def _between(first: date, last: date) -> tuple[str, str]:
    """From which time to before which, as SQLite's texts compare."""
    return first.isoformat(), (last + timedelta(days=1)).isoformat()
