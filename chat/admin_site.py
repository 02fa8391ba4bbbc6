"""Django's admin, with the page of usage, and a policy of what may run in it."""

import functools
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import URLPattern, URLResolver, path, reverse

# Prompts and answers are anybody's text: what runs beside them is ours alone.
SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class ChatAdminSite(admin.AdminSite):
    site_header = site_title = "Serverless Chat API"
    index_title = "Ledger"
    enable_nav_sidebar = False  # there are few pages, and the lists are wide

    def get_urls(self) -> list[URLResolver | URLPattern]:
        from chat.admin.usage import usage_page  # models are not loaded before the site

        return [
            path("usage/", self.admin_view(usage_page), name="usage"),
            *super().get_urls(),
        ]

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """Django's list, with the page of usage among the models."""
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
