"""Refuse requests beyond the server's capacity."""

from collections.abc import Callable
from typing import Any

import orjson
from django.http import HttpRequest, HttpResponse

from chat.api.exceptions import problem_response
from chat.api.openai.errors import render_problem
from chat.api.openai.views import OpenAIView
from chat.api.server_context import is_full
from chat.errors import ServerBusy
from chat.telemetry.context import add_log_fields


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
        problem = ServerBusy()
        if not issubclass(view_class, OpenAIView):
            return problem_response(problem)
        status, body = render_problem(problem)
        add_log_fields(code=problem.code)
        return HttpResponse(
            orjson.dumps(body),
            status=status,
            content_type="application/json",
            headers=problem.headers,
        )
