"""A small JSON value that is valid for a JSON schema, always the same one.

https://json-schema.org/understanding-json-schema describes the keywords. `pattern`, `not`, `if` and
`uniqueItems` are not followed, except that a schema's first example is used as it is.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from providers.errors import RequestRejected
from providers.parsing import as_list, get_path

# A limit, because a schema of a few lines can describe endless values.
MAX_SIZE = 10_000

_BY_FORMAT = {
    "date-time": "2025-01-01T00:00:00Z",
    "date": "2025-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "user@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}

# The type of a schema without `type`, by a keyword that only this type has.
_TYPE_BY_KEYWORD = {
    "properties": "object",
    "required": "object",
    "items": "array",
    "prefixItems": "array",
    "minimum": "number",
    "maximum": "number",
}


def sample(schema: Any, text: str) -> Any:
    """Return a value with the required properties and short lists, and `text` for free strings.

    Raises RequestRejected for a malformed schema, and for one whose value is larger than MAX_SIZE.
    """
    try:
        return _Sampler(schema, text).value(schema, frozenset("#"))
    # The others come from keywords with values of a wrong type.
    except (_NoValueError, RecursionError, ArithmeticError, AttributeError, TypeError) as exc:
        message = "The mock has no value for the JSON schema."
        raise RequestRejected(message, reason="schema") from exc


class _NoValueError(Exception):
    """The schema has no value here that ends, or the value is too large."""


class _Sampler:
    def __init__(self, root: Any, text: str) -> None:
        self._root = root
        self._text = text
        self._size = 0

    def value(self, schema: Any, refs: frozenset[str]) -> Any:
        """Return a value. `refs` are the references on the way to the schema."""
        schema, refs = self._expanded(schema, refs)
        if "const" in schema:
            return schema["const"]
        for key in ("enum", "examples"):
            if choices := as_list(schema.get(key)):
                return choices[0]
        for key in ("anyOf", "oneOf"):
            if alternatives := as_list(schema.get(key)):
                return self._first_value(_without(schema, key), alternatives, refs)
        return self._of_type(schema, refs)

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_SIZE:
            raise _NoValueError

    def _expanded(self, schema: Any, refs: frozenset[str]) -> tuple[dict[str, Any], frozenset[str]]:
        """Return a schema with its `$ref` and its `allOf` merged in."""
        self._grow(1)
        if not isinstance(schema, dict):
            return {}, refs  # `true`
        inner = [self._expanded(each, refs) for each in as_list(schema.get("allOf"))]
        if isinstance(ref := schema.get("$ref"), str):
            # A reference to itself, of which only another alternative may end.
            if ref in refs:
                raise _NoValueError
            inner.append(self._expanded(self._target(ref), refs | {ref}))
        parts = [part for part, _ in inner]
        return _merged([*parts, _without(schema, "$ref", "allOf")]), refs.union(
            *(r for _, r in inner)
        )

    def _target(self, ref: str) -> Any:
        steps = [unquote(s).replace("~1", "/").replace("~0", "~") for s in ref.split("/")[1:]]
        return get_path(self._root, *steps)

    def _first_value(self, rest: dict[str, Any], schemas: list[Any], refs: frozenset[str]) -> Any:
        for schema in schemas:
            # This alternative has no end; the next one may.
            with suppress(_NoValueError):
                expanded, inner = self._expanded(schema, refs)
                return self.value(_merged([rest, expanded]), inner)
        raise _NoValueError

    def _of_type(self, schema: dict[str, Any], refs: frozenset[str]) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = get_path(kind, 0)
        match kind or next((_TYPE_BY_KEYWORD[k] for k in schema if k in _TYPE_BY_KEYWORD), None):
            case "object":
                return self._object(schema, refs)
            case "array":
                return self._array(schema, refs)
            case "integer" | "number":
                return _number(schema)
            case "boolean":
                return True
            case "null":
                return None
        return self._string(schema)

    def _object(self, schema: dict[str, Any], refs: frozenset[str]) -> dict[str, Any]:
        wanted = (name for name in as_list(schema.get("required")) if isinstance(name, str))
        required = dict.fromkeys(wanted)
        properties = schema.get("properties") or {}
        names = [name for name in properties if name in required]
        names += [name for name in required if name not in properties]
        others = schema.get("additionalProperties")
        return {name: self.value(properties.get(name, others), refs) for name in names}

    def _array(self, schema: dict[str, Any], refs: frozenset[str]) -> list[Any]:
        items = schema.get("items")
        first = as_list(schema.get("prefixItems")) or as_list(items)
        minimum = schema.get("minItems", 0)
        wanted = max(minimum, len(first), 0 if items is False else 1)
        wanted = min(wanted, schema.get("maxItems", wanted))
        self._grow(wanted)
        schemas = (first + [items] * wanted)[:wanted]
        try:
            return [self.value(each, refs) for each in schemas]
        except _NoValueError:
            if minimum:
                raise
            return []

    def _string(self, schema: dict[str, Any]) -> str:
        if value := _BY_FORMAT.get(schema.get("format", "")):
            return value
        minimum = schema.get("minLength", 0)
        self._grow(minimum)
        return self._text.ljust(minimum, ".")[: schema.get("maxLength")]


def _without(schema: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in keys}


def _merged(schemas: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Merge schemas: all properties together; of any other keyword the last value."""
    merged: dict[str, Any] = {}
    for schema in schemas:
        for key, value in schema.items():
            if key == "properties":
                merged[key] = merged.get(key, {}) | value
            elif key == "required":
                merged[key] = merged.get(key, []) + value
            else:
                merged[key] = value
    return merged


def _number(schema: dict[str, Any]) -> int | float:
    """Return the first allowed one of 1, 0 and the numbers beside the bounds."""
    low = schema.get("exclusiveMinimum", schema.get("minimum"))
    high = schema.get("exclusiveMaximum", schema.get("maximum"))
    step = schema.get("multipleOf") or 1
    candidates = [1, 0, step]
    for bound in (low, high):
        if bound is not None:
            multiple = bound // step * step
            candidates += [bound, multiple, multiple + step, multiple - step]
    if low is not None and high is not None:
        candidates.append((low + high) / 2)
    number = next((each for each in candidates if _allowed(each, schema)), None)
    if number is None:
        raise _NoValueError
    return int(number) if schema.get("type") == "integer" else number


def _allowed(number: float, schema: dict[str, Any]) -> bool:
    step = schema.get("multipleOf") or (1 if schema.get("type") == "integer" else None)
    return (
        schema.get("minimum", number) <= number <= schema.get("maximum", number)
        and schema.get("exclusiveMinimum", number - 1) < number
        and schema.get("exclusiveMaximum", number + 1) > number
        and (step is None or number % step == 0)
    )
