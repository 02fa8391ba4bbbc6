"""Where the next page begins: opaque to clients, and of use for the list alone it was made for."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate

import orjson
from django.core import signing

from chat.storage.base import InteractionRecord, Page
from chat.storage.errors import InvalidCursor

Position = tuple[datetime, str]

# Lambda takes back 6 MB of JSON in ASCII, in which an answer is a string, and a byte of it up to
# three. What else there is of a hundred records needs some room.
PAGE_BYTES = 1_900_000


def user_list(owner: str, user_id: str) -> str:
    """The name of the list of a user's records."""
    return f"{owner}#{user_id}"


def conversation_list(owner: str, conversation_id: str) -> str:
    """The name of the list of a conversation's turns."""
    return f"{owner}#conversation#{conversation_id}"


def build_page(found: Sequence[InteractionRecord], limit: int, scope: str) -> Page:
    """The page of what was found for it, which is one record more where there is more.

    It ends sooner where its texts come to PAGE_BYTES, but has one record at least.
    """
    sizes = accumulate(map(_size, found[:limit]))
    records = tuple(found[: max(1, sum(size <= PAGE_BYTES for size in sizes))])
    if len(records) == len(found):
        return Page(records=records)
    last = records[-1]
    position = [last.created_at.isoformat(), last.interaction_id]
    return Page(records=records, next_cursor=signing.dumps(position, salt=_salt(scope)))


def decode_cursor(cursor: str, scope: str) -> Position:
    """The record that the cursor comes after. Raises InvalidCursor for any other text."""
    try:
        created_at, interaction_id = signing.loads(cursor, salt=_salt(scope))
    except signing.BadSignature as exc:
        raise InvalidCursor from exc
    return datetime.fromisoformat(created_at).astimezone(UTC), interaction_id


def _size(record: InteractionRecord) -> int:
    """The bytes in JSON of what is shown of a record, and may be long."""
    shown = (record.prompt, record.response, record.metadata, record.error, record.attempts)
    return len(orjson.dumps([*shown, record.tool_calls]))


def _salt(scope: str) -> str:
    return f"cursor {scope}"
