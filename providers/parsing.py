"""Tolerant readers of vendors' JSON.

A vendor may send any JSON value. The readers accept every value; for a missing or unusable one
they return None or an empty string, list or iterable.
"""

import email.utils
import json
import math
import re
import time
from collections.abc import Iterable
from datetime import UTC
from decimal import Decimal
from typing import Any, TypeVar

import orjson

from providers.base import COST_DECIMALS

T = TypeVar("T")

MAX_COUNT = 2**53  # larger JSON numbers lose digits in other programs
# Up to this length, that of a stream's events, orjson is tried first. It has no Decimals.
MAX_EVENT_CHARACTERS = 4096
# No answer costs as much: such a number is another unit, or a fault of the vendor's.
MAX_COST_USD = 1_000_000
MAX_RETRY_AFTER = 86_400.0  # a day, in seconds
MAX_MODEL_LENGTH = 256

_DECODER = json.JSONDecoder(parse_float=Decimal)  # json.loads would build a decoder for each call
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")


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
