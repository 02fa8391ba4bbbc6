"""Every failure a client can see, as problem details (RFC 9457).

Problem
 ├── MalformedJson        400  the body is not JSON
 ├── ValidationFailed     400  the body is JSON, but not a request
 ├── ProviderRejected     400  the vendor refuses the request itself
 ├── MissingApiKey        401
 ├── InvalidApiKey        401
 ├── BudgetExceeded       402  the key's budget of the month is spent
 ├── NotFound             404  also: somebody else's
 ├── IdempotencyInFlight  409  a request with the same key is still running
 ├── ConversationConflict 409  the turn before is running, came to nothing, or was not kept
 ├── AnswerNotKept        409  the key's request was answered, and no content is kept
 ├── PayloadTooLarge      413
 ├── ContentFiltered      422  a safety filter refused the content
 ├── IdempotencyMismatch  422  the key was used for another request
 ├── RateLimited          429
 ├── ClientGone           499  for the log, and for who only stopped sending
 ├── InternalError        500
 ├── ProviderFailed       502
 ├── ProviderUnavailable  503  every provider is limited or overloaded
 ├── StorageFailed        503
 └── ProviderTimeout      504  the deadline was reached
`problem_from_exception` translates the errors of providers and storage, `convert_exception` in
chat/api/exceptions.py those of Django and DRF.
"""

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

from chat.storage.errors import InvalidCursor, RecordTooLarge, StorageUnavailable
from providers.errors import ProviderError

logger = logging.getLogger(__name__)


class Problem(Exception):
    """A failure with its HTTP status, its stable `code`, and a sentence for the client.

    `retry_after` is in seconds; `errors` name the fields at fault (`field` is a dotted path, empty
    for the body as a whole).
    """

    status: int = 500
    code: str = "internal_error"
    title: str = "Internal error"
    default_detail: ClassVar[str] = "Something went wrong on our side. The request id finds it."
    default_retry_after: ClassVar[float | None] = None

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
        self.headers = dict(headers or {})
        seconds = self.default_retry_after if retry_after is None else retry_after
        if seconds is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
        super().__init__(self.detail)

    def body(self, request_id: str) -> dict[str, Any]:
        """The problem details of RFC 9457, with the members that we add."""
        return {
            "type": f"urn:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
            "errors": self.errors,
        }


class MalformedJson(Problem):
    status = 400
    code = "malformed_json"
    title = "The body is not JSON"
    default_detail = "The body must be one JSON object in UTF-8."


class ValidationFailed(Problem):
    status = 400
    code = "validation_error"
    title = "The request is not valid"
    default_detail = "Fields of the request are missing or not valid; `errors` names them."


class ProviderRejected(Problem):
    status = 400
    code = "provider_rejected"
    title = "The model's vendor refused the request"
    default_detail = "The model's vendor refused the request."


class MissingApiKey(Problem):
    status = 401
    code = "missing_api_key"
    title = "An API key is needed"
    default_detail = "Send your key as `X-API-Key: …` or `Authorization: Bearer …`."

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class InvalidApiKey(MissingApiKey):
    code = "invalid_api_key"
    title = "The API key is not valid"
    default_detail = "The key is unknown, revoked or expired."


class BudgetExceeded(Problem):
    status = 402
    code = "budget_exceeded"
    title = "The budget is spent"
    default_detail = "The key's budget of this month (UTC) is spent."


class NotFound(Problem):
    status = 404
    code = "not_found"
    title = "Not found"
    default_detail = "There is nothing at this address that you may see."


class IdempotencyInFlight(Problem):
    status = 409
    code = "idempotency_in_flight"
    title = "The request is still running"
    default_detail = "A request with this Idempotency-Key is still running; ask again."
    default_retry_after = 2


class ConversationConflict(Problem):
    status = 409
    code = "conversation_conflict"
    title = "The turn before cannot be continued"


class AnswerNotStored(Problem):
    status = 409
    code = "answer_not_kept"
    title = "The answer was not kept"
    default_detail = (
        "The request with this Idempotency-Key was answered, and this service keeps no content: "
        "its answer cannot be given again."
    )


class PayloadTooLarge(Problem):
    status = 413
    code = "payload_too_large"
    title = "The body is too large"


class ContentFiltered(Problem):
    status = 422
    code = "content_filtered"
    title = "The content was filtered"
    default_detail = "A safety filter refused the content."


class IdempotencyMismatch(Problem):
    status = 422
    code = "idempotency_mismatch"
    title = "The key belongs to another request"
    default_detail = "This Idempotency-Key was used for a request with another body."


class RateLimited(Problem):
    status = 429
    code = "rate_limited"
    title = "Too many requests"


class ClientDisconnected(Problem):
    status = 499
    code = "aborted"
    title = "The client has gone"
    default_detail = "The client closed its connection before there was an answer."


class InternalError(Problem):
    pass


class ProviderFailed(Problem):
    status = 502
    code = "provider_error"
    title = "The provider failed"
    default_detail = "No provider gave an answer."


class ProviderUnavailable(Problem):
    status = 503
    code = "provider_unavailable"
    title = "The provider is limited or overloaded"
    default_detail = "The provider takes no requests at the moment."
    default_retry_after = 10


class StorageFailed(Problem):
    status = 503
    code = "storage_unavailable"
    title = "The storage is unreachable"
    default_detail = "The storage cannot be used at the moment; try again."
    default_retry_after = 5


class ProviderTimeout(Problem):
    status = 504
    code = "provider_timeout"
    title = "The provider was too slow"
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

INVALID_CURSOR = {
    "field": "cursor",
    "code": "invalid",
    "detail": "Invalid cursor. Use `next_cursor` from the previous page of the same list.",
}


def problem_from_exception(exc: Exception) -> Problem:
    """The problem that a client is shown for any exception."""
    match exc:
        case Problem():
            return exc
        case ProviderError():
            return PROVIDER_PROBLEMS[exc.code](str(exc), retry_after=exc.retry_after)
        case StorageUnavailable():
            return StorageFailed(str(exc))
        case RecordTooLarge():
            return PayloadTooLarge(str(exc))
        case InvalidCursor():
            return ValidationFailed(errors=[INVALID_CURSOR])
        case _:
            return InternalError()


def log_and_convert(exc: Exception) -> Problem:
    """The problem that a client is shown; what nobody foresaw is logged."""
    problem = problem_from_exception(exc)
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("unhandled %s", type(exc.__cause__ or exc).__name__, exc_info=exc)
    return problem
