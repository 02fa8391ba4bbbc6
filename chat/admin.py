"""The ledger in Django's admin: to be read, never to be changed."""

import json
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html

from chat.models import Interaction
from chat.storage.base import ABORTED_AFTER, Status

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Interaction]
else:
    ModelAdmin = admin.ModelAdmin

admin.site.site_header = admin.site.site_title = "Serverless Chat API"
admin.site.index_title = "Ledger"


def _aborted_before() -> Any:
    """Claims with an earlier deadline that are still pending were aborted."""
    return timezone.now() - ABORTED_AFTER


class StatusFilter(admin.SimpleListFilter):
    """By the status that a reader sees, which is not always the one that is stored."""

    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(status.value, status.value) for status in Status]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[Interaction]
    ) -> QuerySet[Interaction]:
        match self.value():
            case None:
                return queryset
            case Status.PENDING:
                return queryset.filter(status=Status.PENDING, deadline_at__gte=_aborted_before())
            case Status.ABORTED:
                lapsed = queryset.filter(status=Status.PENDING, deadline_at__lt=_aborted_before())
                return lapsed | queryset.filter(status=Status.ABORTED)
            case stored:
                return queryset.filter(status=stored)


@admin.register(Interaction)
class InteractionAdmin(ModelAdmin):
    list_display = (
        "created_at",
        "user_id",
        "excerpt",
        "provider",
        "model",
        "current_status",
        "total_tokens",
        "cost",
        "latency_ms",
    )
    list_filter = (StatusFilter, "provider", "model", "error_code", "owner")
    date_hierarchy = "created_at"
    search_fields = ("interaction_id", "user_id", "request_id", "prompt", "response")
    show_full_result_count = False
    fieldsets = (
        (None, {"fields": ("prompt", "response", "current_status", "error_code", "error_detail")}),
        ("Who and when", {"fields": ("owner", "user_id", "created_at", "latency_ms")}),
        ("Model", {"fields": ("provider", "model", "finish_reason", "cached", "pretty_attempts")}),
        (
            "Usage",
            {
                "fields": (
                    "prompt_tokens",
                    "cached_tokens",
                    "completion_tokens",
                    "reasoning_tokens",
                    "total_tokens",
                    "cost",
                )
            },
        ),
        ("Request", {"fields": ("system", "pretty_parameters", "pretty_metadata")}),
        (
            "Ids",
            {
                "fields": (
                    "interaction_id",
                    "conversation_id",
                    "previous_interaction_id",
                    "request_id",
                )
            },
        ),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Interaction | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Interaction | None = None) -> bool:
        return False

    @admin.display(description="prompt")
    def excerpt(self, row: Interaction) -> str:
        return row.prompt if len(row.prompt) <= 60 else f"{row.prompt[:59]}…"

    @admin.display(description="status", ordering="status")
    def current_status(self, row: Interaction) -> str:
        lapsed = row.status == Status.PENDING and row.deadline_at < _aborted_before()
        return Status.ABORTED if lapsed else row.status

    @admin.display(description="cost (USD)", ordering="cost_usd")
    def cost(self, row: Interaction) -> str | None:
        return None if row.cost_usd is None else f"{row.cost_usd.normalize():f}"

    @admin.display(description="attempts")
    def pretty_attempts(self, row: Interaction) -> str:
        return _pretty(row.attempts)

    @admin.display(description="parameters")
    def pretty_parameters(self, row: Interaction) -> str:
        return _pretty(row.parameters)

    @admin.display(description="metadata")
    def pretty_metadata(self, row: Interaction) -> str:
        return _pretty(row.metadata)


def _pretty(value: Any) -> str:
    return format_html("<pre>{}</pre>", json.dumps(value, indent=2, ensure_ascii=False))
