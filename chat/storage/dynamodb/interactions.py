"""Interactions on DynamoDB.

An item is a record's columns, with `owner_user` for the index, the `schema` number, and
`write_id`, which is new in each write. It makes retries safe: if the condition fails and the stored
item has our `write_id`, the first attempt succeeded and its response was lost.

An item may have 400 KB. Long texts are compressed. Columns of a question or an answer that still do
not fit are stored in parts: items of their own (`<interaction_id>#prompt-0`,
`<interaction_id>#response-0`, …), in no index, written in one transaction with the claim or the
outcome. The parts of a question leave room for its outcome. Parts expire with the record, and a
take-over deletes those of the answer. A transaction carries 4 MB. A compressed question over 3.5 MB
is refused before a provider is called. A compressed answer over 3.5 MB cannot be stored: its record
is settled without it, and the service answers and logs it, as in an outage.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal, cast

from botocore.exceptions import ClientError
from django.conf import settings

from chat.storage.base import InteractionRecord, Page, Reservation, Status, Turn, unexpired
from chat.storage.cursors import build_page, conversation_scope, decode_cursor, user_scope
from chat.storage.dynamodb import budgets, turns
from chat.storage.dynamodb.client import (
    CONDITION_FAILED,
    client,
    refusals,
    translate_errors,
    write_if,
)
from chat.storage.dynamodb.items import (
    COLUMNS,
    PARTS_OF,
    Item,
    id_of,
    is_too_large,
    item_of,
    leaves_room,
    outcome_of,
    part_keys,
    primary_key,
    record_key,
    split,
    state_key,
)
from chat.storage.dynamodb.queries import (
    BATCH_GET,
    CONVERSATION_INDEX,
    KEYS,
    PARTS_AT_ONCE,
    USER_INDEX,
    IndexQuery,
    delete_records,
    delete_turns,
    get_item,
    get_items,
    get_records,
    read_kept,
    read_pages,
)
from chat.storage.dynamodb.usage import count_alone, counter_updates, delete_user_counters, shards
from chat.storage.errors import RecordTooLarge, StorageUnavailable
from chat.storage.transcripts import restored

# The largest number of parts on a page: about 16 MB.
PAGE_PARTS = 40
# DynamoDB deletes an expired item up to days later: its id is free before that.
ID_IS_FREE = "attribute_not_exists(interaction_id) OR expires_at <= :now"
AS_READ = "#status = :status AND deadline_at = :deadline_at"
# The record has no parts and no reservations, which are in other items.
STANDS_ALONE = " AND ".join(
    f"attribute_not_exists({name})" for name in (*PARTS_OF.values(), budgets.RESERVED)
)
STATUS_NAME = {"#status": "status"}


class DynamoInteractionStore:
    """See `InteractionStore`. Each write is one conditional call; reads are consistent.

    A settlement is a transaction with the usage counters (usage.py).
    """

    def __init__(self) -> None:
        client()  # a configuration that cannot work fails at start, not at the first request

    @translate_errors()
    def claim(
        self, record: InteractionRecord, *reservations: Reservation
    ) -> InteractionRecord | None:
        item, parts = _claim_item(record, reservations)
        now = {":now": {"N": str(int(time.time()))}}
        request = {"Item": item, **_condition(ID_IS_FREE, now)}
        with ExitStack() as undo:
            undo.callback(budgets.release, budgets.reserve(record, reservations))
            holder = _write("Put", request, item, parts)
            if holder is None:
                undo.pop_all()
        return None if holder is None else get_records([holder])[0]

    @translate_errors()
    def take_over(
        self, record: InteractionRecord, holder: InteractionRecord, *reservations: Reservation
    ) -> bool:
        item, parts = _claim_item(record, reservations)
        with ExitStack() as undo:
            undo.callback(budgets.release, budgets.reserve(record, reservations))
            replaced = _replace(holder, item, parts)
            if replaced is None:
                return False
            undo.pop_all()
        # A claim that ended without a settlement still has its reservations.
        if reservations and holder.status is Status.PENDING:
            budgets.release(budgets.from_attribute(replaced))
        return True

    @translate_errors()
    def settle(self, record: InteractionRecord, *reservations: Reservation) -> bool:
        try:
            outcome, parts = outcome_of(record)
        except RecordTooLarge:
            if self.settle(_without_answer(record), *reservations):
                raise
            found = self.get(record.interaction_id)
            if found and found.outcome_id == record.outcome_id:
                raise  # an earlier try has settled it, and its response was lost
            return False
        values = _as_read(record, Status.PENDING)
        request = {
            "Key": record_key(record.interaction_id),
            "UpdateExpression": "SET "
            + ", ".join(f"#{name} = :new_{name}" for name in outcome)
            + (f" REMOVE {budgets.RESERVED}" if reservations else ""),
            **_condition(
                AS_READ,
                {**values, **{f":new_{name}": value for name, value in outcome.items()}},
                {f"#{name}": name for name in outcome},
            ),
        }
        turn = turns.puts([record])
        for shard in shards():
            counts = [*counter_updates([record], shard, reservations), *turn]
            try:
                stored = _write("Update", request, outcome, parts, counts=counts)
            except ClientError as exc:
                conflicts = refusals(exc)
                if "TransactionConflict" not in conflicts:
                    raise
                if turn and conflicts[-1] == "TransactionConflict":
                    turn = []  # another record with its digest is writing the turn
            else:
                if stored is None:
                    budgets.release(budgets.held(record, reservations), record)
                elif stored and stored.get("deadline_at") != values[":deadline_at"]:
                    count_alone(record, reservations)  # the claim was taken over
                return stored is None
        raise StorageUnavailable

    @translate_errors()
    def get(self, interaction_id: str) -> InteractionRecord | None:
        item = get_item(settings.TABLE_NAME, record_key(interaction_id))
        found = unexpired(get_records([item] if item else []))
        return next(iter(restored(found, read_kept)), None)

    @translate_errors()
    def get_many(self, interaction_ids: Sequence[str]) -> dict[str, InteractionRecord]:
        found = restored(read_kept(interaction_ids).values(), read_kept)
        return {record.interaction_id: record for record in found}

    @translate_errors()
    def find_turn(self, digest: str) -> Turn | None:
        item = get_item(settings.STATE_TABLE_NAME, turns.key(digest))
        if item is None or _has_expired(item):
            return None
        turn = turns.turn_from(item)
        root = record_key(turn.root)
        kept = get_items(settings.TABLE_NAME, [root], "interaction_id, expires_at, digest")
        return turn if kept and "digest" in kept[0] and not _has_expired(kept[0]) else None

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
        query = IndexQuery(
            USER_INDEX, f"{owner}#{user_id}", newest_first=True, since=since, before=before
        )
        return _page(query, owner, user_scope(owner, user_id), limit, cursor)

    @translate_errors()
    def list_by_conversation(
        self, owner: str, conversation_id: str, *, limit: int, cursor: str | None = None
    ) -> Page:
        query = IndexQuery(CONVERSATION_INDEX, conversation_id)
        return _page(query, owner, conversation_scope(owner, conversation_id), limit, cursor)

    @translate_errors()
    def delete(self, interaction_id: str) -> None:
        key = record_key(interaction_id)
        items = get_items(settings.TABLE_NAME, [key], f"{KEYS}, conversation_id")
        for item in items:
            if "digest" in item:
                query = IndexQuery(CONVERSATION_INDEX, item["conversation_id"]["S"])
                for keys in _keys(query, None, BATCH_GET):
                    found = get_items(settings.TABLE_NAME, keys, f"{KEYS}, earlier")
                    _end_roots(found)
                    delete_turns(found)
        delete_records(items)

    @translate_errors()
    def delete_by_user(self, owner: str, user_id: str, *, limit: int) -> int:
        deleted = 0
        query = IndexQuery(USER_INDEX, f"{owner}#{user_id}", newest_first=True)
        for keys in _keys(query, None, min(limit, BATCH_GET)):
            items = get_items(settings.TABLE_NAME, keys, KEYS)
            delete_records(items)
            deleted += len(items)
            if deleted >= limit:
                break
        delete_user_counters(owner, user_id)
        return deleted

    @translate_errors()
    def check(self) -> None:
        """Read both tables: without its counters no request is answered either."""
        get_item(settings.TABLE_NAME, record_key("ping"))
        get_item(settings.STATE_TABLE_NAME, state_key("ping"))


def _end_roots(items: Iterable[Item]) -> None:
    """Take the digests of the roots among these items: no turn that has them is continued."""
    for item in items:
        if "digest" in item and "earlier" not in item:
            request = {
                "TableName": settings.TABLE_NAME,
                "Key": primary_key(item),
                "UpdateExpression": "REMOVE digest",
                "ConditionExpression": "attribute_exists(interaction_id)",
            }
            write_if("UpdateItem", request)


def _has_expired(item: Item) -> bool:
    return "expires_at" in item and int(item["expires_at"]["N"]) <= time.time()


# --- Many items -----------------------------------------------------------------------------------


def _page(query: IndexQuery, owner: str, scope: str, limit: int, cursor: str | None) -> Page:
    """Return a page: its keys by the index, its records by consistent reads of the table."""
    start = None
    if cursor is not None:
        (created_at, last_id), (first, last) = decode_cursor(cursor, scope), query.span
        # DynamoDB refuses a start outside the span. A list with a span has the newest first:
        # nothing follows a start older than the span, and all of it follows a newer one.
        if created_at < first:
            return Page(records=())
        if created_at <= last:
            start = {
                "interaction_id": {"S": last_id},
                "created_at": {"S": COLUMNS["created_at"].serialize(created_at)},
                query.index.key: {"S": query.key},
            }
    found: list[InteractionRecord] = []
    parts = 0
    for items in _groups(_keys(query, start, limit + 1)):
        if found and parts >= PAGE_PARTS:
            return build_page(found, limit, scope, more=True)
        parts += sum(len(part_keys(item)) for item in items)
        found += [record for record in unexpired(get_records(items)) if record.owner == owner]
        if len(found) > limit:
            break
    return build_page(found, limit, scope)


def _groups(pages: Iterable[Sequence[Item]]) -> Iterator[list[Item]]:
    """Yield the items of these keys in order, a few at a time if they have many parts."""
    for keys in pages:
        group: list[Item] = []
        parts = 0
        for item in _items(keys):
            group.append(item)
            parts += len(part_keys(item))
            if parts >= PARTS_AT_ONCE:
                yield group
                group, parts = [], 0
        if group:
            yield group


def _items(keys: Sequence[Item]) -> list[Item]:
    """Return the items of the keys that exist, in order."""
    items = {id_of(item): item for item in get_items(settings.TABLE_NAME, keys)}
    return [items[id_of(key)] for key in keys if id_of(key) in items]


def _keys(query: IndexQuery, start: Item | None, size: int) -> Iterator[list[Item]]:
    """Yield pages of keys."""
    more = {"ExclusiveStartKey": start} if start else {}
    for items in read_pages({**query.request(), "Limit": size, **more}):
        yield [primary_key(item) for item in items]


# --- Records and items ----------------------------------------------------------------------------


def _claim_item(
    record: InteractionRecord, reservations: Sequence[Reservation]
) -> tuple[Item, list[Item]]:
    """Return the item of a claim and the parts of its question. Raises RecordTooLarge."""
    item = item_of(record) | budgets.to_attribute(budgets.held(record, reservations))
    if leaves_room(item):
        return item, []
    parts, _ = split(item)
    if is_too_large(item, parts):
        raise RecordTooLarge("The prompt and its messages are too long to be stored.")
    return item, parts


def _without_answer(record: InteractionRecord) -> InteractionRecord:
    """Return the record of an answer that is too large, without its texts."""
    return replace(record, response=None, tool_calls=(), message={}, extras={}, transcript=None)


# --- Writing --------------------------------------------------------------------------------------


def _replace(holder: InteractionRecord, item: Item, parts: Sequence[Item]) -> Item | None:
    """Put a claim's item and parts in place of a record's, and delete its other parts.

    Return the replaced item, empty if it stood alone; None if the record is no longer `holder`.
    """
    values = _as_read(holder, holder.status)
    if not parts:
        request = {"Item": item, **_condition(f"{AS_READ} AND {STANDS_ALONE}", values, STATUS_NAME)}
        stored = _write("Put", request, item)
        if stored is None:
            return {}
    else:  # too much to send twice
        stored = get_item(settings.TABLE_NAME, record_key(holder.interaction_id)) or {}
    kept = {id_of(part) for part in parts}
    stale = [part for part in part_keys(stored) if id_of(part) not in kept]
    request = {"Item": item, **_condition(AS_READ, values, STATUS_NAME)}
    return stored if _write("Put", request, item, parts, stale) is None else None


def _write(
    verb: Literal["Put", "Update"],
    request: dict[str, Any],
    item: Item,
    parts: Sequence[Item] = (),
    stale: Sequence[Item] = (),
    counts: Sequence[dict[str, Any]] = (),
) -> Item | None:
    """Write the item, put `parts`, delete `stale` ones and add `counts`: all or nothing.

    Return None on success; if the condition failed, the stored item, empty if there is none.
    """
    table = {"TableName": settings.TABLE_NAME}
    actions = [
        {verb: table | request},
        *({"Put": table | {"Item": part}} for part in parts),
        *({"Delete": table | {"Key": primary_key(part)}} for part in stale),
        *counts,
    ]
    try:
        if len(actions) > 1:
            client().call("TransactWriteItems", {"TransactItems": actions})
        else:
            client().call(f"{verb}Item", table | request)
    except ClientError as exc:
        stored = _conflicting_item(exc)
        # Our own write of a try whose response was lost.
        return None if stored.get("write_id") == item["write_id"] else stored
    return None


def _condition(
    expression: str, values: dict[str, Any], names: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return the members of a conditional request that returns the stored item on failure."""
    return {
        "ConditionExpression": expression,
        "ExpressionAttributeValues": values,
        **({"ExpressionAttributeNames": names} if names else {}),
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def _as_read(record: InteractionRecord, status: Status) -> dict[str, Any]:
    """Return the values of AS_READ, for a record that was read with this status."""
    return {
        ":status": {"S": status.value},
        ":deadline_at": {"S": COLUMNS["deadline_at"].serialize(record.deadline_at)},
    }


def _conflicting_item(exc: ClientError) -> Item:
    """Return the stored item if the condition failed; re-raise any other failure."""
    response: dict[str, Any] = exc.response
    reason: dict[str, Any] = next(iter(response.get("CancellationReasons", ())), {})
    if reason.get("Code") == "ConditionalCheckFailed":
        return cast(Item, reason.get("Item", {}))
    if response["Error"]["Code"] != CONDITION_FAILED:
        raise exc
    return cast(Item, response.get("Item", {}))
