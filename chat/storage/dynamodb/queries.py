"""Read items by their keys, by an index or by a whole table, and delete them by their keys."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings

from chat.storage.columns import EPOCH
from chat.storage.dynamodb.client import client
from chat.storage.dynamodb.items import COLUMNS, Item
from chat.storage.errors import StorageUnavailable

Call = Callable[[str, dict[str, Any]], dict[str, Any]]

BATCH_GET = 100
BATCH_WRITE = 25
BATCH_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)
MOMENT = timedelta(microseconds=1)
CREATED = "created_at BETWEEN :since AND :last"


def get_item(table: str, key: Item) -> Item | None:
    """The item of this key as it was last written."""
    answer = client().call("GetItem", {"TableName": table, "Key": key, "ConsistentRead": True})
    found: Item | None = answer.get("Item")
    return found


def query(request: dict[str, Any]) -> Iterator[list[Item]]:
    """The pages of a query, the empty ones left out."""
    return _pages("Query", request)


def scan(request: dict[str, Any]) -> Iterator[list[Item]]:
    """The pages of a whole table, the empty ones left out."""
    return _pages("Scan", request)


def _pages(operation: str, request: dict[str, Any]) -> Iterator[list[Item]]:
    start: Item | None = request.get("ExclusiveStartKey")
    while True:
        answer = client().call(
            operation, {**request, **({"ExclusiveStartKey": start} if start else {})}
        )
        if answer["Items"]:
            yield answer["Items"]
        start = answer.get("LastEvaluatedKey")
        if not start:
            return


def get_items(
    table: str,
    keys: Sequence[Item],
    attributes: str = "",
    *,
    consistent: bool = True,
    call: Call | None = None,
) -> list[Item]:
    """What there is of these keys, in no order."""
    options = {"ProjectionExpression": attributes} if attributes else {}
    found: list[Item] = []
    for start in range(0, len(keys), BATCH_GET):
        part = list(keys[start : start + BATCH_GET])
        asked = {table: {"Keys": part, "ConsistentRead": consistent, **options}}
        for answer in _until_done("BatchGetItem", asked, "UnprocessedKeys", call or client().call):
            found += answer["Responses"].get(table, [])
    return found


def delete_items(table: str, keys: Sequence[Item]) -> None:
    requests = [{"DeleteRequest": {"Key": key}} for key in keys]
    for start in range(0, len(requests), BATCH_WRITE):
        batch = {table: requests[start : start + BATCH_WRITE]}
        for _ in _until_done("BatchWriteItem", batch, "UnprocessedItems", client().call):
            pass


def _until_done(
    operation: str, asked: dict[str, Any], left: str, call: Call
) -> Iterator[dict[str, Any]]:
    """The answers to a batch, what was left over by each asked for again after a pause."""
    for pause in BATCH_PAUSES:
        answer = call(operation, {"RequestItems": asked})
        yield answer
        asked = answer.get(left) or {}
        if not asked:
            return
        time.sleep(pause)
    raise StorageUnavailable


def span(since: datetime | None, before: datetime | None) -> tuple[datetime, datetime]:
    """The first and the last moment of a time: nothing is older than the epoch."""
    last = max(before, EPOCH + MOMENT) - MOMENT if before else LATEST
    return max(since or EPOCH, EPOCH), last


def created(since: datetime | None, before: datetime | None) -> Item:
    """The values of CREATED."""
    first, last = span(since, before)
    return {
        ":since": {"S": COLUMNS["created_at"].serialize(first)},
        ":last": {"S": COLUMNS["created_at"].serialize(last)},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    name: str
    key: str


USER_INDEX = Index(name="user-index", key="owner_user")
CONVERSATION_INDEX = Index(name="conversation-index", key="conversation_id")


@dataclass(frozen=True, slots=True)
class IndexQuery:
    """What is asked of an index: the entries under a key, in the order of their time."""

    index: Index
    key: str
    newest_first: bool = False
    since: datetime | None = None
    before: datetime | None = None

    @property
    def span(self) -> tuple[datetime, datetime]:
        """The first and the last moment of what is asked for."""
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
