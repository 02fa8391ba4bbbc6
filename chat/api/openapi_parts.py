"""Parts of documented operations: errors, parameters, headers and examples."""

from collections.abc import Iterable
from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse
from rest_framework import exceptions as drf
from rest_framework.serializers import CharField, Serializer

from chat import errors
from chat.api.exceptions import convert_exception
from chat.api.openai.errors import render_problem
from chat.api.openapi_examples import ID
from chat.api.serializers import ProblemSerializer
from chat.conversation import TURN_IS_RUNNING
from chat.errors import Problem
from chat.storage.base import MAX_ID_LENGTH, USER_ID_PATTERN

Responses = dict[Any, OpenApiResponse]


class ErrorSerializer(Serializer[Any]):
    """The fields of an error in OpenAI's format."""

    message = CharField()
    type = CharField()
    param = CharField(allow_null=True)
    code = CharField(allow_null=True)


class OpenAIErrorSerializer(Serializer[Any]):
    """An error in OpenAI's shape."""

    error = ErrorSerializer()


# Each with the sentence that clients get.
KEY_ERRORS: tuple[Problem, ...] = (errors.MissingApiKey(), errors.InvalidApiKey())
DRF_ERRORS = (
    convert_exception(drf.MethodNotAllowed("PUT")),
    convert_exception(drf.NotAcceptable()),
)
WRONG_TYPE = convert_exception(drf.UnsupportedMediaType("text/plain"))
BUSY_ERRORS = (errors.StorageFailed(), errors.ServerBusy())
OPENAI_READ_ERRORS = (*KEY_ERRORS, errors.InternalError(), *BUSY_ERRORS)
READ_ERRORS = (*OPENAI_READ_ERRORS, *DRF_ERRORS)
MODEL_ERRORS = (
    errors.MalformedJson(),
    errors.ValidationFailed(),
    errors.ProviderRejected(),
    errors.ContentFiltered(),
    *KEY_ERRORS,
    errors.BudgetExceeded(),
    errors.NotFound(),
    errors.ModelNotFound(),
    errors.IdempotencyInFlight(),
    errors.ConversationConflict(TURN_IS_RUNNING),
    errors.AnswerNotStored(),
    errors.PayloadTooLarge("The body must not exceed 1000000 bytes."),
    errors.IdempotencyMismatch(),
    errors.RateLimited("No more than 60 requests a minute."),
    errors.InternalError(),
    errors.ProviderFailed(),
    errors.ProviderUnavailable(),
    *BUSY_ERRORS,
    errors.ProviderTimeout(),
)


def problems(*samples: Problem) -> Responses:
    """Document problem details: one response a status, one example a problem."""
    rendered = [(each.code, each.status, each.body(ID)) for each in samples]
    return _error_responses(ProblemSerializer, "application/problem+json", rendered)


def openai_errors(*samples: Problem) -> Responses:
    """Document the same in OpenAI's shape."""
    rendered = [(each.code, *render_problem(each)) for each in samples]
    return _error_responses(OpenAIErrorSerializer, "application/json", rendered)


def _error_responses(
    serializer: type[Serializer[Any]],
    content_type: str,
    rendered: Iterable[tuple[str, int, dict[str, Any]]],
) -> Responses:
    by_status: dict[int, list[OpenApiExample]] = {}
    for code, status, body in rendered:
        example = OpenApiExample(code, body, response_only=True, status_codes=[status])
        by_status.setdefault(status, []).append(example)
    return {
        (status, content_type): OpenApiResponse(
            serializer,
            description=", ".join(f"`{example.name}`" for example in of_status),
            examples=of_status,
        )
        for status, of_status in sorted(by_status.items())
    }


def path_parameter(name: str, description: str, example: str, kind: Any = str) -> OpenApiParameter:
    return OpenApiParameter(
        name,
        kind,
        OpenApiParameter.PATH,
        description=description,
        examples=[OpenApiExample(name, example)],
    )


def _request_header(name: str, description: str, pattern: str | None = None) -> OpenApiParameter:
    return OpenApiParameter(
        name, str, OpenApiParameter.HEADER, description=description, pattern=pattern
    )


def _response_header(name: str, kind: type, description: str, *statuses: int) -> OpenApiParameter:
    """Document a header of the responses with these statuses; without any, of all responses."""
    return OpenApiParameter(
        name,
        kind,
        OpenApiParameter.HEADER,
        response=list(statuses) or True,
        description=description,
    )


REQUEST_ID = [
    _request_header(
        "X-Request-ID",
        "Your id for the request: up to 128 of `A-Z a-z 0-9 . _ -`. Any other is replaced.",
    ),
    _response_header("X-Request-ID", str, "The id of the request, also in the log."),
    _response_header("Server-Timing", str, "Milliseconds spent: total, provider, storage."),
]
READ_HEADERS = [*REQUEST_ID, _response_header("Retry-After", int, "Seconds to wait.", 503)]
# Statuses that may follow after a request was counted.
COUNTED = (200, 400, 402, 409, 422, 429, 500, 502, 503, 504)
MODEL_HEADERS = [
    *REQUEST_ID,
    _request_header(
        "Idempotency-Key",
        "Your own key for this request, 1 to 255 printable ASCII characters. Requests repeated "
        "with the same key return the first answer; the model is called once. A request that "
        "failed may be tried again with the same key.",
        r"^[ -~]{1,255}$",
    ),
    _response_header("Idempotency-Replayed", str, "`true` if this answer was given before.", 200),
    _request_header("Cache-Control", "`no-cache` skips the answer cache."),
    _response_header("X-RateLimit-Limit", int, "Requests per minute.", *COUNTED),
    _response_header("X-RateLimit-Remaining", int, "Requests left in this minute.", *COUNTED),
    _response_header("X-RateLimit-Reset", int, "Seconds until the limit resets.", *COUNTED),
    _response_header("Retry-After", int, "Seconds to wait.", 409, 429, 503),
]
USER_ID = {
    "type": "string",
    "maxLength": MAX_ID_LENGTH,
    "pattern": "^" + USER_ID_PATTERN.replace(r"\Z", "$") + "$",
}


def requests(**samples: Any) -> list[OpenApiExample]:
    """Return examples of a request by name."""
    return [OpenApiExample(name, value, request_only=True) for name, value in samples.items()]


def response(
    serializer: Any, description: str, *, status: int = 200, **samples: Any
) -> OpenApiResponse:
    """Document a response, with its examples by name."""
    return OpenApiResponse(
        serializer,
        description=description,
        examples=[
            OpenApiExample(name, value, response_only=True, status_codes=[status])
            for name, value in samples.items()
        ],
    )
