"""PynamoDB attributes for the values of a record, which read any stored value without failing."""

import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
from pynamodb.attributes import (
    Attribute,
    BinaryAttribute,
    BooleanAttribute,
    NumberAttribute,
    TTLAttribute,
    UnicodeAttribute,
)
from pynamodb.constants import BINARY, STRING

from chat.storage.base import format_utc


class LenientAttribute(Attribute[Any]):
    """Reads an invalid value as None, so that one odd item does not hide the others."""

    def __init__(self, **options: Any) -> None:
        super().__init__(null=True, **options)

    def get_value(self, value: dict[str, Any]) -> Any:
        return value

    def deserialize(self, value: dict[str, Any]) -> Any:
        try:
            return self.read(value)
        except (ValueError, TypeError, KeyError, ArithmeticError, zlib.error):
            return None

    def read(self, value: dict[str, Any]) -> Any:
        """Return the value of DynamoDB's `{type: value}`."""
        return super().deserialize(super().get_value(value))


class StringAttribute(LenientAttribute, UnicodeAttribute):
    """A string, or the bytes of a compressed one."""

    def read(self, value: dict[str, Any]) -> str:
        return _decompressed(value)


def _decompressed(value: dict[str, Any]) -> str:
    compressed = value.get(BINARY)
    return str(value[STRING]) if compressed is None else zlib.decompress(compressed).decode()


class IntegerAttribute(LenientAttribute, NumberAttribute):
    def serialize(self, value: int) -> str:
        return str(value)

    def read(self, value: dict[str, Any]) -> int | None:
        number = super().read(value)
        # Beyond SQLite's integers, so that pull_interactions can copy every record.
        return number if type(number) is int and abs(number) < 2**63 else None


class FlagAttribute(LenientAttribute, BooleanAttribute):
    pass


class ExpiryAttribute(LenientAttribute, TTLAttribute):
    pass


class BytesAttribute(LenientAttribute, BinaryAttribute):
    def __init__(self) -> None:
        super().__init__(legacy_encoding=False)


class TimestampAttribute(LenientAttribute, Attribute[datetime]):
    """ISO 8601 in UTC, of fixed width, which sorts as text."""

    attr_type = STRING

    def serialize(self, value: datetime) -> str:
        return format_utc(value)

    def read(self, value: dict[str, Any]) -> datetime:
        return datetime.fromisoformat(value[STRING]).astimezone(UTC)


class ParsedAttribute(LenientAttribute, Attribute[Any]):
    """A value as text. DynamoDB's number would lose the trailing zeros of a Decimal."""

    attr_type = STRING

    def __init__(self, parse: Callable[[str], Any]) -> None:
        super().__init__()
        self.parse = parse

    def serialize(self, value: Any) -> str:
        return str(value)

    def read(self, value: dict[str, Any]) -> Any:
        return self.parse(value[STRING])


class JsonAttribute(LenientAttribute, Attribute[Any]):
    """JSON as a string: DynamoDB's numbers do not cover all floats."""

    attr_type = STRING

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind

    def serialize(self, value: Any) -> str:
        return orjson.dumps(value).decode()

    def read(self, value: dict[str, Any]) -> Any:
        parsed = orjson.loads(_decompressed(value))
        return parsed if isinstance(parsed, self.kind) else None
