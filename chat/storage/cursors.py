"""Where the next page begins: opaque to clients, and of use for the user alone it was made for."""

from collections.abc import Sequence
from datetime import UTC, datetime

from django.core import signing

from chat.errors import ValidationFailed
from chat.storage.base import Page, Record

Position = tuple[datetime, str]


def cursor_after(owner: str, user_id: str, position: Position) -> str:
    """The cursor of what comes after the record of this time and id."""
    created_at, interaction_id = position
    return signing.dumps([created_at.isoformat(), interaction_id], salt=_salt(owner, user_id))


def page_of(found: Sequence[Record], limit: int) -> Page:
    """The page of what was found for it, which is one record more where there is more."""
    records = tuple(found[:limit])
    if len(found) <= limit:
        return Page(records=records)
    last = records[-1]
    position = (last.created_at, last.interaction_id)
    return Page(records=records, next_cursor=cursor_after(last.owner, last.user_id, position))


def position_of(owner: str, user_id: str, cursor: str) -> Position:
    """The record that the cursor comes after. Raises ValidationFailed for any other text."""
    try:
        created_at, interaction_id = signing.loads(cursor, salt=_salt(owner, user_id))
    except signing.BadSignature as exc:
        error = {"field": "cursor", "code": "invalid", "detail": "This is no cursor of this list."}
        raise ValidationFailed(errors=[error]) from exc
    return datetime.fromisoformat(created_at).astimezone(UTC), interaction_id


def _salt(owner: str, user_id: str) -> str:
    return f"cursor {owner}#{user_id}"
