"""The problems that clients see, and the mapping of providers' and storage's errors to them.

Problem
 ├── MalformedJson        400  the body is not JSON
 ├── ValidationFailed     400  the body is JSON, but not a valid request
 ├── ProviderRejected     400  the vendor refuses the request itself
 ├── MissingApiKey        401
 │    └── InvalidApiKey   401
 ├── BudgetExceeded       402  a monthly budget of the key is spent
 ├── NotFound             404  missing, or another owner's
 ├── ModelNotFound        404  the vendor does not know the model that the client named
 ├── MethodNotAllowed     405
 ├── NotAcceptable        406
 ├── IdempotencyInFlight  409  a request with the same key is still running
 ├── ConversationConflict 409  the previous turn is running, failed, or is not stored
 ├── AnswerNotStored      409  the key's request was answered, and the answer is not stored
 ├── PayloadTooLarge      413
 ├── UnsupportedMediaType 415
 ├── ContentFiltered      422  a safety filter refused the content
 ├── IdempotencyMismatch  422  the key was used for another request
 ├── RateLimited          429
 ├── ClientDisconnected   499  for the log; the client seldom sees it
 ├── InternalError        500
 ├── ProviderFailed       502
 ├── ProviderUnavailable  503  every provider is rate limited or overloaded
 ├── StorageFailed        503
 ├── ServerBusy           503  as many requests as the server can serve are running
 └── ProviderTimeout      504  the deadline was reached
`chat.api.exceptions` renders problems (RFC 9457), and maps the exceptions of Django and DRF.
"""

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

from chat.storage.base import InteractionRecord
from chat.storage.errors import BudgetSpent, InvalidCursor, RecordTooLarge, StorageUnavailable
from providers.errors import ProviderError, ProviderOverloaded, RequestRejected

logger = logging.getLogger(__name__)


class Problem(Exception):
    """An error with an HTTP status, a stable `code`, and a sentence for the client.

    `retry_after` is in seconds. `errors` name the invalid fields: `field` is a dotted path, or
    empty for the whole body. `param` is the field that the vendor refuses, if it names one.
    `record` is that of the request, if one was made.
    """

    status: int = 500
    code: str = "internal_error"
    title: str = "Internal error"
    default_detail: ClassVar[str] = "Internal error. Report the `request_id` to the operator."
    default_retry_after: ClassVar[float | None] = None

    def __init_subclass__(cls, *, status: int, code: str, title: str) -> None:
        cls.status, cls.code, cls.title = status, code, title

    def __init__(
        self,
        detail: str = "",
        *,
        retry_after: float | None = None,
        errors: list[dict[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.detail = detail or self.default_detail
        self.errors = errors or []
        self.param: str | None = None
        self.record: InteractionRecord | None = None
        self.headers = dict(headers or {})
        seconds = self.default_retry_after if retry_after is None else retry_after
        if seconds is not None:
            # RFC 9110 wants whole seconds, and clients would take 0 for "at once".
            self.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
        super().__init__(self.detail)

    def body(self, request_id: str) -> dict[str, Any]:
        """Return the problem details of RFC 9457, extended by `code`, `request_id` and `errors`."""
        return {
            "type": f"urn:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
            "errors": self.errors,
        }


class MalformedJson(Problem, status=400, code="malformed_json", title="The body is not JSON"):
    default_detail = "The body must be one JSON object in UTF-8."


class ValidationFailed(
    Problem, status=400, code="validation_error", title="The request is not valid"
):
    default_detail = "Fields of the request are missing or not valid; `errors` names them."


class ProviderRejected(
    Problem, status=400, code="provider_rejected", title="The model's vendor refused the request"
):
    default_detail = "The model's vendor refused the request."


class MissingApiKey(Problem, status=401, code="missing_api_key", title="An API key is needed"):
    default_detail = "Send your key as `X-API-Key: …` or `Authorization: Bearer …`."

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class InvalidApiKey(
    MissingApiKey, status=401, code="invalid_api_key", title="The API key is not valid"
):
    default_detail = "The key is unknown, revoked or expired."


# 402, because OpenAI's SDKs would retry a 429.
class BudgetExceeded(Problem, status=402, code="budget_exceeded", title="The budget is spent"):
    default_detail = "The budget of this month (UTC) is spent, or held by requests in flight."


class NotFound(Problem, status=404, code="not_found", title="Not found"):
    # One sentence for both: it does not tell which records exist.
    default_detail = "Not found, or not accessible with this key."


class ModelNotFound(Problem, status=404, code="model_not_found", title="No such model"):
    default_detail = "The provider does not know this model; see GET /v1/models."


class MethodNotAllowed(Problem, status=405, code="method_not_allowed", title="Method Not Allowed"):
    """Always raised with DRF's detail, as NotAcceptable and UnsupportedMediaType are."""


class NotAcceptable(Problem, status=406, code="not_acceptable", title="Not Acceptable"):
    """`Accept` excludes all forms of the answer."""


# 409 here, and 422 for another body, as draft-ietf-httpapi-idempotency-key-header has them.
class IdempotencyInFlight(
    Problem, status=409, code="idempotency_in_flight", title="The request is still running"
):
    default_detail = "A request with this Idempotency-Key is still running; retry later."
    default_retry_after = 2


class ConversationConflict(
    Problem, status=409, code="conversation_conflict", title="The previous turn cannot be continued"
):
    """Always raised with a detail: why the turn cannot be continued."""


class AnswerNotStored(
    Problem, status=409, code="answer_not_kept", title="The answer was not stored"
):
    default_detail = (
        "This Idempotency-Key was already answered, and the answer is not stored "
        "(STORE_CONTENT=false, `store: false`, or too large). Use a new key to ask again."
    )


class PayloadTooLarge(Problem, status=413, code="payload_too_large", title="The body is too large"):
    """Always raised with a detail: the limit."""


class UnsupportedMediaType(
    Problem, status=415, code="unsupported_media_type", title="Unsupported Media Type"
):
    """The body is in another format or encoding than the operation takes."""


class ContentFiltered(
    Problem, status=422, code="content_filtered", title="The content was filtered"
):
    default_detail = "A safety filter refused the content."


class IdempotencyMismatch(
    Problem, status=422, code="idempotency_mismatch", title="The key belongs to another request"
):
    default_detail = "This Idempotency-Key was used for a request with another body."


class RateLimited(Problem, status=429, code="rate_limited", title="Too many requests"):
    """Always raised with a detail: the limit."""


# nginx's status for a client that closed its connection; HTTP has none.
class ClientDisconnected(Problem, status=499, code="aborted", title="The client disconnected"):
    default_detail = "The client closed its connection before the answer."


class InternalError(Problem, status=500, code="internal_error", title="Internal error"):
    """An error of ours; the log has it."""


class ProviderFailed(Problem, status=502, code="provider_error", title="The provider failed"):
    default_detail = "No provider returned an answer."


class ProviderUnavailable(
    Problem,
    status=503,
    code="provider_unavailable",
    title="The provider is rate limited or overloaded",
):
    default_detail = "The provider accepts no requests at the moment."


class StorageFailed(
    Problem, status=503, code="storage_unavailable", title="The storage is unreachable"
):
    default_detail = "The storage cannot be used at the moment; try again."
    default_retry_after = 5


class ServerBusy(Problem, status=503, code="server_busy", title="The server is busy"):
    default_detail = "The server has as many requests as it can serve. Try again."
    default_retry_after = 1.0


class ProviderTimeout(
    Problem, status=504, code="provider_timeout", title="The provider was too slow"
):
    default_detail = "The provider did not answer in time."


PROVIDER_PROBLEMS: dict[str, type[Problem]] = {
    problem.code: problem
    for problem in (
        ContentFiltered,
        ProviderRejected,
        ProviderFailed,
        ProviderUnavailable,
        ProviderTimeout,
    )
}

# How long to wait for a vendor that does not say so: one that is overloaded, and one whose daily
# quota or credit is used up. Nobody knows when the latter answers again.
OVERLOADED_RETRY_SECONDS = 10
USED_UP_RETRY_SECONDS = 3600

INVALID_CURSOR = "Invalid cursor. Use `next_cursor` from the previous page of the same list."


def field_error(field: str, code: str, detail: str) -> dict[str, str]:
    """Return an item of a problem's `errors`."""
    return {"field": field, "code": code, "detail": detail}


def problem_from_exception(exc: Exception) -> Problem:
    """Return the problem to show a client for an exception."""
    match exc:
        case Problem():
            return exc
        # The only sentence of a vendor that clients see: it is about their own request.
        case RequestRejected(vendor_message=message) if message:
            return ProviderRejected(f"{exc} The vendor's message: {message}")
        case ProviderOverloaded(retry_after=None):
            seconds = OVERLOADED_RETRY_SECONDS if exc.retry else USED_UP_RETRY_SECONDS
            return ProviderUnavailable(str(exc), retry_after=seconds)
        case ProviderError():
            return PROVIDER_PROBLEMS[exc.code](str(exc), retry_after=exc.retry_after)
        case StorageUnavailable():
            return StorageFailed(str(exc))
        case BudgetSpent():
            return BudgetExceeded(str(exc))
        case RecordTooLarge():
            return PayloadTooLarge(str(exc))
        case InvalidCursor():
            return ValidationFailed(errors=[field_error("cursor", "invalid", INVALID_CURSOR)])
        case _:
            return InternalError()


def log_and_convert(exc: Exception) -> Problem:
    """Return the problem to show a client, and log it if it is an internal error."""
    problem = problem_from_exception(exc)
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("unhandled %s", type(exc.__cause__ or exc).__name__, exc_info=exc)
    return problem
