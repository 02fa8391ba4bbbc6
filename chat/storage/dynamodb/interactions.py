"""The store on DynamoDB.

An item is a record's row (chat/storage/columns.py), with `owner_user` for the index, the number of
its `schema`, and `write_id`, which is new with each write: when the answer to a write is lost and
the client, which tries again, finds the condition broken by its own first try, it knows itself by
it.

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
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, cast

from botocore.exceptions import ClientError
from django.conf import settings

from chat.storage.base import InteractionRecord, Page, Status
from chat.storage.columns import from_columns, outcome_columns
from chat.storage.cursors import build_page, conversation_scope, decode_cursor, user_scope
from chat.storage.dynamodb.client import CONDITION_FAILED, client, translate_errors
from chat.storage.dynamodb.items import (
    COLUMNS,
    MAX_ITEM_BYTES,
    MAX_TRANSACTION_BYTES,
    InteractionItem,
    Item,
    id_of,
    item_of,
    key_of,
    part_id,
    part_keys,
    size_of,
    split_response,
)
from chat.storage.dynamodb.queries import (
    BATCH_GET,
    CONVERSATION_INDEX,
    USER_INDEX,
    IndexQuery,
    delete_items,
    get_item,
    get_items,
    query,
)
from chat.storage.dynamodb.usage import counter_updates, delete_user_counters, shards
from chat.storage.errors import RecordTooLarge, StorageUnavailable

# What the outcome may add to a claim, the answer apart: mostly attempts, and the vendors' names.
OUTCOME_BYTES = 40 * 1024

# The conditions of the writes.
FREE = "attribute_not_exists(interaction_id) OR expires_at <= :now"
UNCHANGED = "#status = :status AND deadline_at = :deadline_at"
STATUS = {"#status": "status"}


class DynamoInteractionStore:
    """See `InteractionStore`. Each write is one conditional call, and each read is consistent.

    The one that settles a record is a transaction, which counts it too (usage.py).
    """

    def __init__(self) -> None:
        client()  # a configuration that cannot work fails at start, not at the first request

    @translate_errors()
    def claim(self, record: InteractionRecord) -> InteractionRecord | None:
        item = _claim(record)
        parts = split_response(item)
        now = {":now": {"N": str(int(time.time()))}}
        request = {"Item": item, **_condition(FREE, now)}
        holder = _write("Put", request, item, parts)
        return None if holder is None else _record(holder)

    @translate_errors()
    def take_over(self, record: InteractionRecord, holder: InteractionRecord) -> bool:
        item, stale = _claim(record), split_response(item_of(holder))
        request = {"Item": item, **_condition(UNCHANGED, _values(holder), STATUS)}
        return _write("Put", request, item, stale=stale) is None

    @translate_errors()
    def settle(self, record: InteractionRecord) -> bool:
        item = item_of(record)
        parts = split_response(item)
        written = item.keys() & {*outcome_columns(record), "response_parts", "write_id"}
        values = _values(replace(record, status=Status.PENDING))
        request = {
            "Key": key_of(item),
            "UpdateExpression": "SET " + ", ".join(f"#{name} = :new_{name}" for name in written),
            **_condition(
                UNCHANGED,
                {**values, **{f":new_{name}": item[name] for name in written}},
                {f"#{name}": name for name in written},
            ),
        }
        for shard in shards():
            counts = counter_updates([record], shard)
            try:
                return _write("Update", request, item, parts, counts=counts) is None
            except ClientError as exc:
                if not _is_conflict(exc):
                    raise
        raise StorageUnavailable

    @translate_errors()
    def get(self, interaction_id: str) -> InteractionRecord | None:
        item = _find(interaction_id)
        return None if item is None else _living(item)

    @translate_errors()
    def get_many(self, interaction_ids: Sequence[str]) -> dict[str, InteractionRecord]:
        keys = [{"interaction_id": {"S": id_}} for id_ in interaction_ids]
        return {record.interaction_id: record for record in _records(keys)}

    @translate_errors()
    def list_by_user(
        self,
        owner: str,
        user_id: str,
        *,
        limit: int,
        cursor: str | None = None,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> Page:
        listed = IndexQuery(
            USER_INDEX, f"{owner}#{user_id}", newest_first=True, since=since, before=before
        )
        return _page(listed, owner, user_scope(owner, user_id), limit, cursor)

    @translate_errors()
    def list_by_conversation(
        self, owner: str, conversation_id: str, *, limit: int, cursor: str | None = None
    ) -> Page:
        listed = IndexQuery(CONVERSATION_INDEX, conversation_id)
        return _page(listed, owner, conversation_scope(owner, conversation_id), limit, cursor)

    @translate_errors()
    def delete_by_user(self, owner: str, user_id: str, *, limit: int) -> int:
        erased = 0
        listed = IndexQuery(USER_INDEX, f"{owner}#{user_id}", newest_first=True)
        for keys in _keys(listed, None, min(limit, BATCH_GET)):
            items = _items(keys, "interaction_id, response_parts")
            parts = [key for item in items for key in part_keys(item)]
            _delete([*parts, *map(key_of, items)])
            erased += len(items)
            if erased >= limit:
                break
        delete_user_counters(owner, user_id)
        return erased

    @translate_errors()
    def check(self) -> None:
        """Of both tables: without its counters no request is answered either."""
        get_item(settings.TABLE_NAME, {"interaction_id": {"S": "ping"}})
        get_item(settings.STATE_TABLE_NAME, {"pk": {"S": "ping"}})


def _find(interaction_id: str) -> Item | None:
    return get_item(settings.TABLE_NAME, {"interaction_id": {"S": interaction_id}})


def _living(item: Item) -> InteractionRecord | None:
    record = _record(item)
    return None if record.expires_at and record.expires_at <= datetime.now(UTC) else record


# --- Many items -----------------------------------------------------------------------------------


def _page(listed: IndexQuery, owner: str, scope: str, limit: int, cursor: str | None) -> Page:
    """The index tells the keys; the records are read, consistently, from the table."""
    start = None
    if cursor is not None:
        (created_at, last_id), (first, last) = decode_cursor(cursor, scope), listed.span
        # DynamoDB starts at no entry outside of the time that is asked for. Lists that can be of a
        # time have the newest first: what is older ends them, and what is newer comes before them.
        if created_at < first:
            return Page(records=())
        if created_at <= last:
            start = {
                "interaction_id": {"S": last_id},
                "created_at": {"S": COLUMNS["created_at"].serialize(created_at)},
                listed.index.key: {"S": listed.key},
            }
    found: list[InteractionRecord] = []
    for keys in _keys(listed, start, limit + 1):
        found += [record for record in _records(keys) if record.owner == owner]
        if len(found) > limit:
            break
    return build_page(found, limit, scope)


def _records(keys: Sequence[Item]) -> list[InteractionRecord]:
    """The records that there are of these keys, in their order."""
    items = {id_of(item): item for item in _items(keys)}
    present = [items[id_of(key)] for key in keys if id_of(key) in items]
    return list(filter(None, map(_living, present)))


def _keys(listed: IndexQuery, start: Item | None, size: int) -> Iterator[list[Item]]:
    """The keys of what is listed, so many at a time."""
    more = {"ExclusiveStartKey": start} if start else {}
    for items in query({**listed.request(), "Limit": size, **more}):
        yield [key_of(item) for item in items]


def _items(keys: Sequence[Item], attributes: str = "") -> list[Item]:
    """What there is of these records, in no order."""
    return get_items(settings.TABLE_NAME, keys, attributes)


def _delete(keys: Sequence[Item]) -> None:
    delete_items(settings.TABLE_NAME, keys)


# --- Records and items ----------------------------------------------------------------------------


def _claim(record: InteractionRecord) -> Item:
    """The record's item, if the outcome will fit into it as well."""
    item, later = item_of(record), outcome_columns(record)
    question = {name: value for name, value in item.items() if name not in later}
    if size_of(question) > MAX_ITEM_BYTES - OUTCOME_BYTES:
        raise RecordTooLarge("The prompt and what comes with it are too long to be kept.")
    return item


def _record(item: Item) -> InteractionRecord:
    row = InteractionItem.from_item(item)
    if row.response_parts:
        row.response = _joined(row)
    return from_columns(row)


def _joined(row: Any) -> str | None:
    """The answer that was split; None where a part of it is gone."""
    ids = (part_id(row.interaction_id, number) for number in range(row.response_parts))
    parts = [InteractionItem.from_item(part).part for part in map(_find, ids) if part]
    complete = len(parts) == row.response_parts
    return zlib.decompress(b"".join(parts)).decode() if complete else None


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
    if sum(map(size_of, parts)) + size_of(item) > MAX_TRANSACTION_BYTES:
        raise StorageUnavailable
    table = {"TableName": settings.TABLE_NAME}
    actions = [
        {verb: table | request},
        *({"Put": table | {"Item": part}} for part in parts),
        *({"Delete": table | {"Key": key_of(part)}} for part in stale),
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


def _values(record: InteractionRecord) -> dict[str, Any]:
    """The values by which UNCHANGED knows a record."""
    return {
        ":status": {"S": record.status.value},
        ":deadline_at": {"S": COLUMNS["deadline_at"].serialize(record.deadline_at)},
    }


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
