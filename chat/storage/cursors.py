"""Where the next page begins: opaque to clients, and of use for the list alone it was made for."""

from collections.abc import Sequence
from datetime import UTC, datetime

from django.core import signing

from chat.errors import ValidationFailed
from chat.storage.base import Page, Record

Position = tuple[datetime, str]


def user_list(owner: str, user_id: str) -> str:
    """The name of the list of a user's records."""
    return f"{owner}#{user_id}"


def conversation_list(owner: str, conversation_id: str) -> str:
    """The name of the list of a conversation's turns."""
    return f"{owner}#conversation#{conversation_id}"


def page_of(found: Sequence[Record], limit: int, list_name: str) -> Page:
    """The page of what was found for it, which is one record more where there is more."""
    records = tuple(found[:limit])
    if len(found) <= limit:
        return Page(records=records)
    last = records[-1]
    position = [last.created_at.isoformat(), last.interaction_id]
    return Page(records=records, next_cursor=signing.dumps(position, salt=_salt(list_name)))


def position_of(cursor: str, list_name: str) -> Position:
    """The record that the cursor comes after. Raises ValidationFailed for any other text."""
    try:
        created_at, interaction_id = signing.loads(cursor, salt=_salt(list_name))
    except signing.BadSignature as exc:
        error = {"field": "cursor", "code": "invalid", "detail": "This is no cursor of this list."}
        raise ValidationFailed(errors=[error]) from exc
    return datetime.fromisoformat(created_at).astimezone(UTC), interaction_id


def _salt(list_name: str) -> str:
    return f"cursor {list_name}"
