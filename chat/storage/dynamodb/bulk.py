"""Records in bulk on DynamoDB.

Reads are eventually consistent, at half the price: records of the last second may be missed. The
records of one user are found by the index. Any other selection reads, and pays for, the whole
table, in no useful order.

Writes are transactions of several records and the counters they add to. A transaction costs twice
the write units of its records, but one write of a counter serves many records.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple
from uuid import uuid4

import orjson
from botocore.exceptions import ClientError
from django.conf import settings

from chat.storage.base import (
    Batch,
    ImportResult,
    InteractionRecord,
    PurgeResult,
    Selection,
    Status,
    newest_by_id,
    unexpired,
)
from chat.storage.dynamodb import turns
from chat.storage.dynamodb.client import DynamoDBClient, new_client, refusals, translate_errors
from chat.storage.dynamodb.items import (
    MAX_TRANSACTION_BYTES,
    Item,
    id_of,
    is_too_large,
    item_of,
    part_keys,
    primary_key,
    record_key,
    record_of,
    size_of,
    split,
)
from chat.storage.dynamodb.queries import (
    BATCH_GET,
    CREATED,
    KEYS,
    USER_INDEX,
    IndexQuery,
    created,
    delete_records,
    get_items,
    get_records,
    put_items,
    read_kept,
)
from chat.storage.dynamodb.usage import counter_updates, shards
from chat.storage.errors import RecordTooLarge, StorageUnavailable
from chat.storage.transcripts import compacted, restored

# A page has up to 1 MB, and may come over a slow network.
TRY_SECONDS = 30.0
# A throttled call is repeated for this long.
CALL_SECONDS = 90.0
# Records that others change meanwhile are planned again.
TRIES = 10
# DynamoDB accepts transactions of 4 MB, but does not always finish them in time.
MAX_ACTIONS = 100
TRANSACTION_BYTES = 1_000_000


class _Write(NamedTuple):
    """A record and the actions that write it, after the parts that do not fit beside them."""

    record: InteractionRecord
    ahead: Sequence[Item]
    actions: Sequence[dict[str, Any]]
    size: int
    replaces: bool


class _MeasuringClient:
    """Adds up the read units of calls."""

    def __init__(self, client: DynamoDBClient) -> None:
        self._client = client
        self.read_units = 0.0

    def call(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        answer = self._client.call(operation, {**arguments, "ReturnConsumedCapacity": "TOTAL"})
        consumed = answer.get("ConsumedCapacity", [])
        for each in consumed if isinstance(consumed, list) else [consumed]:
            self.read_units += each.get("CapacityUnits", 0.0)
        return answer


class DynamoBulkStore:
    """See `BulkStore`."""

    @cached_property
    def _client(self) -> DynamoDBClient:
        return new_client(try_seconds=TRY_SECONDS, call_seconds=CALL_SECONDS)

    @translate_errors()
    def estimate(self, selection: Selection) -> int | None:
        """Return DynamoDB's own count, which it updates every six hours."""
        if selection.of_one_user:
            return None
        request = {"TableName": settings.TABLE_NAME}
        table = self._client.call("DescribeTable", request)["Table"]
        return table["ItemCount"] or None

    @translate_errors()
    def scan(self, selection: Selection, *, limit: int, cursor: str | None = None) -> Batch:
        client = _MeasuringClient(self._client)
        items, page = _find(client, selection, limit, cursor)
        records = unexpired(get_records(items, consistent=False, call=client.call))
        selected = [each for each in records if selection.matches(each.owner, each.user_id)]
        read = partial(read_kept, consistent=False, call=client.call)
        return Batch(
            records=tuple(restored(selected, read)),
            read_units=client.read_units,
            **page,
        )

    @translate_errors()
    def import_records(self, records: list[InteractionRecord]) -> ImportResult:
        """Write in transactions; plan a record again that changed in the meantime."""
        client = _MeasuringClient(self._client)
        left = compacted(newest_by_id(records), partial(read_kept, call=client.call))
        new = replaced = 0
        for _ in range(TRIES):
            writes = _plan_all(client, left)
            left = {write.record.interaction_id: write.record for write in writes}
            for group in _transactions(writes):
                if _commit(client, group):
                    replaced += sum(write.replaces for write in group)
                    new += sum(not write.replaces for write in group)
                    for write in group:
                        del left[write.record.interaction_id]
            if not left:
                return ImportResult(new=new, replaced=replaced)
        raise StorageUnavailable

    @translate_errors()
    def purge(
        self, selection: Selection, *, limit: int, cursor: str | None = None, dry_run: bool = False
    ) -> PurgeResult:
        """Delete a page. A record that is taken over between the two calls is deleted too."""
        items, page = _find(_MeasuringClient(self._client), selection, limit, cursor, KEYS)
        if not dry_run:
            delete_records(items)
        return PurgeResult(records=len(items), **page)


# --- Reading --------------------------------------------------------------------------------------


def _find(
    client: _MeasuringClient,
    selection: Selection,
    limit: int,
    cursor: str | None,
    attributes: str = "",
) -> tuple[list[Item], dict[str, Any]]:
    """Return a page of items, without those of parts, and the fields of a `Batch` about it."""
    start = {} if cursor is None else {"ExclusiveStartKey": orjson.loads(cursor)}
    if selection.of_one_user:
        key = f"{selection.owner}#{selection.user}"
        query = IndexQuery(USER_INDEX, key, since=selection.since, before=selection.before)
        page = {"Limit": min(limit, BATCH_GET), **start}
        answer = client.call("Query", query.request() | page)
        keys = [primary_key(item) for item in answer["Items"]]
        items = get_items(settings.TABLE_NAME, keys, attributes, consistent=False, call=client.call)
        order = {id_of(key): place for place, key in enumerate(keys)}
        # BatchGetItem answers in no order.
        items.sort(key=lambda item: order[id_of(item)])
    else:
        projection = {"ProjectionExpression": attributes} if attributes else {}
        page = {"Limit": limit, **start, **projection, **_filter(selection)}
        answer = client.call("Scan", {"TableName": settings.TABLE_NAME, **page})
        items = answer["Items"]
    last = answer.get("LastEvaluatedKey")
    next_cursor = orjson.dumps(last).decode() if last else None
    return items, {"scanned": answer["ScannedCount"], "cursor": next_cursor}


def _filter(selection: Selection) -> dict[str, Any]:
    """Return the filter of a scan: selected records, no parts."""
    conditions, values = ["attribute_not_exists(part)"], Item()
    if selection.since or selection.before:
        conditions.append(CREATED)
        values |= created(selection.since, selection.before)
    names = {}
    if selection.owner is not None:
        conditions.append("#owner = :owner")
        values[":owner"] = {"S": selection.owner}
        names = {"ExpressionAttributeNames": {"#owner": "owner"}}
    if selection.user is not None:
        conditions.append("user_id = :user")
        values[":user"] = {"S": selection.user}
    bound = {"ExpressionAttributeValues": values} if values else {}
    return {"FilterExpression": " AND ".join(conditions), **bound, **names}


# --- Writing --------------------------------------------------------------------------------------


def _plan_all(client: _MeasuringClient, records: dict[str, InteractionRecord]) -> list[_Write]:
    """Return the writes that are due, given the stored records."""
    keys = [record_key(id_) for id_ in records]
    stored = {id_of(item): item for item in get_items(settings.TABLE_NAME, keys, call=client.call)}
    planned = (_plan(record, stored.get(id_)) for id_, record in records.items())
    return [write for write in planned if write]


def _plan(record: InteractionRecord, stored: Item | None) -> _Write | None:
    holder = next(iter(unexpired([record_of(stored, {})] if stored else [])), None)
    if holder and not record.supersedes(holder.status, holder.deadline_at):
        return None
    item = item_of(record)
    question, answer = split(item)
    size = size_of(item) + sum(map(size_of, answer))
    if is_too_large(item, question) or size > MAX_TRANSACTION_BYTES:
        raise RecordTooLarge(f"{record.interaction_id} is too long to be stored in DynamoDB.")
    kept = {id_of(part) for part in (*question, *answer)}
    stale = [key for key in (part_keys(stored) if stored else ()) if id_of(key) not in kept]
    whole = size + sum(map(size_of, question))
    fits = whole <= MAX_TRANSACTION_BYTES
    parts = [*question, *answer] if fits else answer
    table = {"TableName": settings.TABLE_NAME}
    actions = [
        {"Put": table | {"Item": item} | _if_as_read(stored)},
        *({"Put": table | {"Item": part}} for part in parts),
        *({"Delete": table | {"Key": key}} for key in stale),
    ]
    ahead = [] if fits else question
    return _Write(record, ahead, actions, whole if fits else size, replaces=holder is not None)


def _if_as_read(stored: Item | None) -> dict[str, Any]:
    """Return the condition that the stored item is still the one that was read, or absent."""
    if stored is None:
        return {"ConditionExpression": "attribute_not_exists(interaction_id)"}
    if "write_id" not in stored:
        return {"ConditionExpression": "attribute_not_exists(write_id)"}
    return {
        "ConditionExpression": "write_id = :write_id",
        "ExpressionAttributeValues": {":write_id": stored["write_id"]},
    }


def _transactions(writes: Sequence[_Write]) -> Iterator[list[_Write]]:
    """Group writes into transactions within DynamoDB's limits."""
    group: list[_Write] = []
    counters: set[str] = set()
    actions = size = 0
    for write in writes:
        updates = counter_updates(_settled([write]), 0)
        names = {update["Update"]["Key"]["pk"]["S"] for update in updates}
        counters |= names
        due = len(write.actions) + (write.record.transcript is not None)
        actions += due
        size += write.size
        if group and (actions + len(counters) > MAX_ACTIONS or size > TRANSACTION_BYTES):
            yield group
            group, counters, actions, size = [], names, due, write.size
        group.append(write)
    if group:
        yield group


def _settled(writes: Sequence[_Write]) -> list[InteractionRecord]:
    return [write.record for write in writes if write.record.status is not Status.PENDING]


def _commit(client: _MeasuringClient, writes: Sequence[_Write]) -> bool:
    """Write and count in one transaction; return False if a stored record has changed."""
    put_items(settings.TABLE_NAME, [part for write in writes for part in write.ahead], client.call)
    settled = _settled(writes)
    for shard in shards():
        actions = [action for write in writes for action in write.actions]
        actions += [*counter_updates(settled, shard), *turns.puts(settled)]
        # The token makes a retry after a lost response safe.
        request = {"TransactItems": actions, "ClientRequestToken": uuid4().hex}
        try:
            client.call("TransactWriteItems", request)
        except ClientError as exc:
            reasons = refusals(exc)
            # Another process wrote one of the records: the group is planned again.
            if "ConditionalCheckFailed" in reasons:
                return False
            if "TransactionConflict" not in reasons:
                raise
        else:
            return True
    raise StorageUnavailable
