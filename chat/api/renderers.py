"""Writing JSON, and whom it is written for."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request


class OrjsonRenderer(BaseRenderer):
    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        return b"" if data is None else orjson.dumps(data)


class EventStreamNegotiation(DefaultContentNegotiation):
    """Who accepts an event stream is answered, with one or, if none was asked for, with JSON."""

    def select_renderer(
        self,
        request: Request,
        renderers: Iterable[BaseRenderer],
        format_suffix: str | None = None,
    ) -> tuple[BaseRenderer, str]:
        if "text/event-stream" in request.headers.get("Accept", "").lower():
            return _first(renderers)
        chosen: tuple[BaseRenderer, str] = super().select_renderer(
            request, renderers, format_suffix
        )
        return chosen


class IgnoreClientContentNegotiation(DefaultContentNegotiation):
    """JSON whatever is accepted, as clients made for OpenAI expect."""

    def select_renderer(
        self,
        request: Request,
        renderers: Iterable[BaseRenderer],
        format_suffix: str | None = None,
    ) -> tuple[BaseRenderer, str]:
        return _first(renderers)


def _first(renderers: Iterable[BaseRenderer]) -> tuple[BaseRenderer, str]:
    renderer = next(iter(renderers))
    return renderer, str(renderer.media_type)
