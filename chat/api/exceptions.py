"""Exceptions of Django and DRF as problems, and the hooks that turn exceptions into responses."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from django.core.exceptions import BadRequest, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from rest_framework import exceptions as drf
from rest_framework.settings import api_settings

from chat.errors import (
    InternalError,
    MalformedJson,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    Problem,
    UnsupportedMediaType,
    ValidationFailed,
    field_error,
    log_and_convert,
)
from chat.telemetry.context import add_log_fields, current_request_id


def exception_handler(exc: Exception, context: dict[str, Any]) -> HttpResponse:
    """Turn an exception of a view into a response (DRF's hook)."""
    return problem_response(convert_exception(exc))


def before_view(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Respond to an unknown host or path (Django's handler400 and handler404)."""
    return problem_response(convert_exception(exception))


def server_error(request: HttpRequest) -> HttpResponse:
    """Respond to an exception outside DRF (Django's handler500)."""
    return problem_response(InternalError())


def problem_response(problem: Problem) -> HttpResponse:
    """Return the problem as a response."""
    add_log_fields(code=problem.code)
    return HttpResponse(
        orjson.dumps(problem.body(current_request_id())),
        status=problem.status,
        content_type="application/problem+json",
        headers=problem.headers,
    )


def convert_exception(exc: Exception) -> Problem:
    """Return the problem for any exception of a request. Log it if it is unexpected."""
    match exc:
        case drf.ValidationError():
            return ValidationFailed(errors=list(_field_errors(exc.detail, exc.get_codes())))
        case drf.MethodNotAllowed():
            return MethodNotAllowed(str(exc.detail))
        case drf.NotAcceptable():
            return NotAcceptable(str(exc.detail))
        case drf.UnsupportedMediaType():
            return UnsupportedMediaType(str(exc.detail))
        case Http404():
            return NotFound()
        # The client disconnected, or sent less than its Content-Length.
        case UnreadablePostError():
            return MalformedJson("The request body ended early.")
        case SuspiciousOperation() | BadRequest():
            return ValidationFailed("The request is malformed, or not for this host.")
        case _:
            return log_and_convert(exc)


def _field_errors(detail: Any, codes: Any, path: str = "") -> Iterator[dict[str, str]]:
    """Flatten DRF's nested details and codes (dicts, lists, leaves) into dotted paths."""
    if isinstance(detail, Mapping):
        for key in detail:
            name = "" if key == api_settings.NON_FIELD_ERRORS_KEY else str(key)
            yield from _field_errors(detail[key], codes[key], ".".join(filter(None, (path, name))))
    elif isinstance(detail, list):
        for part, code in zip(detail, codes, strict=True):
            yield from _field_errors(part, code, path)
    else:
        yield field_error(path, str(codes), str(detail))
