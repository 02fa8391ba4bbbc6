"""The usage page: charts, and the same data in tables."""

import functools
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar, cast

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest
from django.template.response import TemplateResponse

from chat.admin.search import distinct_values
from chat.admin.usage_data import PERCENTILES, Cell, UsageData, UsageFilter, load_usage, percentiles
from chat.models import Interaction, UsageCount
from chat.storage.base import UsageCounts
from chat.usage import DEFAULT_DAYS, MAX_DAYS, DateRange, last_days

Name = TypeVar("Name", bound=Hashable)
Chart = dict[str, Any]

PERIODS = (7, 30, 90)
# Number of models with a colour of their own; the others share one.
MAX_COLOURED = 7
OTHERS = "others"
NAMES = [f"p{each}" for each in PERCENTILES]
HEADS = (
    *("Requests", "Errors", "Error rate", "Prompt tokens", "Completion tokens", "Cost (USD)"),
    *(f"{name} (ms)" for name in NAMES),
)


class UsageFilterForm(forms.Form):
    """A period (first and last day, or a number of days until today), an owner and a model."""

    days = forms.IntegerField(required=False, min_value=1, max_value=MAX_DAYS)
    first = forms.DateField(required=False, label="From")
    last = forms.DateField(required=False, label="To")
    owner = forms.ChoiceField(required=False)
    model = forms.ChoiceField(required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, model in (("owner", UsageCount), ("model", Interaction)):
            values = [(value, value) for value in distinct_values(model, name)]
            cast(forms.ChoiceField, self.fields[name]).choices = [("", "all"), *values]

    def clean(self) -> dict[str, Any]:
        given = {**self.cleaned_data}
        if self.errors:
            return given
        period = last_days(given.get("days") or DEFAULT_DAYS)
        first, last = given.get("first"), given.get("last")
        if first or last:
            # A last day in the future would add empty days to each chart.
            last = min(last or period.last, period.last)
            first = first or last
            if first > period.last:
                raise ValidationError("From is in the future.")
            if first > last:
                raise ValidationError("From is after to.")
            if (last - first).days >= MAX_DAYS:
                raise ValidationError(f"A period has at most {MAX_DAYS} days.")
            period = DateRange(first=first, last=last)
        return {**given, "period": period}

    @property
    def usage_filter(self) -> UsageFilter:
        """Return the filter; in an invalid form, the default period and what else is valid."""
        self.full_clean()
        given = self.cleaned_data
        return UsageFilter(
            period=given.get("period") or last_days(DEFAULT_DAYS),
            owner=given.get("owner") or None,
            model=given.get("model") or None,
        )


@dataclass(frozen=True)
class UsageRow:
    """A table row: counts, and sorted lists of latencies."""

    counts: UsageCounts
    latencies: Sequence[list[int]]

    @functools.cached_property
    def percentiles(self) -> dict[str, int | None]:
        return dict(zip(NAMES, percentiles(self.latencies), strict=True))

    @property
    def cells(self) -> list[str]:
        counts = self.counts
        return [
            f"{counts.requests:,}",
            f"{counts.errors:,}",
            f"{counts.errors / counts.requests:.1%}" if counts.requests else "-",
            f"{counts.prompt_tokens:,}",
            f"{counts.completion_tokens:,}",
            f"{counts.cost_usd:,.4f}",
            *("-" if each is None else f"{each:,}" for each in self.percentiles.values()),
        ]


def usage_page(request: HttpRequest) -> TemplateResponse:
    """Show requests, tokens, cost, latencies and errors. Needs the permission view_usagecount."""
    if not request.user.has_perm("chat.view_usagecount"):
        raise PermissionDenied
    form = UsageFilterForm(request.GET)
    usage_filter = form.usage_filter
    data = load_usage(usage_filter)
    by_model = _rows(data, lambda cell: cell[1], data.models)
    total = UsageRow(sum(data.counts.values(), UsageCounts()), list(data.latencies.values()))
    by_day = _rows(data, lambda cell: cell[0], usage_filter.days)
    context = {
        **admin.site.each_context(request),
        "title": "Usage",
        "form": form,
        "usage_filter": usage_filter,
        "periods": PERIODS,
        "heads": HEADS,
        "charts": charts(usage_filter.days, data, by_day),
        "total": zip(HEADS, total.cells, strict=True),
        "by_model": by_model,
        "by_day": dict(reversed(by_day.items())),
        "by_code": _errors_by_code(data),
    }
    return TemplateResponse(request, "admin/usage.html", context)


def charts(days: Sequence[date], data: UsageData, by_day: Mapping[date, UsageRow]) -> list[Chart]:
    """Return the charts that static/chat/admin/usage.js draws."""
    models = data.models[:MAX_COLOURED]
    codes = sorted({code for _, code in data.errors})
    latencies = {day: row.percentiles for day, row in by_day.items()}
    chart = functools.partial(_chart, days)

    def stacked(title: str, measure: Callable[[UsageCounts], float], unit: str = "") -> Chart:
        sums: dict[Cell, float] = defaultdict(float)
        for (day, model), counts in data.counts.items():
            sums[day, model if model in models else OTHERS] += measure(counts)
        names = [*models, OTHERS] if len(data.models) > len(models) else models
        return chart(title, names, lambda *cell: sums.get(cell, 0), unit=unit)

    def p95(*cell: Any) -> int | None:
        return percentiles([data.latencies.get(cell, [])])[1]

    return [
        stacked("Requests", lambda counts: counts.requests),
        stacked("Tokens", lambda counts: counts.total_tokens),
        stacked("Cost", lambda counts: float(counts.cost_usd), "USD"),
        chart("Errors by code", codes, lambda *cell: data.errors.get(cell, 0)),
        chart("Latency", NAMES, lambda day, name: latencies.get(day, {}).get(name), unit="ms"),
        chart("Latency by model, p95", models, p95, unit="ms"),
    ]


def _chart(
    days: Sequence[date],
    title: str,
    names: Sequence[str],
    value: Callable[[date, str], float | None],
    unit: str = "",
) -> Chart:
    """Return a chart with a series for each name: lines for latencies, else stacked bars."""
    return {
        "title": title,
        "kind": "line" if unit == "ms" else "bar",
        "unit": unit,
        "labels": [day.isoformat() for day in days],
        "series": [{"name": name, "values": [value(day, name) for day in days]} for name in names],
    }


def _rows(
    data: UsageData, group: Callable[[Cell], Name], order: list[Name]
) -> dict[Name, UsageRow]:
    counts = _group_by(data.counts, group)
    latencies = _group_by(data.latencies, group)
    return {
        name: UsageRow(sum(counts.get(name, ()), UsageCounts()), latencies.get(name, ()))
        for name in order
        if name in counts or name in latencies
    }


def _errors_by_code(data: UsageData) -> list[tuple[str, str]]:
    codes = _group_by(data.errors, lambda cell: cell[1])
    sums = sorted(((code, sum(each)) for code, each in codes.items()), key=lambda pair: -pair[1])
    return [(code, f"{number:,}") for code, number in sums]


def _group_by(cells: Mapping[Cell, Any], group: Callable[[Cell], Name]) -> dict[Name, list[Any]]:
    groups: dict[Name, list[Any]] = defaultdict(list)
    for cell, value in cells.items():
        groups[group(cell)].append(value)
    return groups
