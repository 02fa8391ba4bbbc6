"""Refuse requests beyond the server's capacity."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse

from chat.api.exceptions import problem_response
from chat.api.openai.errors import problem_response as openai_response
from chat.api.openai.views import OpenAIView
from chat.api.server_context import is_full
from chat.errors import ServerBusy


class FullServerMiddleware:
    """Answer 503 at once if the server is full, except by views that must always answer."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Any, args: Any, kwargs: Any
    ) -> HttpResponse | None:
        view_class = getattr(view, "cls", object)  # DRF's views have it
        if not is_full(request.META) or getattr(view_class, "answers_when_full", False):
            return None
        respond = openai_response if issubclass(view_class, OpenAIView) else problem_response
        return respond(ServerBusy())
