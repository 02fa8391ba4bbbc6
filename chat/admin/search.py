"""What is looked for: a record, a conversation, a request, a user, or words of a text."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Model

from chat.models import Interaction


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a query was taken for, and what leads there by an index; words have no condition."""

    kind: str
    condition: dict[str, Any] = field(default_factory=dict)


WORDS = Meaning("words")


def interpret_query(query: str) -> Meaning:
    """An id that there is, exactly; or else words, as are those in quotes."""
    if not query or query[0] in "\"'":
        return WORDS
    ids = {"conversation": "conversation_id", "interaction": "pk", "request": "request_id"}
    for kind, column in ids.items():
        if Interaction.objects.filter(**{column: query}).exists():
            return Meaning(kind, {column: query})
    owners = [owner for owner in distinct(Interaction, "owner") if _of_user(owner, query)]
    return Meaning("user", {"owner__in": owners, "user_id": query}) if owners else WORDS


def _of_user(owner: str, user_id: str) -> bool:
    return Interaction.objects.filter(owner=owner, user_id=user_id).exists()


def distinct(model: type[Model], column: str) -> Iterator[str]:
    """The values of a column that begins an index, by a seek for each: DISTINCT reads all rows."""
    rows = model._default_manager.order_by(column).values_list(column, flat=True)
    value = rows.first()
    while value is not None:
        yield value
        value = rows.filter(**{f"{column}__gt": value}).first()
