"""The managed API keys in the admin: created and shown once, rotated and revoked, never edited."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef, QuerySet, Subquery, Sum
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils import timezone

from chat import api_keys
from chat.admin.api_key_forms import KeyForm, RotateForm
from chat.admin.base import ReadOnlyAdmin
from chat.models import ApiKey, UsageCount
from chat.storage import backend
from chat.storage.base import ApiKey as Key
from chat.storage.base import CounterKind, UsageCounts
from chat.storage.columns import api_key_from_columns
from chat.usage import format_usd


class KeyStatusFilter(admin.SimpleListFilter):
    title = parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in ("active", "expired", "revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        good = queryset.filter(revoked_at=None)
        match self.value():
            case "active":
                return good.exclude(expires_at__lte=timezone.now())
            case "expired":
                return good.filter(expires_at__lte=timezone.now())
            case "revoked":
                return queryset.exclude(revoked_at=None)
        return queryset


@admin.register(ApiKey)
class KeyAdmin(ReadOnlyAdmin):
    """Rows are not edited: the change permission allows rotating and revoking."""

    form = KeyForm
    list_display = (
        *("prefix", "owner", "name", "status", "expires_at", "last_used_at", "rate_limit"),
        *("budget", "spent", "user_budget"),
    )
    list_filter = (KeyStatusFilter,)
    search_fields = ("key_id", "owner", "name")
    ordering = ("-created_at",)
    actions = ("revoke",)
    shown_fields = (
        *("prefix", "owner", "name", "status", "created_at", "expires_at", "revoked_at"),
        *("last_used_at", "previous_until", "rate_limit", "budget", "spent", "user_budget"),
        "models",
    )

    def get_urls(self) -> list[Any]:
        rotate = self.admin_site.admin_view(self.rotate_view)
        return [
            path("<str:key_id>/rotate/", rotate, name="chat_apikey_rotate"),
            *super().get_urls(),
        ]

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        return self.shown_fields if obj else super().get_fields(request, obj)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        month = timezone.now().date().replace(day=1)
        counts = UsageCount.objects.filter(
            owner=OuterRef("owner"), by=CounterKind.KEY, name=OuterRef("key_id"), date__gte=month
        )
        sums = counts.values("name").annotate(sum=Sum("cost")).values("sum")
        rows: QuerySet[ApiKey] = super().get_queryset(request)
        return rows.annotate(spent_cost=Subquery(sums))

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("chat.change_apikey")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Create the key, and pass its text to `response_add` and nowhere else."""
        given = dict(form.cleaned_data)
        models = given.pop("models")
        key, obj.text = api_keys.create(**given, allowed_models=models)
        obj.key_id = key.key_id

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        # The answer itself has the key: a redirect would need to store it somewhere.
        return self._show_once(request, obj, obj.text)

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Offer only `Save`, so that the next page shows the new key."""
        only_save = {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().add_view(request, form_url, {**only_save, **(extra_context or {})})

    @admin.action(description="Revoke the selected keys", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        """Ask for confirmation, then revoke permanently."""
        keys = [api_key_from_columns(row) for row in queryset.filter(revoked_at=None)]
        if "confirmed" not in request.POST:
            return self.page(request, "revoke", title="Revoke keys", keys=keys)
        for key in keys:
            try:
                api_keys.revoke(key)
            except api_keys.KeyChanged:
                self._warn_changed(request, key)
            else:
                self._log(request, key, "Revoked.")
                messages.success(request, f"Revoked: {key.prefix} ({key.name}).")
        return HttpResponseRedirect(reverse("admin:chat_apikey_changelist"))

    def rotate_view(self, request: HttpRequest, key_id: str) -> HttpResponse:
        """Give a key a new secret and show it once."""
        if not self.has_revoke_permission(request):
            raise PermissionDenied
        key = backend().api_keys.get(key_id)
        if key is None or key.status_at(datetime.now(UTC)) != "active":
            raise Http404
        form = RotateForm(request.POST or None)
        if not form.is_valid():
            return self.page(request, "rotate", title="Rotate the key", key=key, form=form)
        try:
            rotated, text = api_keys.rotate(
                key, grace=timedelta(days=int(form.cleaned_data["grace"]))
            )
        except api_keys.KeyChanged:
            self._warn_changed(request, key)
            return HttpResponseRedirect(reverse("admin:chat_apikey_change", args=[key_id]))
        self._log(request, rotated, "Rotated.")
        return self._show_once(request, rotated, text)

    @admin.display(description="key")
    def prefix(self, row: ApiKey) -> str:
        return api_key_from_columns(row).prefix

    def status(self, row: ApiKey) -> str:
        return api_key_from_columns(row).status_at(timezone.now())

    @admin.display(description="monthly budget (USD)")
    def budget(self, row: ApiKey) -> str | None:
        return format_usd(row.monthly_budget_usd)

    @admin.display(description="monthly budget of each user (USD)")
    def user_budget(self, row: ApiKey) -> str | None:
        return format_usd(row.user_monthly_budget_usd)

    @admin.display(description="spent this month (USD)")
    def spent(self, row: Any) -> str | None:
        return format_usd(UsageCounts(cost=row.spent_cost or 0).cost_usd)

    def models(self, row: ApiKey) -> str:
        return ", ".join(row.allowed_models) or "all"

    def _show_once(self, request: HttpRequest, key: Any, text: str) -> HttpResponse:
        """Show the key's text. Keep it out of sessions, messages and logs."""
        return self.page(request, "shown_once", title="Key created", key=key, text=text)

    def _log(self, request: HttpRequest, key: Key, message: str) -> None:
        self.log_change(request, ApiKey.objects.get(pk=key.key_id), message)

    def _warn_changed(self, request: HttpRequest, key: Key) -> None:
        messages.error(request, f"{key.prefix} was changed meanwhile. Check it and try again.")
