"""The parser of request bodies."""

import zlib
from collections.abc import Mapping
from gzip import BadGzipFile, GzipFile
from io import BytesIO
from typing import IO, Any

import orjson
from django.conf import settings
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.parsers import BaseParser

from chat.errors import MalformedJson, PayloadTooLarge, ValidationFailed
from providers import client_json


class StrictJSONParser(BaseParser):
    """JSON as in RFC 8259 (UTF-8, no NaN), up to MAX_BODY_BYTES, gzipped or not.

    Half a surrogate pair, which JavaScript makes of an emoji cut in two, is read as U+FFFD.
    """

    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        headers = (parser_context or {})["request"].META
        length = int(headers.get("CONTENT_LENGTH") or 0)
        _check_size(length)
        body = stream.read()
        if len(body) < length:
            raise MalformedJson("The request body ended early.")
        return _parsed(_decoded(body, headers.get("HTTP_CONTENT_ENCODING", "")))


def _check_size(size: int) -> None:
    if size > settings.MAX_BODY_BYTES:
        raise PayloadTooLarge(f"The body must not exceed {settings.MAX_BODY_BYTES} bytes.")


def _decoded(body: bytes, encoding: str) -> bytes:
    """Undo the Content-Encoding. The limit holds for the result, too."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        detail = "The body's Content-Encoding must be gzip or absent."
        raise UnsupportedMediaType(encoding, detail)
    try:
        # Bounded while it is unpacked: a small body may hold gigabytes.
        decoded = GzipFile(fileobj=BytesIO(body)).read(settings.MAX_BODY_BYTES + 1)
    except (BadGzipFile, EOFError, zlib.error) as exc:
        raise ValidationFailed("The body is not gzip, as its Content-Encoding says.") from exc
    _check_size(len(decoded))
    return decoded


def _parsed(body: bytes) -> Any:
    try:
        return client_json.parse(body)
    except orjson.JSONDecodeError as exc:
        raise MalformedJson from exc
