"""Django's admin with the usage page and a Content-Security-Policy."""

import functools
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import URLPattern, URLResolver, path, reverse

# Prompts and answers are untrusted text: only our own scripts may run beside them.
SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class ChatAdminSite(admin.AdminSite):
    site_header = site_title = "Serverless Chat API"
    index_title = "Ledger"
    enable_nav_sidebar = False  # few pages, wide lists

    def get_urls(self) -> list[URLResolver | URLPattern]:
        from chat.admin.usage_view import usage_page  # the site is created before models load

        return [
            path("usage/", self.admin_view(usage_page), name="usage"),
            *super().get_urls(),
        ]

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """Add the usage page to Django's list of models."""
        listed: list[Any] = super().get_app_list(request, app_label)
        page = {
            "name": "Usage",
            "object_name": "Usage",
            "admin_url": reverse("admin:usage"),
            "add_url": None,
            "view_only": True,
        }
        if app_label in (None, "chat") and request.user.has_perm("chat.view_usagecount"):
            ours = next((app for app in listed if app["app_label"] == "chat"), None)
            if ours is None:
                ours = {
                    "name": apps.get_app_config("chat").verbose_name,
                    "app_label": "chat",
                    "app_url": reverse("admin:app_list", args=["chat"]),
                    "models": [],
                }
                listed.append(ours)
            ours["models"].append(page)
        return listed

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        guarded = super().admin_view(view, cacheable)

        @functools.wraps(guarded)
        def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            return _with_policy(guarded(request, *args, **kwargs))

        return answer

    def login(self, request: HttpRequest, extra_context: Any = None) -> Any:
        return _with_policy(super().login(request, extra_context))


def _with_policy(response: HttpResponseBase) -> HttpResponseBase:
    response.headers["Content-Security-Policy"] = SECURITY_POLICY
    return response
