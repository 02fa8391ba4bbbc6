"""Reservations on DynamoDB: an item of the state table for each budget and month.

A claim reserves in one conditional write, before its record is written. A settlement counts the
cost in its transaction, and releases after it. As no transaction holds the item, concurrent claims
do not refuse each other. What a crash or a repeated write leaves behind is corrected when the time
of the reservation is over.

Attributes:
- `until_<seconds>`: what is reserved until that time of the epoch.
- `settled`: what requests with a reservation have cost.
- `committed`: the sum of both.

The month's counters less `settled` are the other costs, such as imported ones. A claim passes if
`committed` is below the limit less these. It reads the item before the counters, so for a moment it
may count an amount twice, but it never misses one.
"""

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings

from chat.storage.base import (
    CounterKind,
    InteractionRecord,
    Reservation,
    UsageCounts,
    format_utc,
)
from chat.storage.dynamodb.client import client, write_if
from chat.storage.dynamodb.items import Item, state_key
from chat.storage.dynamodb.queries import get_item
from chat.storage.dynamodb.usage import DynamoUsageStore
from chat.storage.errors import BudgetSpent, StorageUnavailable

PREFIX = "until_"
# The attribute of a claim's item that lists its reservations, for a take-over.
RESERVED = "reserved"
# A try fails only if others have written the item since it was read.
TRIES = 10
# DynamoDB limits the size of an expression.
REMOVED_AT_ONCE = 25
# DynamoDB deletes the items of unused budgets.
KEEP_SECONDS = 86_400


class Held(NamedTuple):
    """An amount that is reserved in the item `pk` until a time of the epoch, in seconds."""

    pk: str
    amount: int
    until: int

    @property
    def attribute(self) -> str:
        return f"{PREFIX}{self.until}"


def held(record: InteractionRecord, reservations: Iterable[Reservation]) -> list[Held]:
    """Return the reservations of a record as they are in their items."""
    return [
        Held(
            pk=_pk(record, each.by, each.name),
            amount=each.amount,
            until=int(each.until.timestamp()),
        )
        for each in reservations
    ]


def to_attribute(holding: Sequence[Held]) -> Item:
    """Return the attribute of a claim's item; none without reservations."""
    return {RESERVED: {"S": json.dumps([each._asdict() for each in holding])}} if holding else {}


def from_attribute(item: Item) -> list[Held]:
    return [Held(**each) for each in json.loads(item.get(RESERVED, {"S": "[]"})["S"])]


def reserve(record: InteractionRecord, reservations: Sequence[Reservation]) -> list[Held]:
    """Reserve in each budget, or in none. Raises BudgetSpent, StorageUnavailable."""
    done: list[Held] = []
    try:
        for reservation, holding in zip(reservations, held(record, reservations), strict=True):
            _reserve(record, reservation, holding)
            done.append(holding)
    except Exception:
        # All budgets or none: give back what is reserved so far.
        release(done)
        raise
    return done


def release(holding: Iterable[Held], record: InteractionRecord | None = None) -> None:
    """Release the reservations of a request that has ended, with the cost of its settled record.

    It is tried once, since a repeated one might release twice. If it fails, the time of the
    reservation releases it.
    """
    cost = UsageCounts.of(record).cost if record else 0
    for each in holding:
        request = {
            "TableName": settings.STATE_TABLE_NAME,
            "Key": state_key(each.pk),
            "UpdateExpression": "ADD committed :committed, settled :cost, #until :released",
            "ExpressionAttributeNames": {"#until": each.attribute},
            "ExpressionAttributeValues": {
                ":committed": {"N": str(cost - each.amount)},
                ":cost": {"N": str(cost)},
                ":released": {"N": str(-each.amount)},
            },
        }
        with suppress(BotoCoreError, ClientError):
            client().call_once("UpdateItem", request)


def _reserve(record: InteractionRecord, reservation: Reservation, holding: Held) -> None:
    for _ in range(TRIES):
        item = get_item(settings.STATE_TABLE_NAME, state_key(holding.pk)) or {}
        day = record.created_at.date()
        spent = DynamoUsageStore().month(record.owner, reservation.by, reservation.name, day)
        room = reservation.limit - (spent.cost - _number(item, "settled"))
        ended = _ended(item, holding)
        if _number(item, "committed") - sum(ended.values()) >= room:
            raise BudgetSpent
        if write_if("UpdateItem", _reservation(holding, room, ended)) is not None:
            return
    raise StorageUnavailable


def _reservation(holding: Held, room: int, ended: dict[str, int]) -> dict[str, Any]:
    """Return the write that reserves, and that removes what has ended, if both are possible."""
    names = {f"#ended{number}": name for number, name in enumerate(ended)}
    left = {f":ended{number}": {"N": str(ended[name])} for number, name in enumerate(ended)}
    conditions = [
        "(attribute_not_exists(committed) OR committed < :room)",
        *(
            f"(attribute_not_exists({name}) OR {name} = {value})"
            if ended[names[name]] == 0
            else f"{name} = {value}"
            for name, value in zip(names, left, strict=True)
        ),
    ]
    released = sum(ended.values())
    return {
        "TableName": settings.STATE_TABLE_NAME,
        "Key": state_key(holding.pk),
        "UpdateExpression": "SET expires_at = :expires_at "
        "ADD committed :committed, #until :amount"
        + (f" REMOVE {', '.join(names)}" if names else ""),
        "ConditionExpression": " AND ".join(conditions),
        "ExpressionAttributeNames": {"#until": holding.attribute, **names},
        "ExpressionAttributeValues": {
            ":room": {"N": str(room + released)},
            ":committed": {"N": str(holding.amount - released)},
            ":amount": {"N": str(holding.amount)},
            ":expires_at": {"N": str(holding.until + KEEP_SECONDS)},
            **left,
        },
    }


def _ended(item: Item, holding: Held) -> dict[str, int]:
    """Return the attributes of reservations that have been released, or whose time is over."""
    now = int(time.time())
    ended = {}
    for name in item:
        if name.startswith(PREFIX) and name != holding.attribute:
            amount = _number(item, name)
            if amount == 0 or int(name.removeprefix(PREFIX)) <= now:
                ended[name] = amount
    # The largest first: a claim must not be refused for what it could have removed.
    largest = sorted(ended, key=lambda name: abs(ended[name]), reverse=True)
    return {name: ended[name] for name in largest[:REMOVED_AT_ONCE]}


def _number(item: Item, name: str) -> int:
    return int(item[name]["N"]) if name in item else 0


def _pk(record: InteractionRecord, by: CounterKind, name: str) -> str:
    month = format_utc(record.created_at)[:7]
    return f"budget#{record.owner}#{by.value}#{name}#{month}"
