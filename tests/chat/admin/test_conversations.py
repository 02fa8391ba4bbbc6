"""The conversation page of the admin."""

import html
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User

from chat.storage import backend
from chat.storage.base import InteractionRecord, Selection
from providers.base import Usage
from tests.client import ApiClient
from tests.factories import ANSWERED, FAILED, NOON, converse, store_record

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
    message = {"reasoning": evil, "refusal": evil, "images": [{"image_url": evil}], "more": evil}
    texts = {"prompt": evil, "response": f"! {evil}", "system": evil, "model": evil}
    record = turn(1, **texts, tool_calls=(call,), message=message, extras={evil: evil})
    text = text_of(admin.get(f"{LIST}conversation/{ID}/"))
    assert evil not in text
    assert text.count("&lt;script&gt;alert(1)") == 12
    assert evil not in text_of(admin.get(f"{LIST}{record.interaction_id}/change/"))


def test_a_turn_without_stored_text_is_shown(admin: ApiClient) -> None:
    turn(1, prompt="", response=None, usage=Usage())
    text = text_of(admin.get(f"{LIST}conversation/{ID}/"))
    assert "Not kept." in text
    assert "none that was kept" in text


PICTURE = "data:image/png;base64,iVBORw0KGgo="
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
MESSAGE = {
    "reasoning": "Shall I look?",
    "reasoning_details": [{"type": "reasoning.text", "signature": "EqoB+/=="}],
    "images": [{"type": "image_url", "image_url": {"url": PICTURE}}],
}


def test_the_whole_answer_is_shown_and_its_reasoning_folded(admin: ApiClient) -> None:
    record = turn(1, message=MESSAGE, tool_calls=(CALL,), extras={"citations": ["cited"]})
    address = f"{LIST}{record.interaction_id}/change/"
    for page in (admin.get(f"{LIST}conversation/{ID}/"), admin.get(address)):
        text = text_of(page)
        assert "<details><summary>Reasoning</summary>" in text
        assert f'<img src="{PICTURE}"' in text
        for shown in ("Shall I look?", "Como posso ajudar?", "weather {}", "EqoB+/==", "cited"):
            assert shown in text, shown
        assert "img-src 'self' data:" in page["Content-Security-Policy"]


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a.png",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:text/html;base64,PHA+",
        'data:image/png;base64,iVBO" onerror="alert(1)',
        "javascript:alert(1)",
    ],
)
def test_an_image_that_a_page_may_not_show_is_a_note(admin: ApiClient, url: str) -> None:
    turn(1, message={"images": [{"type": "image_url", "image_url": {"url": url}}]})
    text = text_of(admin.get(f"{LIST}conversation/{ID}/"))
    assert "<img src" not in text
    assert f"<em>Image:</em> {html.escape(url)}" in text


def test_messages_are_shown_in_their_places(admin: ApiClient) -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": PICTURE}},
        {"type": "input_audio", "input_audio": {"data": "UklGR" * 1000, "format": "wav"}},
    ]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Olá!"},
        {"role": "assistant", "content": "Hi.", "reasoning_content": "A greeting."},
        {"role": "user", "content": parts},
    ]
    turn(1, prompt="What is this?", system="Be brief.", parameters={"messages": messages})
    text = text_of(admin.get(f"{LIST}conversation/{ID}/"))
    assert "All messages (4)" in text
    assert re.findall(r"<h4>(\w+)</h4>", text) == ["developer", "user", "assistant", "user"]
    assert text.count("What is this?") == 2
    assert text.count("<img src") == 1
    assert text.index("All messages") < text.index("A greeting.") < text.index("<img src")
    assert "(5,000 characters)" in text


def test_a_tool_turn_shows_results_and_calls(admin: ApiClient) -> None:
    turn(1, response="", tool_calls=(CALL,), finish_reason="tool_calls")
    results = [{"role": "tool", "tool_call_id": "call_1", "content": "31 degrees"}]
    turn(2, prompt="", response="Warm.", parameters={"messages": results})
    text = text_of(admin.get(f"{LIST}conversation/{ID}/"))
    assert "31 degrees" in text
    assert "<em>Called a tool:</em> weather {}" in text
    assert "Not kept." not in text
    assert "none that was kept" not in text


def test_a_refusal_is_shown_once_as_such(admin: ApiClient) -> None:
    turn(1, response="I will not.", message={"refusal": "I will not."})
    text = text_of(admin.get(f"{LIST}conversation/{ID}/"))
    assert text.count("I will not.") == 1
    assert "<em>Refused:</em> I will not." in text


@pytest.mark.parametrize(
    "odd",
    [
        {"parameters": {"messages": "x"}},
        {"parameters": {"messages": [1, {}, {"role": 1, "content": [1, {}, {"type": 2}]}]}},
        {"message": {"images": [1, {}, {"image_url": 1}], "reasoning": 1, "refusal": {"a": 1}}},
        {"tool_calls": ({}, {"function": "x"}, {"type": "custom", "custom": {"input": "y"}})},
    ],
    ids=str,
)
def test_malformed_messages_are_shown(admin: ApiClient, odd: dict[str, Any]) -> None:
    record = turn(1, **odd)
    assert text_of(admin.get(f"{LIST}conversation/{ID}/"))
    assert text_of(admin.get(f"{LIST}{record.interaction_id}/change/"))


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


# Without turns, or no numbers. SQLite takes 19 digits, Python 4,300.
PAGES = ["2", "0", "x", "٢", "0000002", "0" * 7 + "9" * 20, "9" * 5000]


@pytest.mark.parametrize("address", ["nothing/", *(f"{ID}/?p={page}" for page in PAGES)])
def test_an_unknown_conversation_is_not_found(admin: ApiClient, address: str) -> None:
    turn(1)
    assert admin.get(f"{LIST}conversation/{address}").status_code == 404


def test_expired_turns_do_not_count_for_the_page_of_a_turn(admin: ApiClient) -> None:
    for number in range(50):
        turn(number, expires_at=NOON)
    id_ = turn(50).interaction_id
    address = f"{LIST}conversation/{ID}/?p=1#{id_}"
    assert f'href="{address}"' in text_of(admin.get(f"{LIST}{id_}/change/"))
    assert f'id="{id_}"' in text_of(admin.get(address))


def test_a_conversation_needs_the_permission_to_view_records(api: ApiClient) -> None:
    turn(1)
    address = f"{LIST}conversation/{ID}/"
    assert api.get(address).status_code == 302
    api.http.force_login(User.objects.create(username="staff", is_staff=True))
    assert api.get(address).status_code == 403


def test_all_messages_of_a_request_are_shown_with_the_new_ones(admin: ApiClient) -> None:
    turns = converse(backend().interactions, 3)
    text = text_of(admin.get(f"{LIST}conversation/{turns[0].conversation_id}/"))
    assert "All messages (5)" in text
    assert text.count("question 0") == 3
    record = text_of(admin.get(f"{LIST}{turns[2].interaction_id}/change/"))
    assert all(f"question {number}" in record for number in range(3))
    assert "&quot;temperature&quot;: 0.5" in record


def test_missing_messages_of_an_erased_record_are_reported(admin: ApiClient) -> None:
    turns = converse(backend().interactions, 3)
    backend().bulk.purge(Selection(before=turns[1].created_at), limit=10)
    text = text_of(admin.get(f"{LIST}conversation/{turns[0].conversation_id}/"))
    assert text.count("The first 2 messages of this request are missing") == 2
    record = text_of(admin.get(f"{LIST}{turns[2].interaction_id}/change/"))
    assert "The first 2: an earlier record of the conversation is erased." in record
