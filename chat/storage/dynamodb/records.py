"""A record as an item of DynamoDB: see the store (chat/storage/dynamodb/interactions.py)."""

import zlib
from typing import Any
from uuid import uuid4

from chat.storage.base import InteractionRecord
from chat.storage.columns import to_columns
from chat.storage.dynamodb.items import InteractionItem, Item

SCHEMA = 1
COLUMNS = InteractionItem.get_attributes()
PACKED = ("prompt", "system", "response", "parameters", "tool_calls")
COMPRESS_FROM_BYTES = 1024
MAX_ITEM_BYTES = 400 * 1024
PART_BYTES = 390 * 1024
MAX_TRANSACTION_BYTES = 4_000_000


def item_of(record: InteractionRecord) -> Item:
    """The whole record as an item, of whatever size."""
    columns = {
        **to_columns(record),
        "schema": SCHEMA,
        "write_id": uuid4().hex,
        "owner_user": f"{record.owner}#{record.user_id}",
    }
    item = InteractionItem.written(columns)
    for name in PACKED:
        if name in item:
            item[name] = _packed(item[name])
    return item


def _packed(value: dict[str, Any]) -> dict[str, Any]:
    text = value["S"].encode()
    return {"B": zlib.compress(text)} if len(text) > COMPRESS_FROM_BYTES else value


def split_response(item: Item) -> list[Item]:
    """Take an answer that does not fit out of the item, as items of its own."""
    if size_of(item) <= MAX_ITEM_BYTES or "response" not in item:
        return []
    response = item.pop("response")
    data = response.get("B") or zlib.compress(response["S"].encode())
    pieces = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
    item["response_parts"] = {"N": str(len(pieces))}
    expiry = {name: item[name] for name in ("expires_at",) if name in item}
    return [
        {
            "interaction_id": {"S": part_id(item["interaction_id"]["S"], number)},
            "part": {"B": piece},
            **expiry,
        }
        for number, piece in enumerate(pieces)
    ]


def part_id(interaction_id: str, number: int) -> str:
    return f"{interaction_id}#response-{number}"


def part_keys(item: Item) -> list[Item]:
    """The keys of the parts of its answer."""
    parts = int(item.get("response_parts", {"N": "0"})["N"])
    return [{"interaction_id": {"S": part_id(id_of(item), number)}} for number in range(parts)]


def size_of(item: Item) -> int:
    """In bytes, as DynamoDB measures it, or a few more."""
    return sum(
        len(name) + len(value if isinstance(value, bytes) else str(value).encode())
        for name, typed in item.items()
        for value in typed.values()
    )


def id_of(item: Item) -> str:
    return str(item["interaction_id"]["S"])


def key_of(item: Item) -> Item:
    return {"interaction_id": item["interaction_id"]}
