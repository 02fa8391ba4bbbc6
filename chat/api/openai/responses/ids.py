"""The ids of responses and of their items: each contains the id of the record."""

import re

RESPONSE_PREFIX = "resp_"
_ITEM_ID = re.compile(r"[a-z]+_(?P<record>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:_[0-9]+)?")


def response_id(interaction_id: str) -> str:
    return RESPONSE_PREFIX + interaction_id


def item_id(kind: str, id_: str, number: int = 0) -> str:
    """Return the id of an item, with a number for all but the first of its kind."""
    return f"{kind}_{id_}" + (f"_{number}" if number else "")


def record_of_item(item_id: object) -> str | None:
    """Return the id of the record in an item's id; None if the id is not one of ours."""
    found = _ITEM_ID.fullmatch(item_id) if isinstance(item_id, str) else None
    return found["record"] if found else None
