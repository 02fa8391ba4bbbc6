"""The page of usage: charts, and the same figures in tables."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from datetime import date
from typing import Any, TypeVar

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest
from django.template.response import TemplateResponse

from chat.admin.figures import PERCENTILES, Cell, Figures, Scope, figures, merged, percentiles
from chat.admin.search import distinct
from chat.models import Interaction, UsageCount
from chat.storage.usage import Counts
from chat.usage import DEFAULT_DAYS, MAX_DAYS, Period, last_days

Name = TypeVar("Name", bound=Hashable)

PERIODS = (7, 30, 90)
# So many models have a colour of their own; those that were asked less share one.
OWN_COLOURS = 7
OTHERS = "others"


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
            self.fields[name].choices = [("", "all"), *values]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        given = {**self.cleaned_data}
        period = last_days(given.get("days") or DEFAULT_DAYS)
        first, last = given.get("first"), given.get("last")
        if first or last:
            last = last or period.last
            first = first or last
            if not 0 <= (last - first).days < MAX_DAYS:
                raise ValidationError(f"A period has 1 to {MAX_DAYS} days.")
            period = Period(first=first, last=last)
        return {**given, "period": period}

    @property
    def scope(self) -> Scope:
        """What is asked for; where that is not valid, the usual."""
        given = self.cleaned_data if self.is_valid() else {}
        return Scope(
            period=given.get("period") or last_days(DEFAULT_DAYS),
            owner=given.get("owner") or None,
            model=given.get("model") or None,
        )


def usage_page(request: HttpRequest) -> TemplateResponse:
    """Requests, tokens, cost, latencies and errors of a period. Needs the right to see counts."""
    if not request.user.has_perm("chat.view_usagecount"):
        raise PermissionDenied
    form = ScopeForm(request.GET)
    scope = form.scope
    found = figures(scope)
    context = {
        **admin.site.each_context(request),
        "title": "Usage",
        "form": form,
        "scope": scope,
        "periods": PERIODS,
        "charts": charts(scope, found),
        "total": _line(sum(found.counts.values(), Counts()), merged(found.latencies.values())),
        "by_model": _table(found, lambda cell: cell[1], found.models),
        "by_day": _table(found, lambda cell: cell[0], scope.days[::-1]),
        "by_code": _errors_by_code(found),
    }
    return TemplateResponse(request, "admin/usage.html", context)


def charts(scope: Scope, found: Figures) -> list[dict[str, Any]]:
    """What static/chat/admin/usage.js draws."""
    own = found.models[:OWN_COLOURS]
    codes = sorted({code for _, code in found.errors})
    daily = _grouped(found.latencies, lambda cell: cell[0])
    points = {day: percentiles(merged(lists)) for day, lists in daily.items()}
    unknown: list[int | None] = [None] * len(PERCENTILES)

    def stacked(measure: Callable[[Counts], float]) -> list[dict[str, Any]]:
        sums: dict[Cell, float] = defaultdict(float)
        for (day, model), counts in found.counts.items():
            sums[day, model if model in own else OTHERS] += measure(counts)
        names = [*own, OTHERS] if len(found.models) > len(own) else own
        return _series(scope, names, lambda day, name: sums.get((day, name), 0))

    by_code = _series(scope, codes, lambda day, code: found.errors.get((day, code), 0))
    overall = [
        {"name": f"p{each}", "values": [points.get(day, unknown)[place] for day in scope.days]}
        for place, each in enumerate(PERCENTILES)
    ]
    by_model = _series(
        scope, own, lambda day, model: percentiles(found.latencies.get((day, model), []))[1]
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
    scope: Scope, names: list[str], value: Callable[[date, str], float | None]
) -> list[dict[str, Any]]:
    return [{"name": name, "values": [value(day, name) for day in scope.days]} for name in names]


def _table(
    found: Figures, group: Callable[[Cell], Name], order: list[Name]
) -> list[tuple[Name, dict[str, Any]]]:
    counts = _grouped(found.counts, group)
    latencies = _grouped(found.latencies, group)
    return [
        (name, _line(sum(counts.get(name, ()), Counts()), merged(latencies.get(name, ()))))
        for name in order
        if name in counts or name in latencies
    ]


def _errors_by_code(found: Figures) -> list[tuple[str, int]]:
    codes = _grouped(found.errors, lambda cell: cell[1])
    return sorted(((code, sum(each)) for code, each in codes.items()), key=lambda pair: -pair[1])


def _grouped(cells: Mapping[Cell, Any], group: Callable[[Cell], Name]) -> dict[Name, list[Any]]:
    groups: dict[Name, list[Any]] = defaultdict(list)
    for cell, value in cells.items():
        groups[group(cell)].append(value)
    return groups


def _line(counts: Counts, latencies: list[int]) -> dict[str, Any]:
    p50, p95, p99 = percentiles(latencies)
    rate = counts.errors / counts.requests if counts.requests else None
    return {
        "counts": counts,
        "error_rate": None if rate is None else f"{rate:.1%}",
        "cost": f"{counts.cost_usd:.4f}",
        "p50": p50,
        "p95": p95,
        "p99": p99,
    }
