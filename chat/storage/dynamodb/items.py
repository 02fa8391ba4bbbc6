"""Build and read the items of the two tables with PynamoDB's attributes, without its models.

The models import botocore's client, 80 ms of a cold start. Only the commands that create and check
tables need them (tables.py).
"""

import secrets
import zlib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from pynamodb.attributes import AttributeContainer, UnicodeAttribute

from chat.storage.base import InteractionRecord, Status
from chat.storage.columns import SETTLED, from_columns, outcome_columns, to_columns
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
from chat.storage.errors import RecordTooLarge

SCHEMA = 1
COMPRESSED = ("prompt", "system", "response", "parameters", "tool_calls", "message", "extras")
COMPRESS_FROM_BYTES = 1024
# DynamoDB's limit. A part leaves room for its key and its expiry.
MAX_ITEM_BYTES = 400 * 1024
PART_BYTES = 390 * 1024
# The columns that are kept in parts if they do not fit, and the attributes that count these.
QUESTION = ("prompt", "system", "parameters")
ANSWER = ("response", "tool_calls", "message", "extras")
PARTS_OF = {name: f"{name}_parts" for name in (*QUESTION, *ANSWER)}
# Room for an outcome whose answer is short or kept in parts.
OUTCOME_BYTES = 40 * 1024
MAX_QUESTION_BYTES = 3_500_000
# DynamoDB's limit is 4 MB, the item beside the parts included.
MAX_TRANSACTION_BYTES = 4_000_000
# The attributes that a settlement writes.
WRITTEN = {*SETTLED, *(PARTS_OF[name] for name in ANSWER), "write_id"}

# An item in DynamoDB's JSON: attribute name -> {type: value}.
Item = dict[str, dict[str, Any]]


class ItemSchema(AttributeContainer):
    """The attributes of an item by column name."""

    @classmethod
    def to_item(cls, columns: dict[str, Any]) -> Item:
        """Return the item of these columns, without those that are None."""
        attributes = cls.get_attributes()
        return {
            attribute.attr_name: {attribute.attr_type: attribute.serialize(value)}
            for name, value in columns.items()
            if value is not None and (attribute := attributes.get(name))
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
    estimated = FlagAttribute()
    earlier = JsonAttribute(dict)
    digest = StringAttribute()
    transcript = JsonAttribute(dict)


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
    return _item(
        {
            **to_columns(record),
            "schema": SCHEMA,
            "owner_user": f"{record.owner}#{record.user_id}",
        }
    )


def outcome_of(record: InteractionRecord) -> tuple[Item, list[Item]]:
    """Return the attributes that a settlement writes, and the parts of the answer.

    Raises RecordTooLarge if the answer is too large.
    """
    outcome = _item(outcome_columns(record))
    if size_of(outcome) <= OUTCOME_BYTES:  # the question leaves room for it
        return outcome, []
    item = item_of(record)
    _, parts = split(item)
    if size_of(item) + sum(map(size_of, parts)) > MAX_TRANSACTION_BYTES:
        raise RecordTooLarge("The answer is too long to be kept.")
    return {name: item[name] for name in item.keys() & WRITTEN}, parts


def _item(columns: dict[str, Any]) -> Item:
    """Return the item of a new write of these columns."""
    item = InteractionItem.to_item(columns | {"write_id": secrets.token_hex(16)})
    for name in COMPRESSED:
        if name in item:
            item[name] = _compressed(item[name])
    return item


def _compressed(value: dict[str, Any]) -> dict[str, Any]:
    text = value["S"].encode()
    return value if len(text) <= COMPRESS_FROM_BYTES else {"B": zlib.compress(text)}


def split(item: Item) -> tuple[list[Item], list[Item]]:
    """Remove long columns until the item fits; return the parts of the question and the answer.

    The question leaves room for an outcome, so its parts are the same before and after settlement.
    """
    if leaves_room(item):
        return [], []
    outcome = {name: item.pop(name) for name in SETTLED if name in item}
    question = _split_columns(item, QUESTION, MAX_ITEM_BYTES - OUTCOME_BYTES)
    item |= outcome
    return question, _split_columns(item, ANSWER, MAX_ITEM_BYTES)


def leaves_room(item: Item) -> bool:
    """Return whether an item that is not split has room for an outcome."""
    return size_of(item) <= MAX_ITEM_BYTES - OUTCOME_BYTES


def is_too_large(item: Item, question: Sequence[Item]) -> bool:
    """Return whether DynamoDB cannot keep a split item with the parts of its question."""
    return size_of(item) > MAX_ITEM_BYTES or sum(map(size_of, question)) > MAX_QUESTION_BYTES


def _split_columns(item: Item, names: Iterable[str], limit: int) -> list[Item]:
    """Remove these columns, the longest first, until the item fits; return their parts."""
    sizes = {name: size_of({name: item[name]}) for name in names if name in item}
    parts: list[Item] = []
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if size_of(item) <= limit:
            break
        parts += _split_column(item, name)
    return parts


def _split_column(item: Item, name: str) -> list[Item]:
    value = item.pop(name)
    data = value.get("B") or zlib.compress(value["S"].encode())
    pieces = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
    item[PARTS_OF[name]] = {"N": str(len(pieces))}
    expiry = {"expires_at": item["expires_at"]} if "expires_at" in item else {}
    keys = _column_part_keys(item, name)
    return [key | {"part": {"B": piece}} | expiry for key, piece in zip(keys, pieces, strict=True)]


def part_keys(item: Item) -> list[Item]:
    """Return the keys of an item's parts."""
    return [key for name in PARTS_OF for key in _column_part_keys(item, name)]


def _column_part_keys(item: Item, name: str) -> list[Item]:
    count = item.get(PARTS_OF[name], {}).get("N", "0")
    if not count.isdecimal():
        return []
    return [record_key(f"{id_of(item)}#{name}-{n}") for n in range(int(count))]


def record_of(item: Item, parts: Mapping[str, bytes]) -> InteractionRecord:
    """Return the record of an item. A column is absent if one of its parts is missing."""
    for name in PARTS_OF:
        ids = [id_of(key) for key in _column_part_keys(item, name)]
        if ids and all(id_ in parts for id_ in ids):
            item = item | {name: {"B": b"".join(parts[id_] for id_ in ids)}}
    return from_columns(InteractionItem.from_item(item))


def size_of(item: Item) -> int:
    """Return the size in bytes as DynamoDB measures it, or slightly more."""
    texts, size = list(item), 0
    for typed in item.values():
        for value in typed.values():
            if isinstance(value, bytes):
                size += len(value)
            else:
                texts.append(str(value))
    return size + len("".join(texts).encode())


def id_of(item: Item) -> str:
    return str(item["interaction_id"]["S"])


def record_key(interaction_id: str) -> Item:
    """Return the key of a record, or of one of its parts."""
    return {"interaction_id": {"S": interaction_id}}


def state_key(pk: str) -> Item:
    """Return the key of an item of the state table."""
    return {"pk": {"S": pk}}


def primary_key(item: Item) -> Item:
    return {"interaction_id": item["interaction_id"]}
