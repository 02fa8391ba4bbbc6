"""Reservations on DynamoDB: an item of the state table for each budget.

An attribute `r_<interaction_id>` is what a request in flight reserves, and until when. `claims`
counts the claims: a claim is refused if there was another since it read the item. A settlement
moves an amount from the item to the counters. A claim reads the item before the counters, so it
may count such an amount twice, but never misses it.
"""

import random
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from django.conf import settings

from chat.storage.base import InteractionRecord, Reservation
from chat.storage.dynamodb.items import Item
from chat.storage.dynamodb.queries import get_item
from chat.storage.dynamodb.usage import DynamoUsageStore
from chat.storage.errors import BudgetSpent

PREFIX = "r_"
TRIES = 40
MAX_PAUSE_SECONDS = 0.1
# DynamoDB deletes the items of unused budgets.
KEEP_SECONDS = 86_400


def tries() -> Iterator[int]:
    """Yield the numbers of tries, after each conflict and a pause another one."""
    for number in range(TRIES):
        if number:
            time.sleep(random.uniform(0, MAX_PAUSE_SECONDS))  # noqa: S311  (no secret)
        yield number


def reserving(
    record: InteractionRecord, reservations: Sequence[Reservation]
) -> list[dict[str, Any]]:
    """Return the actions of a claim's transaction that reserve. Raises BudgetSpent."""
    return [_reserve(record, each) for each in reservations]


def releasing(
    record: InteractionRecord, reservations: Sequence[Reservation]
) -> list[dict[str, Any]]:
    """Return the actions of a settlement's transaction that release."""
    return [
        _update(
            record,
            each,
            UpdateExpression="REMOVE #mine",
            ExpressionAttributeNames={"#mine": PREFIX + record.interaction_id},
        )
        for each in reservations
    ]


def _reserve(record: InteractionRecord, reservation: Reservation) -> dict[str, Any]:
    now = datetime.now(UTC)
    item = get_item(settings.STATE_TABLE_NAME, _key(record, reservation)) or {}
    reserved, stale = 0, []
    for name, value in item.items():
        if name.startswith(PREFIX):
            amount, until = map(int, value["S"].split())
            if until <= now.timestamp():
                stale.append(name)
            else:
                reserved += amount
    spent = DynamoUsageStore().month(record.owner, reservation.by, reservation.name, now.date())
    if spent.cost + reserved >= reservation.limit:
        raise BudgetSpent
    mine, until = PREFIX + record.interaction_id, int(reservation.until.timestamp())
    names = {f"#stale{number}": name for number, name in enumerate(stale) if name != mine}
    seen = {":seen": item["claims"]} if "claims" in item else {}
    return _update(
        record,
        reservation,
        UpdateExpression="SET #mine = :mine, expires_at = :expires_at ADD claims :one"
        + (f" REMOVE {', '.join(names)}" if names else ""),
        ConditionExpression="claims = :seen" if seen else "attribute_not_exists(claims)",
        ExpressionAttributeNames={"#mine": mine, **names},
        ExpressionAttributeValues={
            ":mine": {"S": f"{reservation.amount} {until}"},
            ":expires_at": {"N": str(until + KEEP_SECONDS)},
            ":one": {"N": "1"},
            **seen,
        },
    )


def _update(record: InteractionRecord, reservation: Reservation, **request: Any) -> dict[str, Any]:
    key = _key(record, reservation)
    return {"Update": {"TableName": settings.STATE_TABLE_NAME, "Key": key, **request}}


def _key(record: InteractionRecord, reservation: Reservation) -> Item:
    return {"pk": {"S": f"budget#{record.owner}#{reservation.by.value}#{reservation.name}"}}
