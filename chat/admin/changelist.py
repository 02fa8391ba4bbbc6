"""The list of interactions, as fast with a million records as with a thousand.

A page shows the newest records. To fill it, at most `max_scanned` records are scanned: the newest
that an index finds. The page says so, and links to the older ones. Nothing is counted, and page
numbers are limited, because OFFSET reads every row that it skips.
"""

import functools
from datetime import datetime
from typing import Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest

from chat.admin import search
from chat.admin.filters import FROM, DayFilter, IndexFilter
from chat.models import Interaction

# The columns shown in the list.
LISTED = (
    *("created_at", "user_id", "prompt", "provider", "model", "status", "deadline_at"),
    *("total_tokens", "cost_usd", "latency_ms"),
)


class InteractionChangeList(ChangeList):
    """A page of the list. Only records created after `oldest_scanned` were scanned; None: all."""

    max_scanned = 50_000
    # With 50 records a page, no query skips more than 5,000.
    max_pages = 100
    oldest_scanned: datetime | None

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return ["-created_at", "-pk"]

    def get_results(self, request: HttpRequest) -> None:
        if not 1 <= self.page_num <= self.max_pages:
            raise IncorrectLookupParameters
        rows = self.queryset
        self.oldest_scanned = self._oldest_scanned(request)
        if self.oldest_scanned:
            rows = rows.filter(created_at__gt=self.oldest_scanned)
        start = (self.page_num - 1) * self.list_per_page
        # One row more than is shown tells, without a count, whether there are older ones.
        found = list(rows.only(*LISTED)[start : start + self.list_per_page + 1])
        self.result_list = found[: self.list_per_page]
        self.more = len(found) > self.list_per_page
        self.first_number = start + 1
        self.last_number = start + len(self.result_list)
        # Django's templates read these.
        self.result_count = self.full_result_count = len(self.result_list)
        self.show_full_result_count = self.show_admin_actions = False
        self.can_show_all = self.multi_page = False

    @functools.cached_property
    def interpretation(self) -> search.Interpretation:
        return search.interpret_query(self.query)

    @property
    def max_scanned_label(self) -> str:
        return f"{self.max_scanned:,}"

    @property
    def words_link(self) -> str:
        return self.get_query_string({"q": f'"{self.query}"', "p": None})

    @property
    def query_without_page(self) -> str:
        return self.get_query_string({"p": None})

    @property
    def newer_link(self) -> str | None:
        return self.get_query_string({"p": self.page_num - 1}) if self.page_num > 1 else None

    @property
    def older_link(self) -> str | None:
        """Link to the next page; after the last page number, to a list that continues this one."""
        if not self.more:
            return self._link_from(self.oldest_scanned) if self.oldest_scanned else None
        if self.page_num < self.max_pages:
            return self.get_query_string({"p": self.page_num + 1})
        return self._link_from(self.result_list[-1].created_at)

    def _link_from(self, time: datetime) -> str:
        return self.get_query_string({FROM: time.isoformat(), "p": None})

    def _oldest_scanned(self, request: HttpRequest) -> datetime | None:
        """Return a time after which each usable index has at most `max_scanned` rows.

        So the limit holds for whichever index the database chooses.
        """
        rows = Interaction.objects.order_by("-created_at")
        for spec in self.filter_specs:
            if isinstance(spec, DayFilter):
                rows = spec.queryset(request, rows)
        conditions = [
            spec.condition() for spec in self.filter_specs if isinstance(spec, IndexFilter)
        ]
        conditions.append(self.interpretation.condition)
        times = [
            rows.filter(**condition).values_list("created_at", flat=True)[self.max_scanned :]
            for condition in [each for each in conditions if each] or [{}]
        ]
        return max((time for each in times if (time := each.first())), default=None)
