"""Where the rooms are mounted. What few ask for is imported when somebody does."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.utils.module_loading import import_string

View = Callable[..., HttpResponse]


def lazy(name: str, **options: Any) -> View:
    """A class-based view that is imported by its first request.

    drf-spectacular's views import unittest, among others: 60 ms of a cold start.
    """
    views: list[View] = []

    def view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not views:
            views.append(import_string(name).as_view(**options))
        return views[0](request, *args, **kwargs)

    return view


SPECTACULAR = "drf_spectacular.views.Spectacular"

urlpatterns = [
    path("", include("chat.urls")),
    path("openapi.json", lazy(f"{SPECTACULAR}JSONAPIView"), name="openapi"),
    path("docs", lazy(f"{SPECTACULAR}SwaggerView", url_name="openapi"), name="docs"),
    path("redoc", lazy(f"{SPECTACULAR}RedocView", url_name="openapi"), name="redoc"),
]
handler400 = "chat.errors.bad_request"
handler404 = "chat.errors.not_found"
handler500 = "chat.errors.server_error"
