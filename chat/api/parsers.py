"""The parser of request bodies."""

from collections.abc import Mapping
from typing import IO, Any

import orjson
from django.conf import settings
from rest_framework.parsers import BaseParser

from chat.errors import MalformedJson, PayloadTooLarge


class StrictJSONParser(BaseParser):
    """JSON as in RFC 8259 (UTF-8, no NaN, no lone surrogates), up to MAX_BODY_BYTES."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        body = stream.read(settings.MAX_BODY_BYTES + 1)
        if len(body) > settings.MAX_BODY_BYTES:
            raise PayloadTooLarge(f"The body must not exceed {settings.MAX_BODY_BYTES} bytes.")
        if len(body) < int((parser_context or {})["request"].META.get("CONTENT_LENGTH") or 0):
            raise MalformedJson("The body broke off.")
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise MalformedJson from exc
