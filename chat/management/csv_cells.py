"""Cells of CSV files that people open in a spreadsheet."""

import re
from decimal import Decimal
from typing import Any

import orjson

from chat.storage.base import plain_digits

# The start of a cell that a spreadsheet would run as a formula (OWASP, CSV injection), also if it
# separates cells by `;` or tabs.
FORMULA = re.compile(r"(^|[;\t])(?=[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20])")


def cell(value: Any) -> str:
    """Return a value as text that no spreadsheet runs as a formula."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return plain_digits(value)
    if isinstance(value, list | dict):
        value = orjson.dumps(value).decode()
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return FORMULA.sub(r"\1'", text)
