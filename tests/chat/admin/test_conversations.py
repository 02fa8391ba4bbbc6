"""The conversation page of the admin."""

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User

from chat.storage.base import InteractionRecord
from providers.base import Usage
from tests.client import ApiClient
from tests.factories import ANSWERED, FAILED, NOON, store_record

LIST = "/admin/chat/interaction/"
ID = ANSWERED.conversation_id


def turn(number: int, record: InteractionRecord = ANSWERED, **fields: Any) -> InteractionRecord:
    made = NOON + timedelta(minutes=number)
    texts = {"prompt": f"question {number}", "created_at": made, "interaction_id": str(uuid4())}
    return store_record(replace(record, **{**texts, **fields}))


def text_of(page: Any) -> str:
    assert page.status_code == 200
    return str(page.content.decode())


def test_the_oldest_turn_comes_first(admin: ApiClient) -> None:
    turns = [turn(number) for number in (2, 1, 3)]
    text = text_of(admin.get(f"{LIST}conversation/{ID}/"))
    assert re.findall(r"question \d", text) == ["question 1", "question 2", "question 3"]
    for shown in ("Olá! Como posso ajudar?", "model-1-of-today", "50 tokens", "0.000104 USD"):
        assert text.count(shown) == 3
    for record in turns:
        assert f'href="{LIST}{record.interaction_id}/change/"' in text


def test_a_failure_is_shown_with_its_reason(admin: ApiClient) -> None:
    turn(1, FAILED)
    text = text_of(admin.get(f"{LIST}conversation/{ID}/"))
    assert "<strong>provider_error</strong> The provider failed." in text


def test_texts_are_escaped(admin: ApiClient) -> None:
    evil = "<script>alert(1)</script>"
    call = {"function": {"name": evil, "arguments": evil}}
    turn(1, prompt=evil, response=evil, system=evil, model=evil, tool_calls=(call,))
    text = text_of(admin.get(f"{LIST}conversation/{ID}/"))
    assert evil not in text
    assert text.count("&lt;script&gt;alert(1)") == 6


def test_a_text_that_was_not_kept_is_no_trouble(admin: ApiClient) -> None:
    turn(1, prompt="", response=None, usage=Usage())
    text = text_of(admin.get(f"{LIST}conversation/{ID}/"))
    assert "Not kept." in text
    assert "none that was kept" in text


def test_a_long_conversation_comes_in_pages_and_a_record_leads_to_its_own(admin: ApiClient) -> None:
    turns = [turn(number) for number in range(55)]
    first = text_of(admin.get(f"{LIST}conversation/{ID}/"))
    assert "question 49<" in first
    assert "question 50<" not in first
    assert 'href="?p=2"' in first
    for number, page in ((49, 1), (50, 2)):
        id_ = turns[number].interaction_id
        address = f"{LIST}conversation/{ID}/?p={page}#{id_}"
        assert f'href="{address}"' in text_of(admin.get(f"{LIST}{id_}/change/"))
        assert f'id="{id_}"' in text_of(admin.get(address))


@pytest.mark.parametrize("address", ["nothing/", f"{ID}/?p=2", f"{ID}/?p=0", f"{ID}/?p=x"])
def test_an_unknown_conversation_is_not_found(admin: ApiClient, address: str) -> None:
    turn(1)
    assert admin.get(f"{LIST}conversation/{address}").status_code == 404


def test_a_conversation_needs_the_permission_to_view_records(api: ApiClient) -> None:
    turn(1)
    address = f"{LIST}conversation/{ID}/"
    assert api.get(address).status_code == 302
    api.http.force_login(User.objects.create(username="staff", is_staff=True))
    assert api.get(address).status_code == 403
