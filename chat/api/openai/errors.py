"""Problems in OpenAI's words: `{"error": {"message", "type", "param", "code"}}`."""

from typing import Any

import orjson
from django.http import HttpResponse

from chat.errors import Problem, ValidationFailed, log_and_convert
from chat.telemetry.context import add_log_fields
from providers.parsing import TOO_LONG

INVALID = "invalid_request_error"
SERVER = "server_error"

# By our code: OpenAI's type, its code, and the status where it is another one.
TERMS: dict[str, tuple[str, str | None, int | None]] = {
    "missing_api_key": (INVALID, "invalid_api_key", None),
    "invalid_api_key": (INVALID, "invalid_api_key", None),
    "not_found": (INVALID, "unknown_url", None),
    "method_not_allowed": (INVALID, "method_not_supported", None),
    "payload_too_large": (INVALID, "request_too_large", None),
    "content_filtered": (INVALID, "content_filter", 400),
    "budget_exceeded": ("insufficient_quota", "insufficient_quota", None),
    "rate_limited": ("requests", "rate_limit_exceeded", None),
    "provider_error": (SERVER, "upstream_error", None),
    "provider_unavailable": (SERVER, "server_is_overloaded", None),
    "provider_timeout": (SERVER, "upstream_timeout", None),
    "internal_error": (SERVER, None, None),
}
FIELD_CODES = {
    "required": "missing_required_parameter",
    "unsupported": "unsupported_parameter",
    "not_a_list": "invalid_type",
    "not_a_dict": "invalid_type",
    "null": "invalid_type",
}
# The official clients try again after a 409 or a 5xx. Here it would come to the same, and they are
# told so.
FINAL = {"answer_not_kept", "provider_error", "provider_timeout"}


def rendered(problem: Problem) -> tuple[int, dict[str, Any]]:
    """The status and the body."""
    error, status = _error(problem)
    return status, {"error": error}


def exception_handler(exc: Exception, context: dict[str, Any]) -> HttpResponse:
    """What DRF is given for these views."""
    problem = log_and_convert(exc)
    status, body = rendered(problem)
    add_log_fields(code=problem.code)
    headers = dict(problem.headers)
    if problem.code in FINAL:
        headers["X-Should-Retry"] = "false"
    return HttpResponse(
        orjson.dumps(body),
        status=status,
        content_type="application/json",
        headers=headers,
    )


def _error(problem: Problem) -> tuple[dict[str, Any], int]:
    """The error, and the status that goes with it."""
    kind = INVALID if problem.status < 500 else SERVER
    kind, code, status = TERMS.get(problem.code, (kind, problem.code, None))
    message, param = problem.detail, None
    if isinstance(problem, ValidationFailed) and problem.errors:
        first = problem.errors[0]
        param = first["field"] or None
        message = ": ".join(filter(None, (param, first["detail"])))
        if first["field"] == "model" and first["code"] == "unknown":
            code, status = "model_not_found", 404
        else:
            code = FIELD_CODES.get(first["code"], "invalid_value")
    elif problem.detail == TOO_LONG:
        code = "context_length_exceeded"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return error, status or problem.status
