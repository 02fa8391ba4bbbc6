"""manage.py usage_report."""

import csv
import io
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import matplotlib
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from chat import api_keys
from tests.chat.management.test_chat import Terminal
from tests.factories import ALICE, ANSWERED, BOB, FAILED, NOON, store_record

TODAY = NOON
COLUMNS = ["requests", "errors", "prompt_tokens", "completion_tokens", "total_tokens", "cost_usd"]


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """The current day: a run may cross midnight."""
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    monkeypatch.setattr(f"{__name__}.TODAY", noon)


def report(*words: str) -> str:
    out = io.StringIO()
    call_command("usage_report", *words, stdout=out, stderr=out, no_color=True)
    return out.getvalue()


def settle(record: Any = ANSWERED, **changes: Any) -> None:
    store_record(
        replace(record, **{"interaction_id": str(uuid4()), "created_at": TODAY, **changes})
    )


@pytest.fixture
def used(today: None, each_storage: str) -> str:
    """Store usage of two owners; return the id of one owner's key."""
    key, _ = api_keys.create(owner="team:blue", name="app")
    settle()
    settle(created_at=TODAY - timedelta(days=1))
    settle(FAILED, user_id=BOB)
    settle(owner="team:blue", key_id=key.key_id)
    settle(created_at=TODAY - timedelta(days=40))
    return key.key_id


def requests(*words: str) -> dict[str, int]:
    lines = csv.DictReader(io.StringIO(report(*words, "--format", "csv")))
    name = (lines.fieldnames or [""])[0]
    return {line[name]: int(line["requests"]) for line in lines}


def test_usage_is_reported_by_each_thing(used: str) -> None:
    today, yesterday = ((TODAY - timedelta(days=days)).date().isoformat() for days in (0, 1))
    assert requests() == {yesterday: 1, today: 3}
    assert requests("--by", "model") == {"model-1": 1, "model-1-of-today": 3}
    assert requests("--by", "owner") == {"default": 3, "team:blue": 1}
    assert requests("--by", "key") == {f"sca_{used}": 1}
    assert requests("--by", "user") == {
        f"default/{ALICE}": 2,
        f"default/{BOB}": 1,
        f"team:blue/{ALICE}": 1,
    }


def test_owners_without_a_key_are_reported_from_sqlite(each_storage: str) -> None:
    settle(owner="imported")
    listed = {"imported": 1} if each_storage == "sqlite" else {}
    assert requests("--by", "owner") == listed
    assert requests("--by", "owner", "--owner", "imported") == {"imported": 1}


def test_a_terminal_may_lack_characters(transactional_db: None) -> None:
    settle(user_id="🦆")
    database = str(connection.settings_dict["NAME"])
    words = ("usage_report", "--by", "user")
    terminal = Terminal(*words, DATABASE_PATH=database, PYTHONIOENCODING="ascii")
    terminal.until("\n\\U0001f986 ")
    assert terminal.ended() == 0


def test_no_user_is_a_formula_of_a_spreadsheet(each_storage: str) -> None:
    settle(user_id="=1+1")
    assert requests("--by", "user", "--owner", "default") == {"'=1+1": 1}


def test_an_owner_and_days_may_be_chosen(used: str) -> None:
    assert requests("--owner", "team:blue", "--by", "user") == {ALICE: 1}
    assert requests("--days", "1", "--by", "owner") == {"default": 2, "team:blue": 1}
    assert sum(requests("--days", "41").values()) == 5


def test_all_pages_of_users_are_reported(
    each_storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chat.management.commands.usage_report.PAGE", 2)
    for user in "abcde":
        settle(user_id=user)
    assert requests("--by", "user") == dict.fromkeys("abcde", 1)


def test_a_table_ends_with_the_total(used: str) -> None:
    head, *lines = report("--by", "owner").splitlines()
    assert head.split() == ["owner", *" ".join(COLUMNS).replace("_", " ").split()]
    assert [line.split() for line in lines] == [
        ["default", "3", "1", "18", "82", "100", "0.000208"],
        ["team:blue", "1", "0", "9", "41", "50", "0.000104"],
        ["total", "4", "1", "27", "123", "150", "0.000312"],
    ]


def test_json_has_the_period_and_the_total(used: str) -> None:
    found = json.loads(report("--by", "owner", "--days", "2", "--format", "json"))
    assert found["from"] == (TODAY - timedelta(days=1)).date().isoformat()
    assert found["to"] == TODAY.date().isoformat()
    assert [item["owner"] for item in found["items"]] == ["default", "team:blue"]
    assert found["total"] == dict(zip(COLUMNS, [4, 1, 27, 123, 150, "0.000312"], strict=True))


def test_a_report_without_usage_has_zeros(each_storage: str) -> None:
    assert report().splitlines()[1].split() == ["total", "0", "0", "0", "0", "0", "0"]


@pytest.mark.parametrize("days", ["0", "367", "-1"])
def test_there_are_days_to_report(days: str) -> None:
    with pytest.raises(CommandError, match="--days is 1 to 366"):
        report("--days", days)


@pytest.mark.parametrize(("name", "start"), [("usage.svg", b"<?xml"), ("usage.png", b"\x89PNG")])
def test_a_chart_is_drawn(used: str, tmp_path: Path, name: str, start: bytes) -> None:
    report("--plot", str(tmp_path / name))
    assert (tmp_path / name).read_bytes().startswith(start)


def test_no_user_is_a_formula_of_a_chart(each_storage: str, tmp_path: Path) -> None:
    settle(user_id=r"$\frac{1}$")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        report("--by", "user", "--plot", str(tmp_path / "usage.svg"))
    assert r"$\frac{1}$" in (tmp_path / "usage.svg").read_text()


@pytest.mark.parametrize("name", ["no/folder.svg", "usage.unknown"])
def test_an_unwritable_plot_is_an_error(used: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(CommandError, match="cannot be written"):
        report("--plot", str(tmp_path / name))


def test_without_matplotlib_there_is_a_hint(
    used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(CommandError, match="pip install matplotlib"):
        report("--plot", str(tmp_path / "usage.svg"))
