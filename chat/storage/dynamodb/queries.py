"""Read items by their keys, by an index or by a whole table, and delete them by their keys."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings

from chat.storage.base import InteractionRecord, unexpired
from chat.storage.columns import EPOCH
from chat.storage.dynamodb import turns
from chat.storage.dynamodb.client import client
from chat.storage.dynamodb.items import (
    COLUMNS,
    PARTS_OF,
    Item,
    id_of,
    part_keys,
    primary_key,
    record_key,
    record_of,
)
from chat.storage.errors import StorageUnavailable

Call = Callable[[str, dict[str, Any]], dict[str, Any]]

# DynamoDB's limits for a batch.
BATCH_GET = 100
BATCH_WRITE = 25
# A try of a call has little more than a second, in which 10 MB arrive.
PARTS_AT_ONCE = 20
# AWS asks for exponential backoff before the unprocessed part of a batch is repeated.
BATCH_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
CREATED = "created_at BETWEEN :since AND :last"
# The attributes from which all keys of a record follow, those of its parts and its turn included.
KEYS = ", ".join(("interaction_id", "digest", *PARTS_OF.values()))


def get_item(table: str, key: Item) -> Item | None:
    """Return an item by a consistent read."""
    answer = client().call("GetItem", {"TableName": table, "Key": key, "ConsistentRead": True})
    found: Item | None = answer.get("Item")
    return found


def read_pages(request: dict[str, Any], operation: str = "Query") -> Iterator[list[Item]]:
    """Yield the pages of a query, or of a whole table, that are not empty."""
    while True:
        answer = client().call(operation, request)
        if answer["Items"]:
            yield answer["Items"]
        if not (last := answer.get("LastEvaluatedKey")):
            return
        request = {**request, "ExclusiveStartKey": last}


def get_items(
    table: str,
    keys: Sequence[Item],
    attributes: str = "",
    *,
    consistent: bool = True,
    call: Call | None = None,
) -> list[Item]:
    """Return the items of the keys that exist, in no order."""
    options = {"ProjectionExpression": attributes} if attributes else {}
    call = call or client().call
    found: list[Item] = []
    for start in range(0, len(keys), BATCH_GET):
        part = list(keys[start : start + BATCH_GET])
        request = {table: {"Keys": part, "ConsistentRead": consistent, **options}}
        for answer in _until_done("BatchGetItem", request, "UnprocessedKeys", call):
            found += answer["Responses"].get(table, [])
    return found


def get_records(
    items: Sequence[Item], *, consistent: bool = True, call: Call | None = None
) -> list[InteractionRecord]:
    """Return the records of these items, with the columns that are stored in parts."""
    keys = [key for item in items for key in part_keys(item)]
    parts: dict[str, bytes] = {}
    for start in range(0, len(keys), PARTS_AT_ONCE):
        at_once = keys[start : start + PARTS_AT_ONCE]
        found = get_items(settings.TABLE_NAME, at_once, consistent=consistent, call=call)
        parts |= {id_of(part): part["part"]["B"] for part in found if "part" in part}
    return [record_of(item, parts) for item in items]


def read_kept(
    interaction_ids: Sequence[str], *, consistent: bool = True, call: Call | None = None
) -> dict[str, InteractionRecord]:
    """Return the records that exist, by id, as they are kept."""
    keys = [record_key(id_) for id_ in interaction_ids]
    items = get_items(settings.TABLE_NAME, keys, consistent=consistent, call=call)
    records = unexpired(get_records(items, consistent=consistent, call=call))
    return {record.interaction_id: record for record in records}


def delete_records(items: Sequence[Item]) -> None:
    """Delete records by their items, which have at least the attributes of KEYS."""
    delete_turns(items)
    parts = [key for item in items for key in part_keys(item)]
    delete_items(settings.TABLE_NAME, [*parts, *map(primary_key, items)])


def delete_turns(items: Sequence[Item]) -> None:
    """Delete the turns of these records: no request continues them any more."""
    delete_items(settings.STATE_TABLE_NAME, turns.keys(items))


def delete_items(table: str, keys: Sequence[Item]) -> None:
    _write_batches(table, [{"DeleteRequest": {"Key": key}} for key in keys], client().call)


def put_items(table: str, items: Sequence[Item], call: Call) -> None:
    _write_batches(table, [{"PutRequest": {"Item": item}} for item in items], call)


def _write_batches(table: str, requests: Sequence[dict[str, Any]], call: Call) -> None:
    for start in range(0, len(requests), BATCH_WRITE):
        batch = {table: requests[start : start + BATCH_WRITE]}
        for _ in _until_done("BatchWriteItem", batch, "UnprocessedItems", call):
            pass


def _until_done(
    operation: str, request: dict[str, Any], unprocessed: str, call: Call
) -> Iterator[dict[str, Any]]:
    """Yield the responses to a batch call, repeated for its unprocessed items after a pause."""
    for pause in BATCH_PAUSES:
        answer = call(operation, {"RequestItems": request})
        yield answer
        request = answer.get(unprocessed) or {}
        if not request:
            return
        time.sleep(pause)
    raise StorageUnavailable


def span(since: datetime | None, before: datetime | None) -> tuple[datetime, datetime]:
    """Return the first and the last time in [since, before), not before the epoch."""
    last = max(before, EPOCH + MICROSECOND) - MICROSECOND if before else LATEST
    return max(since or EPOCH, EPOCH), last


def created(since: datetime | None, before: datetime | None) -> Item:
    """Return the values of CREATED."""
    first, last = span(since, before)
    return {
        ":since": {"S": COLUMNS["created_at"].serialize(first)},
        ":last": {"S": COLUMNS["created_at"].serialize(last)},
    }


class Index(NamedTuple):
    name: str
    key: str


USER_INDEX = Index(name="user-index", key="owner_user")
CONVERSATION_INDEX = Index(name="conversation-index", key="conversation_id")


@dataclass(frozen=True, slots=True)
class IndexQuery:
    """A query for the entries of an index under a key, in the order of their creation."""

    index: Index
    key: str
    newest_first: bool = False
    since: datetime | None = None
    before: datetime | None = None

    @property
    def span(self) -> tuple[datetime, datetime]:
        """The first and the last time that the query covers."""
        limited = self.since or self.before
        return span(self.since, self.before) if limited else (EARLIEST, LATEST)

    def request(self) -> dict[str, Any]:
        condition, values = f"{self.index.key} = :key", {":key": {"S": self.key}}
        if self.since or self.before:
            condition += f" AND {CREATED}"
            values |= created(self.since, self.before)
        return {
            "TableName": settings.TABLE_NAME,
            "IndexName": self.index.name,
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": values,
            "ScanIndexForward": not self.newest_first,
        }
