"""How the values of a record are written in DynamoDB, and read whatever is found there."""

import zlib
from datetime import UTC, datetime
from decimal import Decimal
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

from chat.storage.base import TIMESTAMP_FORMAT, Status


class LenientAttribute(Attribute[Any]):
    """Reads as None what it cannot read: one odd item must not keep the others from being read."""

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
        """The value of what DynamoDB has, which is its type and its text."""
        return super().deserialize(super().get_value(value))


class StringAttribute(LenientAttribute, UnicodeAttribute):
    pass


class IntegerAttribute(LenientAttribute, NumberAttribute):
    def read(self, value: dict[str, Any]) -> int | None:
        number = super().read(value)
        return number if type(number) is int and abs(number) < 2**63 else None


class FlagAttribute(LenientAttribute, BooleanAttribute):
    pass


class ExpiryAttribute(LenientAttribute, TTLAttribute):
    pass


class BytesAttribute(LenientAttribute, BinaryAttribute):
    def __init__(self) -> None:
        super().__init__(legacy_encoding=False)


class TextAttribute(LenientAttribute, UnicodeAttribute):
    """A text of any length: a string, or the bytes of one that was compressed."""

    def read(self, value: dict[str, Any]) -> str:
        return _unpacked(value)


def _unpacked(value: dict[str, Any]) -> str:
    packed = value.get(BINARY)
    return str(value[STRING]) if packed is None else zlib.decompress(packed).decode()


class MomentAttribute(LenientAttribute, Attribute[datetime]):
    """ISO 8601 in UTC and of fixed width, which sorts as text."""

    attr_type = STRING

    def serialize(self, value: datetime) -> str:
        return value.astimezone(UTC).strftime(TIMESTAMP_FORMAT)

    def read(self, value: dict[str, Any]) -> datetime:
        return datetime.fromisoformat(value[STRING]).astimezone(UTC)


class MoneyAttribute(LenientAttribute, Attribute[Decimal]):
    """Digits as they are: a number of DynamoDB's would lose zeros, a float more."""

    attr_type = STRING

    def serialize(self, value: Decimal) -> str:
        return str(value)

    def read(self, value: dict[str, Any]) -> Decimal:
        return Decimal(value[STRING])


class StatusAttribute(LenientAttribute, Attribute[Status]):
    attr_type = STRING

    def serialize(self, value: Status) -> str:
        return value.value

    def read(self, value: dict[str, Any]) -> Status:
        return Status(value[STRING])


class JsonAttribute(LenientAttribute, Attribute[Any]):
    """As text, in which floats keep their digits: DynamoDB's numbers do not reach as far."""

    attr_type = STRING

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind

    def serialize(self, value: Any) -> str:
        return orjson.dumps(value).decode()

    def read(self, value: dict[str, Any]) -> Any:
        parsed = orjson.loads(_unpacked(value))
        return parsed if isinstance(parsed, self.kind) else None
