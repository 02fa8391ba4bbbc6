"""A conversation as a page, oldest turn first."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from django.db.models import QuerySet
from django.http import Http404
from django.urls import reverse

from chat.admin import messages
from chat.models import Interaction
from chat.storage.base import InteractionRecord
from chat.storage.orm.interactions import read_whole, unexpired_rows
from chat.usage import format_usd
from providers.parsing import as_objects

TURNS = 50
MAX_PAGES = 1000


def conversation_page(
    queryset: QuerySet[Interaction], conversation_id: str, query: Mapping[str, str]
) -> dict[str, Any]:
    """Return the template's context for page `p`. Raises Http404."""
    number = query.get("p", "1")
    # int() refuses thousands of digits, SQLite twenty.
    if not re.fullmatch("[1-9][0-9]{0,3}", number) or int(number) > MAX_PAGES:
        raise Http404
    start = (int(number) - 1) * TURNS
    rows = queryset.filter(conversation_id=conversation_id).order_by("created_at", "pk")
    found = read_whole(rows[start : start + TURNS + 1])
    if not found:
        raise Http404
    turns = found[:TURNS]
    return {
        "conversation_id": conversation_id,
        "turns": [_turn(number, turn) for number, turn in enumerate(turns, start + 1)],
        "earlier_page": int(number) - 1,
        "later_page": int(number) + 1 if len(found) > TURNS else None,
    }


def turn_url(row: Interaction) -> str:
    """Return the URL of a turn on its page of the conversation."""
    turns = unexpired_rows().filter(conversation_id=row.conversation_id)
    before = turns.filter(created_at__lt=row.created_at).count()
    address = reverse("admin:chat_interaction_conversation", args=[row.conversation_id])
    return f"{address}?{urlencode({'p': before // TURNS + 1})}#{row.interaction_id}"


def _turn(number: int, record: InteractionRecord) -> dict[str, Any]:
    asked = as_objects(record.parameters.get("messages"))
    return {
        # A client may send all turns each time: their images would fill the page.
        "messages": [messages.show_message(each, thumbnails=False) for each in asked],
        "asked": [messages.show_message(each) for each in messages.new_messages(asked)],
        "answer": messages.show_answer(record),
        "is_answered": bool(record.response or record.tool_calls or record.message),
        "extras": messages.pretty_json(record.extras),
        "number": number,
        "record": record,
        "status": record.status_at(datetime.now(UTC)).value,
        "cost": format_usd(record.usage.cost_usd),
    }
