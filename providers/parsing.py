"""Tolerant readers of what vendors send, and what an HTTP status of theirs means.

A vendor's answer may be any JSON at all: these functions take every value and give None, or an
empty text, for what is not there.
"""

import email.utils
import json
import math
import re
import time
from collections.abc import Iterable, Iterator
from datetime import UTC
from decimal import Decimal
from typing import Any

from providers.base import Completion, FinishReason, Usage
from providers.errors import (
    ContentFiltered,
    ModelUnavailable,
    ProviderError,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderOverloaded,
    RequestRejected,
)
from providers.vendor_http import Answer

MAX_COUNT = 2**53  # beyond it JSON numbers lose digits on their way through other programs
MAX_COST_USD = 1_000_000
COST_DECIMALS = 12
MAX_RETRY_AFTER = 86_400.0
MAX_MODEL_LENGTH = 256

_LABEL = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")

# Vendors without a code for it say it in words only.
_TOO_LONG = re.compile(r"context (length|window|size)|maximum context|token count", re.IGNORECASE)

# Sentences for more than one place.
CONTENT_FILTERED = "The provider's safety filter refused the content."
CREDENTIALS = "The provider refused the credentials."
NO_MODEL = "The provider does not know the model, or its address is wrong."
PARAMETER = "The provider rejected the request because of its parameter {}."
REJECTED = "The provider rejected the request."
TIMEOUT = "The provider timed out."
TOO_LONG = "The provider rejected the request: the context is too long for the model."

# What a status means (RFC 9110) where the body does not say it better. 524 and 529, "a timeout
# occurred" and "site is overloaded", are in no standard but in use.
_BY_STATUS: dict[int, tuple[type[ProviderError], str]] = {
    400: (RequestRejected, REJECTED),
    401: (ProviderMisconfigured, CREDENTIALS),
    402: (ProviderMisconfigured, "The provider's account has no credit."),
    403: (ProviderMisconfigured, "The provider refused access."),
    404: (ModelUnavailable, NO_MODEL),
    405: (ModelUnavailable, NO_MODEL),
    408: (ProviderFailed, TIMEOUT),
    410: (ModelUnavailable, NO_MODEL),
    413: (RequestRejected, "The provider rejected the request: it is too large."),
    422: (RequestRejected, REJECTED),
    429: (ProviderOverloaded, "The provider's rate limit or quota is reached."),
    503: (ProviderOverloaded, "The provider is overloaded."),
    504: (ProviderFailed, TIMEOUT),
    524: (ProviderFailed, TIMEOUT),
    529: (ProviderOverloaded, "The provider is overloaded."),
}


def get_path(value: Any, *path: str | int) -> Any:
    """What lies at the end of `path` in a JSON value; None where a step leads nowhere."""
    for step in path:
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        else:
            value = value[step] if isinstance(value, list) and step < len(value) else None
    return value


def as_list(value: Any) -> list[Any]:
    """The elements of a JSON array; none for anything else."""
    return value if isinstance(value, list) else []


def as_items(value: Any) -> Iterable[tuple[str, Any]]:
    """The members of a JSON object; none for anything else."""
    return value.items() if isinstance(value, dict) else ()


def as_str(value: Any) -> str:
    return value if isinstance(value, str) else ""


def message(value: Any) -> str:
    """What a vendor says of an error, as much of it as is worth a search; shown to nobody."""
    return as_str(value)[:2000]


def clean_text(value: str) -> str:
    """Text that can be encoded and stored: U+FFFD for every half of a surrogate pair."""
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def token_count(value: Any) -> int | None:
    """A number of tokens; None for what cannot be one."""
    return value if type(value) is int and 0 <= value <= MAX_COUNT else None


def total(parts: Iterable[int | None]) -> int | None:
    """The sum of token counts; None when one of them is unknown."""
    known = list(parts)
    return None if None in known else token_count(sum(filter(None, known)))


def usd(value: Any) -> Decimal | None:
    """A cost in US dollars, to a millionth of a millionth; None for what cannot be one."""
    if type(value) is not int and not isinstance(value, Decimal):
        return None
    amount = Decimal(value)
    if not amount.is_finite() or not 0 <= amount <= MAX_COST_USD:
        return None
    if amount.as_tuple().exponent < -COST_DECIMALS:  # type: ignore[operator]  # it is finite
        amount = round(amount, COST_DECIMALS)
    return abs(amount)  # there is a negative zero


def model_name(value: Any, requested: str) -> str:
    """The model that answered, which need not be the requested one; else the requested one."""
    name = as_str(value).strip()
    return name if 0 < len(name) <= MAX_MODEL_LENGTH and name.isprintable() else requested


def identifier(value: Any) -> str:
    """A vendor's identifier, such as an error code; empty for anything that may be prose."""
    text = str(value) if type(value) is int and abs(value) < MAX_COUNT else as_str(value)
    return text if _LABEL.fullmatch(text) else ""


def error_status(value: Any) -> int | None:
    """The HTTP status of a failure, which errors repeat as a number or as its digits."""
    text = identifier(value)
    status = int(text) if text.isdecimal() else 0
    return status if 400 <= status <= 599 else None


def reason(*parts: Any) -> str:
    """A line for the log, out of a vendor's identifiers and nothing else it said."""
    return " ".join(dict.fromkeys(filter(None, map(identifier, parts))))


def wait_seconds(value: Any) -> float | None:
    """A time to wait, of whatever type it came in, clamped to a day; None for nonsense."""
    try:
        wait = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(wait, 0.0), MAX_RETRY_AFTER) if math.isfinite(wait) else None


def retry_after(value: Any) -> float | None:
    """The seconds in a Retry-After field, which holds a number or a date (RFC 9110, 10.2.3)."""
    wait = wait_seconds(value)
    if wait is not None or not isinstance(value, str):
        return wait
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    return wait_seconds(
        (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - time.time()
    )


def json_object(answer: Answer) -> dict[str, Any]:
    """The body of a successful answer.

    Raises ProviderFailed for anything but a JSON object. HTML is not even tried: it is the login
    page or the error page of something that stands before the vendor.
    """
    html = answer.headers.get("content-type", "").lower().startswith("text/html")
    body = None if html else answer.json()
    if not isinstance(body, dict):
        raise unusable_answer("not_json")
    return body


def event_object(data: str) -> dict[str, Any]:
    """The data of an event of a stream, fractions as Decimal; an error may be a list of one.

    Raises ProviderFailed.
    """
    try:
        body = json.loads(data, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError):
        body = None
    if isinstance(body, list):
        body = get_path(body, 0)
    if not isinstance(body, dict):
        raise unusable_answer("not_json")
    return body


def truncated_stream() -> ProviderFailed:
    """The error for a stream that ends before the answer does."""
    message = "The provider broke off its answer."
    return ProviderFailed(message, reason="unfinished", retry=False)


def finish_stream(completion: Completion, sent: str) -> Iterator[str | Completion]:
    """The end of a stream: what was not sent of the text, and the completion."""
    if rest := completion.text.removeprefix(sent):
        yield rest
    yield completion


def unusable_answer(*parts: Any) -> ProviderFailed:
    """The error for an answer that is no answer. Asking for it again would give the same."""
    message = "The provider gave an answer that cannot be used."
    return ProviderFailed(message, reason=reason(*parts), retry=False)


def error_for_status(
    status: int, *, reason: str, retry: bool | None = None, retry_after: float | None = None
) -> ProviderError:
    """The error for a status that is no success."""
    if entry := _BY_STATUS.get(status):
        kind, message = entry
        return kind(message, reason=reason, retry=retry, retry_after=retry_after)
    if 500 <= status <= 599:
        return ProviderFailed(
            "The provider failed.", reason=reason, retry=retry, retry_after=retry_after
        )
    return ProviderFailed("The provider gave an unexpected answer.", reason=reason, retry=False)


def rejected(message: str, parameter: str, *, reason: str) -> RequestRejected:
    """The error for a refused request, with a hint in our words at what is wrong with it.

    `message` is the vendor's: it is searched, and shown to nobody.
    """
    if _TOO_LONG.search(message):
        return RequestRejected(TOO_LONG, reason=reason)
    if parameter:
        return RequestRejected(PARAMETER.format(parameter), reason=reason)
    return RequestRejected(REJECTED, reason=reason)


def build_completion(
    text: str,
    finish: FinishReason,
    *,
    model: str,
    usage: Usage,
    empty: ProviderError,
    tool_calls: tuple[dict[str, Any], ...] = (),
) -> Completion:
    """The answer, or the error that an answer without text is.

    A model that used up its length before the first word did answer, and so did one that wants a
    tool called. `empty` is raised for any other empty answer that no filter explains.
    """
    text = clean_text(text)
    if text or tool_calls or finish == "length":
        return Completion(
            text=text, model=model, finish_reason=finish, usage=usage, tool_calls=tool_calls
        )
    if finish == "content_filter":
        raise ContentFiltered(CONTENT_FILTERED, reason=empty.reason, usage=usage)
    empty.usage = usage
    raise empty
