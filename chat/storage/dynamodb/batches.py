"""Many items at once: found by an index, read and deleted by their keys."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from chat.errors import StorageUnavailable
from chat.storage.dynamodb.access import client
from chat.storage.dynamodb.items import Item

Call = Callable[[str, dict[str, Any]], dict[str, Any]]

BATCH_GET = 100
BATCH_WRITE = 25
BATCH_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


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
