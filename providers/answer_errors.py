"""The errors of vendors' answers, and readers that raise them."""

import re
from typing import Any

from providers.base import Completion
from providers.errors import (
    ContentFiltered,
    EmptyAnswer,
    ModelUnavailable,
    ProviderError,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderOverloaded,
    RequestRejected,
)
from providers.parsing import get_path, load_json, log_reason

# A message with none of these fields is not an answer.
CONTENT_FIELDS = {
    *("content", "content_parts", "tool_calls", "function_call", "refusal", "images", "audio"),
}

# Some vendors have no error code for a context that is too long.
_TOO_LONG = re.compile(
    r"context (length|window|size)|maximum context|token count|(input|prompt) is too long",
    re.IGNORECASE,
)

# Sentences that several modules use.
CONTENT_FILTERED = "The provider's safety filter refused the content."
CREDENTIALS = "The provider refused the credentials."
NO_ADDRESS = "The provider's base URL is wrong, or the server has no such endpoint."
NO_MODEL = "The provider does not know the model, or its base URL is wrong."
PARAMETER = "The provider rejected the request because of its parameter {}."
REJECTED = "The provider rejected the request."
TOO_LONG = "The provider rejected the request: the context is too long for the model."

# The error for a status (RFC 9110) when the body has no known error code. Vendors also use
# 524 (timeout) and 529 (overloaded), which are in no standard.
_BY_STATUS: dict[int, tuple[type[ProviderError], str]] = {
    **dict.fromkeys((400, 422), (RequestRejected, REJECTED)),
    401: (ProviderMisconfigured, CREDENTIALS),
    402: (ProviderMisconfigured, "The provider's account has no credit."),
    403: (ProviderMisconfigured, "The provider refused access."),
    **dict.fromkeys((404, 405, 410), (ModelUnavailable, NO_MODEL)),
    **dict.fromkeys((408, 504, 524), (ProviderFailed, "The provider timed out.")),
    413: (RequestRejected, "The provider rejected the request: it is too large."),
    429: (ProviderOverloaded, "The provider's rate limit or quota is reached."),
    **dict.fromkeys((503, 529), (ProviderOverloaded, "The provider is overloaded.")),
}


def as_object(value: Any) -> dict[str, Any]:
    """Return the JSON object of an answer. Raises ProviderFailed for any other value."""
    if not isinstance(value, dict):
        raise unusable_answer("not_json")
    return value


def event_object(data: str) -> dict[str, Any] | None:
    """Return the JSON object of a stream's event; None for other data, which is ignored.

    Raises ProviderFailed for a broken object.
    """
    body = load_json(data)
    if isinstance(body, list):
        body = get_path(body, 0)  # Gemini sends an error as an array of one
    if data.lstrip().startswith("{"):
        return as_object(body)
    return body if isinstance(body, dict) else None


def truncated_stream() -> ProviderFailed:
    """Return the error for a stream that ends before the answer is complete."""
    message = "The provider broke off its answer."
    return ProviderFailed(message, reason="unfinished", retry=False)


def unusable_answer(*parts: Any) -> ProviderFailed:
    """Return the error for an answer without usable content. It is not retried."""
    message = "The provider returned an unusable answer."
    return ProviderFailed(message, reason=log_reason(*parts), retry=False)


def broken_call() -> ProviderFailed:
    """Return the error for a tool call without a name, or whose arguments are not whole JSON.

    The tool's name is content, and stays out of the log.
    """
    message = "The provider's answer has an incomplete tool call."
    return ProviderFailed(message, reason="broken_tool_call", retry=False)


def empty_answer(*parts: Any) -> EmptyAnswer:
    """Return the error for an answer without content."""
    return EmptyAnswer("The provider returned no content.", reason=log_reason("no_text", *parts))


def error_for_status(
    status: int, *, reason: str, retry: bool | None = None, retry_after: float | None = None
) -> ProviderError:
    """Return the error for a status other than 2xx."""
    if status not in _BY_STATUS and not 500 <= status <= 599:
        message = "The provider returned an unexpected answer."
        return ProviderFailed(message, reason=reason, retry=False)
    kind, message = _BY_STATUS.get(status, (ProviderFailed, "The provider failed."))
    return kind(message, reason=reason, retry=retry, retry_after=retry_after)


def rejection(message: str, parameter: str, *, reason: str) -> RequestRejected:
    """Return the error for a refused request, with our own sentence about the cause.

    The vendor's `message` is only searched. `parameter` is an identifier, or empty if unknown.
    """
    if _TOO_LONG.search(message):
        return RequestRejected(TOO_LONG, reason=reason)
    if parameter:
        return RequestRejected(PARAMETER.format(parameter), reason=reason)
    return RequestRejected(REJECTED, reason=reason)


def require_content(completion: Completion, *, empty: ProviderError) -> Completion:
    """Return the completion. Raises an error if its message has only thoughts.

    An answer may be empty when it ended by `length`: a model can spend all its tokens on thinking.
    An empty answer that ended by `content_filter` is ContentFiltered; otherwise the error is
    `empty`.
    """
    if not CONTENT_FIELDS.isdisjoint(completion.message) or completion.finish_reason == "length":
        return completion
    if completion.finish_reason == "content_filter":
        raise ContentFiltered(CONTENT_FILTERED, reason=empty.reason)
    raise empty
