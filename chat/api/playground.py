"""The page to talk to the API with. Its files are in static/chat/playground."""

from collections.abc import Mapping
from typing import Any

from django.template.loader import render_to_string
from rest_framework.renderers import BaseRenderer


class PlaygroundRenderer(BaseRenderer):
    media_type = "text/html"
    format = "html"
    charset = "utf-8"

    # What runs, and who is asked, is ours alone; text becomes HTML by DOMPurify or not at all.
    SECURITY_POLICY = (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "trusted-types dompurify; require-trusted-types-for 'script'"
    )

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        return render_to_string("chat/playground.html", data).encode()
