"""Serializer fields.

Request fields convert no types: a number is not a string. `ResponseFormatField`, `too_deep` and
`without_nul` check JSON from clients; `UsdField` writes amounts of money.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from uuid import UUID

import orjson
from django.core.validators import RegexValidator
from rest_framework import serializers

from chat.storage.base import MAX_ID_LENGTH, USER_ID_PATTERN, plain_digits

# Options of a field that may be absent or null.
OPTIONAL: dict[str, Any] = {"required": False, "allow_null": True}
# OpenAI's limits for `stop`, `metadata` and `tools`.
MAX_STOPS = 4
MAX_STOP_LENGTH = 256
MAX_METADATA = 16
MAX_METADATA_KEY_LENGTH = 64
MAX_METADATA_VALUE_LENGTH = 512
MAX_TOOLS = 128
MAX_IMAGES = 16
RESPONSE_FORMATS = ("text", "json_object", "json_schema")
# The first invalid elements of a list or object are named, because each error takes hundreds of
# times the memory of its element.
MAX_INVALID_ELEMENTS = 10


class StrictField(serializers.Field[Any, Any, Any, Any]):
    """A field that accepts values of `types` only."""

    types: tuple[type, ...]

    def to_internal_value(self, data: Any) -> Any:
        if type(data) not in self.types:  # True is an instance of int
            self.fail("invalid", input=data)
        return super().to_internal_value(data)


class StrictCharField(StrictField, serializers.CharField):
    """A string, not trimmed."""

    types = (str,)

    def __init__(self, **options: Any) -> None:
        super().__init__(trim_whitespace=False, **options)


class LenientTextField(StrictCharField):
    """A string in which NUL is read as U+FFFD."""

    def to_internal_value(self, data: Any) -> Any:
        return _without_nul(super().to_internal_value(data))


class PromptField(StrictCharField):
    """A string with at least one character that is not whitespace."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, str) and not data.strip():
            self.fail("blank")
        return super().to_internal_value(data)


class StrictFloatField(StrictField, serializers.FloatField):
    types = (int, float)


class StrictIntegerField(StrictField, serializers.IntegerField):
    types = (int,)


class StrictBooleanField(StrictField, serializers.BooleanField):
    types = (bool,)


class UserIdField(StrictCharField):
    """The client's id of its end user."""

    default_validators = [
        RegexValidator(
            rf"\A{USER_ID_PATTERN}\Z",
            "Any characters but / and control characters, and neither . nor ..",
        )
    ]

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=MAX_ID_LENGTH, **options)


class InteractionIdField(StrictCharField):
    """A UUID in any spelling, normalized. Other text passes unchanged: it matches no record."""

    def to_internal_value(self, data: Any) -> str:
        text: str = super().to_internal_value(data)
        with suppress(ValueError):
            return str(UUID(text))
        return text


class ModelIdField(StrictCharField):
    default_validators = [RegexValidator(r"\A[!-~]+\Z", "Printable ASCII without spaces only.")]

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=256, **options)


class ImageUrlField(StrictCharField):
    """An image's address, which goes to the vendor unchanged: we never fetch it."""

    default_validators = [
        RegexValidator(
            r"\A([hH][tT][tT][pP][sS]://[^\s\x00/][^\s\x00]*"
            r"|[dD][aA][tT][aA]:image/[A-Za-z0-9.+-]+(;[^\s\x00;,]+)*;base64,[A-Za-z0-9+/]+={0,2})\Z",
            "An https: URL, or a data: URL such as data:image/png;base64,…",
        )
    ]


class BoundedListField(serializers.ListField):
    """A list, whose length is checked before its elements."""

    def run_child_validation(self, data: Any) -> list[Any]:
        if self.max_length is not None and len(data) > self.max_length:
            self.fail("max_length", max_length=self.max_length)
        return list(_validated(self.child, enumerate(data)).values())


def _validated(
    child: serializers.Field[Any, Any, Any, Any], elements: Iterable[tuple[Any, Any]]
) -> dict[Any, Any]:
    """Return the validated elements, by number or name."""
    values, errors = {}, {}
    for key, element in elements:
        try:
            values[key] = child.run_validation(element)
        except serializers.ValidationError as exc:
            errors[key] = exc.detail
            if len(errors) == MAX_INVALID_ELEMENTS:
                break
    if errors:
        raise serializers.ValidationError(errors)
    return values


class ObjectField(serializers.DictField):
    """An object of any members, which are not looked at: there may be a million."""

    def run_child_validation(self, data: Any) -> Any:
        return data


class ResponseFormatField(ObjectField):
    """The form of the answer, in OpenAI's terms."""

    default_error_messages = {
        "type": f"`type` is one of {', '.join(RESPONSE_FORMATS)}.",
        "json_schema": "`json_schema` is an object with a `name`, and mostly a `schema`.",
        "depth": "Nested too deeply.",
    }

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        value: dict[str, Any] = super().to_internal_value(data)
        if value.get("type") not in RESPONSE_FORMATS:
            self.fail("type")
        if value["type"] == "json_schema":
            schema = value.get("json_schema")
            if not isinstance(schema, dict) or not isinstance(schema.get("name"), str):
                self.fail("json_schema")
        if too_deep(value):
            self.fail("depth")
        return value


def too_deep(value: Any) -> bool:
    """Return whether a JSON value is nested too deeply for orjson to write it later.

    The lists around it stand for the levels that records and vendor requests add.
    """
    return _written(value) is None


def without_nul(value: Any) -> Any:
    """Return a JSON value with U+FFFD for each NUL in its texts, such as a tool may print.

    Raises ValidationError for one that is nested too deeply.
    """
    written = _written(value)
    if written is None:
        raise serializers.ValidationError("The body is nested too deeply.")
    return _without_nul(value) if b"\\u0000" in written else value


def _written(value: Any) -> bytes | None:
    try:
        return orjson.dumps([[[[[[[[value]]]]]]]])
    except orjson.JSONEncodeError:
        return None


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, list):
        return [_without_nul(each) for each in value]
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(each) for name, each in value.items()}
    return value


class StopField(BoundedListField):
    """A list of strings, or one string without a list."""

    child = StrictCharField(max_length=MAX_STOP_LENGTH)

    def to_internal_value(self, data: Any) -> list[str]:
        return list(super().to_internal_value([data] if isinstance(data, str) else data))


class MetadataField(serializers.DictField):
    """String pairs that are kept with the record."""

    child = StrictCharField(max_length=MAX_METADATA_VALUE_LENGTH, allow_blank=True)
    default_error_messages = {
        "max_length": f"No more than {MAX_METADATA} pairs.",
        "key_length": f"A key has 1 to {MAX_METADATA_KEY_LENGTH} characters.",
    }

    def run_child_validation(self, data: Any) -> dict[str, Any]:
        if len(data) > MAX_METADATA:
            self.fail("max_length")
        return _validated(self.child, data.items())

    def to_internal_value(self, data: Any) -> dict[str, str]:
        value: dict[str, str] = super().to_internal_value(data)
        if not all(0 < len(key) <= MAX_METADATA_KEY_LENGTH and "\0" not in key for key in value):
            self.fail("key_length")
        return value


class UsdField(serializers.CharField):
    """A decimal amount of US dollars, as digits. It is only written."""

    def __init__(self, **options: Any) -> None:
        super().__init__(read_only=True, **options)

    def to_representation(self, value: Any) -> str:
        return plain_digits(value)
