"""Signed cursors of lists: opaque to clients, and valid for one list only."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate

import orjson
from django.core import signing

from chat.storage.base import InteractionRecord, Page
from chat.storage.errors import InvalidCursor

Position = tuple[datetime, str]

# A Lambda response may have 6 MB. It carries the body as an ASCII JSON string, which can triple its
# bytes, and the other fields of a hundred records need room.
PAGE_BYTES = 1_900_000


def user_scope(owner: str, user_id: str) -> str:
    """Return the scope of the list of a user's records."""
    return f"{owner}#{user_id}"


def conversation_scope(owner: str, conversation_id: str) -> str:
    """Return the scope of the list of a conversation's turns. No user id has a slash."""
    return f"{owner}#conversation/{conversation_id}"


def build_page(
    found: Sequence[InteractionRecord], limit: int, scope: str, *, more: bool = False
) -> Page:
    """Return a page of at most `limit` records and PAGE_BYTES, but of one record at least.

    The list goes on if `found` has one record more than `limit`, or if there is `more`.
    """
    sizes = accumulate(map(_size, found[:limit]))
    records = tuple(found[: max(1, sum(size <= PAGE_BYTES for size in sizes))])
    if len(records) == len(found) and not more:
        return Page(records=records)
    last = records[-1]
    position = [last.created_at.isoformat(), last.interaction_id]
    # The salt names the list, so that a cursor of another user's list is invalid.
    return Page(records=records, next_cursor=signing.dumps(position, salt=f"cursor {scope}"))


def decode_cursor(cursor: str, scope: str) -> Position:
    """Return the position of the last record before the cursor. Raises InvalidCursor."""
    try:
        created_at, interaction_id = signing.loads(cursor, salt=f"cursor {scope}")
    except signing.BadSignature as exc:
        raise InvalidCursor from exc
    return datetime.fromisoformat(created_at).astimezone(UTC), interaction_id


def _size(record: InteractionRecord) -> int:
    """Return the size in JSON of the long fields that a list shows."""
    shown = (record.prompt, record.response, record.metadata, record.error, record.attempts)
    return len(orjson.dumps([*shown, record.tool_calls, record.message], default=str))
