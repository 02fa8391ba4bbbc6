"""The store on DynamoDB.

An item is a record's row (chat/storage/rows.py), with `owner_user` for the index, the number of its
`schema`, and `write_id`, which is new with each write: when the answer to a write is lost and the
client, which tries again, finds the condition broken by its own first try, it knows itself by it.

DynamoDB takes items of up to 400 KB. Long texts are compressed. A question that even so leaves no
room for the outcome is refused before anybody is asked. An answer that does not fit beside its
question is kept in parts, which are items of their own (`<interaction_id>#response-0`, …) and in no
index, written in one transaction with the record, deleted when it is taken over, and as long-lived.
A transaction carries 4 MB. Only a compressed answer beyond that cannot be stored, and then the
service gives and logs it, as in an outage.
"""

import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast
from uuid import uuid4

from botocore.exceptions import ClientError
from django.conf import settings

from chat.errors import PayloadTooLarge, StorageUnavailable
from chat.storage.base import Page, Record, Status
from chat.storage.cursors import conversation_list, page_of, position_of, user_list
from chat.storage.dynamodb_access import CONDITION_FAILED, client, dynamodb_errors
from chat.storage.dynamodb_batches import BATCH_GET, delete_items, get_items, query
from chat.storage.dynamodb_items import InteractionItem, Item, find
from chat.storage.dynamodb_usage import counting, forget, shards
from chat.storage.rows import EPOCH, outcome, record_of, row

SCHEMA = 1
COLUMNS = InteractionItem.get_attributes()
PACKED = ("prompt", "system", "response", "parameters", "tool_calls")
COMPRESS_FROM_BYTES = 1024
MAX_ITEM_BYTES = 400 * 1024
# What the outcome may add to a claim, the answer apart: mostly attempts, and the vendors' names.
OUTCOME_BYTES = 40 * 1024
PART_BYTES = 390 * 1024
MAX_TRANSACTION_BYTES = 4_000_000
LATEST = datetime.max.replace(tzinfo=UTC)
MOMENT = timedelta(microseconds=1)

# The conditions of the writes.
FREE = "attribute_not_exists(interaction_id) OR expires_at <= :now"
UNCHANGED = "#status = :status AND deadline_at = :deadline_at"
STATUS = {"#status": "status"}


class DynamoStore:
    """See `InteractionStore`. Each write is one conditional call, and each read is consistent.

    The one that settles a record is a transaction, which counts it too (dynamodb_usage.py).
    """

    def __init__(self) -> None:
        client()

    @dynamodb_errors()
    def claim(self, record: Record) -> Record | None:
        item = _claim(record)
        parts = _split(item)
        now = {":now": {"N": str(int(time.time()))}}
        request = {"Item": item, **_condition(FREE, now)}
        holder = _write("Put", request, item, parts)
        return None if holder is None else _record(holder)

    @dynamodb_errors()
    def take_over(self, record: Record, holder: Record) -> bool:
        item, stale = _claim(record), _split(_item(holder))
        request = {"Item": item, **_condition(UNCHANGED, _values(holder), STATUS)}
        return _write("Put", request, item, stale=stale) is None

    @dynamodb_errors()
    def settle(self, record: Record) -> bool:
        item = _item(record)
        parts = _split(item)
        written = item.keys() & {*outcome(record), "response_parts", "write_id"}
        values = _values(replace(record, status=Status.PENDING))
        request = {
            "Key": _key(item),
            "UpdateExpression": "SET " + ", ".join(f"#{name} = :new_{name}" for name in written),
            **_condition(
                UNCHANGED,
                {**values, **{f":new_{name}": item[name] for name in written}},
                {f"#{name}": name for name in written},
            ),
        }
        for shard in shards():
            counts = counting(record, shard)
            try:
                return _write("Update", request, item, parts, counts=counts) is None
            except ClientError as exc:
                if not _is_conflict(exc):
                    raise
        raise StorageUnavailable

    @dynamodb_errors()
    def get(self, interaction_id: str) -> Record | None:
        item = _find(interaction_id)
        return None if item is None else _living(item)

    @dynamodb_errors()
    def get_many(self, interaction_ids: Sequence[str]) -> dict[str, Record]:
        keys = [{"interaction_id": {"S": id_}} for id_ in interaction_ids]
        return {record.interaction_id: record for record in _records(keys)}

    @dynamodb_errors()
    def page(
        self,
        owner: str,
        user_id: str,
        *,
        limit: int,
        cursor: str | None = None,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> Page:
        listed = _Listed(
            USER_INDEX, f"{owner}#{user_id}", newest_first=True, since=since, before=before
        )
        return _page(listed, owner, user_list(owner, user_id), limit, cursor)

    @dynamodb_errors()
    def conversation(
        self, owner: str, conversation_id: str, *, limit: int, cursor: str | None = None
    ) -> Page:
        listed = _Listed(CONVERSATION_INDEX, conversation_id)
        return _page(listed, owner, conversation_list(owner, conversation_id), limit, cursor)

    @dynamodb_errors()
    def erase(self, owner: str, user_id: str, *, limit: int) -> int:
        erased = 0
        listed = _Listed(USER_INDEX, f"{owner}#{user_id}", newest_first=True)
        for keys in _keys(listed, None, min(limit, BATCH_GET)):
            items = _items(keys, "interaction_id, response_parts")
            parts = [
                {"interaction_id": {"S": _part_id(_id(item), number)}}
                for item in items
                for number in range(int(item.get("response_parts", {"N": "0"})["N"]))
            ]
            _delete([*parts, *map(_key, items)])
            erased += len(items)
            if erased >= limit:
                break
        forget(owner, user_id)
        return erased

    @dynamodb_errors()
    def ping(self) -> None:
        """Of both tables: without its counters no request is answered either."""
        find(settings.TABLE_NAME, {"interaction_id": {"S": "ping"}})
        find(settings.STATE_TABLE_NAME, {"pk": {"S": "ping"}})


def _find(interaction_id: str) -> Item | None:
    return find(settings.TABLE_NAME, {"interaction_id": {"S": interaction_id}})


def _living(item: Item) -> Record | None:
    record = _record(item)
    return None if record.expires_at and record.expires_at <= datetime.now(UTC) else record


# --- Many items -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    name: str
    key: str


USER_INDEX = _Index(name="user-index", key="owner_user")
CONVERSATION_INDEX = _Index(name="conversation-index", key="conversation_id")


@dataclass(frozen=True, slots=True)
class _Listed:
    """What is asked of an index: the entries under a key, in the order of their time."""

    index: _Index
    key: str
    newest_first: bool = False
    since: datetime | None = None
    before: datetime | None = None

    def query(self) -> dict[str, Any]:
        condition, values = f"{self.index.key} = :key", {":key": {"S": self.key}}
        if self.since or self.before:
            # Both ends are part of BETWEEN, and nothing is older than the epoch.
            since = max(self.since or EPOCH, EPOCH)
            last = max(self.before or LATEST, EPOCH + MOMENT) - MOMENT
            condition += " AND created_at BETWEEN :since AND :last"
            values[":since"] = {"S": COLUMNS["created_at"].serialize(since)}
            values[":last"] = {"S": COLUMNS["created_at"].serialize(last)}
        return {
            "TableName": settings.TABLE_NAME,
            "IndexName": self.index.name,
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": values,
            "ScanIndexForward": not self.newest_first,
        }


def _page(listed: _Listed, owner: str, list_name: str, limit: int, cursor: str | None) -> Page:
    """The index tells the keys; the records are read, consistently, from the table."""
    start = None
    if cursor is not None:
        created_at, last = position_of(cursor, list_name)
        start = {
            "interaction_id": {"S": last},
            "created_at": {"S": COLUMNS["created_at"].serialize(created_at)},
            listed.index.key: {"S": listed.key},
        }
    found: list[Record] = []
    for keys in _keys(listed, start, limit + 1):
        found += [record for record in _records(keys) if record.owner == owner]
        if len(found) > limit:
            break
    return page_of(found, limit, list_name)


def _records(keys: Sequence[Item]) -> list[Record]:
    """The records that there are of these keys, in their order."""
    items = {_id(item): item for item in _items(keys)}
    present = [items[_id(key)] for key in keys if _id(key) in items]
    return list(filter(None, map(_living, present)))


def _keys(listed: _Listed, start: Item | None, size: int) -> Iterator[list[Item]]:
    """The keys of what is listed, so many at a time."""
    more = {"ExclusiveStartKey": start} if start else {}
    for items in query({**listed.query(), "Limit": size, **more}):
        yield [_key(item) for item in items]


def _items(keys: Sequence[Item], attributes: str = "") -> list[Item]:
    """What there is of these records, in no order."""
    return get_items(settings.TABLE_NAME, keys, attributes)


def _delete(keys: Sequence[Item]) -> None:
    delete_items(settings.TABLE_NAME, keys)


# --- Records and items ----------------------------------------------------------------------------


def _item(record: Record) -> Item:
    """The whole record as an item, of whatever size."""
    columns = {
        **row(record),
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


def _claim(record: Record) -> Item:
    """The record's item, if the outcome will fit into it as well."""
    item, later = _item(record), outcome(record)
    question = {name: value for name, value in item.items() if name not in later}
    if _size(question) > MAX_ITEM_BYTES - OUTCOME_BYTES:
        raise PayloadTooLarge("The prompt and what comes with it are too long to be kept.")
    return item


def _split(item: Item) -> list[Item]:
    """Take an answer that does not fit out of the item, as items of its own."""
    if _size(item) <= MAX_ITEM_BYTES or "response" not in item:
        return []
    response = item.pop("response")
    data = response.get("B") or zlib.compress(response["S"].encode())
    pieces = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
    item["response_parts"] = {"N": str(len(pieces))}
    expiry = {name: item[name] for name in ("expires_at",) if name in item}
    return [
        {
            "interaction_id": {"S": _part_id(item["interaction_id"]["S"], number)},
            "part": {"B": piece},
            **expiry,
        }
        for number, piece in enumerate(pieces)
    ]


def _part_id(interaction_id: str, number: int) -> str:
    return f"{interaction_id}#response-{number}"


def _record(item: Item) -> Record:
    row = InteractionItem.read(item)
    if row.response_parts:
        row.response = _joined(row)
    return record_of(row)


def _joined(row: Any) -> str | None:
    """The answer that was split; None where a part of it is gone."""
    ids = (_part_id(row.interaction_id, number) for number in range(row.response_parts))
    parts = [InteractionItem.read(part).part for part in map(_find, ids) if part]
    complete = len(parts) == row.response_parts
    return zlib.decompress(b"".join(parts)).decode() if complete else None


def _size(item: Item) -> int:
    """In bytes, as DynamoDB measures it, or a few more."""
    return sum(
        len(name) + len(value if isinstance(value, bytes) else str(value).encode())
        for name, typed in item.items()
        for value in typed.values()
    )


# --- Writing --------------------------------------------------------------------------------------


def _write(
    verb: Literal["Put", "Update"],
    request: dict[str, Any],
    item: Item,
    parts: Sequence[Item] = (),
    stale: Sequence[Item] = (),
    counts: Sequence[dict[str, Any]] = (),
) -> Item | None:
    """Do what is requested of the item, put and delete parts with it, and count: all or nothing.

    None when it was done; when the condition did not hold, what is there (empty: nothing).
    """
    if sum(map(_size, parts)) + _size(item) > MAX_TRANSACTION_BYTES:
        raise StorageUnavailable
    table = {"TableName": settings.TABLE_NAME}
    actions = [
        {verb: table | request},
        *({"Put": table | {"Item": part}} for part in parts),
        *({"Delete": table | {"Key": _key(part)}} for part in stale),
        *counts,
    ]
    try:
        if len(actions) > 1:
            client().call("TransactWriteItems", {"TransactItems": actions})
        else:
            client().call(f"{verb}Item", table | request)
    except ClientError as exc:
        holder = _holder(exc)
        return None if holder.get("write_id") == item["write_id"] else holder
    return None


def _condition(
    expression: str, values: dict[str, Any], names: dict[str, str] | None = None
) -> dict[str, Any]:
    """The part of a request that makes it conditional, and tells what is there instead."""
    return {
        "ConditionExpression": expression,
        "ExpressionAttributeValues": values,
        **({"ExpressionAttributeNames": names} if names else {}),
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def _values(record: Record) -> dict[str, Any]:
    """The values by which UNCHANGED knows a record."""
    return {
        ":status": {"S": record.status.value},
        ":deadline_at": {"S": COLUMNS["deadline_at"].serialize(record.deadline_at)},
    }


def _id(item: Item) -> str:
    return str(item["interaction_id"]["S"])


def _key(item: Item) -> Item:
    return {"interaction_id": item["interaction_id"]}


def _is_conflict(exc: ClientError) -> bool:
    """Whether another transaction was at work on one of the items."""
    response: dict[str, Any] = exc.response
    reasons = response.get("CancellationReasons", ())
    return "TransactionConflict" in [reason.get("Code") for reason in reasons]


def _holder(exc: ClientError) -> Item:
    """What is there instead, if the condition did not hold; any other failure is raised again."""
    response: dict[str, Any] = exc.response
    reason: dict[str, Any] = next(iter(response.get("CancellationReasons", ())), {})
    if reason.get("Code") == "ConditionalCheckFailed":
        return cast(Item, reason.get("Item", {}))
    if response["Error"]["Code"] != CONDITION_FAILED:
        raise exc
    return cast(Item, response.get("Item", {}))
