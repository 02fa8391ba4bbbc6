"""The usage page of the admin."""

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User

from chat.storage.base import InteractionRecord
from providers.base import Usage
from tests.client import ApiClient
from tests.factories import ANSWERED, FAILED, NOON, store_record

PAGE = "/admin/usage/"
NOW = NOON
TODAY = YESTERDAY = ""


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The current day: a run may cross midnight."""
    noon = datetime.now(UTC).replace(hour=12)
    monkeypatch.setattr(f"{__name__}.NOW", noon)
    monkeypatch.setattr(f"{__name__}.TODAY", noon.date().isoformat())
    monkeypatch.setattr(f"{__name__}.YESTERDAY", (noon - timedelta(days=1)).date().isoformat())


def settled(record: InteractionRecord = ANSWERED, *, days_ago: int = 0, **fields: Any) -> None:
    made = NOW - timedelta(days=days_ago)
    store_record(replace(record, interaction_id=str(uuid4()), created_at=made, **fields))


@pytest.fixture
def records(now: None, db: None) -> None:
    for latency in range(1, 101):
        settled(model="one", latency_ms=latency, usage=Usage(total_tokens=10, cost_usd=Decimal(2)))
    settled(model="two", latency_ms=900, owner="acme", usage=Usage(), days_ago=1)
    settled(FAILED, model="two", latency_ms=700, days_ago=1)
    settled(model="one", latency_ms=5, days_ago=40)


def text_of(page: Any) -> str:
    assert page.status_code == 200
    return str(page.content.decode())


def charts(page: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the charts' values by title, series and day."""
    [data] = re.findall(
        r'<script id="charts" type="application/json">(.*?)</script>', text_of(page)
    )
    return {
        chart["title"]: {
            series["name"]: dict(zip(chart["labels"], series["values"], strict=True))
            for series in chart["series"]
        }
        for chart in json.loads(data)
    }


def table(page: Any, head: str) -> dict[str, list[str]]:
    """Return a table's rows by their first column."""
    rows = re.findall(
        r"<tr>\s*<th scope=\"row\">(.*?)</th>(.*?)</tr>", _part(page, head), re.DOTALL
    )
    return {name: re.findall(r"<td[^>]*>(.*?)</td>", cells) for name, cells in rows}


def _part(page: Any, head: str) -> str:
    return text_of(page).split(f"<h2>{head}</h2>")[1].split("<h2>")[0]


def test_charts_have_each_day_and_model(admin: ApiClient, records: None) -> None:
    drawn = charts(admin.get(PAGE))
    assert list(drawn) == [
        *("Requests", "Tokens", "Cost", "Errors by code", "Latency", "Latency by model, p95")
    ]
    assert len(drawn["Requests"]["one"]) == 30
    assert drawn["Requests"]["one"][TODAY] == 100
    assert drawn["Requests"]["one"][YESTERDAY] == 0
    assert drawn["Requests"]["two"][YESTERDAY] == 2
    assert drawn["Tokens"]["one"][TODAY] == 1000
    assert drawn["Cost"]["one"][TODAY] == 200
    assert drawn["Errors by code"]["provider_error"][YESTERDAY] == 1
    assert {name: days[TODAY] for name, days in drawn["Latency"].items()} == {
        "p50": 50,
        "p95": 95,
        "p99": 99,
    }
    assert drawn["Latency"]["p50"][YESTERDAY] == 700
    assert drawn["Latency by model, p95"]["two"] == {
        day: 900 if day == YESTERDAY else None for day in drawn["Requests"]["two"]
    }


def test_the_tables_have_the_same_figures(admin: ApiClient, records: None) -> None:
    page = admin.get(PAGE)
    assert table(page, "By model") == {
        "one": ["100", "0", "0.0%", "0", "0", "200.0000", "50", "95", "99"],
        "two": ["2", "1", "50.0%", "0", "0", "0.0000", "700", "900", "900"],
    }
    assert list(table(page, "By day")) == [TODAY, YESTERDAY]
    assert table(page, "Errors by code") == {"provider_error": ["1"]}
    assert "<dt>Requests</dt><dd>102</dd>" in text_of(page)


def test_a_period_may_be_chosen(admin: ApiClient, records: None) -> None:
    assert "<dt>Requests</dt><dd>103</dd>" in text_of(admin.get(f"{PAGE}?days=90"))
    one = admin.get(f"{PAGE}?first={YESTERDAY}&last={YESTERDAY}")
    assert list(charts(one)["Requests"]["two"]) == [YESTERDAY]
    assert list(table(one, "By day")) == [YESTERDAY]


def test_an_owner_and_a_model_may_be_chosen(admin: ApiClient, records: None) -> None:
    acme = admin.get(f"{PAGE}?owner=acme")
    assert list(table(acme, "By model")) == ["two"]
    assert table(acme, "By model")["two"][-1] == "900"
    assert table(acme, "Errors by code") == {}
    assert list(table(admin.get(f"{PAGE}?model=one"), "By model")) == ["one"]
    assert table(admin.get(f"{PAGE}?model=two&owner=default"), "Errors by code")


def test_rare_models_share_a_colour(admin: ApiClient) -> None:
    for number in range(9):
        for _ in range(10 - number):
            settled(model=f"model-{number}")
    drawn = charts(admin.get(PAGE))["Requests"]
    assert list(drawn) == [*(f"model-{number}" for number in range(7)), "others"]
    assert drawn["others"][TODAY] == 3 + 2


@pytest.mark.parametrize(
    "query",
    [
        "days=0",
        "days=x",
        "days=9999999",
        "first=2026-13-01",
        "first=2020-01-01&last=2026-01-01",
        "first=2026-02-01&last=2026-01-01",
        "first=0001-01-01&last=0001-01-02",
        "last=9999-12-31",
        "owner=nobody",
        "model=%3Cscript%3E",
    ],
)
def test_an_invalid_query_causes_no_server_error(
    admin: ApiClient, records: None, query: str
) -> None:
    assert text_of(admin.get(f"{PAGE}?{query}"))


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("first=2026-02-01&last=2026-01-01", "From is after to."),
        ("first=9999-01-01", "From is in the future."),
        ("first=2020-01-01&last=2026-01-01", "A period has at most 366 days."),
        ("first=2026-13-01", "From: Enter a valid date."),
        ("days=0", "Days: Ensure this value is greater than or equal to 1."),
    ],
)
def test_the_page_says_why_a_period_is_invalid(
    admin: ApiClient, records: None, query: str, sentence: str
) -> None:
    text = text_of(admin.get(f"{PAGE}?{query}&owner=acme"))
    assert f'<p class="errornote">{sentence} These are the last 30 days.</p>' in text
    assert "<dt>Requests</dt><dd>1</dd>" in text  # still only those of the owner
    for name, value in (pair.split("=") for pair in query.split("&") if "days" not in pair):
        assert f'name="{name}" value="{value}"' in text


def test_the_page_without_usage_is_empty(admin: ApiClient) -> None:
    page = admin.get(PAGE)
    assert "<dt>Requests</dt><dd>0</dd>" in text_of(page)
    assert charts(page)["Requests"] == {}
    assert date.fromisoformat(TODAY)


def test_a_name_is_shown_as_text(admin: ApiClient) -> None:
    settled(model="</script><script>alert(1)</script>")
    assert "<script>alert(1)" not in text_of(admin.get(PAGE))


def test_the_admin_index_links_to_the_usage_page(admin: ApiClient) -> None:
    assert f'href="{PAGE}"' in text_of(admin.get("/admin/"))


def test_the_usage_page_needs_the_permission_to_view_counts(api: ApiClient) -> None:
    assert api.get(PAGE).status_code == 302
    user = User.objects.create(username="staff", is_staff=True)
    api.http.force_login(user)
    assert api.get(PAGE).status_code == 403
    user.user_permissions.set(Permission.objects.filter(codename="view_usagecount"))
    assert api.get(PAGE).status_code == 200
    assert f'href="{PAGE}"' in text_of(api.get("/admin/"))


@pytest.mark.parametrize("path", ["/admin/", "/admin/login/", PAGE, "/admin/chat/interaction/"])
def test_only_our_scripts_may_run(admin: ApiClient, path: str) -> None:
    response = admin.get(path)
    assert "script-src 'self';" in response["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*(src=|application/json))", response.content.decode())
