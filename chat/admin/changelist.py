"""Lists of interactions that take no longer with a million records than with a thousand.

A page shows records from the newest on. To fill it, at most `looked_through` records are looked
through: the newest of those that an index leads to. What is older is a link away, and the page says
so. Nothing is counted, and page numbers end where a database would have to skip too many rows.
"""

import functools
from datetime import UTC, datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.dateparse import parse_date, parse_datetime

from chat.admin import search
from chat.models import Interaction

FROM = "created_at__lte"
# The columns that a line is made of.
LISTED = (
    *("created_at", "user_id", "prompt", "provider", "model", "status", "deadline_at"),
    *("total_tokens", "cost_usd", "latency_ms"),
)


class IndexFilter(admin.SimpleListFilter):
    """By a column that, with the time, has an index."""

    def condition(self) -> dict[str, Any]:
        return {self.parameter_name or "": self.value()} if self.value() else {}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**self.condition())


class DayFilter(admin.DateFieldListFilter):
    """By time: Django's usual periods, and from one day to another."""

    template = "admin/chat/interaction/day_filter.html"

    def __init__(self, field: Any, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(field, request, *args, **kwargs)
        self.given: dict[str, Any] = self.used_parameters
        mine = (*self.expected_parameters(), "p")
        self.others = [(name, value) for name, value in request.GET.items() if name not in mine]

    def expected_parameters(self) -> list[Any]:
        """The last is how a list goes on where another one ended."""
        return [*super().expected_parameters(), FROM]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        times = {name: moment(str(values[-1])) for name, values in self.given.items()}
        return queryset.filter(**times)

    @property
    def since(self) -> str:
        return self.date_params.get(self.lookup_kwarg_since, "")[:10]

    @property
    def until(self) -> str:
        return self.date_params.get(self.lookup_kwarg_until, "")[:10]


def moment(text: str) -> datetime:
    """A day or a time as an aware time. Raises IncorrectLookupParameters."""
    try:
        time = parse_datetime(text)
        day = parse_date(text[:10])
    except ValueError as exc:
        raise IncorrectLookupParameters from exc
    if time is None and day is not None:
        time = datetime(day.year, day.month, day.day, tzinfo=UTC)
    if time is None:
        raise IncorrectLookupParameters
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError as exc:
        raise IncorrectLookupParameters from exc


class InteractionChangeList(ChangeList):
    """A page of the list; `horizon` is the time of the first record that was not looked at."""

    looked_through = 50_000
    max_pages = 100
    horizon: datetime | None

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return ["-created_at", "-pk"]

    def get_results(self, request: HttpRequest) -> None:
        if not 1 <= self.page_num <= self.max_pages:
            raise IncorrectLookupParameters
        rows = self.queryset
        self.horizon = self._horizon(request)
        if self.horizon:
            rows = rows.filter(created_at__gt=self.horizon)
        start = (self.page_num - 1) * self.list_per_page
        found = list(rows.only(*LISTED)[start : start + self.list_per_page + 1])
        self.result_list = found[: self.list_per_page]
        self.more = len(found) > self.list_per_page
        self.first_number = start + 1
        self.last_number = start + len(self.result_list)
        # What Django's templates ask for.
        self.result_count = self.full_result_count = len(self.result_list)
        self.show_full_result_count = self.show_admin_actions = False
        self.can_show_all = self.multi_page = False

    @functools.cached_property
    def meaning(self) -> search.Meaning:
        return search.interpret_query(self.query)

    @property
    def told_through(self) -> str:
        return f"{self.looked_through:,}"

    @property
    def words_link(self) -> str:
        return self.get_query_string({"q": f'"{self.query}"', "p": None})

    @property
    def whole_link(self) -> str:
        return self.get_query_string({"p": None})

    @property
    def newer_link(self) -> str | None:
        return self.get_query_string({"p": self.page_num - 1}) if self.page_num > 1 else None

    @property
    def older_link(self) -> str | None:
        """The next page; after the last page number, a list that begins where this one ends."""
        if not self.more:
            return self._from(self.horizon) if self.horizon else None
        if self.page_num < self.max_pages:
            return self.get_query_string({"p": self.page_num + 1})
        return self._from(self.result_list[-1].created_at)

    def _from(self, time: datetime) -> str:
        return self.get_query_string({FROM: time.isoformat(), "p": None})

    def _horizon(self, request: HttpRequest) -> datetime | None:
        """Whichever index the database chooses for the list, it has few rows after this time."""
        rows = Interaction.objects.order_by("-created_at")
        for spec in self.filter_specs:
            if isinstance(spec, DayFilter):
                rows = spec.queryset(request, rows)
        conditions = [
            spec.condition() for spec in self.filter_specs if isinstance(spec, IndexFilter)
        ]
        conditions.append(self.meaning.condition)
        times = [
            rows.filter(**condition).values_list("created_at", flat=True)[self.looked_through :]
            for condition in [each for each in conditions if each] or [{}]
        ]
        return max((time for each in times if (time := each.first())), default=None)
