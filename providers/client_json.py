"""JSON that clients wrote: RFC 8259, with half surrogate pairs."""

import re
from typing import Any

import orjson

# An escaped surrogate: a pair (group 2) or half of one, after escaped backslashes (group 1).
_SURROGATES = re.compile(
    rb"(?<!\\)((?:\\\\)*)"
    rb"(?:(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_SURROGATE_BYTES = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
_REPLACEMENT_ESCAPE, _REPLACEMENT_BYTES = rb"\ufffd", "\ufffd".encode()


def parse(data: bytes) -> Any:
    """Parse JSON in UTF-8, without NaN. Raises orjson.JSONDecodeError.

    Half a surrogate pair, which JavaScript makes of an emoji cut in two, is read as U+FFFD.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        # Only now, because few bodies need it.
        if (repaired := _without_surrogates(data)) == data:
            raise
    return orjson.loads(repaired)


def parse_object(text: Any) -> dict[str, Any] | None:
    """Return the JSON object in a text; None for anything else."""
    try:
        value = parse(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else text
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _without_surrogates(data: bytes) -> bytes:
    data = _SURROGATES.sub(lambda it: it[0] if it[2] else it[1] + _REPLACEMENT_ESCAPE, data)
    return _SURROGATE_BYTES.sub(_REPLACEMENT_BYTES, data)
