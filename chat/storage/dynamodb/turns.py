"""Turns on DynamoDB: an item of the state table for each digest of a conversation.

It is written with the answer of its record, and deleted with the record. Of several records with
one digest the last one has the item.
"""

from collections.abc import Iterable
from typing import Any

import orjson
from django.conf import settings

from chat.storage.base import InteractionRecord, Transcript, Turn
from chat.storage.dynamodb.items import Item, state_key
from chat.storage.transcripts import turn_of


def puts(records: Iterable[InteractionRecord]) -> list[dict[str, Any]]:
    """Return the actions of a transaction that write the turns of settled records."""
    items: dict[str, Item] = {}  # a transaction may write an item once
    for record in records:
        if turn := turn_of(record):
            digest = turn.transcript.digest
            items[digest] = key(digest) | {"turn": {"S": orjson.dumps(turn._asdict()).decode()}}
            if record.expires_at:
                items[digest]["expires_at"] = {"N": str(int(record.expires_at.timestamp()))}
    table = {"TableName": settings.STATE_TABLE_NAME}
    return [{"Put": table | {"Item": item}} for item in items.values()]


def turn_from(item: Item) -> Turn:
    turn = orjson.loads(item["turn"]["S"])
    transcript = Transcript(**turn.pop("transcript"))
    return Turn(**turn | {"records": tuple(turn["records"])}, transcript=transcript)


def key(digest: str) -> Item:
    return state_key(f"turn#{digest}")


def keys(records: Iterable[Item]) -> list[Item]:
    """Return the keys of the turns of these records, without those that have none."""
    digests = {record["digest"]["S"] for record in records if "digest" in record}
    return [key(digest) for digest in digests]
