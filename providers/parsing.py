"""Tolerant readers of vendors' JSON, and the errors for their HTTP statuses.

A vendor may send any JSON value. The readers accept every value; for a missing or unusable one
they return None or an empty string, list or iterable.
"""

import email.utils
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC
from decimal import Decimal
from typing import Any, TypeVar

import orjson

from providers.base import COST_DECIMALS, Completion, Delta, FinishReason, Message
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

T = TypeVar("T")

MAX_COUNT = 2**53  # larger JSON numbers lose digits in other programs
# Up to this length, that of a stream's events, orjson is tried first. It has no Decimals.
MAX_EVENT_CHARACTERS = 4096
# No answer costs as much: such a number is another unit, or a fault of the vendor's.
MAX_COST_USD = 1_000_000
MAX_RETRY_AFTER = 86_400.0  # a day, in seconds
MAX_MODEL_LENGTH = 256

# A message with none of these fields is not an answer.
CONTENT_FIELDS = {"content", "tool_calls", "function_call", "refusal", "images", "audio"}

_DECODER = json.JSONDecoder(parse_float=Decimal)  # json.loads would build a decoder for each call
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")

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


def get_path(value: Any, *path: str | int) -> Any:
    """Return the value at `path` inside a JSON value; None when a step is missing."""
    for step in path:
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        else:
            value = value[step] if isinstance(value, list) and step < len(value) else None
    return value


def as_list(value: Any) -> list[Any]:
    """Return a JSON array; an empty list for any other value."""
    return value if isinstance(value, list) else []


def as_objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a JSON array; an empty list for any other value."""
    return [each for each in as_list(value) if isinstance(each, dict)]


def as_items(value: Any) -> Iterable[tuple[str, Any]]:
    """Return the members of a JSON object; none for any other value."""
    return value.items() if isinstance(value, dict) else ()


def as_str(value: Any) -> str:
    """Return a JSON string; an empty one for any other value."""
    return value if isinstance(value, str) else ""


def first_known(values: Iterable[T | None]) -> T | None:
    """Return the first value that is not None; None if all are."""
    return next((value for value in values if value is not None), None)


def error_message(value: Any) -> str:
    """Return the start of a vendor's error message, to search in. Never show it to a client."""
    return as_str(value)[:2000]


def clean_text(value: str) -> str:
    """Replace lone surrogates and NULs by U+FFFD, so that the text can be encoded and stored."""
    if not value.isascii():
        value = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")


def token_count(value: Any) -> int | None:
    """Return a number of tokens; None for any other value."""
    # Not isinstance(): True would be one token.
    return value if type(value) is int and 0 <= value <= MAX_COUNT else None


def sum_tokens(parts: Iterable[int | None]) -> int | None:
    """Return the sum of token counts; None when one of them is unknown."""
    known = list(parts)
    return None if None in known else token_count(sum(filter(None, known)))


def usd(value: Any) -> Decimal | None:
    """Return a cost in US dollars, rounded to COST_DECIMALS; None for any other value."""
    if type(value) is not int and not isinstance(value, Decimal):
        return None
    amount = Decimal(value)
    if not amount.is_finite() or not 0 <= amount <= MAX_COST_USD:
        return None
    if amount.as_tuple().exponent < -COST_DECIMALS:  # type: ignore[operator]  # it is finite
        amount = round(amount, COST_DECIMALS)
    return abs(amount)  # turns -0 into 0


def model_name(value: Any, requested: str) -> str:
    """Return the model that the vendor reports, or the requested one if it reports none."""
    name = as_str(value).strip()
    return name if 0 < len(name) <= MAX_MODEL_LENGTH and name.isprintable() else requested


def identifier(value: Any) -> str:
    """Return an identifier such as an error code; an empty string for anything like prose."""
    text = str(value) if type(value) is int and abs(value) < MAX_COUNT else as_str(value)
    return text if _IDENTIFIER.fullmatch(text) else ""


def error_status(value: Any) -> int | None:
    """Return the HTTP status (400 to 599) that an error body repeats, as a number or as digits."""
    text = identifier(value)
    status = int(text) if text.isdecimal() else 0
    return status if 400 <= status <= 599 else None


def log_reason(*parts: Any) -> str:
    """Join a vendor's identifiers for the log, and drop everything else it sent."""
    return " ".join(dict.fromkeys(filter(None, map(identifier, parts))))


def wait_seconds(value: Any) -> float | None:
    """Return a delay in seconds, limited to 0 to MAX_RETRY_AFTER; None for an unusable value."""
    try:
        wait = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(wait, 0.0), MAX_RETRY_AFTER) if math.isfinite(wait) else None


def retry_after(value: Any) -> float | None:
    """Return the seconds of a Retry-After field: a number or a date (RFC 9110, 10.2.3)."""
    wait = wait_seconds(value)
    if wait is not None or not isinstance(value, str):
        return wait
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return wait_seconds(date.timestamp() - time.time())


def load_json(data: str | bytes) -> Any:
    """Parse JSON, amounts of money as Decimal; None when it is not JSON."""
    try:
        if isinstance(data, bytes):
            data = data.decode(json.detect_encoding(data), "surrogatepass")
        if len(data) <= MAX_EVENT_CHARACTERS and "cost" not in data:
            try:  # without `suppress`, as this runs for each token
                return orjson.loads(data)
            except orjson.JSONDecodeError:  # it refuses NaN and half a surrogate pair
                pass
        return _DECODER.decode(data)
    # ArithmeticError: Decimal too has its limits, at an exponent of twenty digits.
    except (ValueError, ArithmeticError, RecursionError):
        return None


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


def as_stream(completion: Completion) -> Iterator[Delta | Completion]:
    """Yield an answer that was not streamed as a stream of one piece."""
    message = dict(completion.message)
    if calls := message.get("tool_calls"):
        message["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
    if message or completion.extras:
        yield Delta(message, completion.extras)
    yield completion


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


def finish_reason(
    known: Mapping[str, FinishReason], reported: str, message: Message
) -> FinishReason:
    """Return OpenAI's finish reason for a vendor's, by a table of those of unfinished answers."""
    return known.get(reported, "tool_calls" if message.get("tool_calls") else "stop")


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
