"""Vendors' texts and JSON values, made fit to be encoded and stored."""

import math
from decimal import Decimal
from typing import Any

from providers.parsing import clean_text

MAX_DEPTH = 100  # of a value in a value; deeper ones cannot be encoded


class SplitText:
    """A text whose pieces may split a character: half a surrogate pair waits for the other."""

    def __init__(self) -> None:
        self._half = ""

    def add(self, piece: str) -> str:
        if not self._half and piece.isascii():
            return piece.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in piece else piece
        piece = self._half + piece
        self._half = piece[-1] if piece and "\ud800" <= piece[-1] <= "\udbff" else ""
        return clean_text(piece[: len(piece) - len(self._half)])

    def finish(self) -> str:
        half, self._half = self._half, ""
        return clean_text(half)


def clean_value(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Return a vendor's JSON value that can be encoded and stored, cut off below `depth`."""
    if isinstance(value, str):
        return clean_text(value)
    if depth == 0:
        return None
    if isinstance(value, list):
        return [clean_value(each, depth - 1) for each in value]
    if isinstance(value, dict):
        return {clean_text(name): clean_value(each, depth - 1) for name, each in value.items()}
    # orjson writes integers of 64 bits, with a sign or without.
    is_large = type(value) is int and not -(2**63) <= value < 2**64
    if is_large or isinstance(value, float | Decimal):
        return _finite(value)
    return value


def _finite(number: float | Decimal) -> float | None:
    try:
        number = float(number)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
