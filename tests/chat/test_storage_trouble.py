"""What cannot be claimed is not asked; what cannot be settled is answered, and stored later."""

import gzip
import logging
import os
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from io import StringIO
from uuid import uuid4

import orjson
import pytest
from django.core.management import call_command
from django.db import connection

from chat import model_catalog, service
from chat.models import Interaction
from chat.storage.jsonl import from_json, to_json
from chat.storage.orm.interactions import OrmInteractionStore
from chat.telemetry.logs import JsonFormatter
from providers.base import Completion, Usage
from providers.deadline import Deadline
from providers.errors import ContentFiltered
from tests.commands import in_shell, refusal, run
from tests.factories import FakeProvider, LosingStore, all_records
from tests.stub_vendor import StubVendor

pytestmark = pytest.mark.django_db(transaction=True)


def execute(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)


@contextmanager
def failing(operation):
    """The database itself refuses to insert or update interactions."""
    execute(
        f"CREATE TRIGGER broken BEFORE {operation} ON chat_interaction "
        "BEGIN SELECT RAISE(FAIL, 'disk full'); END"
    )
    try:
        yield
    finally:
        execute("DROP TRIGGER IF EXISTS broken")


@pytest.fixture
def unrecorded_log(tmp_path):
    """The file that the logger of unrecorded answers writes to."""
    path = tmp_path / "log.jsonl"
    handler = logging.FileHandler(path)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("chat.unrecorded")
    logger.addHandler(handler)
    yield path
    logger.removeHandler(handler)
    handler.close()


def ask(client, **fields):
    body = {"userId": "user123", "prompt": "Olá!", "temperature": 0.5, **fields}
    return client.post("/v1/chat", body, content_type="application/json")


def replay(path, *options):
    out = StringIO()
    call_command("replay_records", str(path), *options, stdout=out)
    return out.getvalue().strip()


def test_a_claim_that_fails_costs_no_vendor_call(client, settings, rebuilt):
    with StubVendor() as vendor:
        settings.PROVIDERS = {"openai": {"api_key": "", "base_url": vendor.url, "model": "m"}}
        execute("ALTER TABLE chat_interaction RENAME TO away")
        try:
            response = ask(client)
        finally:
            execute("ALTER TABLE away RENAME TO chat_interaction")
        assert (response.status_code, response.json()["code"]) == (503, "storage_unavailable")
        assert int(response.headers["Retry-After"]) > 0
        assert vendor.requests == []


HELLO = Completion(message={"content": "Olá!"}, model="mock-1", finish_reason="stop")
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "find", "arguments": '{"é": "🦆"}'},
    "extra_content": {"google": {"thought_signature": "CpYB+/=="}},
}
THOUGHTFUL = Completion(
    message={
        "content": "Olá!",
        "reasoning_details": [{"type": "reasoning.text", "text": "🦆?", "signature": "EqoB+/=="}],
        "tool_calls": [CALL],
    },
    model="mock-1",
    finish_reason="tool_calls",
    extras={"citations": ["https://example.org/"]},
)


class Leaves(FakeProvider):
    """A provider whose client goes away while it answers."""

    def complete(self, request, deadline):
        deadline.cancel()
        if isinstance(self.outcome, ContentFiltered):
            request.on_usage(Usage(total_tokens=12))
        return super().complete(request, deadline)


@pytest.fixture
def rebuilt():
    model_catalog.router.cache_clear()
    yield
    model_catalog.router.cache_clear()


def test_an_answer_that_cannot_be_settled_is_given_and_logged_whole(client, unrecorded_log):
    with failing("UPDATE"):
        response = ask(client, metadata={"page": "2"})
    assert response.status_code == 200
    assert response.json()["recorded"] is False
    (line,) = map(orjson.loads, unrecorded_log.read_bytes().splitlines())
    assert line["level"] == "ERROR"
    record = from_json(line["record"])
    assert record.response == response.json()["response"]
    assert record.interaction_id == response.json()["interaction_id"]
    assert from_json(to_json(record)) == record


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat", {"userId": "u", "prompt": "Hi"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/responses", {"input": "Hi"}),
    ],
)
def test_a_stream_that_cannot_be_settled_says_so(client, unrecorded_log, path, fields):
    body = {"model": "default", "stream": True, **fields}
    with failing("UPDATE"):
        response = client.post(path, body, content_type="application/json")
        streamed = b"".join(response.streaming_content)
        response.close()
    assert streamed.count(b'"recorded":false') == 1
    assert len(unrecorded_log.read_bytes().splitlines()) == 1


def test_the_whole_answer_is_logged_and_replayed(client, unrecorded_log, use_provider):
    use_provider(FakeProvider(THOUGHTFUL))
    with failing("UPDATE"):
        ask(client)
    call_command("replay_records", str(unrecorded_log), stdout=StringIO())
    [record] = all_records()
    assert (record.response, record.tool_calls) == ("Olá!", (CALL,))
    assert record.message == {"reasoning_details": THOUGHTFUL.message["reasoning_details"]}
    assert record.extras == THOUGHTFUL.extras


def test_a_short_outage_is_survived(client, unrecorded_log, monkeypatch):
    waits = []

    def repaired(seconds):
        """Who waits before trying again finds the database repaired at the last possible time."""
        waits.append(seconds)
        if len(waits) == service.MAX_SETTLE_TRIES - 1:
            execute("DROP TRIGGER broken")

    monkeypatch.setattr(service.time, "sleep", repaired)
    with failing("UPDATE"):
        response = ask(client)
    assert len(waits) == service.MAX_SETTLE_TRIES - 1
    assert response.json().get("recorded") is None
    assert Interaction.objects.get().status == "ok"
    assert unrecorded_log.read_bytes() == b""


def test_an_outcome_whose_answer_was_lost_is_recorded(client, unrecorded_log, use_store):
    use_store(LosingStore)
    assert "recorded" not in ask(client).json()
    assert [record.status for record in all_records()] == ["ok"]
    assert unrecorded_log.read_bytes() == b""
    assert client.get("/v1/usage").json()["total"]["requests"] == 1


def test_settling_is_retried_for_a_disconnected_client(
    client, unrecorded_log, monkeypatch, use_provider
):
    use_provider(Leaves(HELLO))
    monkeypatch.setattr(service.time, "sleep", lambda seconds: execute("DROP TRIGGER broken"))
    with failing("UPDATE"):
        ask(client)
    assert Interaction.objects.get().status == "ok"
    assert unrecorded_log.read_bytes() == b""


@pytest.mark.parametrize(
    ("outcome", "code", "tokens"),
    [
        (ContentFiltered("No."), "content_filtered", 12),
        (RuntimeError("a bug"), "internal_error", None),
    ],
    ids=["filtered", "bug"],
)
def test_a_failure_is_recorded_for_a_disconnected_client(
    client, use_provider, outcome, code, tokens
):
    use_provider(Leaves(outcome))
    client.raise_request_exception = False
    assert ask(client).json()["code"] == code
    row = Interaction.objects.get()
    assert (row.status, row.error_code, row.total_tokens) == ("error", code, tokens)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_waits_within_its_deadline_for_another_process_to_write(client, settings, stream):
    settings.SQLITE_BUSY_TIMEOUT = 0.05
    path = connection.settings_dict["NAME"]
    with closing(sqlite3.connect(path, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.5, other.rollback)
        timer.start()
        response = ask(client, stream=stream)
        assert response.status_code == 200
        assert b"recorded" not in response.getvalue()
        timer.join()
    [record] = all_records()
    assert record.status == "ok"


@pytest.fixture
def other_writer():
    """The connection of another process that may hold SQLite's lock."""
    path = connection.settings_dict["NAME"]
    with closing(sqlite3.connect(path, check_same_thread=False, isolation_level=None)) as other:
        yield other


@pytest.mark.parametrize("limit", [0, 60], ids=["claim", "rate limit"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_busy_writer_is_an_error_after_a_tenth_of_the_deadline(
    client, settings, other_writer, stream, limit
):
    settings.RATE_LIMIT_PER_MINUTE = limit
    settings.REQUEST_TIMEOUT_SECONDS = settings.STREAM_TIMEOUT_SECONDS = 10
    deadline = Deadline(10)
    other_writer.execute("BEGIN EXCLUSIVE")
    response = ask(client, stream=stream)
    assert deadline.remaining() > 0
    assert response.status_code == 503
    assert "busy with other writes" in response.json()["detail"]
    assert int(response.headers["Retry-After"]) > 0
    other_writer.execute("ROLLBACK")
    assert all_records() == []


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_an_answer_is_recorded_if_the_writer_is_free_within_the_deadline(
    client, settings, other_writer, unrecorded_log, use_provider, stream
):
    """Here the writer is busy for longer than a tenth of the deadline."""
    unlock = threading.Timer(2, other_writer.rollback)

    class Locks(FakeProvider):
        def complete(self, request, deadline):
            other_writer.execute("BEGIN EXCLUSIVE")
            unlock.start()
            return super().complete(request, deadline)

    use_provider(Locks(HELLO))
    settings.REQUEST_TIMEOUT_SECONDS = settings.STREAM_TIMEOUT_SECONDS = 12
    body = ask(client, stream=stream).getvalue()
    unlock.join()
    assert b'"recorded":false' not in body
    assert unrecorded_log.read_bytes() == b""
    [record] = all_records()
    assert (record.status, record.response) == ("ok", "Olá!")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_writer_busy_until_the_deadline_costs_no_answer_and_no_record(
    client, settings, other_writer, unrecorded_log, use_provider, stream
):
    class Locks(FakeProvider):
        def complete(self, request, deadline):
            other_writer.execute("BEGIN EXCLUSIVE")
            return super().complete(request, deadline)

    use_provider(Locks(HELLO))
    settings.REQUEST_TIMEOUT_SECONDS = settings.STREAM_TIMEOUT_SECONDS = 2
    response = ask(client, stream=stream)
    body = response.getvalue()
    assert (response.status_code, b'"recorded":false' in body) == (200, True)
    other_writer.execute("ROLLBACK")
    assert replay(unrecorded_log) == "1 records found, 1 stored."
    [record] = all_records()
    assert (record.status, record.response) == ("ok", "Olá!")


def test_the_client_is_not_kept_waiting_past_the_deadline_for_the_ledger(
    client, settings, monkeypatch
):
    monkeypatch.setattr("chat.service.random.uniform", lambda low, high: 30.0)
    settings.REQUEST_TIMEOUT_SECONDS = 0.3
    started = time.monotonic()
    with failing("UPDATE"):
        response = ask(client)
    assert response.json()["recorded"] is False
    assert time.monotonic() - started < 10


def test_an_error_that_cannot_be_settled_is_logged(client, unrecorded_log):
    with failing("UPDATE"):
        response = ask(client, prompt="mock:fail=401")
    assert response.status_code == 502
    (line,) = map(orjson.loads, unrecorded_log.read_bytes().splitlines())
    assert line["record"]["error"]["code"] == "provider_error"


def test_replaying_the_log_settles_what_was_not_and_only_once(client, unrecorded_log):
    with failing("UPDATE"):
        answer = ask(client).json()
    assert Interaction.objects.get().status == "pending"
    with unrecorded_log.open("ab") as file:
        file.write(b'not json\n{"message": "something else"}\n{"record": {"half": 1}}\n')

    assert replay(unrecorded_log, "--dry-run") == "1 records found, 0 stored."
    assert Interaction.objects.get().status == "pending"
    assert replay(unrecorded_log) == "1 records found, 1 stored."
    stored = OrmInteractionStore().get(answer["interaction_id"])
    assert stored == from_json(orjson.loads(unrecorded_log.read_bytes().splitlines()[0])["record"])
    assert replay(unrecorded_log) == "1 records found, 0 stored."


def test_a_record_in_a_collectors_message_is_found(client, unrecorded_log, tmp_path):
    """Filebeat has `log` as an object beside the line; a broken line does not hide the next."""
    with failing("UPDATE"):
        ask(client)
    [line] = unrecorded_log.read_text().splitlines()
    half = len(line) // 2
    events = [
        {"log": {"offset": 0}, "message": "{'a': 1}"},
        {"log": '{"level": "INFO", "cut'},
        {"log": {"offset": 9}, "message": line},
        *({"log": piece} for piece in (line[:half], line[half:])),
    ]
    log = tmp_path / "collected.jsonl"
    log.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events))
    assert run("replay_records", log) == ("2 records found, 1 stored.\n", "")


def test_replaying_stores_a_record_whose_claim_is_gone(client, unrecorded_log):
    with failing("UPDATE"):
        answer = ask(client).json()
    Interaction.objects.all().delete()
    assert replay(unrecorded_log) == "1 records found, 1 stored."
    assert Interaction.objects.get().response == answer["response"]
    assert replay(unrecorded_log) == "1 records found, 0 stored."
    assert client.get("/v1/usage").json()["total"]["requests"] == 1


def docker(line):
    pieces = (line[:100], line[100:])
    return b"".join(orjson.dumps({"log": each.decode()}) + b"\n" for each in pieces)


def kubernetes(line):
    texts = ("Listening", line.decode().removesuffix("\n"))
    return b"".join(orjson.dumps({"log": text}) + b"\n" for text in texts)


def wrapped(line):
    return orjson.dumps({"timestamp": 1, "message": line.decode()}) + b"\n"


@pytest.mark.parametrize("write", [gzip.compress, docker, kubernetes, wrapped])
def test_a_collector_s_log_is_replayed(client, unrecorded_log, write):
    with failing("UPDATE"):
        ask(client)
    unrecorded_log.write_bytes(write(unrecorded_log.read_bytes()))
    assert in_shell(f"manage.py replay_records - < {unrecorded_log}") == (
        0,
        b"1 records found, 1 stored.\n",
        "",
    )


def test_a_log_without_records_is_questioned(tmp_path):
    (tmp_path / "log").write_text('{"log": "Hi\\n"}\n')
    assert run("replay_records", str(tmp_path / "log")) == (
        "0 records found, 0 stored.\n",
        "No line has a record; see those of the logger chat.unrecorded.\n",
    )


def test_a_truncated_log_is_replayed_as_far_as_it_goes(client, unrecorded_log):
    with failing("UPDATE"):
        ask(client)
    log = unrecorded_log.read_bytes()
    unrecorded_log.write_bytes(gzip.compress(log) + gzip.compress(log)[:20])
    assert refusal("replay_records", str(unrecorded_log)) == (
        "The file is truncated or damaged after line 1. Before it: 1 records found, 1 stored."
    )


def test_a_record_that_storage_cannot_keep_does_not_end_the_replay(
    client, unrecorded_log, dynamodb, change_settings, capsys
):
    with failing("UPDATE"):
        ask(client)
    large = orjson.loads(unrecorded_log.read_bytes())
    large["record"] |= {"interaction_id": str(uuid4()), "response": os.urandom(5_000_000).hex()}
    unrecorded_log.write_bytes(orjson.dumps(large) + b"\n" + unrecorded_log.read_bytes())
    change_settings(STORAGE="dynamodb")
    assert replay(unrecorded_log) == "2 records found, 1 stored."
    assert "too long" in capsys.readouterr().err


def nested(levels):
    return {"of": nested(levels - 1)} if levels else 1


@pytest.mark.parametrize("odd", [2**70, 10**400, nested(300)], ids=["long", "huge", "nested"])
def test_values_that_storage_cannot_keep_cost_no_answer(client, vendor, odd):
    message = {"role": "assistant", "content": "Olá!", "odd": odd}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    vendor.reply({"model": "m", "choices": [choice], "citations": [odd]})
    response = ask(client)
    assert (response.status_code, response.json()["response"]) == (200, "Olá!")
    [record] = all_records()
    assert (record.status, record.response) == ("ok", "Olá!")
