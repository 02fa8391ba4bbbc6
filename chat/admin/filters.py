"""Filters of the list of interactions."""

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from chat.admin.search import distinct_values
from chat.errors import PROVIDER_PROBLEMS, InternalError
from chat.models import Interaction
from chat.storage.base import SETTLE_GRACE, Status

FROM = "created_at__lte"
# Each choice costs a seek of the index, and a page with thousands would help nobody.
MAX_CHOICES = 100
CODES = (*PROVIDER_PROBLEMS, InternalError.code)
# Any other condition might read all records.
ALLOWED_LOOKUPS = {
    *("created_at__gte", "created_at__lt", FROM),
    *("status", "error_code", "model", "provider", "owner"),
}


class IndexFilter(admin.SimpleListFilter):
    """A filter by a column that has an index together with the time."""

    def condition(self) -> dict[str, Any]:
        return {self.parameter_name or "": self.value()} if self.value() else {}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        values = distinct_values(Interaction, self.parameter_name or "")
        return [(value, value) for value, _ in zip(values, range(MAX_CHOICES), strict=False)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**self.condition())


class ModelFilter(IndexFilter):
    title = parameter_name = "model"


class OwnerFilter(IndexFilter):
    title = parameter_name = "owner"


class ErrorFilter(IndexFilter):
    title = "error"
    parameter_name = "error_code"
    ANY = "any"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(self.ANY, "any"), *((code, code) for code in CODES)]

    def condition(self) -> dict[str, Any]:
        return {"error_code__isnull": False} if self.value() == self.ANY else super().condition()


class ProviderFilter(admin.SimpleListFilter):
    title = parameter_name = "provider"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in settings.PROVIDER_OPTIONS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(provider=self.value()) if self.value() else queryset


class InteractionStatusFilter(admin.SimpleListFilter):
    """A filter by the status a reader sees: a pending record past its deadline is aborted."""

    title = parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(status.value, status.value) for status in Status]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        pending = queryset.filter(status=Status.PENDING)
        match self.value():
            case None:
                return queryset
            case Status.PENDING:
                return pending.filter(deadline_at__gte=aborted_before())
            case Status.ABORTED:
                lapsed = pending.filter(deadline_at__lt=aborted_before())
                return lapsed | queryset.filter(status=Status.ABORTED)
            case stored:
                return queryset.filter(status=stored)


def aborted_before() -> datetime:
    """Return the time before which the deadline of an aborted claim lies."""
    return timezone.now() - SETTLE_GRACE


class DayFilter(admin.DateFieldListFilter):
    """A filter by time: Django's usual periods, or from one day to another."""

    template = "admin/chat/interaction/day_filter.html"

    def __init__(self, field: Any, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(field, request, *args, **kwargs)
        self.parameters: dict[str, Any] = self.used_parameters
        own = (*self.expected_parameters(), "p")
        self.other_parameters = [pair for pair in request.GET.items() if pair[0] not in own]

    def expected_parameters(self) -> list[Any]:
        """Add FROM, which continues a list after its last page."""
        return [*super().expected_parameters(), FROM]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        # The form sends both days, and one may be empty.
        given = {name: str(values[-1]) for name, values in self.parameters.items() if values[-1]}
        return queryset.filter(**{name: _parse_time(text) for name, text in given.items()})

    @property
    def since(self) -> str:
        return self.date_params.get(self.lookup_kwarg_since, "")[:10]

    @property
    def until(self) -> str:
        return self.date_params.get(self.lookup_kwarg_until, "")[:10]


def _parse_time(text: str) -> datetime:
    """Parse a day or a time; in UTC unless it has an offset. Raises IncorrectLookupParameters."""
    try:
        time = parse_datetime(text) or datetime.fromisoformat(text[:10])
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as exc:
        raise IncorrectLookupParameters from exc
