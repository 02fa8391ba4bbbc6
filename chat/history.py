"""Look up and delete stored interactions on behalf of a caller."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from chat.callers import Caller
from chat.errors import NotFound, StorageFailed
from chat.storage import backend
from chat.storage.base import MAX_READ, InteractionRecord, Page, Status
from chat.storage.time_limit import storage_deadline
from chat.telemetry.context import server_timing
from providers.deadline import Deadline

# The deadline is checked after each batch, so this is how late an erasure may notice it.
ERASED_AT_ONCE = 500


def parse_interaction_id(id_: str) -> str:
    """Return the stored spelling of a UUID. Raises NotFound for anything else."""
    try:
        return str(UUID(id_))
    except ValueError:
        raise NotFound from None


def get_interaction(*, caller: Caller, interaction_id: str) -> InteractionRecord:
    """Return a record of the caller's owner. Raises NotFound, StorageUnavailable."""
    id_ = parse_interaction_id(interaction_id)
    with server_timing("storage"):
        record = backend().interactions.get(id_)
    # Not 403, which would tell that the record exists.
    if record is None or record.owner != caller.owner:
        raise NotFound
    return record


def get_answers(
    *, caller: Caller, user_id: str, interaction_ids: Sequence[str]
) -> dict[str, InteractionRecord]:
    """Return the user's answered records among these ids, by id.

    Raises StorageUnavailable.
    """
    return {
        id_: record
        for id_, record in read_many(interaction_ids).items()
        # An id of another user's record is as good as unknown.
        if (record.owner, record.user_id) == (caller.owner, user_id)
        and record.status is Status.OK
        and not record.lacks_content
    }


def read_many(interaction_ids: Sequence[str]) -> dict[str, InteractionRecord]:
    """Return those of the records that exist, of any owner, by id. Raises StorageUnavailable."""
    found: dict[str, InteractionRecord] = {}
    with server_timing("storage"):
        for start in range(0, len(interaction_ids), MAX_READ):
            found |= backend().interactions.get_many(interaction_ids[start : start + MAX_READ])
    return found


def delete_interaction(record: InteractionRecord) -> None:
    """Delete a record. Its usage stays counted. Raises StorageUnavailable."""
    with server_timing("storage"):
        backend().interactions.delete(record.interaction_id)


def get_conversation(
    *, caller: Caller, conversation_id: str, limit: int, cursor: str | None
) -> Page:
    """Return a page of a conversation's turns, the oldest first.

    Raises NotFound, InvalidCursor, StorageUnavailable.
    """
    with server_timing("storage"):
        page = backend().interactions.list_by_conversation(
            caller.owner, conversation_id, limit=limit, cursor=cursor
        )
    # A later page may be empty: its records may have expired since the cursor was made.
    if not page.records and cursor is None:
        raise NotFound
    return page


def get_interactions(
    *,
    caller: Caller,
    user_id: str,
    limit: int,
    cursor: str | None = None,
    since: datetime | None = None,
    before: datetime | None = None,
) -> Page:
    """Return a page of a user's records, the newest first.

    Raises InvalidCursor, StorageUnavailable.
    """
    with server_timing("storage"):
        return backend().interactions.list_by_user(
            caller.owner, user_id, limit=limit, cursor=cursor, since=since, before=before
        )


def erase_user(*, caller: Caller, user_id: str, deadline: Deadline) -> int:
    """Delete all records of a user, and return their number.

    Raises StorageUnavailable, or StorageFailed if the deadline passes before all are deleted.
    """
    total = 0
    with server_timing("storage"):
        while erased := _erase_some(caller, user_id, deadline):
            total += erased
            if deadline.expired:
                detail = f"{total} records were erased; repeat the request until it returns 200."
                raise StorageFailed(detail, retry_after=1)
    return total


def _erase_some(caller: Caller, user_id: str, deadline: Deadline) -> int:
    # Each batch has a new limit on its waits for the writer.
    with storage_deadline(deadline):
        return backend().interactions.delete_by_user(caller.owner, user_id, limit=ERASED_AT_ONCE)
