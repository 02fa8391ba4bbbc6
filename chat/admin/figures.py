"""What the page of usage shows: counts from the counters, latencies and errors from the records.

Requests, tokens and cost are counted as records are settled, and reading them does not depend on
how many there are. Latencies and the codes of errors are read from two indexes that have all it
takes; percentiles are exact, by nearest rank. A day is one in UTC.
"""

import math
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
from chat.storage.usage import FIELDS, By, Counts
from chat.usage import Period

PERCENTILES = (50, 95, 99)
# A plus sign keeps SQLite from choosing an index by the owner, which has no latencies in it.
LATENCIES = """
    SELECT json_group_array(latency_ms) FROM chat_interaction
    WHERE model = %s AND created_at >= %s AND created_at < %s AND latency_ms IS NOT NULL
        AND (%s IS NULL OR +owner = %s)"""
ERRORS = """
    SELECT substr(created_at, 1, 10), error_code, count(*) FROM chat_interaction
    WHERE error_code IS NOT NULL AND created_at >= %s AND created_at < %s
        AND (%s IS NULL OR +owner = %s) AND (%s IS NULL OR +model = %s)
    GROUP BY 1, 2"""

Cell = tuple[date, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is asked for; no owner or no model is all of them."""

    period: Period
    owner: str | None = None
    model: str | None = None

    @property
    def days(self) -> list[date]:
        length = (self.period.last - self.period.first).days + 1
        return [self.period.first + timedelta(days=number) for number in range(length)]


@dataclass(frozen=True, slots=True)
class Figures:
    """By day and model: counts, and sorted latencies in milliseconds; by day and code: errors."""

    counts: Mapping[Cell, Counts]
    latencies: Mapping[Cell, list[int]]
    errors: Mapping[Cell, int]
    models: list[str]


def figures(scope: Scope) -> Figures:
    counts = _counts(scope)
    latencies = _latencies(scope)
    requests = Counter({model: 0 for _, model in (*counts, *latencies)})
    for (_, model), each in counts.items():
        requests[model] += each.requests
    models = [model for model, _ in requests.most_common()]
    return Figures(counts, latencies, _errors(scope), models)


def percentiles(latencies: Sequence[int]) -> list[int | None]:
    """The smallest of the sorted values that so many percent of them do not exceed."""
    if not latencies:
        return [None] * len(PERCENTILES)
    return [latencies[math.ceil(each * len(latencies) / 100) - 1] for each in PERCENTILES]


def merged(lists: Iterable[list[int]]) -> list[int]:
    """Sorted lists as one: what is sorted in parts is sorted fast."""
    return sorted(value for each in lists for value in each)


def _counts(scope: Scope) -> dict[Cell, Counts]:
    owners = [scope.owner] if scope.owner else list(distinct(UsageCount, "owner"))
    rows = UsageCount.objects.filter(
        owner__in=owners, by=By.MODEL, date__range=(scope.period.first, scope.period.last)
    )
    if scope.model:
        rows = rows.filter(name=scope.model)
    sums = rows.values("date", "name").annotate(**{f"{name}_": Sum(name) for name in FIELDS})
    found: Iterable[Mapping[str, Any]] = sums.order_by()
    return {
        (row["date"], row["name"]): Counts(**{name: row[f"{name}_"] for name in FIELDS})
        for row in found
    }


def _latencies(scope: Scope) -> dict[Cell, list[int]]:
    """One query for each day and model: so each is read from the index as it lies there."""
    models = [scope.model] if scope.model else list(distinct(Interaction, "model"))
    found: dict[Cell, list[int]] = {}
    with connection.cursor() as cursor:
        for model in models:
            for day in scope.days:
                start, end = _between(day, day)
                cursor.execute(LATENCIES, [model, start, end, scope.owner, scope.owner])
                values = orjson.loads(cursor.fetchone()[0])
                if values:
                    found[day, model] = sorted(values)
    return found


def _errors(scope: Scope) -> dict[Cell, int]:
    start, end = _between(scope.period.first, scope.period.last)
    values = [start, end, scope.owner, scope.owner]
    with connection.cursor() as cursor:
        cursor.execute(ERRORS, [*values, scope.model, scope.model])
        return {(date.fromisoformat(day), code): number for day, code, number in cursor.fetchall()}


def _between(first: date, last: date) -> tuple[str, str]:
    """From which time to before which, as SQLite's texts compare."""
    return first.isoformat(), (last + timedelta(days=1)).isoformat()
