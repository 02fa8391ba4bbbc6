"""Build and read the items of the two tables with PynamoDB's attributes, without its models.

The models import botocore's client, 80 ms of a cold start. Only the commands that create and check
tables need them (tables.py).
"""

import zlib
from collections.abc import Mapping
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from pynamodb.attributes import AttributeContainer, UnicodeAttribute

from chat.storage.base import InteractionRecord, Status
from chat.storage.columns import from_columns, to_columns
from chat.storage.dynamodb.attributes import (
    BytesAttribute,
    ExpiryAttribute,
    FlagAttribute,
    IntegerAttribute,
    JsonAttribute,
    ParsedAttribute,
    StringAttribute,
    TimestampAttribute,
)

SCHEMA = 1
COMPRESSED = ("prompt", "system", "response", "parameters", "tool_calls", "message", "extras")
COMPRESS_FROM_BYTES = 1024
MAX_ITEM_BYTES = 400 * 1024
PART_BYTES = 390 * 1024
MAX_TRANSACTION_BYTES = 4_000_000

# An item in DynamoDB's JSON: attribute name -> {type: value}.
Item = dict[str, dict[str, Any]]


class ItemSchema(AttributeContainer):
    """The attributes of an item by column name."""

    @classmethod
    def to_item(cls, columns: dict[str, Any]) -> Item:
        """Return the item of these columns, without those that are None."""
        return {
            attribute.attr_name: {attribute.attr_type: attribute.serialize(columns[name])}
            for name, attribute in cls.get_attributes().items()
            if columns.get(name) is not None
        }

    @classmethod
    def from_item(cls, item: Item) -> SimpleNamespace:
        """Return all columns; missing ones are None, unknown attributes are ignored."""
        columns: dict[str, Any] = dict.fromkeys(cls.get_attributes())
        for name, attribute in cls.get_attributes().items():
            if attribute.attr_name in item:
                value = attribute.get_value(item[attribute.attr_name])
                columns[name] = attribute.deserialize(value)
        return SimpleNamespace(**columns)


class InteractionItem(ItemSchema):
    """The columns of `chat.storage.columns`, and DynamoDB's own."""

    interaction_id = UnicodeAttribute(hash_key=True)
    schema = IntegerAttribute()
    write_id = StringAttribute()
    owner = StringAttribute()
    user_id = StringAttribute()
    owner_user = StringAttribute()
    created_at = TimestampAttribute()
    deadline_at = TimestampAttribute()
    expires_at = ExpiryAttribute()
    request_id = StringAttribute()
    request_hash = StringAttribute()
    key_id = StringAttribute()
    conversation_id = StringAttribute()
    previous_interaction_id = StringAttribute()
    ancestors = JsonAttribute(list)
    prompt = StringAttribute()
    system = StringAttribute()
    parameters = JsonAttribute(dict)
    metadata = JsonAttribute(dict)
    status = ParsedAttribute(Status)
    provider = StringAttribute()
    model = StringAttribute()
    response = StringAttribute()
    response_parts = IntegerAttribute()
    tool_calls = JsonAttribute(list)
    message = JsonAttribute(dict)
    extras = JsonAttribute(dict)
    part = BytesAttribute()
    finish_reason = StringAttribute()
    cached = FlagAttribute()
    latency_ms = IntegerAttribute()
    attempts = JsonAttribute(list)
    error_code = StringAttribute()
    error_detail = StringAttribute()
    prompt_tokens = IntegerAttribute()
    completion_tokens = IntegerAttribute()
    total_tokens = IntegerAttribute()
    cached_tokens = IntegerAttribute()
    reasoning_tokens = IntegerAttribute()
    cost_usd = ParsedAttribute(Decimal)


class CacheItem(ItemSchema):
    """Counters and pickled values of the cache (cache.py)."""

    pk = UnicodeAttribute(hash_key=True)
    listed_in = StringAttribute()
    counter = IntegerAttribute()
    value = BytesAttribute()
    expires_at = ExpiryAttribute()


COLUMNS = InteractionItem.get_attributes()


def item_of(record: InteractionRecord) -> Item:
    """Return a record as an item of any size."""
    columns = {
        **to_columns(record),
        "schema": SCHEMA,
        "write_id": uuid4().hex,
        "owner_user": f"{record.owner}#{record.user_id}",
    }
    item = InteractionItem.to_item(columns)
    for name in COMPRESSED:
        if name in item:
            item[name] = _compressed(item[name])
    return item


def _compressed(value: dict[str, Any]) -> dict[str, Any]:
    text = value["S"].encode()
    return {"B": zlib.compress(text)} if len(text) > COMPRESS_FROM_BYTES else value


def split_response(item: Item) -> list[Item]:
    """Remove a response that does not fit from the item, and return its parts as items."""
    if "response" not in item or size_of(item) <= MAX_ITEM_BYTES:
        return []
    response = item.pop("response")
    data = response.get("B") or zlib.compress(response["S"].encode())
    pieces = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
    item["response_parts"] = {"N": str(len(pieces))}
    expiry = {name: item[name] for name in ("expires_at",) if name in item}
    return [
        {"interaction_id": _part_id(item, number), "part": {"B": piece}, **expiry}
        for number, piece in enumerate(pieces)
    ]


def part_keys(item: Item) -> list[Item]:
    """Return the keys of the parts of an item's response."""
    parts = int(item.get("response_parts", {"N": "0"})["N"])
    return [{"interaction_id": _part_id(item, number)} for number in range(parts)]


def _part_id(item: Item, number: int) -> dict[str, str]:
    return {"S": f"{id_of(item)}#response-{number}"}


def record_of(item: Item, parts: Mapping[str, bytes]) -> InteractionRecord:
    """Return the record of an item; its response is None if one of its parts is missing."""
    row = InteractionItem.from_item(item)
    ids = [id_of(key) for key in part_keys(item)]
    if ids and all(id_ in parts for id_ in ids):
        row.response = zlib.decompress(b"".join(parts[id_] for id_ in ids)).decode()
    return from_columns(row)


def size_of(item: Item) -> int:
    """Return the size in bytes as DynamoDB measures it, or slightly more."""
    size = 0
    for name, typed in item.items():
        for value in typed.values():
            size += len(name) + len(value if isinstance(value, bytes) else str(value).encode())
    return size


def id_of(item: Item) -> str:
    return str(item["interaction_id"]["S"])


def primary_key(item: Item) -> Item:
    return {"interaction_id": item["interaction_id"]}
