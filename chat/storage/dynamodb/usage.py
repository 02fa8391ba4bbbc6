"""Usage counters on DynamoDB: an item of the state table for each name and month.

An attribute is a letter and the day of the month: `r07` are the requests of the seventh. The
transaction that settles a record adds to it (interactions.py), so that the condition on the record
makes the counts exact, however often a write is retried.

DynamoDB refuses one of two concurrent transactions on an item. The refused one retries with another
item of the same name and month, a random shard, so that only busy names have several. Readers add
the shards up.

An index lists the items of an owner and a kind, a moment late for new ones, and users in the order
of their ids: `#` sorts before all characters of an escaped id, and `$` between the two.
"""

import logging
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import uuid4

from botocore.exceptions import ClientError
from django.conf import settings

from chat.storage.base import (
    COUNT_FIELDS,
    CounterKind,
    InteractionRecord,
    Reservation,
    UsageCounts,
    UserPage,
    counter_expiry,
    counters_for,
    format_utc,
)
from chat.storage.dynamodb.client import client, refusals, translate_errors
from chat.storage.dynamodb.items import Item, state_key
from chat.storage.dynamodb.queries import delete_items, get_items, read_pages
from chat.storage.errors import StorageUnavailable

logger = logging.getLogger(__name__)

# docs/sizing.md has the settlements a second that these allow.
MAX_SHARDS = 32
CONFLICT_TRIES = 8
MAX_PAUSE_SECONDS = 0.02
# One letter each, because writes are paid by an item's size, in which names count.
FIELD_OF = dict(zip("reptcu", COUNT_FIELDS, strict=True))
# Keys of an index have at most 1 KB, the owner included.
MAX_NAME_BYTES = 800
PAGE = 1000
# The characters of a name up to `%` are `%0` to `%5` in a key, which keeps the order of names.
ESCAPED_CHARACTERS = ' !"#$%'
ESCAPES = str.maketrans({each: f"%{n}" for n, each in enumerate(ESCAPED_CHARACTERS)})
KEY = re.compile(r"usage#[^#]*#[^#]*#(?P<name>.*)#(?P<month>[0-9]{4}-[0-9]{2})#[0-9]+", re.DOTALL)
# The list, the name and the month of an item.
CounterItem = tuple[str, str, str]


def shards() -> Iterator[int]:
    """Yield shards to count in: the first, then after each conflict and a pause a random one."""
    yield 0
    for _ in range(CONFLICT_TRIES):
        time.sleep(random.uniform(0, MAX_PAUSE_SECONDS))  # noqa: S311  (no secret)
        yield random.randrange(1, MAX_SHARDS)  # noqa: S311  (no secret)


def counter_updates(
    records: Iterable[InteractionRecord], shard: int, reservations: Sequence[Reservation] = ()
) -> list[dict[str, Any]]:
    """Return the transaction's actions that count records."""
    sums: dict[CounterItem, dict[str, int]] = defaultdict(dict)
    expiries: dict[CounterItem, datetime | None] = {}
    for record in records:
        month, day = format_utc(record.created_at)[:10].rsplit("-", 1)
        counts = UsageCounts.of(record)
        amounts = {letter + day: getattr(counts, field) for letter, field in FIELD_OF.items()}
        for by, name in counters_for(record, reservations):
            item = (_list(record.owner, by), _escaped(name), month)
            for attribute, amount in amounts.items():
                sums[item][attribute] = sums[item].get(attribute, 0) + amount
            if by in (CounterKind.USER, CounterKind.KEY_USER):
                expiries[item] = counter_expiry(record, by)
    return [_update(item, shard, sums[item], expiries) for item in sums]


def count_alone(record: InteractionRecord, reservations: Sequence[Reservation]) -> None:
    """Count a record that cannot be settled. Raises StorageUnavailable."""
    for shard in shards():
        actions = counter_updates([record], shard, reservations)
        # The token makes a retry after a lost response safe.
        request = {"TransactItems": actions, "ClientRequestToken": uuid4().hex}
        try:
            client().call("TransactWriteItems", request)
        except ClientError as exc:
            if "TransactionConflict" not in refusals(exc):
                raise
        else:
            return
    raise StorageUnavailable


def _update(
    item: CounterItem, shard: int, sums: Mapping[str, int], expiries: Mapping[CounterItem, Any]
) -> dict[str, Any]:
    amounts = {name: value for name, value in sums.items() if value}
    added = ", ".join(f"{name} :{name}" for name in amounts)
    update = f"ADD {added} SET listed_in = :listed_in"
    values = {f":{name}": {"N": str(value)} for name, value in amounts.items()}
    values[":listed_in"] = {"S": item[0]}
    if expiry := expiries.get(item):
        update += ", expires_at = :expires_at"
        values[":expires_at"] = {"N": str(int(expiry.timestamp()))}
    elif item in expiries:
        update += " REMOVE expires_at"
    action = {
        "TableName": settings.STATE_TABLE_NAME,
        "Key": _key(*item, shard),
        "UpdateExpression": update,
        "ExpressionAttributeValues": values,
    }
    return {"Update": action}


def delete_user_counters(owner: str, user_id: str) -> None:
    """Delete the counters of a user, malformed ones included."""
    name = _escaped(user_id)
    # `#` ends the name in a key, and `$` sorts after it.
    condition = "pk BETWEEN :start AND :end"
    keys = _keys(owner, CounterKind.USER, condition, start=name, end=f"{name}$")
    delete_items(settings.STATE_TABLE_NAME, list(keys))


class DynamoUsageStore:
    """See `UsageStore`."""

    @translate_errors()
    def daily(
        self, owner: str, by: CounterKind, first: date, last: date
    ) -> dict[tuple[date, str], UsageCounts]:
        listed = _listed(owner, by)
        keys = [key for _, month, key in listed if _month(first) <= month <= _month(last)]
        return _counts(keys, first, last)

    @translate_errors()
    def users(
        self, owner: str, first: date, last: date, *, limit: int, after: str = ""
    ) -> UserPage:
        found: dict[str, list[Item]] = {}
        start = f"{_escaped(after)}$" if after else ""
        for name, month, key in _listed(owner, CounterKind.USER, start):
            if _month(first) <= month <= _month(last):
                found.setdefault(name, []).append(key)
                if len(found) > limit:
                    break
        if more := len(found) > limit:
            found.popitem()
        users: dict[str, UsageCounts] = {}
        daily = _counts([key for keys in found.values() for key in keys], first, last)
        for (_, name), counts in daily.items():
            users[name] = users.get(name, UsageCounts()) + counts
        return UserPage(
            users={name: users[name] for name in sorted(users)},
            next_after=max(found) if more else None,
        )

    def owners(self) -> list[str]:
        return []  # that would need an index, or a scan of the table

    @translate_errors()
    def month(self, owner: str, by: CounterKind, name: str, day: date) -> UsageCounts:
        item = (_list(owner, by), _escaped(name), _month(day))
        # By keys, not by the index, which is a moment late: a budget needs the last write.
        keys = [_key(*item, shard) for shard in range(MAX_SHARDS)]
        return sum(_counts(keys, date.min, date.max).values(), UsageCounts())


def _list(owner: str, by: CounterKind) -> str:
    return f"usage#{owner}#{by.value}"


def _month(day: date) -> str:
    return day.isoformat()[:7]


def _key(listed_in: str, name: str, month: str, shard: int) -> Item:
    return state_key(f"{listed_in}#{name}#{month}#{shard}")


def _escaped(name: str) -> str:
    """Return a name as a part of a key."""
    escaped = name.translate(ESCAPES)
    return escaped.encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def _parts(pk: str) -> tuple[str, str]:
    """Return the name and the month of an item. Raises ValueError if its key is malformed."""
    if not (match := KEY.fullmatch(pk)):
        raise ValueError(pk)
    name = re.sub("%([0-5])", lambda escape: ESCAPED_CHARACTERS[int(escape[1])], match["name"])
    return name, match["month"]


def _listed(owner: str, by: CounterKind, start: str = "") -> Iterator[tuple[str, str, Item]]:
    """Yield name, month and key of the items after `start`, by name."""
    for key in _keys(owner, by, "pk > :start", start=start):
        try:
            parts = _parts(key["pk"]["S"])
        except ValueError:
            _log_malformed(key)
        else:
            yield *parts, key


def _keys(owner: str, by: CounterKind, condition: str, **bounds: str) -> Iterator[Item]:
    """Yield the keys that meet the condition, malformed ones included."""
    listed_in = _list(owner, by)
    request = {
        "TableName": settings.STATE_TABLE_NAME,
        "IndexName": "list-index",
        "KeyConditionExpression": f"listed_in = :listed_in AND {condition}",
        "ExpressionAttributeValues": {
            ":listed_in": {"S": listed_in},
            **{f":{name}": {"S": f"{listed_in}#{bound}"} for name, bound in bounds.items()},
        },
        "ProjectionExpression": "pk",
        "Limit": PAGE,
    }
    for items in read_pages(request):
        yield from items


def _counts(keys: Iterable[Item], first: date, last: date) -> dict[tuple[date, str], UsageCounts]:
    """Return the counts of these items by day and name."""
    sums: dict[tuple[date, str], dict[str, int]] = defaultdict(
        lambda: dict.fromkeys(COUNT_FIELDS, 0)
    )
    for item in get_items(settings.STATE_TABLE_NAME, list(keys)):
        for counted_on, name, field, amount in _amounts(item):
            if first <= counted_on <= last:
                sums[counted_on, name][field] += amount
    return {key: UsageCounts(**fields) for key, fields in sums.items()}


def _amounts(item: Item) -> list[tuple[date, str, str, int]]:
    """Return the amounts of an item with their days, names and fields; none if it has expired.

    A malformed item is left out: it must not hide the others.
    """
    try:
        name, month = _parts(item["pk"]["S"])
        if "expires_at" in item and int(item["expires_at"]["N"]) <= time.time():
            return []
        return [
            (date.fromisoformat(f"{month}-{day}"), name, field, int(value["N"]))
            for attribute, value in item.items()
            if (field := FIELD_OF.get(attribute[0])) and (day := attribute[1:]).isdecimal()
        ]
    except (KeyError, ValueError):
        _log_malformed(item)
        return []


def _log_malformed(item: Item) -> None:
    # Without the rest of its key, which may name a user.
    counters = "#".join(item["pk"]["S"].split("#")[:3])
    logger.error("malformed usage counter left out", extra={"counters": counters})
