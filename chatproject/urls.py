"""The URLs. Rarely used views are imported by their first request."""

from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import include, path
from django.utils.module_loading import import_string
from django.views.decorators.csrf import csrf_exempt

View = Callable[..., HttpResponseBase]


def lazy(name: str, **options: Any) -> View:
    """Return a view that imports a class-based view at its first request.

    drf-spectacular's views import unittest, among others: 60 ms of a cold start.
    """
    views: list[View] = []

    # Other methods get DRF's 405 instead of Django's page about CSRF.
    @csrf_exempt
    def view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not views:
            views.append(import_string(name).as_view(**options, http_method_names=["get", "head"]))
        return views[0](request, *args, **kwargs)

    return view


def static(request: HttpRequest, path: str) -> HttpResponseBase:
    """Serve a static file on Lambda, where WhiteNoise is not installed as middleware."""
    from django.contrib.staticfiles.views import serve

    response = serve(request, path, insecure=True)
    response["Cache-Control"] = "max-age=60, public"  # as WhiteNoise says
    return response


SPECTACULAR = "drf_spectacular.views.Spectacular"

urlpatterns = [
    path("", include("chat.api.urls")),
    path("openapi.json", lazy(f"{SPECTACULAR}JSONAPIView"), name="openapi"),
    path("docs", lazy(f"{SPECTACULAR}SwaggerView", url_name="openapi"), name="docs"),
    path(
        "redoc",
        lazy(f"{SPECTACULAR}RedocView", url_name="openapi", template_name="chat/redoc.html"),
        name="redoc",
    ),
]
if apps.is_installed("django.contrib.admin"):
    from django.contrib import admin

    urlpatterns.append(path("admin/", admin.site.urls))

if settings.ON_LAMBDA:
    urlpatterns.append(path("static/<path:path>", static))

handler400 = "chat.api.exceptions.before_view"
handler404 = "chat.api.exceptions.before_view"
handler500 = "chat.api.exceptions.server_error"
