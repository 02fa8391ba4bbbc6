"""The interactions in the admin, read-only."""

import html
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from chat.admin.changelist import InteractionChangeList
from chat.models import Interaction
from chat.storage.base import InteractionRecord
from chat.storage.columns import to_columns
from providers.base import Usage
from tests.client import ApiClient
from tests.factories import ALICE, ANSWERED, FAILED, NOON, PENDING, all_records, store_record

LIST = "/admin/chat/interaction/"


@pytest.fixture
def records(db: None) -> dict[str, InteractionRecord]:
    """A record of each status."""
    now, later = datetime.now(UTC), datetime.now(UTC) + timedelta(hours=1)
    kinds = {
        "ok": replace(ANSWERED, prompt="What is a ledger?", user_id="alice"),
        "error": replace(FAILED, prompt="What is a mistake?", user_id="bob"),
        "pending": replace(PENDING, prompt="What is patience?", deadline_at=later),
        "aborted": replace(PENDING, prompt="What is lost?", deadline_at=now - timedelta(seconds=6)),
    }
    return {
        name: store_record(replace(record, interaction_id=str(uuid4()), created_at=now))
        for name, record in kinds.items()
    }


def listed(page: Any) -> set[str]:
    """Return the prompts of the listed records."""
    assert page.status_code == 200
    return set(re.findall(r'class="field-excerpt">([^<]*)<', page.content.decode()))


def text_of(page: Any) -> str:
    assert page.status_code == 200
    return str(page.content.decode())


def test_the_list_shows_each_record_on_a_line(
    admin: ApiClient, records: dict[str, InteractionRecord]
) -> None:
    page = admin.get(LIST)
    assert listed(page) == {record.prompt for record in records.values()}
    text = text_of(page)
    for shown in ("alice", "bob", "model-1-of-today", "openai", "0.000104", "812", "50"):
        assert re.search(rf'class="field-\w+( nowrap)?">{re.escape(shown)}<', text), shown
    statuses = re.findall(r'class="field-current_status">(\w+)<', text)
    assert sorted(statuses) == ["aborted", "error", "ok", "pending"]


def test_the_newest_record_comes_first(admin: ApiClient) -> None:
    for day in (2, 3, 1):
        made = datetime(2026, 1, day, tzinfo=UTC)
        record = replace(ANSWERED, interaction_id=str(uuid4()), prompt=f"day {day}")
        store_record(replace(record, created_at=made))
    assert re.findall(r"day \d", text_of(admin.get(LIST))) == ["day 3", "day 2", "day 1"]


def test_a_prompt_that_was_not_kept_is_a_dash(admin: ApiClient) -> None:
    record = store_record(replace(ANSWERED, prompt="", response=None))
    assert listed(admin.get(LIST)) == {"-"}
    assert text_of(admin.get(f"{LIST}{record.interaction_id}/change/"))


def test_a_long_prompt_is_cut_short_in_the_list(admin: ApiClient) -> None:
    store_record(replace(ANSWERED, prompt="x" * 60))
    store_record(replace(ANSWERED, prompt="y" * 61, interaction_id=str(uuid4())))
    assert listed(admin.get(LIST)) == {"x" * 60, "y" * 59 + "…"}


@pytest.mark.parametrize("status", ["ok", "error", "pending", "aborted"])
def test_the_list_can_be_narrowed_to_the_status_that_a_reader_sees(
    admin: ApiClient, records: dict[str, InteractionRecord], status: str
) -> None:
    assert listed(admin.get(f"{LIST}?status={status}")) == {records[status].prompt}


def test_the_status_filter_finds_records_stored_as_aborted(
    admin: ApiClient, records: dict[str, InteractionRecord]
) -> None:
    stored = replace(ANSWERED, interaction_id=str(uuid4()), prompt="What is gone?")
    store_record(replace(stored, status="aborted"))  # type: ignore[arg-type]
    assert listed(admin.get(f"{LIST}?status=aborted")) == {"What is lost?", "What is gone?"}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("provider=openai", {"ok", "error", "pending", "aborted"}),
        ("provider=gemini", set()),
        ("model=model-1-of-today", {"ok"}),
        ("error_code=provider_error", {"error"}),
        ("owner=default", {"ok", "error", "pending", "aborted"}),
        ("q=ledger", {"ok"}),
        ("q=posso+ajudar", {"ok"}),
        ("q=bob", {"error"}),
        ("q=%22bob%22", set()),
        ("q=request-1", {"ok", "error", "pending", "aborted"}),
        ("error_code=any", {"error"}),
        ("owner=default&provider=openai&q=what", {"ok", "error", "pending", "aborted"}),
        ("owner=nobody", set()),
        ("q=nothing+of+the+sort", set()),
        ("q=what&status=error", {"error"}),
    ],
)
def test_the_list_can_be_filtered_and_searched(
    admin: ApiClient, records: dict[str, InteractionRecord], query: str, found: set[str]
) -> None:
    assert listed(admin.get(f"{LIST}?{query}")) == {records[name].prompt for name in found}


@pytest.mark.parametrize(
    "query",
    [
        "status=nonsense",
        "status=ok&status=error",
        "p=999",
        "o=99",
        "o=6.-8",
        "q=%00",
        "q=%25_",
        "created_at__year=2026",
        "created_at__year=99999",
        "created_at__year=x",
        "model__isnull=maybe",
        "owner__password=x",
        "e=1",
        "p=0",
        "p=101",
        "p=x",
        "created_at__gte=2026-13-77",
        "created_at__lt=soon",
        "created_at__lte=2026-01-01",
        "prompt__regex=(a%2B)%2B",
    ],
)
def test_an_invalid_query_causes_no_server_error(
    admin: ApiClient, records: dict[str, InteractionRecord], query: str
) -> None:
    assert admin.get(f"{LIST}?{query}").status_code in (200, 302, 400)


def made(count: int, **fields: Any) -> list[InteractionRecord]:
    """Store a record a minute, oldest first."""
    records = [
        replace(
            ANSWERED,
            interaction_id=str(uuid4()),
            prompt=f"number {number}",
            created_at=NOON + timedelta(minutes=number),
            **fields,
        )
        for number in range(count)
    ]
    Interaction.objects.bulk_create(Interaction(**to_columns(record)) for record in records)
    return records


def link(page: Any, text: str) -> str | None:
    found = re.search(rf'<a href="([^"]*)">[^<]*{text}', text_of(page))
    return html.unescape(found[1]) if found else None


def test_pages_lead_from_the_newest_record_to_the_oldest_and_back(admin: ApiClient) -> None:
    records = made(120)
    address, seen = "", []
    while True:
        page = admin.get(LIST + address)
        seen += re.findall(r'class="field-excerpt">([^<]*)<', text_of(page))
        following = link(page, "Older")
        if following is None:
            break
        address = following
    assert seen == [record.prompt for record in reversed(records)]
    assert "101 to 120" in text_of(page)
    back = link(page, "Newer")
    assert back
    assert "51 to 100" in text_of(admin.get(LIST + back))


def test_no_page_counts_the_records(admin: ApiClient) -> None:
    made(120)
    with CaptureQueriesContext(connection) as queries:
        admin.get(f"{LIST}?q=number&status=ok&p=2")
    assert [query for query in queries if "COUNT(" in query["sql"]] == []


@pytest.mark.parametrize(
    "query",
    [
        *("", "p=3", "created_at__gte=2026-01-01&created_at__lt=2026-01-02", "status=ok"),
        *("status=aborted", "error_code=any", "error_code=provider_error", "model=model-1"),
        *("provider=openai", "owner=default", "owner=default&model=model-1&status=ok"),
        *(
            "q=alice",
            "q=alice&status=ok",
            "q=request-1",
            f"q={ANSWERED.interaction_id}",
            "q=hello",
            "q=alice&p=2",
        ),
    ],
)
def test_no_page_reads_or_sorts_all_records(
    admin: ApiClient, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.setattr(InteractionChangeList, "max_scanned", 10)
    made(20)
    with CaptureQueriesContext(connection) as queries:
        assert admin.get(f"{LIST}?{query}").status_code == 200
    asked = [each["sql"] for each in queries if 'FROM "chat_interaction"' in each["sql"]]
    assert asked
    for sql in asked:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
            plan = [row[3] for row in cursor.fetchall()]
        unbounded = ("SCAN chat_interaction$", "USE TEMP B-TREE FOR (ORDER BY|DISTINCT)")
        assert not [step for step in plan for each in unbounded if re.match(each, step)], sql


def test_after_the_last_page_number_a_new_list_continues(
    admin: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InteractionChangeList, "max_pages", 2)
    made(120)
    following = link(admin.get(f"{LIST}?p=2&status=ok"), "Older")
    assert following
    assert "p=" not in following
    assert listed(admin.get(LIST + following)) == {f"number {number}" for number in range(21)}


@pytest.mark.parametrize("query", ["q=failed", "status=error", "provider=gemini"])
def test_a_search_for_a_rare_record_continues_page_by_page(
    admin: ApiClient, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.setattr(InteractionChangeList, "max_scanned", 10)
    made(25)
    store_record(replace(FAILED, provider="gemini", prompt="this failed"))
    page = admin.get(f"{LIST}?{query}")
    assert listed(page) == set()
    assert "These are from the newest 10 records, back to 2026-01-01 12:14:00" in text_of(page)
    seen: set[str] = set()
    while following := link(page, "Older"):
        page = admin.get(LIST + following)
        seen |= listed(page)
    assert seen == {"this failed"}
    assert "These are from" not in text_of(page)


def test_an_index_finds_rare_records_at_once(
    admin: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InteractionChangeList, "max_scanned", 10)
    rare = replace(FAILED, prompt="rare", user_id="carol", owner="acme", model="rare")
    store_record(replace(rare, interaction_id=str(uuid4()), request_id="request-9"))
    made(25)
    for query in (
        *("q=carol", "q=request-9", "owner=acme", "model=rare", "error_code=provider_error"),
        *("error_code=any", "q=carol&status=error", "owner=acme&model=rare&status=error"),
    ):
        assert listed(admin.get(f"{LIST}?{query}")) == {"rare"}, query


def test_the_list_can_be_narrowed_to_days(admin: ApiClient) -> None:
    for day in (1, 2, 3):
        record = replace(ANSWERED, interaction_id=str(uuid4()), prompt=f"day {day}")
        store_record(replace(record, created_at=datetime(2026, 1, day, tzinfo=UTC)))
    days = "created_at__gte=2026-01-02&created_at__lt=2026-01-03"
    assert listed(admin.get(f"{LIST}?{days}")) == {"day 2"}
    assert listed(admin.get(f"{LIST}?created_at__lt=2026-01-03")) == {"day 1", "day 2"}
    assert 'value="2026-01-02"' in text_of(admin.get(f"{LIST}?{days}&owner=default"))


def test_an_empty_day_is_no_condition(
    admin: ApiClient, records: dict[str, InteractionRecord]
) -> None:
    days = "created_at__gte=2026-01-01&created_at__lt="
    assert listed(admin.get(f"{LIST}?status=ok&{days}")) == {records["ok"].prompt}


def test_the_list_says_that_a_filter_was_invalid(admin: ApiClient) -> None:
    sentence = "A filter in the address is invalid. The list below is not filtered."
    refused = admin.get(f"{LIST}?status=ok&created_at__gte=2026-13-77")
    assert sentence in text_of(admin.get(refused["Location"]))
    assert sentence not in text_of(admin.get(LIST))


def test_the_filters_offer_existing_values(admin: ApiClient) -> None:
    for name in ("one", "two"):
        record = replace(ANSWERED, interaction_id=str(uuid4()), owner=f"owner-{name}")
        store_record(replace(record, model=f"model-{name}"))
    text = text_of(admin.get(LIST))
    for offered in ("owner-one", "owner-two", "model-one", "model-two", "openrouter", "any"):
        assert re.search(rf'<a href="\?[^"]*">\s*{offered}</a>', text), offered


def test_expired_records_are_not_listed(admin: ApiClient) -> None:
    record = store_record(replace(ANSWERED, expires_at=datetime(2026, 1, 2, tzinfo=UTC)))
    assert listed(admin.get(LIST)) == set()
    assert admin.get(f"{LIST}{record.interaction_id}/change/").status_code == 302
    for query in (record.interaction_id, record.conversation_id, record.request_id, ALICE):
        assert "these words." in admin.get(f"{LIST}?q={query}").content.decode()


def test_the_page_says_how_a_search_was_interpreted(admin: ApiClient) -> None:
    record = store_record(replace(ANSWERED, interaction_id=str(uuid4())))
    for query, said in {
        "alice": "Records of the user alice.",
        record.conversation_id: "conversation</a> with this id.",
        record.interaction_id: "The interaction with this id.",
        "request-1": "The request with this id.",
        "anything": "these words.",
    }.items():
        assert said in text_of(admin.get(f"{LIST}?q={query}")), query


def test_an_id_can_be_looked_for_in_the_texts(admin: ApiClient) -> None:
    store_record(replace(ANSWERED, prompt="I am not alice.", user_id="bob"))
    store_record(replace(ANSWERED, interaction_id=str(uuid4()), prompt="Hello!"))
    page = admin.get(f"{LIST}?q=alice")
    assert listed(page) == {"Hello!"}
    texts = link(page, "Look for it in the texts")
    assert texts
    assert listed(admin.get(LIST + texts)) == {"I am not alice."}


def test_a_record_can_be_found_by_its_id(
    admin: ApiClient, records: dict[str, InteractionRecord]
) -> None:
    record = records["error"]
    assert listed(admin.get(f"{LIST}?q={record.interaction_id}")) == {record.prompt}


def test_a_record_s_page_shows_all_of_it(admin: ApiClient) -> None:
    record = store_record(
        replace(
            ANSWERED,
            system="Be brief.",
            parameters={"temperature": 0.25},
            metadata={"ticket": "número 7"},
            usage=replace(ANSWERED.usage, cost_usd=Decimal("0.00000012")),
        )
    )
    text = text_of(admin.get(f"{LIST}{record.interaction_id}/change/"))
    for shown in (
        "Olá!",
        "Olá! Como posso ajudar?",
        ">ok<",
        "alice",
        "model-1-of-today",
        "stop",
        "&quot;outcome&quot;: &quot;ok&quot;",
        "41",
        "0.00000012",
        "Be brief.",
        "&quot;temperature&quot;: 0.25",
        "&quot;ticket&quot;: &quot;número 7&quot;",
        record.interaction_id,
        "request-1",
    ):
        assert shown in text, shown


@pytest.mark.parametrize("status", ["ok", "error", "pending", "aborted"])
def test_a_record_s_page_shows_the_status_that_a_reader_sees(
    admin: ApiClient, records: dict[str, InteractionRecord], status: str
) -> None:
    text = text_of(admin.get(f"{LIST}{records[status].interaction_id}/change/"))
    [field] = re.findall(r'field-current_status">.*?<div class="readonly">(\w+)<', text, re.DOTALL)
    assert field == status


def test_a_record_s_page_shows_why_there_is_no_answer(
    admin: ApiClient, records: dict[str, InteractionRecord]
) -> None:
    text = text_of(admin.get(f"{LIST}{records['error'].interaction_id}/change/"))
    assert "provider_error" in text
    assert "The provider failed." in text


def test_unknown_usage_is_not_zero(admin: ApiClient) -> None:
    store_record(replace(ANSWERED, usage=Usage(), latency_ms=None))
    text = text_of(admin.get(LIST))
    for name in ("total_tokens", "cost", "latency_ms"):
        assert re.search(rf'class="field-{name}">-<', text)


def test_texts_are_escaped(admin: ApiClient) -> None:
    evil = "<script>alert(1)</script>"
    record = store_record(
        replace(ANSWERED, prompt=evil, response=evil, metadata={"a": evil}, model=evil)
    )
    for path in (LIST, f"{LIST}{record.interaction_id}/change/"):
        text = text_of(admin.get(path))
        assert evil not in text
        assert "&lt;script&gt;alert(1)" in text


def test_records_cannot_be_added_changed_or_deleted(admin: ApiClient) -> None:
    record = store_record(ANSWERED)
    before = all_records()
    page = f"{LIST}{record.interaction_id}"
    form = {"prompt": "another", "action": "delete_selected", "_selected_action": page}
    assert admin.get(f"{LIST}add/").status_code == 403
    assert admin.get(f"{page}/delete/").status_code == 403
    for path in (f"{LIST}add/", f"{page}/change/", f"{page}/delete/"):
        assert admin.http.post(path, form).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": record.interaction_id, "post": "yes"}
    admin.http.post(LIST, chosen)
    assert all_records() == before
    text = text_of(admin.get(f"{page}/change/"))
    assert not re.search(r'name="_save|deletelink"|<input[^>]*name="prompt"', text)


@pytest.mark.parametrize("path", ["/admin/", LIST, f"{LIST}{ANSWERED.interaction_id}/change/"])
def test_anonymous_visitors_are_redirected_to_the_login(api: ApiClient, path: str) -> None:
    store_record(ANSWERED)
    response = api.get(path)
    assert response.status_code == 302
    assert response["Location"] == f"/admin/login/?next={path}"


def test_a_user_without_staff_status_sees_no_records(api: ApiClient) -> None:
    api.http.force_login(User.objects.create(username="clerk"))
    assert api.get(LIST).status_code == 302
    api.http.force_login(User.objects.create(username="staff", is_staff=True))
    assert api.get(LIST).status_code == 403


def test_an_api_key_opens_no_admin(api: ApiClient, require_api_key: list[str]) -> None:
    assert api.get(LIST, headers={"X-API-Key": require_api_key[0]}).status_code == 302


def test_the_login_page_and_its_style_are_there(api: ApiClient) -> None:
    page = api.get("/admin/login/")
    assert "Serverless Chat API" in text_of(page)
    [style] = re.findall(r'href="(/static/admin/css/base\.css)"', page.content.decode())
    response = api.get(style)
    assert response.status_code == 200
    response.close()
