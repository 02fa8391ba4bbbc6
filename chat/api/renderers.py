"""Response renderers, and the choice among them by `Accept`."""

from collections.abc import Iterable
from typing import Any

import orjson
from django.template.loader import render_to_string
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request


class OrjsonRenderer(BaseRenderer):
    media_type = "application/json"
    format = "json"
    charset = None

    def render(self, data: Any, *args: Any, **kwargs: Any) -> bytes:
        return b"" if data is None else orjson.dumps(data)


class PlaygroundRenderer(BaseRenderer):
    """A web page to try the API. Its files are in static/chat/playground."""

    media_type = "text/html"
    format = "html"
    charset = "utf-8"

    # Scripts, requests and images are limited to this server. Only DOMPurify turns text into HTML.
    SECURITY_POLICY = (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "trusted-types dompurify; require-trusted-types-for 'script'"
    )

    def render(self, data: Any, *args: Any, **kwargs: Any) -> bytes:
        return render_to_string("chat/playground.html", data).encode()


class EventStreamNegotiation(DefaultContentNegotiation):
    """Accept `text/event-stream`, which no renderer produces: the view streams by itself.

    Without `"stream": true` the response is JSON.
    """

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], *args: Any, **kwargs: Any
    ) -> tuple[BaseRenderer, str]:
        if "text/event-stream" in request.headers.get("Accept", "").lower():
            return _first(renderers)
        selected: tuple[BaseRenderer, str]
        selected = super().select_renderer(request, renderers, *args, **kwargs)
        return selected


class IgnoreClientContentNegotiation(DefaultContentNegotiation):
    """Ignore `Accept`: OpenAI's API does, and its clients rely on it."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], *args: Any, **kwargs: Any
    ) -> tuple[BaseRenderer, str]:
        return _first(renderers)


def _first(renderers: Iterable[BaseRenderer]) -> tuple[BaseRenderer, str]:
    renderer = next(iter(renderers))
    return renderer, str(renderer.media_type)
