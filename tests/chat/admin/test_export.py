"""Exports of the admin's list of interactions."""

import csv
import io
import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User

from chat.models import Interaction
from chat.storage import backend
from chat.storage.base import InteractionRecord
from chat.storage.columns import to_columns
from chat.storage.jsonl import from_json
from providers.base import Usage
from tests.client import ApiClient
from tests.factories import ANSWERED, FAILED, NOON, PENDING, converse, store_record

EXPORT = "/admin/chat/interaction/export/"


def exported(response: Any) -> str:
    assert response.status_code == 200
    assert response.streaming
    return b"".join(response.streaming_content).decode()


def records_of(response: Any) -> list[InteractionRecord]:
    return [from_json(json.loads(line)) for line in exported(response).splitlines()]


def lines_of(response: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(exported(response).removeprefix("\ufeff"))))


def test_json_lines_lose_nothing(admin: ApiClient) -> None:
    kept = [
        store_record(
            replace(record, interaction_id=str(uuid4()), created_at=NOON - timedelta(hours=hour))
        )
        for hour, record in enumerate((ANSWERED, FAILED, PENDING))
    ]
    assert records_of(admin.get(f"{EXPORT}jsonl/")) == kept


def test_csv_has_a_column_for_each_field(admin: ApiClient) -> None:
    store_record(replace(ANSWERED, prompt='Olá, "você"\nlá?', metadata={"ticket": "7"}))
    response = admin.get(f"{EXPORT}csv/")
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert "attachment; filename=" in response["Content-Disposition"]
    [line] = lines_of(response)
    assert line.keys() == {field.name for field in Interaction._meta.fields}
    assert line["prompt"] == 'Olá, "você"\nlá?'
    assert line["metadata"] == '{"ticket":"7"}'
    assert line["created_at"] == "2026-01-01T12:00:00.123456+00:00"
    assert line["cost_usd"] == "0.000104"
    assert line["error_code"] == ""


@pytest.mark.parametrize(
    ("cost", "shown"), [("0", "0"), ("0.00000001", "0.00000001"), ("12.5", "12.5")]
)
def test_a_cost_in_the_csv_has_plain_digits(admin: ApiClient, cost: str, shown: str) -> None:
    store_record(replace(ANSWERED, usage=Usage(cost_usd=Decimal(cost))))
    [line] = lines_of(admin.get(f"{EXPORT}csv/"))
    assert line["cost_usd"] == shown


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_the_csv_is_a_formula(admin: ApiClient, start: str) -> None:
    store_record(replace(ANSWERED, prompt=f"{start}HYPERLINK(1)"))
    [line] = lines_of(admin.get(f"{EXPORT}csv/"))
    assert line["prompt"] == f"'{start}HYPERLINK(1)"


def test_no_part_of_a_csv_cell_is_a_formula(admin: ApiClient) -> None:
    """Spreadsheets separate by `;` in some languages."""
    store_record(replace(ANSWERED, prompt='say "x";=1+1'))
    assert b'"say ""x"";\'=1+1"' in b"".join(admin.get(f"{EXPORT}csv/").streaming_content)


def test_unsearchable_words_are_not_ignored(admin: ApiClient) -> None:
    assert admin.get(f"{EXPORT}csv/?q=a%00b").status_code == 404


def test_filtered_records_of_all_pages_are_exported(admin: ApiClient) -> None:
    same = [replace(ANSWERED, interaction_id=str(uuid4()), user_id="bob") for _ in range(700)]
    others = [
        replace(ANSWERED, interaction_id=str(uuid4()), created_at=NOON + timedelta(seconds=each))
        for each in range(700)
    ]
    Interaction.objects.bulk_create(Interaction(**to_columns(record)) for record in same + others)
    for query, expected in (
        ("", same + others),
        ("?q=bob&p=2", same),
        ("?q=posso&status=ok", None),
    ):
        found = [
            record.interaction_id for record in records_of(admin.get(f"{EXPORT}jsonl/{query}"))
        ]
        assert len(found) == len(set(found))
        assert set(found) == {each.interaction_id for each in (expected or same + others)}


def test_an_empty_list_is_an_empty_file(admin: ApiClient) -> None:
    assert records_of(admin.get(f"{EXPORT}jsonl/")) == []
    assert lines_of(admin.get(f"{EXPORT}csv/?status=ok")) == []


def test_an_unknown_export_format_is_not_found(admin: ApiClient) -> None:
    assert admin.get(f"{EXPORT}xml/").status_code == 404


def test_an_invalid_query_is_not_found(admin: ApiClient) -> None:
    assert admin.get(f"{EXPORT}csv/?created_at__gte=soon").status_code == 404


def test_an_export_needs_the_permission_to_view_records(api: ApiClient) -> None:
    assert api.get(f"{EXPORT}csv/").status_code == 302
    api.http.force_login(User.objects.create(username="staff", is_staff=True))
    assert api.get(f"{EXPORT}csv/").status_code == 403


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_each_line_has_all_messages_of_its_request(admin: ApiClient, kind: str) -> None:
    converse(backend().interactions, 3)
    text = exported(admin.get(f"{EXPORT}{kind}/"))
    assert [text.count(f"question {number}") for number in range(3)] == [3, 2, 1]
