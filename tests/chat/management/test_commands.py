"""manage.py erase_user, check_providers and doctor."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import ANY
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper
from django.db import connection

from chat import api_keys
from chat.management.provider_checks import for_each_provider
from chat.storage import backend
from chat.storage.orm.interactions import OrmInteractionStore
from providers.deadline import Deadline
from tests.commands import in_shell
from tests.factories import ALICE, ANSWERED, BOB, all_records, store_record
from tests.server_process import ROOT, base_environment
from tests.stub_vendor import OPENAI_ANSWER, StubVendor

Configure = Callable[..., None]
MODELS = {"data": [{"id": "model-1"}]}
LISTED = (
    "see OPENAI_MODEL: does the vendor have it, under this name?; manage.py check_providers asks it"
)


def run(*words: str) -> str:
    """Return a command's standard output."""
    out = io.StringIO()
    call_command(*words, stdout=out, stderr=io.StringIO(), no_color=True)
    return out.getvalue()


def failed(*words: str) -> tuple[str, str]:
    """Run a command that must fail with 1; return its output and error."""
    out = io.StringIO()
    with pytest.raises(CommandError) as excinfo:
        call_command(*words, stdout=out, stderr=io.StringIO(), no_color=True)
    assert excinfo.value.returncode == 1
    return out.getvalue(), str(excinfo.value)


def answer_to(question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Type this on the terminal."""
    terminal = io.StringIO(f"{question}\n")
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", terminal)


# --- erase_user -----------------------------------------------------------------------------------


@pytest.fixture
def records(each_storage: str) -> None:
    """Store three records of a user, one of another, and one of the same id and another owner."""
    for changes in ({}, {}, {}, {"user_id": BOB}, {"owner": "team:blue"}):
        store_record(replace(ANSWERED, interaction_id=str(uuid4()), **changes))


def left() -> dict[tuple[str, str], int]:
    whose = [("default", ALICE), ("default", BOB), ("team:blue", ALICE)]
    return {
        each: len(backend().interactions.list_by_user(*each, limit=10).records) for each in whose
    }


def test_a_user_s_records_are_erased_and_no_others(records: None) -> None:
    assert run("erase_user", ALICE, "--yes") == (
        "3 records of user alice of owner default erased.\n"
    )
    assert list(left().values()) == [0, 1, 1]
    found = json.loads(run("erase_user", ALICE, "--owner", "team:blue", "--yes", "--format=json"))
    assert found == {"user": ALICE, "owner": "team:blue", "records": 1, "dry_run": False}
    assert list(left().values()) == [0, 1, 0]
    assert run("erase_user", ALICE, "--yes").startswith("0 records")


def test_a_dry_run_counts(records: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chat.management.bulk_job.PAGE", 2)
    assert run("erase_user", ALICE, "--dry-run") == (
        "3 records of user alice of owner default would be erased.\n"
    )
    assert list(left().values()) == [3, 1, 1]


def test_a_dry_run_counts_what_erasing_would_find(each_storage: str) -> None:
    store_record(replace(ANSWERED, expires_at=datetime.now(UTC).replace(microsecond=0)))
    assert run("erase_user", ALICE, "--dry-run").startswith("1 records")
    assert run("erase_user", ALICE, "--yes").startswith("1 records")


def test_records_are_erased_in_several_batches(
    records: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chat.management.commands.erase_user.ERASED_AT_ONCE", 1)
    assert run("erase_user", ALICE, "--yes").startswith("3 records")


@pytest.mark.parametrize(("typed", "count"), [("yes", 0), ("no", 1), ("", 1)])
def test_a_terminal_asks_for_confirmation(
    db: None, monkeypatch: pytest.MonkeyPatch, typed: str, count: int
) -> None:
    store_record(ANSWERED)
    answer_to(typed, monkeypatch)
    if count:
        assert failed("erase_user", ALICE)[1] == "Cancelled. Nothing was changed."
    else:
        run("erase_user", ALICE)
    assert len(all_records()) == count


def test_erasing_needs_yes_without_a_terminal(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    store_record(ANSWERED)
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    assert "needs --yes" in failed("erase_user", ALICE)[1]
    assert len(all_records()) == 1


def test_without_the_storage_nothing_is_erased(unreachable_database: None) -> None:
    assert failed("erase_user", ALICE, "--yes")[1] == (
        "The storage is unreachable: is it up, and are its tables there (migrate)? "
        "(unable to open database file) 0 records were erased; "
        "run the command again to erase the rest."
    )


def test_an_interrupted_run_reports_its_progress(
    db: None, monkeypatch: pytest.MonkeyPatch, use_store: Callable[[type], None]
) -> None:
    use_store(Interrupted)
    store_record(ANSWERED)
    store_record(replace(ANSWERED, interaction_id=str(uuid4())))
    monkeypatch.setattr("chat.management.commands.erase_user.ERASED_AT_ONCE", 1)
    with pytest.raises(CommandError, match=r"Interrupted. 1 records were erased") as excinfo:
        run("erase_user", ALICE, "--yes")
    assert excinfo.value.returncode == 130


class Interrupted(OrmInteractionStore):
    """A store that is interrupted (Ctrl-C) at its second erasure."""

    def delete_by_user(self, owner: str, user_id: str, *, limit: int) -> int:
        if len(all_records()) == 1:
            raise KeyboardInterrupt
        return super().delete_by_user(owner, user_id, limit=limit)


@pytest.mark.parametrize("word", ["", "a/b", "a\nb", "x" * 129, "..", "a\udcff"])
def test_a_user_has_an_id(word: str) -> None:
    assert "a user id has" in failed("erase_user", word, "--yes")[1]


# --- check_providers ------------------------------------------------------------------------------


@pytest.fixture
def two_vendors(change_settings: Configure) -> Iterator[tuple[StubVendor, StubVendor]]:
    with StubVendor() as first, StubVendor() as second:
        options = {"api_key": "sk-secret", "model": "model-1"}
        change_settings(
            PROVIDERS={
                "openai": {**options, "base_url": f"{first.url}/v1"},
                "gemini": {**options, "base_url": f"{second.url}/v1"},
            }
        )
        yield first, second


def test_each_provider_is_asked_a_word(two_vendors: Any, db: None) -> None:
    head, *lines = run("check_providers").splitlines()
    assert head.split()[:4] == ["provider", "model", "status", "latency"]
    assert [line.split()[:3] for line in lines] == [
        ["openai", "stand-in-1", "ok"],
        ["gemini", "stand-in-1", "ok"],
    ]
    assert all_records() == []


def test_the_answers_can_be_written_as_json(vendor: StubVendor) -> None:
    choice = {"finish_reason": "stop", "message": {"content": "\x1b[31mCat\n" + "!" * 99}}
    vendor.reply({**OPENAI_ANSWER, "choices": [choice]})
    assert json.loads(run("check_providers", "--format", "json")) == [
        {
            "provider": "openai",
            "model": "stand-in-1",
            "status": "ok",
            "latency_ms": ANY,
            "tokens": 14,
            "cost_usd": None,
            "answer": "[31mCat " + "!" * 32 + "…",
            "error": None,
            "hint": None,
        }
    ]


def test_a_failing_provider_is_shown_with_a_hint_and_without_its_key(two_vendors: Any) -> None:
    two_vendors[0].reply({"error": {"message": "sk-secret", "code": "invalid_api_key"}}, status=401)
    out, reason = failed("check_providers")
    assert reason == "1 of 2 providers failed."
    assert [line.split()[2] for line in out.splitlines()[1:3]] == ["provider_error", "ok"]
    assert out.splitlines()[3] == (
        "openai: The provider refused the credentials. (HTTP 401 invalid_api_key) "
        "The vendor's message: [KEY] "
        "Hint: see OPENAI_API_KEY, OPENAI_BASE_URL and the account's credit"
    )
    assert "sk-secret" not in out
    assert len(two_vendors[0].requests) == 1


def test_a_refused_question_shows_the_vendor_s_sentence(two_vendors: Any) -> None:
    message = "Unsupported value: 'max_tokens' is below 128."
    two_vendors[0].reply({"error": {"message": message}}, status=400)
    out, _ = failed("check_providers")
    assert out.splitlines()[3] == (
        f"openai: The provider rejected the request. (HTTP 400) The vendor's message: {message} "
        "Hint: see OPENAI_MODEL: the vendor refuses this request to it"
    )


def test_an_interrupt_ends_the_calls(
    two_vendors: tuple[StubVendor, StubVendor],
) -> None:
    deadlines: list[Deadline] = []

    def ask(provider: Any, deadline: Deadline) -> None:
        deadlines.append(deadline)
        if len(deadlines) == 1:
            raise KeyboardInterrupt
        deadline.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        list(for_each_provider(ask, 60, OutputWrapper(io.StringIO()), "Asking"))
    assert all(each.cancelled for each in deadlines)


# --- doctor ---------------------------------------------------------------------------------------


def findings(*words: str) -> dict[str, list[tuple[str, str]]]:
    """Return status and detail by check, and the hints."""
    found: dict[str, list[tuple[str, str]]] = {}
    out = io.StringIO()
    try:
        call_command("doctor", "--format", "json", stdout=out, stderr=io.StringIO())
        ended = 0
    except CommandError as exc:
        ended = exc.returncode
    for each in json.loads(out.getvalue()):
        found.setdefault(each["check"], []).append((each["status"], each["detail"]))
        assert each["hint"] or each["status"] == "ok"
    statuses = {status for entries in found.values() for status, _ in entries}
    assert ended == ("failed" in statuses)
    return found


def test_without_problems_each_line_is_ok(each_storage: str, vendor: StubVendor) -> None:
    vendor.reply(MODELS)
    assert findings() == {
        "configuration": [("ok", f"{each_storage}, openai")],
        "storage": [("ok", each_storage)],
        "keys": [("ok", "Not required (REQUIRE_API_KEY is false).")],
        "vendor openai": [("ok", "model-1 is available.")],
    }


def test_a_finding_is_a_line_and_its_hint_another(db: None, vendor: StubVendor) -> None:
    vendor.reply({"data": [{"id": "model-2"}]})
    assert run("doctor").splitlines()[-2:] == [
        "warning  vendor openai  The vendor does not list the model. (model-1)",
        f"{'':22}  Hint: {LISTED}",
    ]


def test_a_vendor_that_refuses_the_key_has_failed(db: None, vendor: StubVendor) -> None:
    vendor.reply({"error": {"message": "Who is sk-of-the-vendor?"}}, status=401)
    [(status, detail)] = findings()["vendor openai"]
    assert (status, detail) == (
        "failed",
        "The provider refused the credentials. (HTTP 401) The vendor's message: Who is [KEY]?",
    )
    assert failed("doctor")[1] == "1 of 4 failed."


def test_risky_settings_cause_warnings(db: None, change_settings: Configure) -> None:
    change_settings(
        LISTENS_LOCALLY=False, RATE_LIMIT_PER_MINUTE=0, METRICS=True, LOG_FORMAT="simple"
    )
    change_settings(ENABLE_CACHE=True, STORE_CONTENT=False)
    found = findings()["configuration"]
    assert {status for status, _ in found} == {"warning"}
    assert len(found) == 5


@pytest.mark.parametrize(("mode", "warned"), [("buffered", True), ("streaming", False)])
def test_deadlines_too_long_for_an_http_api_cause_a_warning(
    db: None, change_settings: Configure, mode: str, warned: bool
) -> None:
    change_settings(ON_LAMBDA=True, LAMBDA_RESPONSE_MODE=mode, STREAM_TIMEOUT_SECONDS=600)
    details = [detail for _, detail in findings()["configuration"]]
    assert any("an HTTP API does not wait for 600 s" in detail for detail in details) == warned


def test_a_required_key_must_exist(each_storage: str, change_settings: Configure) -> None:
    change_settings(REQUIRE_API_KEY=True, API_KEYS=[])
    assert findings()["keys"] == [("failed", "A key is required, and none exists.")]
    soon = datetime.now(UTC) + timedelta(days=3)
    key, _ = api_keys.create(owner="team", name="app", expires_at=soon)
    assert findings()["keys"] == [
        ("warning", f"{key.prefix} (app, of team) expires at {soon:%Y-%m-%d}.")
    ]
    api_keys.revoke(key)
    change_settings(API_KEYS=["secret-key"])
    assert findings()["keys"] == [("ok", "0 managed, 1 of the environment")]


def test_an_unreachable_database_has_failed(
    unreachable_database: None, change_settings: Configure
) -> None:
    change_settings(REQUIRE_API_KEY=True)
    found = findings()
    assert found["storage"] == [("failed", ANY)]
    assert found["keys"] == [("failed", "They cannot be read (OperationalError).")]


def test_missing_migrations_have_failed(transactional_db: None) -> None:
    call_command("migrate", "chat", "0003", verbosity=0)
    try:
        names = "chat.0004_admin_indexes, chat.0005_whole_messages, chat.0006_estimated_usage"
        names += ", chat.0007_budgets, chat.0008_earlier_messages"
        missing = f"Migrations are missing: {names}."
        assert findings()["storage"] == [("failed", missing)]
    finally:
        call_command("migrate", verbosity=0)


def test_a_database_that_cannot_be_written_has_failed(transactional_db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA query_only = ON")
        try:
            said = "It cannot be written (attempt to write a readonly database)."
            assert findings()["storage"] == [("failed", said)]
        finally:
            cursor.execute("PRAGMA query_only = OFF")


def test_a_missing_variable_of_the_storage_is_named(
    db: None, dynamodb_at: Callable[[str], None], change_settings: Configure
) -> None:
    dynamodb_at("http://127.0.0.1:9")
    del os.environ["AWS_DEFAULT_REGION"]  # `dynamodb_at` has set it
    change_settings(STORAGE="dynamodb", AWS_REGION="", REQUIRE_API_KEY=True)
    found = findings()
    assert found["storage"] == [("failed", "It is unreachable (DynamoDB needs AWS_REGION).")]
    assert found["keys"] == [("failed", "They cannot be read (DynamoDB needs AWS_REGION).")]


def test_missing_tables_have_failed(db: None, dynamodb: str, change_settings: Configure) -> None:
    from chat.storage.dynamodb.tables import StateTable

    change_settings(STORAGE="dynamodb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StateTable.Meta, "table_name", "no-such-table")
        assert findings()["storage"] == [("failed", "There is no table no-such-table.")]


def test_unreachable_tables_have_failed(
    db: None, dynamodb_at: Callable[[str], None], change_settings: Configure
) -> None:
    dynamodb_at("http://127.0.0.1:9")
    change_settings(STORAGE="dynamodb")
    [(status, detail)] = findings()["storage"]
    assert (status, detail.startswith("It is unreachable")) == ("failed", True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_is_reported_in_a_sentence(transactional_db: None) -> None:
    sentence = "CommandError: The output cannot be written: No space left on device.\n"
    for command in ("check_providers", "usage_report", "chat <<< Hi"):
        assert in_shell(f"manage.py {command} > /dev/full") == (1, b"", sentence)


def test_a_command_runs_with_closed_streams(transactional_db: None) -> None:
    assert in_shell("manage.py usage_report <&- >&-") == (0, b"", "")
    for command in ("doctor", "usage_report", "export_interactions"):
        code, out, err = in_shell(f"manage.py {command} 2>&-")
        assert (code, err) == (0, "")
        assert out or command == "export_interactions"


@pytest.mark.parametrize("command", ["erase_user", "check_providers", "doctor", "chat"])
def test_each_command_explains_itself(command: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as excinfo:
        call_command(command, "--help")
    assert excinfo.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 10


# --- migrate --------------------------------------------------------------------------------------


def test_migrate_reports_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "letter.db").write_text("Dear Sir or Madam, " * 100)
    variables = {"ENV_FILE": os.devnull, "DATABASE_PATH": str(tmp_path / "letter.db")}
    ended = subprocess.run(
        [sys.executable, "manage.py", "migrate"],
        cwd=ROOT,
        env=base_environment() | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    sentence = f"DATABASE_PATH: {tmp_path}/letter.db cannot be used: file is not a database."
    assert (ended.returncode, ended.stderr) == (1, f"CommandError: {sentence}\n")
