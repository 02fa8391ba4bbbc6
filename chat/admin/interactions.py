"""The interactions in the admin, read-only."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import path
from django.utils import timezone
from django.utils.html import format_html

from chat.admin import conversations, export, search
from chat.admin.base import ReadOnlyAdmin
from chat.admin.changelist import InteractionChangeList
from chat.admin.filters import (
    ALLOWED_LOOKUPS,
    DayFilter,
    ErrorFilter,
    InteractionStatusFilter,
    ModelFilter,
    OwnerFilter,
    ProviderFilter,
    aborted_before,
)
from chat.admin.messages import pretty_json, show_answer
from chat.models import Interaction
from chat.storage.base import Status
from chat.storage.columns import from_columns
from chat.storage.orm.interactions import read_whole, unexpired_rows
from chat.usage import format_usd

EXPORTS: dict[str, tuple[Callable[[QuerySet[Interaction]], Any], str]] = {
    "csv": (export.csv_lines, "text/csv; charset=utf-8"),
    "jsonl": (export.json_lines, "application/x-ndjson"),
}


def _fieldset(title: str | None, *fields: str) -> tuple[str | None, Any]:
    return title, {"fields": fields}


def _json_column(name: str) -> Callable[[ReadOnlyAdmin, Interaction], str | None]:
    @admin.display(description=name.replace("_", " "))
    def pretty(self: ReadOnlyAdmin, row: Interaction) -> str | None:
        value = getattr(row, name)
        return None if value is None else format_html("<pre>{}</pre>", pretty_json(value))

    return pretty


@admin.register(Interaction)
class InteractionAdmin(ReadOnlyAdmin):
    list_display = (
        *("time", "user_id", "excerpt", "provider", "model", "current_status"),
        *("total_tokens", "cost", "latency_ms"),
    )
    # By another column than the time, SQLite would sort all records.
    sortable_by = ()
    list_per_page = 50
    list_filter = (
        ("created_at", DayFilter),
        InteractionStatusFilter,
        ErrorFilter,
        ModelFilter,
        ProviderFilter,
        OwnerFilter,
    )
    search_fields = ("prompt", "response")
    search_help_text = (
        "The id of a user, an interaction, a conversation or a request, in full; "
        "or words of a prompt or an answer."
    )
    readonly_fields = ("conversation", "answer")
    fieldsets = (
        _fieldset(
            None,
            *("prompt", "answer", "current_status", "error_code", "error_detail"),
            "conversation",
        ),
        _fieldset("Who and when", "owner", "user_id", "time", "latency_ms"),
        _fieldset("Model", "provider", "model", "finish_reason", "cached", "pretty_attempts"),
        _fieldset(
            "Usage",
            *("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"),
            *("total_tokens", "cost"),
        ),
        _fieldset("Request", "system", "pretty_parameters", "missing_messages", "pretty_metadata"),
        _fieldset("Answer", "pretty_tool_calls", "pretty_message", "pretty_extras"),
        _fieldset(
            "Ids",
            *("interaction_id", "conversation_id", "previous_interaction_id", "request_id"),
            "key_id",
        ),
    )

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        name = "chat_interaction"
        return [
            path("export/<str:kind>/", wrap(self.export_view), name=f"{name}_export"),
            path(
                "conversation/<str:conversation_id>/",
                wrap(self.conversation_view),
                name=f"{name}_conversation",
            ),
            *super().get_urls(),
        ]

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Interaction | None:
        """Return a row with the messages that earlier records hold."""
        row: Interaction | None = super().get_object(request, object_id, from_field)
        if row and row.earlier:
            record = read_whole([row])[0]
            row.system, row.parameters = record.system, dict(record.parameters)
            row.earlier = record.earlier and asdict(record.earlier)
        return row

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup in ALLOWED_LOOKUPS

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[InteractionChangeList]:
        return InteractionChangeList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Interaction]:
        return unexpired_rows()

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Interaction], search_term: str
    ) -> tuple[QuerySet[Interaction], bool]:
        condition = search.interpret_query(search_term).condition
        if condition:
            return queryset.filter(**condition), False
        return super().get_search_results(request, queryset, search_term)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def export_view(self, request: HttpRequest, kind: str) -> HttpResponseBase:
        """Download all records that the list's filters and search find."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if kind not in EXPORTS:
            raise Http404
        lines, content_type = EXPORTS[kind]
        try:
            changelist = self.get_changelist_instance(request)
        except IncorrectLookupParameters:
            raise Http404 from None
        if request.GET.get("q", "").strip() and not changelist.query:
            raise Http404  # the list ignores a query that it cannot search for, and says so
        day = timezone.now().date().isoformat()
        return StreamingHttpResponse(
            lines(changelist.queryset),
            content_type=content_type,
            headers={"Content-Disposition": f'attachment; filename="interactions-{day}.{kind}"'},
        )

    def conversation_view(self, request: HttpRequest, conversation_id: str) -> TemplateResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = conversations.conversation_page(
            self.get_queryset(request), conversation_id, request.GET
        )
        titles = {"title": "Conversation", "subtitle": conversation_id}
        return self.page(request, "conversation", **titles, **context)

    @admin.display(description="time (UTC)")
    def time(self, row: Interaction) -> str:
        return row.created_at.strftime("%Y-%m-%d %H:%M:%S")

    @admin.display(description="response")
    def answer(self, row: Interaction) -> str | None:
        """Show the answer with its reasoning folded, its tool calls and its images."""
        if not (row.response or row.tool_calls or row.message):
            return None
        context = {"message": show_answer(from_columns(row))}
        return render_to_string("admin/chat/interaction/message.html", context)

    def conversation(self, row: Interaction) -> str:
        return format_html('<a href="{}">Read it as a page</a>', conversations.turn_url(row))

    @admin.display(description="missing messages")
    def missing_messages(self, row: Interaction) -> str | None:
        missing = row.earlier and row.earlier["messages"]
        return missing and f"The first {missing}: an earlier record of the conversation is erased."

    @admin.display(description="prompt")
    def excerpt(self, row: Interaction) -> str | None:
        prompt = row.prompt or None  # empty with STORE_CONTENT=false
        return prompt if prompt is None or len(prompt) <= 60 else f"{prompt[:59]}…"

    @admin.display(description="status")
    def current_status(self, row: Interaction) -> str:
        lapsed = row.status == Status.PENDING and row.deadline_at < aborted_before()
        return Status.ABORTED if lapsed else row.status

    @admin.display(description="cost (USD)")
    def cost(self, row: Interaction) -> str | None:
        return format_usd(row.cost_usd)

    class Media:
        css = {"all": ("chat/admin/admin.css",)}

    pretty_attempts = _json_column("attempts")
    pretty_parameters = _json_column("parameters")
    pretty_metadata = _json_column("metadata")
    pretty_tool_calls = _json_column("tool_calls")
    pretty_message = _json_column("message")
    pretty_extras = _json_column("extras")
