"""The search of the admin: by id of a record, conversation, request or user, or by words."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Model

from chat.models import Interaction
from chat.storage.orm.interactions import unexpired_rows


@dataclass(frozen=True, slots=True)
class Interpretation:
    """The meaning of a query, and the indexed condition that finds it; words have none."""

    kind: str
    condition: dict[str, Any] = field(default_factory=dict)


WORDS = Interpretation("words")


def interpret_query(query: str) -> Interpretation:
    """Take the query for an existing id, or else for words. Quotes always mean words."""
    if not query or query[0] in "\"'":
        return WORDS
    ids = {"conversation": "conversation_id", "interaction": "pk", "request": "request_id"}
    for kind, column in ids.items():
        if unexpired_rows().filter(**{column: query}).exists():
            return Interpretation(kind, {column: query})
    owners = [owner for owner in distinct_values(Interaction, "owner") if _has_user(owner, query)]
    return Interpretation("user", {"owner__in": owners, "user_id": query}) if owners else WORDS


def _has_user(owner: str, user_id: str) -> bool:
    return unexpired_rows().filter(owner=owner, user_id=user_id).exists()


def distinct_values(model: type[Model], column: str) -> Iterator[str]:
    """Yield an indexed column's values, by a seek for each; DISTINCT would read all rows."""
    rows = model._default_manager.order_by(column).values_list(column, flat=True)
    value = rows.first()
    while value is not None:
        yield value
        value = rows.filter(**{f"{column}__gt": value}).first()
