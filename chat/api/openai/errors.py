"""Problems in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from typing import Any

import orjson
from django.http import HttpResponse

from chat.api.exceptions import convert_exception
from chat.errors import USED_UP_RETRY_SECONDS, Problem
from chat.telemetry.context import add_log_fields
from providers.answer_errors import TOO_LONG

INVALID = "invalid_request_error"
SERVER = "server_error"

# Our code -> OpenAI's type, OpenAI's code, and OpenAI's status where it differs.
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
    "server_busy": (SERVER, "server_is_overloaded", None),
    "internal_error": (SERVER, None, None),
}
# Our code -> the field that it concerns.
PARAMS = {"model_not_found": "model"}
# The code of a field's error -> OpenAI's code; any other is `invalid_value`.
FIELD_CODES = {
    "required": "missing_required_parameter",
    "empty": "missing_required_parameter",
    "unsupported": "unsupported_parameter",
    "not_found": "not_found",
    "previous_response_not_found": "previous_response_not_found",
    "not_a_list": "invalid_type",
    "not_a_dict": "invalid_type",
    "null": "invalid_type",
}
# Official clients retry each 409 and 5xx within seconds. These would fail again, unless they have
# a `Retry-After` of less than an hour: a header stops the clients.
NOT_RETRYABLE = {
    "answer_not_kept",
    "conversation_conflict",
    "provider_error",
    "provider_timeout",
    "provider_unavailable",
}


def exception_handler(exc: Exception, context: dict[str, Any]) -> HttpResponse:
    """Turn an exception of a view into a response (DRF's hook)."""
    return problem_response(convert_exception(exc))


def problem_response(problem: Problem) -> HttpResponse:
    """Return the problem as a response."""
    status, body = render_problem(problem)
    add_log_fields(code=problem.code)
    if problem.code in NOT_RETRYABLE:
        wait = int(problem.headers.get("Retry-After", USED_UP_RETRY_SECONDS))
        if wait >= USED_UP_RETRY_SECONDS:
            problem.headers["X-Should-Retry"] = "false"
    return HttpResponse(
        orjson.dumps(body), status=status, content_type="application/json", headers=problem.headers
    )


def render_problem(problem: Problem) -> tuple[int, dict[str, Any]]:
    """Return the status and the body."""
    default_type = INVALID if problem.status < 500 else SERVER
    type_, code, status = TERMS.get(problem.code, (default_type, problem.code, None))
    message, param = problem.detail, PARAMS.get(problem.code) or problem.param
    if problem.errors:
        first = problem.errors[0]
        param = first["field"] or None
        message = ": ".join(filter(None, (param, first["detail"])))
        if first["field"] == "model" and first["code"] == "unknown":
            code, status = "model_not_found", 404
        else:
            code = FIELD_CODES.get(first["code"], "invalid_value")
    elif problem.detail.startswith(TOO_LONG):
        code = "context_length_exceeded"
    error = {"message": message, "type": type_, "param": param, "code": code}
    return status or problem.status, {"error": error}
