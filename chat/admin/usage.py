"""The page of usage: charts, and the same figures in tables."""

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

from chat.admin.search import distinct
from chat.admin.usage_data import PERCENTILES, Cell, Figures, UsageFilter, figures, percentiles
from chat.models import Interaction, UsageCount
from chat.storage.usage import UsageCounts
from chat.usage import DEFAULT_DAYS, MAX_DAYS, DateRange, last_days

Name = TypeVar("Name", bound=Hashable)

PERIODS = (7, 30, 90)
# So many models have a colour of their own; those that were asked less share one.
OWN_COLOURS = 7
OTHERS = "others"
NAMES = [f"p{each}" for each in PERCENTILES]
HEADS = (
    *("Requests", "Errors", "Error rate", "Prompt tokens", "Completion tokens", "Cost (USD)"),
    *(f"{name} (ms)" for name in NAMES),
)


class ScopeForm(forms.Form):
    """From one day to another, or so many days until today; of an owner, of a model."""

    days = forms.IntegerField(
        required=False, min_value=1, max_value=MAX_DAYS, widget=forms.HiddenInput
    )
    first = forms.DateField(required=False, label="From", widget=forms.DateInput({"type": "date"}))
    last = forms.DateField(required=False, label="to", widget=forms.DateInput({"type": "date"}))
    owner = forms.ChoiceField(required=False)
    model = forms.ChoiceField(required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, model in (("owner", UsageCount), ("model", Interaction)):
            values = [(value, value) for value in distinct(model, name)]
            cast(forms.ChoiceField, self.fields[name]).choices = [("", "all"), *values]

    def clean(self) -> dict[str, Any]:
        given = {**self.cleaned_data}
        period = last_days(given.get("days") or DEFAULT_DAYS)
        first, last = given.get("first"), given.get("last")
        if first or last:
            last = min(last or period.last, period.last)
            first = first or last
            if not 0 <= (last - first).days < MAX_DAYS:
                raise ValidationError(f"A period has 1 to {MAX_DAYS} days.")
            period = DateRange(first=first, last=last)
        return {**given, "period": period}

    @property
    def scope(self) -> UsageFilter:
        """What is asked for; where that is not valid, the usual."""
        given = self.cleaned_data if self.is_valid() else {}
        return UsageFilter(
            period=given.get("period") or last_days(DEFAULT_DAYS),
            owner=given.get("owner") or None,
            model=given.get("model") or None,
        )


@dataclass(frozen=True)
class Line:
    """A line of a table: counts, and the lists of sorted latencies that belong to them."""

    counts: UsageCounts
    latencies: Sequence[list[int]]

    @functools.cached_property
    def percentiles(self) -> dict[str, int | None]:
        return dict(zip(NAMES, percentiles(self.latencies), strict=True))

    @property
    def error_rate(self) -> str:
        requests = self.counts.requests
        return f"{self.counts.errors / requests:.1%}" if requests else "-"

    @property
    def cells(self) -> list[str]:
        """As they are shown."""
        counts = self.counts
        return [
            f"{counts.requests:,}",
            f"{counts.errors:,}",
            self.error_rate,
            f"{counts.prompt_tokens:,}",
            f"{counts.completion_tokens:,}",
            f"{counts.cost_usd:,.4f}",
            *("-" if each is None else f"{each:,}" for each in self.percentiles.values()),
        ]


def usage_page(request: HttpRequest) -> TemplateResponse:
    """Requests, tokens, cost, latencies and errors of a period. Needs the right to see counts."""
    if not request.user.has_perm("chat.view_usagecount"):
        raise PermissionDenied
    form = ScopeForm(request.GET)
    scope = form.scope
    found = figures(scope)
    by_model = _lines(found, lambda cell: cell[1], found.models)
    total = Line(sum(found.counts.values(), UsageCounts()), list(found.latencies.values()))
    by_day = _lines(found, lambda cell: cell[0], scope.days)
    context = {
        **admin.site.each_context(request),
        "title": "Usage",
        "form": form,
        "scope": scope,
        "periods": PERIODS,
        "heads": HEADS,
        "charts": charts(scope, found, by_day),
        "total": zip(HEADS, total.cells, strict=True),
        "by_model": by_model,
        "by_day": dict(reversed(by_day.items())),
        "by_code": _errors_by_code(found),
    }
    return TemplateResponse(request, "admin/usage.html", context)


def charts(scope: UsageFilter, found: Figures, by_day: Mapping[date, Line]) -> list[dict[str, Any]]:
    """What static/chat/admin/usage.js draws."""
    own = found.models[:OWN_COLOURS]
    codes = sorted({code for _, code in found.errors})

    def stacked(measure: Callable[[UsageCounts], float]) -> list[dict[str, Any]]:
        sums: dict[Cell, float] = defaultdict(float)
        for (day, model), counts in found.counts.items():
            sums[day, model if model in own else OTHERS] += measure(counts)
        names = [*own, OTHERS] if len(found.models) > len(own) else own
        return _series(scope, names, lambda day, name: sums.get((day, name), 0))

    by_code = _series(scope, codes, lambda day, code: found.errors.get((day, code), 0))
    points = {day: by_day[day].percentiles if day in by_day else {} for day in scope.days}
    overall = _series(scope, NAMES, lambda day, name: points[day].get(name))
    by_model = _series(
        scope, own, lambda day, model: percentiles([found.latencies.get((day, model), [])])[1]
    )
    labels = [day.isoformat() for day in scope.days]
    drawn = [
        ("Requests", "bar", "", stacked(lambda counts: counts.requests)),
        ("Tokens", "bar", "", stacked(lambda counts: counts.total_tokens)),
        ("Cost", "bar", "USD", stacked(lambda counts: float(counts.cost_usd))),
        ("Errors by code", "bar", "", by_code),
        ("Latency", "line", "ms", overall),
        ("Latency by model, p95", "line", "ms", by_model),
    ]
    return [
        {"title": title, "kind": kind, "unit": unit, "labels": labels, "series": series}
        for title, kind, unit, series in drawn
    ]


def _series(
    scope: UsageFilter, names: list[str], value: Callable[[date, str], float | None]
) -> list[dict[str, Any]]:
    return [{"name": name, "values": [value(day, name) for day in scope.days]} for name in names]


def _lines(found: Figures, group: Callable[[Cell], Name], order: list[Name]) -> dict[Name, Line]:
    counts = _grouped(found.counts, group)
    latencies = _grouped(found.latencies, group)
    return {
        name: Line(sum(counts.get(name, ()), UsageCounts()), latencies.get(name, ()))
        for name in order
        if name in counts or name in latencies
    }


def _errors_by_code(found: Figures) -> list[tuple[str, str]]:
    codes = _grouped(found.errors, lambda cell: cell[1])
    sums = sorted(((code, sum(each)) for code, each in codes.items()), key=lambda pair: -pair[1])
    return [(code, f"{number:,}") for code, number in sums]


def _grouped(cells: Mapping[Cell, Any], group: Callable[[Cell], Name]) -> dict[Name, list[Any]]:
    groups: dict[Name, list[Any]] = defaultdict(list)
    for cell, value in cells.items():
        groups[group(cell)].append(value)
    return groups
