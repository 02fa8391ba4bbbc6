"""The data of the usage page: counters, and latencies and errors from the records.

Requests, tokens and cost come from counters, in a time that does not depend on the number of
records. Latencies and error codes are read from two covering indexes. Percentiles are exact, by
nearest rank. Days are in UTC.
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

from chat.admin.search import distinct_values
from chat.models import Interaction, UsageCount
from chat.storage.base import COUNT_FIELDS, CounterKind, UsageCounts
from chat.usage import DateRange

PERCENTILES = (50, 95, 99)
LATENCIES = """
    SELECT json_group_array(latency_ms) FROM chat_interaction
    WHERE created_at >= %s AND created_at < %s AND latency_ms IS NOT NULL AND model = %s"""
ERRORS = """
    SELECT substr(created_at, 1, 10), error_code, count(*) FROM chat_interaction
    WHERE created_at >= %s AND created_at < %s AND error_code IS NOT NULL"""
# The plus sign keeps SQLite from choosing this column's index, which does not cover the query.
OF_OWNER = " AND +owner = %s"
OF_MODEL = " AND +model = %s"

Cell = tuple[date, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """The period, owner and model to report; None: all owners, all models."""

    period: DateRange
    owner: str | None = None
    model: str | None = None

    @property
    def days(self) -> list[date]:
        length = (self.period.last - self.period.first).days + 1
        return [self.period.first + timedelta(days=number) for number in range(length)]


@dataclass(frozen=True, slots=True)
class UsageData:
    """Counts and sorted latencies (ms) by day and model, errors by day and code.

    `models` has the most requested model first.
    """

    counts: Mapping[Cell, UsageCounts]
    latencies: Mapping[Cell, list[int]]
    errors: Mapping[Cell, int]
    models: list[str]


def load_usage(usage_filter: UsageFilter) -> UsageData:
    counts = _load_counts(usage_filter)
    latencies = _load_latencies(usage_filter)
    requests = Counter({model: 0 for _, model in (*counts, *latencies)})
    for (_, model), each in counts.items():
        requests[model] += each.requests
    models = [model for model, _ in requests.most_common()]
    return UsageData(counts, latencies, _load_errors(usage_filter), models)


def percentiles(lists: Sequence[Sequence[int]]) -> list[int | None]:
    """Return the PERCENTILES of all values in sorted lists, each None if there are no values.

    Bisection over the values takes a tenth of the time of merging the lists.
    """
    filled = [each for each in lists if each]
    if not filled:
        return [None] * len(PERCENTILES)
    size = sum(map(len, filled))
    top = range(max(each[-1] for each in filled))

    def count_up_to(value: int) -> int:
        return sum(bisect_right(each, value) for each in filled)

    return [bisect_left(top, math.ceil(each * size / 100), key=count_up_to) for each in PERCENTILES]


def _load_counts(usage_filter: UsageFilter) -> dict[Cell, UsageCounts]:
    owners = (
        [usage_filter.owner] if usage_filter.owner else list(distinct_values(UsageCount, "owner"))
    )
    rows = UsageCount.objects.filter(
        owner__in=owners,
        by=CounterKind.MODEL,
        date__range=(usage_filter.period.first, usage_filter.period.last),
    )
    if usage_filter.model:
        rows = rows.filter(name=usage_filter.model)
    sums = rows.values("date", "name").annotate(**{f"{name}_": Sum(name) for name in COUNT_FIELDS})
    found: Iterable[Mapping[str, Any]] = sums.order_by()
    return {
        (row["date"], row["name"]): UsageCounts(**{name: row[f"{name}_"] for name in COUNT_FIELDS})
        for row in found
    }


def _load_latencies(usage_filter: UsageFilter) -> dict[Cell, list[int]]:
    """Run one query per day and model: each reads one range of the index."""
    models = [usage_filter.model] if usage_filter.model else distinct_values(Interaction, "model")
    query = LATENCIES + (OF_OWNER if usage_filter.owner else "")
    owner = [usage_filter.owner] if usage_filter.owner else []
    found: dict[Cell, list[int]] = {}
    with connection.cursor() as cursor:
        for model, day in itertools.product(models, usage_filter.days):
            cursor.execute(query, [*_between(day, day), model, *owner])
            if values := orjson.loads(cursor.fetchone()[0]):
                found[day, model] = sorted(values)
    return found


def _load_errors(usage_filter: UsageFilter) -> dict[Cell, int]:
    conditions = (OF_OWNER if usage_filter.owner else "") + (OF_MODEL if usage_filter.model else "")
    names = [name for name in (usage_filter.owner, usage_filter.model) if name]
    period = _between(usage_filter.period.first, usage_filter.period.last)
    with connection.cursor() as cursor:
        cursor.execute(f"{ERRORS}{conditions} GROUP BY 1, 2", [*period, *names])
        return {(date.fromisoformat(day), code): number for day, code, number in cursor.fetchall()}


def _between(first: date, last: date) -> tuple[str, str]:
    """Return the period's start and end (exclusive) in the text format of SQLite's column."""
    return first.isoformat(), (last + timedelta(days=1)).isoformat()
