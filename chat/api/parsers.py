"""The parser of request bodies."""

import re
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

# An escaped surrogate: a pair (group 2) or half of one, after escaped backslashes (group 1).
SURROGATES = re.compile(
    rb"(?<!\\)((?:\\\\)*)"
    rb"(?:(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
SURROGATE_BYTES = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
REPLACEMENT_ESCAPE, REPLACEMENT_BYTES = rb"\ufffd", "\ufffd".encode()


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
        # One byte more than allowed tells a body that is too large without reading all of it.
        body = _limited(stream.read(settings.MAX_BODY_BYTES + 1))
        if len(body) < int(headers.get("CONTENT_LENGTH") or 0):
            raise MalformedJson("The request body ended early.")
        return _parsed(_decoded(body, headers.get("HTTP_CONTENT_ENCODING", "")))


def _limited(body: bytes) -> bytes:
    if len(body) > settings.MAX_BODY_BYTES:
        raise PayloadTooLarge(f"The body must not exceed {settings.MAX_BODY_BYTES} bytes.")
    return body


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
        return _limited(GzipFile(fileobj=BytesIO(body)).read(settings.MAX_BODY_BYTES + 1))
    except (BadGzipFile, EOFError, zlib.error) as exc:
        raise ValidationFailed("The body is not gzip, as its Content-Encoding says.") from exc


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        # Only now, because few bodies need it.
        if (repaired := _without_surrogates(body)) == body:
            raise MalformedJson from exc
    try:
        return orjson.loads(repaired)
    except orjson.JSONDecodeError as exc:
        raise MalformedJson from exc


def _without_surrogates(body: bytes) -> bytes:
    body = SURROGATES.sub(lambda it: it[0] if it[2] else it[1] + REPLACEMENT_ESCAPE, body)
    return SURROGATE_BYTES.sub(REPLACEMENT_BYTES, body)
