"""Records in bulk on DynamoDB.

Reading is eventually consistent, at half the price: what was written within the last second may be
missed. The records of one user are found by the index and read by their keys; any others by looking
at all of the table, in no order that means anything, and paying for all of it.

Writing is in transactions: so many records, and the counters that they raise, all or nothing. That
costs twice the write units of each record, but one raise of a counter for many.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson
from botocore.exceptions import ClientError
from django.conf import settings
from django.utils import timezone
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from chat.errors import PayloadTooLarge, StorageUnavailable
from chat.storage.base import InteractionRecord, Status
from chat.storage.bulk import Batch, ImportResult, PurgeResult, Selection, newest_by_id, supersedes
from chat.storage.columns import from_columns
from chat.storage.dynamodb.client import TRANSIENT, new_client, reason_of, translate_errors
from chat.storage.dynamodb.items import (
    MAX_ITEM_BYTES,
    MAX_TRANSACTION_BYTES,
    InteractionItem,
    Item,
    id_of,
    item_of,
    key_of,
    part_keys,
    size_of,
    split_response,
)
from chat.storage.dynamodb.queries import (
    BATCH_GET,
    CREATED,
    USER_INDEX,
    IndexQuery,
    created,
    delete_items,
    get_items,
)
from chat.storage.dynamodb.usage import counter_updates, shards

# A page has up to 1 MB, and the way may be long.
TRY_SECONDS = 30.0
# What is refused for its rate is tried for about a minute.
TRIES = 10
MAX_WAIT_SECONDS = 15.0
# Of a transaction: DynamoDB takes 4 MB, but not always in time.
MAX_ACTIONS = 100
CHUNK_BYTES = 1_000_000
KEYS = "interaction_id, response_parts"


@dataclass(frozen=True, slots=True)
class _Found:
    """A page of items."""

    items: Sequence[Item]
    seen: int
    cursor: str | None


@dataclass(frozen=True, slots=True)
class _Write:
    """A record and what it takes to write it."""

    record: InteractionRecord
    actions: Sequence[dict[str, Any]]
    size: int
    replaces: bool


@dataclass(slots=True)
class _Chunk:
    """The records of one transaction."""

    writes: list[_Write] = field(default_factory=list)
    size: int = 0

    @property
    def settled(self) -> list[InteractionRecord]:
        records = (write.record for write in self.writes)
        return [record for record in records if record.status is not Status.PENDING]

    @property
    def actions(self) -> list[dict[str, Any]]:
        return [action for write in self.writes for action in write.actions]


class DynamoBulkStore:
    """See `BulkStore`."""

    def __init__(self) -> None:
        self._client = new_client(try_seconds=TRY_SECONDS)
        self._table = settings.TABLE_NAME
        self._units = 0.0

    @translate_errors()
    def expected(self, chosen: Selection) -> int | None:
        """As DynamoDB counted them, which it does every six hours."""
        if chosen.of_one_user:
            return None
        table = self._call("DescribeTable", {"TableName": self._table})["Table"]
        return table["ItemCount"] or None

    @translate_errors()
    def scan(self, chosen: Selection, *, limit: int, cursor: str | None = None) -> Batch:
        self._units = 0.0
        found = self._find(chosen, limit, cursor)
        parts = self._parts(found.items)
        now = timezone.now()
        records = tuple(
            record
            for record in (_record(item, parts) for item in found.items)
            if chosen.takes(record.owner, record.user_id)
            and (record.expires_at is None or record.expires_at > now)
        )
        return Batch(records=records, seen=found.seen, units=self._units, cursor=found.cursor)

    @translate_errors()
    def add(self, records: list[InteractionRecord]) -> ImportResult:
        left, added = newest_by_id(records), ImportResult()
        for _ in range(TRIES):
            writes = self._planned(left)
            left = {write.record.interaction_id: write.record for write in writes}
            for chunk in _chunks(writes):
                if self._written(chunk):
                    replaced = sum(write.replaces for write in chunk.writes)
                    added += ImportResult(new=len(chunk.writes) - replaced, replaced=replaced)
                    for write in chunk.writes:
                        del left[write.record.interaction_id]
            if not left:
                return added
        raise StorageUnavailable

    @translate_errors()
    def purge(
        self, chosen: Selection, *, limit: int, cursor: str | None = None, dry_run: bool = False
    ) -> PurgeResult:
        """A record that is asked anew in the moment between the two calls is deleted as well."""
        found = self._find(chosen, limit, cursor, KEYS)
        if not dry_run:
            parts = [key for item in found.items for key in part_keys(item)]
            delete_items(self._table, [*parts, *map(key_of, found.items)])
        return PurgeResult(records=len(found.items), seen=found.seen, cursor=found.cursor)

    # --- Reading ----------------------------------------------------------------------------------

    def _find(
        self, chosen: Selection, limit: int, cursor: str | None, attributes: str = ""
    ) -> _Found:
        """A page of items, of which those that are parts of answers are none."""
        start = {} if cursor is None else {"ExclusiveStartKey": orjson.loads(cursor)}
        if chosen.of_one_user:
            key = f"{chosen.owner}#{chosen.user}"
            listed = IndexQuery(USER_INDEX, key, since=chosen.since, before=chosen.before)
            page = {"Limit": min(limit, BATCH_GET), **start}
            answer = self._call("Query", listed.query() | page)
            keys = [key_of(item) for item in answer["Items"]]
            items = get_items(self._table, keys, attributes, consistent=False, call=self._call)
            order = {id_of(key): place for place, key in enumerate(keys)}
            items.sort(key=lambda item: order[id_of(item)])
        else:
            projection = {"ProjectionExpression": attributes} if attributes else {}
            page = {"Limit": limit, **start, **projection, **_filter(chosen)}
            answer = self._call("Scan", {"TableName": self._table, **page})
            items = answer["Items"]
        last = answer.get("LastEvaluatedKey")
        return _Found(items, answer["ScannedCount"], orjson.dumps(last).decode() if last else None)

    def _parts(self, items: Sequence[Item]) -> dict[str, bytes]:
        """The parts of long answers, by their ids."""
        keys = [key for item in items for key in part_keys(item)]
        found = get_items(self._table, keys, consistent=False, call=self._call)
        return {id_of(part): part["part"]["B"] for part in found}

    # --- Writing ----------------------------------------------------------------------------------

    def _planned(self, records: dict[str, InteractionRecord]) -> list[_Write]:
        """What is to be written, as things are now."""
        keys = [{"interaction_id": {"S": id_}} for id_ in records]
        held = {id_of(item): item for item in get_items(self._table, keys, call=self._call)}
        planned = (self._plan(record, held.get(id_)) for id_, record in records.items())
        return [write for write in planned if write]

    def _plan(self, record: InteractionRecord, held: Item | None) -> _Write | None:
        holder = None if held is None else _living(held)
        if holder and not supersedes(record, holder.status, holder.deadline_at):
            return None
        item = item_of(record)
        parts = split_response(item)
        size = size_of(item) + sum(map(size_of, parts))
        if size_of(item) > MAX_ITEM_BYTES or size > MAX_TRANSACTION_BYTES:
            raise PayloadTooLarge(f"{record.interaction_id} is too long to be kept in DynamoDB.")
        kept = {id_of(part) for part in parts}
        stale = [key for key in (part_keys(held) if held else ()) if id_of(key) not in kept]
        table = {"TableName": self._table}
        actions = [
            {"Put": table | {"Item": item} | _unchanged(held)},
            *({"Put": table | {"Item": part}} for part in parts),
            *({"Delete": table | {"Key": key}} for key in stale),
        ]
        return _Write(record, actions, size, replaces=holder is not None)

    def _written(self, chunk: _Chunk) -> bool:
        """Whether it was written; False when one of its records is not there as it was."""
        for shard in shards():
            actions = [*chunk.actions, *counter_updates(chunk.settled, shard)]
            # By the token DynamoDB knows a transaction that is sent again as an answer was lost.
            request = {"TransactItems": actions, "ClientRequestToken": uuid4().hex}
            try:
                self._call("TransactWriteItems", request)
            except ClientError as exc:
                reasons = _reasons(exc)
                if "ConditionalCheckFailed" in reasons:
                    return False
                if "TransactionConflict" not in reasons:
                    raise
            else:
                return True
        raise StorageUnavailable

    # --- Calls ------------------------------------------------------------------------------------

    def _call(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call DynamoDB, with the patience of a long task, and add up what it consumed."""
        counted = {} if operation == "DescribeTable" else {"ReturnConsumedCapacity": "TOTAL"}
        patiently = Retrying(
            retry=retry_if_exception(_is_throttling),
            wait=wait_random_exponential(multiplier=0.1, max=MAX_WAIT_SECONDS),
            stop=stop_after_attempt(TRIES),
            reraise=True,
        )
        answer: dict[str, Any] = patiently(self._client.call, operation, arguments | counted)
        consumed = answer.get("ConsumedCapacity", [])
        for each in consumed if isinstance(consumed, list) else [consumed]:
            self._units += each.get("CapacityUnits", 0.0)
        return answer


def _filter(chosen: Selection) -> dict[str, Any]:
    """The part of a scan that leaves out parts of answers, and what was not asked for."""
    conditions, values = ["attribute_not_exists(part)"], Item()
    if chosen.since or chosen.before:
        conditions.append(CREATED)
        values |= created(chosen.since, chosen.before)
    names = {"#owner": "owner"} if chosen.owner is not None else {}
    for name, operand, value in (
        ("#owner", ":owner", chosen.owner),
        ("user_id", ":user", chosen.user),
    ):
        if value is not None:
            conditions.append(f"{name} = {operand}")
            values[operand] = {"S": value}
    return {
        "FilterExpression": " AND ".join(conditions),
        **({"ExpressionAttributeValues": values} if values else {}),
        **({"ExpressionAttributeNames": names} if names else {}),
    }


def _record(item: Item, parts: dict[str, bytes]) -> InteractionRecord:
    ids = [id_of(key) for key in part_keys(item)]
    read = InteractionItem.read(item)
    if ids and all(id_ in parts for id_ in ids):
        read.response = zlib.decompress(b"".join(parts[id_] for id_ in ids)).decode()
    return from_columns(read)


def _chunks(writes: Sequence[_Write]) -> Iterator[_Chunk]:
    """What one transaction can carry, and be done in time."""
    chunk, counters = _Chunk(), set[str]()
    for write in writes:
        settled = [] if write.record.status is Status.PENDING else [write.record]
        names = {action["Update"]["Key"]["pk"]["S"] for action in counter_updates(settled, 0)}
        actions = len(chunk.actions) + len(write.actions) + len(counters | names)
        if chunk.writes and (actions > MAX_ACTIONS or chunk.size + write.size > CHUNK_BYTES):
            yield chunk
            chunk, counters = _Chunk(), set()
        chunk.writes.append(write)
        chunk.size += write.size
        counters |= names
    if chunk.writes:
        yield chunk


def _living(item: Item) -> InteractionRecord | None:
    record = from_columns(InteractionItem.read(item))
    return record if record.expires_at is None or record.expires_at > timezone.now() else None


def _unchanged(held: Item | None) -> dict[str, Any]:
    """The condition that there is what was seen: nothing, or what that very write wrote."""
    if held is None:
        return {"ConditionExpression": "attribute_not_exists(interaction_id)"}
    if "write_id" not in held:
        return {"ConditionExpression": "attribute_not_exists(write_id)"}
    return {
        "ConditionExpression": "write_id = :seen",
        "ExpressionAttributeValues": {":seen": held["write_id"]},
    }


def _reasons(exc: ClientError) -> set[str]:
    """Why a transaction was cancelled."""
    response: dict[str, Any] = exc.response
    return {reason.get("Code", "None") for reason in response.get("CancellationReasons", ())}


def _is_throttling(exc: BaseException) -> bool:
    if not isinstance(exc, ClientError):
        return False
    throttled = {"ThrottlingError", "ProvisionedThroughputExceeded"}
    return reason_of(exc) in TRANSIENT or bool(_reasons(exc) & throttled)
