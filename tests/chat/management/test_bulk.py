"""export_interactions, import_interactions, purge_interactions, pull_interactions."""

import fcntl
import gzip
import io
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from chat.management.arguments import parse_time
from chat.storage import backend
from chat.storage.base import Batch, CounterKind, InteractionRecord, Selection
from chat.storage.dynamodb.bulk import DynamoBulkStore
from chat.storage.dynamodb.tables import InteractionTable, StateTable
from chat.storage.jsonl import from_json, to_line
from chat.storage.orm.bulk import OrmBulkStore
from tests.chat.storage.contract import FULL_ANSWER, YESTERDAY
from tests.commands import in_shell, refusal, run
from tests.deployment.iam_proxy import required_permissions
from tests.dynamodb_local import Calls
from tests.factories import ALICE, ANSWERED, BOB, FAILED, NOON, PENDING, converse
from tests.server_process import ROOT, base_environment

Configure = Callable[..., None]
COMMANDS = "chat.management.commands"
TODAY = datetime.now(UTC).replace(microsecond=0)


def made(
    count: int, record: InteractionRecord = ANSWERED, **changes: Any
) -> list[InteractionRecord]:
    """Return `count` records, a second apart."""
    began = changes.pop("created_at", record.created_at)
    return [
        replace(
            record,
            interaction_id=str(uuid4()),
            created_at=began + timedelta(seconds=number),
            **changes,
        )
        for number in range(count)
    ]


def stored(name: str = "") -> list[bytes]:
    """Return all stored records as lines, ordered by id."""
    found: list[InteractionRecord] = []
    cursor = None
    while True:
        batch = backend(name).bulk.scan(Selection(), limit=100, cursor=cursor)
        found += batch.records
        cursor = batch.cursor
        if cursor is None:
            return sorted(map(to_line, found))


def requests(name: str = "") -> int:
    daily = backend(name).usage.daily(
        "default", CounterKind.MODEL, NOON.date(), (TODAY + timedelta(days=1)).date()
    )
    return sum(counts.requests for counts in daily.values())


def empty() -> None:
    backend().bulk.purge(Selection(), limit=1000)


class Breaking:
    """A store that is interrupted once, before the third page."""

    pages = 0

    def scan(self, chosen: Selection, *, limit: int, cursor: str | None = None) -> Batch:
        Breaking.pages += 1
        if Breaking.pages == 3:
            raise KeyboardInterrupt
        batch: Batch = super().scan(chosen, limit=limit, cursor=cursor)  # type: ignore[misc]
        return batch


class BreakingOrm(Breaking, OrmBulkStore):
    pass


class BreakingDynamo(Breaking, DynamoBulkStore):
    pass


@pytest.fixture
def broken_off(monkeypatch: pytest.MonkeyPatch, change_settings: Configure) -> None:
    """Interrupt the next scan after two pages of four records."""
    # In this order: the command, if it is imported here, must copy the true number first.
    monkeypatch.setattr(f"{COMMANDS}.import_interactions.PAGE", 4)
    monkeypatch.setattr("chat.management.bulk_job.PAGE", 4)
    monkeypatch.setattr(f"{COMMANDS}.export_interactions.SAVE_SECONDS", 0)
    monkeypatch.setattr(Breaking, "pages", 0)
    monkeypatch.setattr("chat.storage.orm.OrmBulkStore", BreakingOrm)
    monkeypatch.setattr("chat.storage.dynamodb.DynamoBulkStore", BreakingDynamo)
    change_settings()


def interrupted(*words: str) -> str:
    """Run a command that must exit with 130; return its standard error."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(SystemExit) as excinfo:
        call_command(*words, stdout=out, stderr=err, no_color=True)
    assert (excinfo.value.code, out.getvalue()) == (130, "")
    return err.getvalue()


# --- Export and import ----------------------------------------------------------------------------


@pytest.fixture
def records(each_storage: str) -> list[InteractionRecord]:
    records = [*made(20), *made(2, FAILED), *made(1, PENDING), *made(1, FULL_ANSWER)]
    backend().bulk.import_records(records)
    return records


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
def test_an_exported_line_has_all_messages_and_the_ledger_keeps_them_once(
    each_storage: str, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{COMMANDS}.export_interactions.CHUNK_BYTES", 5_000)
    turns = converse(backend().interactions, 25)
    path = tmp_path / name
    run("export_interactions", "--output", str(path))
    data = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
    lines = [from_json(json.loads(line)) for line in data.splitlines()]
    assert {line.interaction_id: line for line in lines} == {
        turn.interaction_id: turn for turn in turns
    }
    backend().interactions.delete_by_user("default", ALICE, limit=100)
    run("import_interactions", str(path))
    assert kept_messages() == [1] * 25
    assert backend().interactions.get(turns[-1].interaction_id) == turns[-1]


def kept_messages() -> list[int]:
    """How many messages each record of the user keeps."""
    page = backend().interactions.list_by_user("default", ALICE, limit=100)
    return [len(record.parameters["messages"]) for record in page.records]


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
def test_an_export_is_imported_whole_into_another_store(
    records: list[InteractionRecord], tmp_path: Path, name: str
) -> None:
    path, before, counted = tmp_path / name, stored(), requests()
    out, _ = run("export_interactions", "--output", str(path))
    assert out.startswith(f"24 records exported into {path}, {path.stat().st_size} bytes, in ")
    assert [each.name for each in tmp_path.iterdir()] == [name]
    empty()
    assert run("import_interactions", str(path)) == (
        "24 read, 24 new, 0 replaced, 0 unchanged, 0 expired.\n",
        "",
    )
    assert stored() == before
    assert requests() == 2 * counted  # those of the records that were deleted stay
    assert run("import_interactions", str(path), "--format", "json") == (
        '{"read": 24, "new": 0, "replaced": 0, "unchanged": 24, "expired": 0}\n',
        "",
    )
    assert requests() == 2 * counted


def test_an_export_goes_to_standard_output(records: list[InteractionRecord]) -> None:
    out, err = run("export_interactions")
    assert sorted(out.encode().splitlines(keepends=True)) == stored()
    assert err == "24 records exported.\n"


def test_an_exported_stream_is_utf_8_in_any_locale(transactional_db: None, tmp_path: Path) -> None:
    backend().bulk.import_records(made(1, prompt="Olá 🦆"))
    code, out, _ = in_shell("manage.py export_interactions", PYTHONIOENCODING="iso-8859-1")
    assert (code, [out]) == (0, stored())
    code, out, _ = in_shell("manage.py export_interactions | manage.py import_interactions -")
    assert (code, out) == (0, b"1 read, 0 new, 0 replaced, 1 unchanged, 0 expired.\n")


def test_an_export_without_records_is_an_empty_file(each_storage: str, tmp_path: Path) -> None:
    for name in ("none.jsonl", "none.jsonl.gz"):
        path = tmp_path / name
        out, _ = run("export_interactions", "--output", str(path), "--format", "json")
        report = json.loads(out)
        assert (report["records"], report["bytes"]) == (0, path.stat().st_size)
        assert run("import_interactions", str(path))[0].startswith("0 read, 0 new, ")


def test_a_part_may_be_exported(records: list[InteractionRecord]) -> None:
    def exported(*words: str) -> int:
        return len(run("export_interactions", *words)[0].splitlines())

    backend().bulk.import_records(made(3, user_id=BOB))
    assert exported("--owner", "default") == 26
    assert exported("--owner", "default", "--user", BOB) == 3
    assert exported("--user", BOB) == 3
    assert exported("--owner", "team:blue") == 1
    assert exported("--since", "2026-01-01T12:00:10") == 10
    assert exported("--before", "2026-01-01T09:00:01-03:00", "--user", BOB) == 1
    assert exported("--since", "1m") == 0


def test_an_interrupted_export_resumes_without_loss_or_duplicates(
    records: list[InteractionRecord], broken_off: None, tmp_path: Path
) -> None:
    path = tmp_path / "all.jsonl.gz"
    words = ("export_interactions", "--output", str(path))
    assert interrupted(*words) == "Interrupted. Run the same command again to resume.\n"
    assert not path.exists()
    draft = tmp_path / "all.jsonl.gz.part"
    with draft.open("ab") as file:
        file.write(b"what was written after the last page")
    backend().bulk.import_records(made(3, created_at=datetime.now(UTC)))
    out, err = run(*words)
    assert err == "Resuming after 8 records.\n"
    assert "24 records exported" in out
    with gzip.open(path) as file:
        lines = file.readlines()
    assert sorted(lines) == sorted(map(to_line, records))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_resumed_export_keeps_its_relative_time(
    records: list[InteractionRecord], broken_off: None, tmp_path: Path
) -> None:
    days = (TODAY - NOON).days + 2  # some of which the tests before may have taken
    path = tmp_path / "all.jsonl"
    words = ("export_interactions", "--since", f"{days}d", "--output", str(path))
    interrupted(*words)
    began = json.loads((tmp_path / "all.jsonl.part.state").read_text())["since"]
    Breaking.pages = 1
    interrupted(*words)
    assert json.loads((tmp_path / "all.jsonl.part.state").read_text())["since"] == began
    run(*words)
    assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(map(to_line, records))


def test_an_export_with_other_options_does_not_resume(
    records: list[InteractionRecord], broken_off: None, tmp_path: Path
) -> None:
    path = tmp_path / "all.jsonl"
    interrupted("export_interactions", "--output", str(path), "--since", "2025-01-01")
    state = tmp_path / "all.jsonl.part.state"
    said = refusal("export_interactions", "--output", str(path))
    assert said.startswith(f"{state} belongs to another export: from ")
    assert said.endswith(", since 2025-01-01. Repeat that one, or delete it to start over.")
    state.unlink()
    run("export_interactions", "--output", str(path))
    assert len(path.read_bytes().splitlines()) == 24


def test_an_export_from_another_storage_does_not_resume(
    records: list[InteractionRecord],
    broken_off: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
) -> None:
    words = ("export_interactions", "--output", str(tmp_path / "all.jsonl"))
    interrupted(*words)
    region = settings.AWS_REGION
    with monkeypatch.context() as another:
        another.setitem(connection.settings_dict, "NAME", "another.db")
        settings.AWS_REGION = "another-region-1"
        assert "belongs to another export: from " in refusal(*words)
    settings.AWS_REGION = region
    assert run(*words)[1] == "Resuming after 8 records.\n"


BAD_STATES = ["", "[]", "{}", '{"task": {}, "since": null, "before": "soon", "cursor": 7}']


@pytest.mark.parametrize("text", BAD_STATES)
def test_a_file_that_is_no_checkpoint_is_named(db: None, tmp_path: Path, text: str) -> None:
    pulled = Path(f"{connection.settings_dict['NAME']}.pull")
    exported = tmp_path / "all.part.state"
    pull = ("pull_interactions", "--since", "1d")
    for path, words in [
        (pulled, pull),
        (exported, ("export_interactions", "--output", str(tmp_path / "all"))),
    ]:
        path.write_text(text)
        assert refusal(*words) == (
            f"{path} is not a checkpoint of this version; delete it to start over."
        )
        path.unlink()
    pulled.mkdir()
    assert refusal(*pull) == f"{pulled} cannot be used: Is a directory."
    pulled.rmdir()


def test_a_checkpoint_without_its_file_starts_over(
    records: list[InteractionRecord], broken_off: None, tmp_path: Path
) -> None:
    path = tmp_path / "all.jsonl"
    interrupted("export_interactions", "--output", str(path))
    (tmp_path / "all.jsonl.part").write_bytes(b"less")
    run("export_interactions", "--output", str(path))
    assert len(path.read_bytes().splitlines()) == 24


KILLED = """
import os, signal, sys
import django
django.setup()
from django.core.management import call_command
from chat.management import bulk_job
from chat.management.commands import export_interactions
from chat.storage.orm.bulk import OrmBulkStore
bulk_job.PAGE, export_interactions.SAVE_SECONDS = 4, 0
scan, pages = OrmBulkStore.scan, []
def killed_at_the_third(self, chosen, **options):
    pages.append(chosen)
    if len(pages) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return scan(self, chosen, **options)
OrmBulkStore.scan = killed_at_the_third
call_command("export_interactions", "--output", sys.argv[1])
"""


def test_a_killed_export_resumes_in_another_process(transactional_db: None, tmp_path: Path) -> None:
    backend().bulk.import_records(made(20))
    path = tmp_path / "all.jsonl.gz"
    environment = {
        **base_environment(),
        "DJANGO_SETTINGS_MODULE": "chatproject.settings",
        "ENV_FILE": os.devnull,
        "DATABASE_PATH": str(connection.settings_dict["NAME"]),
        "SECRET_KEY": "tests",
    }
    command = [sys.executable, "-c", KILLED, str(path)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert not path.exists()
    _, err = run("export_interactions", "--output", str(path))
    assert err == "Resuming after 8 records.\n"
    with gzip.open(path) as file:
        assert sorted(file.readlines()) == stored()


def test_an_existing_file_is_not_overwritten(each_storage: str, tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text("kept")
    assert "already exists" in refusal("export_interactions", "--output", str(path))
    assert path.read_text() == "kept"


def test_two_runs_do_not_share_a_checkpoint(db: None, tmp_path: Path) -> None:
    draft, pulled = tmp_path / "all.part", Path(f"{connection.settings_dict['NAME']}.pull.lock")
    export = ("export_interactions", "--output", str(tmp_path / "all"))
    for path, words in [(draft, export), (pulled, ("pull_interactions", "--since", "1d"))]:
        with path.open("wb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            said = f"Another run of this command is writing {path}."
            assert refusal(*words) == said


def test_an_output_that_is_no_file_is_refused(db: None) -> None:
    said = refusal("export_interactions", "--output", "/dev/null")
    assert said == "/dev/null is not a file; for standard output, name -."


def test_standard_output_has_two_names(records: list[InteractionRecord]) -> None:
    assert run("export_interactions", "--output", "/dev/stdout") == run("export_interactions")


def test_an_export_that_fails_at_once_leaves_no_file(
    unreachable_database: None, tmp_path: Path
) -> None:
    refusal("export_interactions", "--output", str(tmp_path / "all"))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_reported(each_storage: str, tmp_path: Path) -> None:
    path = tmp_path / "no" / "all.jsonl"
    assert "cannot be written: No such file" in refusal(
        "export_interactions", "--output", str(path)
    )
    assert "cannot be read: No such file" in refusal("import_interactions", str(path))


def test_an_import_stops_at_an_invalid_line(each_storage: str, tmp_path: Path) -> None:
    lines = [*map(to_line, made(3)), b"\n", b'{"prompt": 7}\n', *map(to_line, made(3))]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"".join(lines))
    said = refusal("import_interactions", str(path))
    assert said.startswith("Line 5: this is not a record: ")
    assert "Before it: 3 read, 3 new, 0 replaced, 0 unchanged, 0 expired." in said
    assert stored() == sorted(lines[:3])
    path.write_bytes(b"".join(lines[:3] + lines[5:]))
    assert run("import_interactions", str(path))[0].startswith("6 read, 3 new")


def test_a_dry_run_reports_each_invalid_line(each_storage: str, tmp_path: Path) -> None:
    expired = replace(ANSWERED, expires_at=YESTERDAY)
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"".join([b"no JSON\n", *map(to_line, [*made(3), expired]), b"[]\n"]))
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(CommandError, match="Not all lines are records"):
        call_command("import_interactions", str(path), "--dry-run", stdout=out, stderr=err)
    assert out.getvalue() == "4 read, 1 expired, 2 bad lines.\n"
    assert [each.split(":")[0] for each in err.getvalue().splitlines()] == ["Line 1", "Line 6"]
    assert stored() == []


def test_a_line_that_is_not_json_is_named(db: None, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + to_line(ANSWERED) + b"Hi\n")
    said = refusal("import_interactions", str(path))
    assert re.match(r"Line 2: this is not JSON \(.+, column 1\)\. Before it: 1 read, 1 new", said)


def test_expired_records_are_not_imported(each_storage: str, tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_bytes(to_line(replace(ANSWERED, expires_at=YESTERDAY)))
    assert "0 new" in run("import_interactions", str(path))[0]
    assert (stored(), requests()) == ([], 0)


@pytest.mark.parametrize("cut", [-7, 20, 3])
def test_a_truncated_compressed_file_is_reported(
    each_storage: str, tmp_path: Path, cut: int
) -> None:
    path = tmp_path / "all.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(map(to_line, made(5))))[:cut])
    assert "The file is truncated or damaged" in refusal("import_interactions", str(path))


def test_a_claim_is_settled_by_the_outcome_in_a_file(each_storage: str, tmp_path: Path) -> None:
    backend().interactions.claim(PENDING)
    path = tmp_path / "all.jsonl"
    path.write_bytes(to_line(ANSWERED))
    assert "1 replaced" in run("import_interactions", str(path))[0]
    assert backend().interactions.get(ANSWERED.interaction_id) == ANSWERED


def test_a_record_too_large_for_dynamodb_is_named(
    dynamodb: str, change_settings: Configure, tmp_path: Path
) -> None:
    change_settings(STORAGE="dynamodb")
    [record] = made(1, prompt=os.urandom(3_300_000).hex())
    path = tmp_path / "all.jsonl"
    path.write_bytes(to_line(record))
    assert f"{record.interaction_id} is too long" in refusal("import_interactions", str(path))


# --- Progress -------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar(
    records: list[InteractionRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("export_interactions", "--output", str(tmp_path / "a"), stderr=Terminal())
    assert "Exporting: 100%" in capsys.readouterr().err


def test_a_log_has_a_line_from_time_to_time(
    records: list[InteractionRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chat.management.progress.EVERY_SECONDS", 0)
    path = tmp_path / "a"
    _, err = run("export_interactions", "--output", str(path))
    assert err.startswith("Exporting: 24 of 24 records (100 %), ")
    _, err = run("import_interactions", str(path))
    assert err.startswith(f"Importing: {path.stat().st_size} of {path.stat().st_size} bytes")
    assert err.rstrip().endswith("24 records")
    _, err = run("purge_interactions", "--older-than", "1d", "--yes")
    assert err.startswith("Deleting: 24 of 24 records (100 %), ")


# --- Purge ----------------------------------------------------------------------------------------


def test_old_records_are_purged_and_stay_counted(each_storage: str) -> None:
    backend().bulk.import_records([*made(5), *made(4, created_at=TODAY - timedelta(days=9))])
    out, _ = run("purge_interactions", "--older-than", "10d", "--dry-run", "--format", "json")
    report = json.loads(out)
    assert (report["records"], report["dry_run"]) == (5, True)
    assert len(stored()) == 9
    out, _ = run("purge_interactions", "--older-than", "10d", "--yes")
    assert out == f"5 records of before {report['before'][:10]}{out[30:]}"
    assert out.endswith(" deleted.\n")
    assert (len(stored()), requests()) == (4, 9)


def test_purging_needs_yes_without_a_terminal(each_storage: str) -> None:
    backend().bulk.import_records(made(1))
    assert "needs --yes" in refusal("purge_interactions", "--older-than", "1d")
    assert len(stored()) == 1


@pytest.mark.parametrize(("answer", "left"), [("yes", 1), ("y", 3), ("", 3)])
def test_purging_asks_on_a_terminal(
    each_storage: str, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    backend().bulk.import_records([*made(2), *made(1, user_id=BOB)])
    monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
    words = ("purge_interactions", "--older-than", "1d", "--owner", "default", "--user", ALICE)
    if left == 1:
        _, err = run(*words)
        assert err.startswith(f"All records of user {ALICE} of owner default of before ")
    else:
        assert refusal(*words) == "Cancelled. Nothing was changed."
    assert len(stored()) == left


# --- Pull -----------------------------------------------------------------------------------------


@pytest.fixture
def remote(dynamodb: str, transactional_db: None) -> list[InteractionRecord]:
    """Records on DynamoDB; the local store is empty, and there is no checkpoint."""
    Path(f"{connection.settings_dict['NAME']}.pull").unlink(missing_ok=True)
    records = [*made(20), *made(2, PENDING), *made(3, user_id=BOB)]
    backend("dynamodb").bulk.import_records(records)
    return records


def test_records_are_pulled_and_counted(remote: list[InteractionRecord]) -> None:
    out, err = run("pull_interactions", "--since", "2026-01-01")
    assert out.startswith("25 read, 25 new, 0 replaced, 0 unchanged; ")
    assert err == ""
    assert list(Path(connection.settings_dict["NAME"]).parent.glob("*.pull*")) == []
    assert stored() == stored("dynamodb")
    assert requests() == requests("dynamodb") == 23
    out, _ = run("pull_interactions", "--since", "2026-01-01", "--format", "json")
    report = json.loads(out)
    assert report.pop("read_units") > 0
    assert report.pop("seconds") >= 0
    assert report == {"read": 25, "new": 0, "replaced": 0, "unchanged": 25}
    assert requests() == 23


def test_pulled_records_have_all_messages_and_the_ledger_keeps_them_once(
    dynamodb: str, transactional_db: None
) -> None:
    turns = converse(backend("dynamodb").interactions, 12)
    run("pull_interactions", "--since", turns[0].created_at.isoformat())
    assert kept_messages() == [1] * 12
    assert stored() == stored("dynamodb")
    backend().interactions.delete_by_user("default", ALICE, limit=100)
    run("pull_interactions", "--since", turns[6].created_at.isoformat())
    assert backend().interactions.get(turns[11].interaction_id) == turns[11]
    assert kept_messages() == [1] * 5 + [13]


def test_a_pulled_claim_is_settled_by_the_next_pull(remote: list[InteractionRecord]) -> None:
    run("pull_interactions", "--since", "2026-01-01")
    claim = next(each for each in remote if each.status is PENDING.status)
    answer = replace(ANSWERED, **{n: getattr(claim, n) for n in ("interaction_id", "created_at")})
    assert backend("dynamodb").interactions.settle(answer)
    assert "1 replaced" in run("pull_interactions", "--since", "2026-01-01")[0]
    assert stored() == stored("dynamodb")
    assert requests() == 24


def test_a_users_records_are_pulled_by_the_index(
    remote: list[InteractionRecord], calls: Calls
) -> None:
    words = ("--since", "2026-01-01", "--owner", "default", "--user", BOB)
    assert run("pull_interactions", *words)[0].startswith("3 read, 3 new")
    assert [operation for operation, _ in calls] == ["Query", "BatchGetItem"]


def test_a_dry_run_of_a_pull_writes_nothing(remote: list[InteractionRecord]) -> None:
    out, _ = run("pull_interactions", "--since", "2026-01-01", "--dry-run")
    assert out.startswith("25 read; ")
    assert stored() == []


def test_an_interrupted_pull_resumes(remote: list[InteractionRecord], broken_off: None) -> None:
    words = ("pull_interactions", "--since", "2026-01-01")
    assert "Run the same command again" in interrupted(*words)
    assert len(stored()) == 8
    Breaking.pages = 3
    out, err = run(*words)
    assert err == "Resuming after 8 records.\n"
    assert out.startswith("25 read, 25 new, 0 replaced, 0 unchanged; ")
    assert stored() == stored("dynamodb")
    assert requests() == 23
    assert run(*words)[1] == ""


def test_a_pull_with_other_options_starts_over(
    remote: list[InteractionRecord], broken_off: None
) -> None:
    interrupted("pull_interactions", "--since", "2026-01-01")
    out, err = run("pull_interactions", "--since", "2025-01-01")
    assert err == ""
    assert out.startswith("25 read, 17 new, 0 replaced, 8 unchanged; ")


def test_the_read_units_of_a_pull_are_limited(
    remote: list[InteractionRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chat.management.bulk_job.PAGE", 5)
    began = time.monotonic()
    words = ("pull_interactions", "--since", "2026-01-01", "--max-rcu", "10", "--format", "json")
    report = json.loads(run(*words)[0])
    assert report["read"] == 25
    assert report["read_units"] / (time.monotonic() - began) <= 10


def test_pulling_needs_the_local_store(dynamodb: str, change_settings: Configure) -> None:
    change_settings(STORAGE="dynamodb")
    assert "STORAGE=sqlite" in refusal("pull_interactions", "--since", "1d")


def test_pulling_needs_aws(db: None, dynamodb_at: Callable[[str], None], settings: Any) -> None:
    dynamodb_at("http://127.0.0.1:9")
    del os.environ["AWS_DEFAULT_REGION"]  # `dynamodb_at` has set it
    settings.AWS_REGION = ""
    assert refusal("pull_interactions", "--since", "1d") == "DynamoDB needs AWS_REGION."


@pytest.mark.parametrize(
    "words",
    [("export_interactions",), ("purge_interactions", "--older-than", "1d", "--yes")],
    ids=["export", "purge"],
)
def test_an_unreachable_storage_is_reported_with_the_reason(
    change_settings: Configure, dynamodb_at: Callable[[str], None], words: tuple[str, ...]
) -> None:
    change_settings(STORAGE="dynamodb")
    dynamodb_at("http://127.0.0.1:9")
    said = refusal(*words)
    assert "is it up, and are its tables there (create_tables)?" in said
    assert "127.0.0.1:9" in said


# --- Words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00-03:00", datetime(2026, 1, 31, 15, tzinfo=UTC)),
    ],
)
def test_a_time_may_be_a_day_or_a_timestamp(text: str, moment: datetime) -> None:
    assert parse_time(text).moment == moment


def test_a_time_may_be_a_duration_ago() -> None:
    moment = parse_time("7d").moment
    ago = datetime.now(UTC) - moment
    assert timedelta(days=7) <= ago < timedelta(days=7, minutes=1)


@pytest.mark.parametrize("text", ["", "yesterday", "7", "7w", "2026-13-01", "-1d"])
def test_any_other_text_is_not_a_time(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not a time such as 7d or 2026-01-31"):
        parse_time(text)


WRONG = [
    ("export_interactions", "--since", "yesterday"),
    ("export_interactions", "--user", "a/b"),
    ("export_interactions", "--since", "1d", "--before", "2d"),
    ("purge_interactions",),
    ("purge_interactions", "--older-than", "90"),
    ("pull_interactions",),
    ("pull_interactions", "--since", "1d", "--max-rcu", "0"),
    ("pull_interactions", "--since", "1d", "--max-rcu", "many"),
    ("import_interactions",),
]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_invalid_arguments_are_refused(db: None, words: tuple[str, ...]) -> None:
    refusal(*words)


@pytest.mark.parametrize(
    "command",
    ["export_interactions", "import_interactions", "purge_interactions", "pull_interactions"],
)
def test_help_explains_and_has_the_exit_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as excinfo:
        call_command(command, "--help")
    assert excinfo.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted." in shown


# --- The documents --------------------------------------------------------------------------------


def documented() -> list[tuple[list[str], str]]:
    """Return the examples of docs/commands.md that are tested here: commands and output."""
    document = (ROOT / "docs/commands.md").read_text()
    consoles = re.findall(r"```console\n(.*?)```", document, re.DOTALL)
    entries = [entry for console in consoles for entry in console.split("$ manage.py ")[1:]]
    pairs = [entry.split("\n", 1) for entry in entries]
    return [(shlex.split(words), out) for words, out in pairs if "_interactions" in words]


def masked(text: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "N", text)


def test_the_commands_print_what_the_documents_say(
    remote: list[InteractionRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(documented()) == 9
    for words, shown in documented():
        out, err = run(*words)
        assert (masked(out), err) == (masked(shown), "")


def granted() -> dict[str, set[str]]:
    """Return the permissions docs/operations.md lists for a command: `Scan of the records`, …"""
    section = (ROOT / "docs/operations.md").read_text().split("## What the maintenance commands")[1]
    rows = [row.split("|")[1:-1] for row in section.splitlines() if row.startswith("| `")]
    return {
        command: {
            f"{action} {place}"
            for place, column in zip(("records", "user-index", "state"), columns, strict=True)
            for action in re.findall(r"`(\w+)`", column)
        }
        for commands, *columns in rows
        for command in re.findall(r"`(\w+)`", commands)
    }


def used(calls: Calls) -> set[str]:
    """Return the permissions that the recorded calls needed, and clear the record."""
    needs = {
        need
        for operation, request in calls
        for need in required_permissions("DynamoDB", operation, request)
    }
    calls.clear()
    places = {StateTable.Meta.table_name: "state", InteractionTable.Meta.table_name: "records"}
    return {
        f"{action.removeprefix('dynamodb:')} {places.get(place, place)}"
        for action, resource in needs
        for place in [resource.rpartition("/")[2]]
    }


def noise(size: int) -> str:
    """Return hexadecimal digits that compress to this many bytes."""
    return random.Random(7).randbytes(size).hex()


def test_the_commands_need_what_the_documents_say(
    remote: list[InteractionRecord], change_settings: Configure, calls: Calls, tmp_path: Path
) -> None:
    path, of_one = tmp_path / "all", ("--owner", "default", "--user", ALICE)
    calls.clear()
    for more in ((), of_one):
        run("pull_interactions", "--since", "2026-01-01", *more)
    assert used(calls) == granted()["pull_interactions"]
    change_settings(STORAGE="dynamodb")
    for more in ((), of_one):
        run("export_interactions", *more)
    assert used(calls) == granted()["export_interactions"]
    # A failure in parts, which is replaced by a short answer.
    failure = replace(FAILED, response=noise(500_000))
    later = NOON + timedelta(hours=1)
    answer = replace(ANSWERED, deadline_at=later, transcript=FULL_ANSWER.transcript)
    # Its question and its answer do not fit into one transaction.
    large = replace(failure, interaction_id=str(uuid4()), prompt=noise(3_000_000))
    large = replace(large, response=noise(1_500_000))
    for record in (failure, answer, large):
        path.write_bytes(to_line(record))
        run("import_interactions", str(path))
    assert used(calls) == granted()["import_interactions"]
    for more in (of_one, ()):
        run("purge_interactions", "--older-than", "1d", "--yes", *more)
    assert used(calls) == granted()["purge_interactions"]
