"""Response renderers, and the choice of parser and renderer by media type."""

from typing import Any

import orjson
from django.template.loader import render_to_string
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

ANY_TYPE = "*/*"


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


class JsonNegotiation(DefaultContentNegotiation):
    """Choose the parser and the renderer of JSON by comparing strings where that is enough.

    DRF would parse and order all media types of each request. Other requests are left to it.
    """

    def select_parser(self, request: Request, parsers: Any) -> Any:
        first: BaseParser = parsers[0]
        if request.content_type == first.media_type:
            return first
        if "*" in request.content_type:  # DRF takes a range such as `*/*`, which is no type
            return None
        return super().select_parser(request, parsers)

    def select_renderer(self, request: Request, renderers: Any, *args: Any) -> Any:
        first: BaseRenderer = renderers[0]
        if (request.META.get("HTTP_ACCEPT") or ANY_TYPE) in (ANY_TYPE, first.media_type):
            return first, first.media_type
        return super().select_renderer(request, renderers, *args)


class EventStreamNegotiation(JsonNegotiation):
    """Accept `text/event-stream`, which no renderer produces: the view streams.

    Without `"stream": true` the response is JSON.
    """

    def get_accept_list(self, request: Request) -> list[str]:
        accepted: list[str] = super().get_accept_list(request)
        return [*accepted, ANY_TYPE] if "text/event-stream" in str(accepted).lower() else accepted


class IgnoreClientContentNegotiation(JsonNegotiation):
    """Ignore `Accept`: OpenAI's API does, and its clients rely on it."""

    def select_renderer(self, request: Request, renderers: Any, *args: Any) -> Any:
        first: BaseRenderer = renderers[0]
        return first, first.media_type
