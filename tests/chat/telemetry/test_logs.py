"""The log: a line per request, for programs or for people, and never what was said."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Any
from unittest.mock import ANY

import pytest

from chat.telemetry.logs import SimpleFormatter
from tests.client import ApiClient
from tests.factories import ALICE, ANSWERED, FakeProvider, store_record
from tests.server_process import ROOT, base_environment
from tests.stub_vendor import OPENAI_ANSWER, StubVendor

Log = Callable[[], list[dict[str, Any]]]
HEAD = {"level": "INFO", "logger": "chat.request", "message": "request", "timestamp": ANY}


@pytest.fixture
def simple_log() -> Iterator[Callable[[], str]]:
    """What is logged from now on, as it is written with LOG_FORMAT=simple."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(SimpleFormatter())
    logging.getLogger().addHandler(handler)
    yield stream.getvalue
    logging.getLogger().removeHandler(handler)


def test_an_answered_request_leaves_one_line(api: ApiClient, log_lines: Log) -> None:
    response = api.chat("two words", headers={"X-Request-ID": "mine"})
    assert log_lines() == [
        HEAD
        | {
            "request_id": "mine",
            "method": "POST",
            "route": "/v1/chat",
            "status": 200,
            "latency_ms": ANY,
            "owner": "default",
            "interaction_id": response.json()["interaction_id"],
            "provider": "mock",
            "model": "mock-1",
            "prompt_tokens": 2,
            "completion_tokens": 4,
        }
    ]
    [line] = log_lines()
    assert 0 < line["latency_ms"] < 5000
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", line["timestamp"])


def test_a_failed_request_s_line_says_why(
    api: ApiClient, vendor: StubVendor, log_lines: Log
) -> None:
    vendor.reply({"error": {"code": "insufficient_quota", "message": "secret"}}, status=429)
    api.chat()
    [line] = log_lines()
    assert line == HEAD | {
        "request_id": ANY,
        "method": "POST",
        "route": "/v1/chat",
        "status": 503,
        "latency_ms": ANY,
        "owner": "default",
        "interaction_id": ANY,
        "provider": "openai",
        "model": "model-1",
        "prompt_tokens": None,
        "completion_tokens": None,
        "reason": "HTTP 429 insufficient_quota",
        "vendor_errors": ["openai: HTTP 429 insufficient_quota: secret"],
        "code": "provider_unavailable",
    }


LINES: dict[str, tuple[Callable[[ApiClient], Any], dict[str, Any]]] = {
    "a refusal": (
        lambda api: api.chat(7),
        {
            "method": "POST",
            "route": "/v1/chat",
            "status": 400,
            "code": "validation_error",
            "owner": "default",
        },
    ),
    "a record": (
        lambda api: api.get(f"/v1/interactions/{ANSWERED.interaction_id}"),
        {
            "method": "GET",
            "route": "/v1/interactions/<str:interaction_id>",
            "status": 200,
            "owner": "default",
        },
    ),
    "health": (
        lambda api: api.get("/v1/health"),
        {"method": "GET", "route": "/v1/health", "status": 200},
    ),
    "nothing": (
        lambda api: api.get("/nowhere?token=1"),
        {"method": "GET", "route": None, "status": 404, "code": "not_found"},
    ),
    "another host": (
        lambda api: api.get("/v1/health", headers={"Host": "evil.example"}),
        {"method": "GET", "route": None, "status": 400, "code": "validation_error"},
    ),
    "a wrong method": (
        lambda api: api.request("DELETE", "/v1/health"),
        {"method": "DELETE", "route": "/v1/health", "status": 405, "code": "method_not_allowed"},
    ),
}


@pytest.mark.parametrize(("ask", "expected"), LINES.values(), ids=LINES)
def test_every_request_leaves_one_line(
    api: ApiClient, log_lines: Log, ask: Callable[[ApiClient], Any], expected: dict[str, Any]
) -> None:
    store_record(ANSWERED)
    response = ask(api)
    assert log_lines() == [
        HEAD | expected | {"request_id": response["X-Request-ID"], "latency_ms": ANY}
    ]


def test_a_request_without_a_key_has_no_owner(
    api: ApiClient, require_api_key: list[str], log_lines: Log
) -> None:
    api.chat()
    [line] = log_lines()
    assert (line["status"], line["code"]) == (401, "missing_api_key")
    assert "owner" not in line


def test_an_exception_is_logged_once_with_its_traceback(
    api: ApiClient, log_lines: Log, use_provider: Callable[[Any], None]
) -> None:
    use_provider(FakeProvider(RuntimeError("boom")))
    response = api.chat()
    error, request = log_lines()
    assert error == {
        "level": "ERROR",
        "logger": "chat.errors",
        "message": ANY,
        "timestamp": ANY,
        "request_id": response["X-Request-ID"],
        "exc_info": ANY,
    }
    assert error["exc_info"].count("RuntimeError: boom") == 1
    assert request["status"] == 500
    assert request["code"] == "internal_error"


@pytest.mark.parametrize("prompt", ["mock:fail", "mock:filter", "mock:fail=timeout", 7])
def test_a_failure_that_was_foreseen_has_no_traceback(
    api: ApiClient, log_lines: Log, prompt: Any
) -> None:
    api.chat(prompt)
    assert [line["level"] for line in log_lines()] == ["INFO"]
    assert "exc_info" not in log_lines()[0]


@pytest.mark.parametrize(
    "words", ["swordfish", "swordfish mock:fail", "swordfish mock:filter", "swordfish mock:empty"]
)
def test_prompts_and_answers_are_not_logged(
    api: ApiClient, log_lines: Log, simple_log: Callable[[], str], words: str
) -> None:
    api.chat(words, system="trombone", metadata={"ticket": "kazoo"}, stop=["piccolo"])
    api.post("/v1/chat", b'{"prompt": "swordfish", "userId": "trombone')
    api.chat([words], user="tuba/kazoo")
    api.chat(model="piccolo")
    assert len(log_lines()) == 4
    for said in ("swordfish", "trombone", "kazoo", "piccolo", "You said"):
        assert said not in str(log_lines())
        assert said not in simple_log()


def test_a_vendor_s_answer_is_not_logged_but_its_error_message_is(
    api: ApiClient, vendor: StubVendor, log_lines: Log
) -> None:
    api.chat()
    vendor.clear()
    message = "Hello from the stand-in.\nIts key: sk-of-the-vendor"
    vendor.reply({"error": {"message": message}, "text": "Hi!"}, status=502)
    api.chat()
    answered, failed = log_lines()
    assert "Hello" not in str(answered)
    said = "openai: HTTP 502: Hello from the stand-in. Its key: [KEY]"
    assert failed["vendor_errors"] == [said] * 3
    assert "Hi!" not in str(failed)
    assert "sk-of-the-vendor" not in str(failed)


def test_a_failure_before_a_successful_retry_is_logged(
    api: ApiClient, vendor: StubVendor, log_lines: Log, simple_log: Callable[[], str]
) -> None:
    vendor.reply({"error": {"message": "Try again."}}, status=503, headers={"retry-after": "0"})
    vendor.reply(OPENAI_ANSWER)
    assert api.chat().status_code == 200
    [line] = log_lines()
    assert line["vendor_errors"] == ["openai: HTTP 503: Try again."]
    assert "vendor_errors=['openai: HTTP 503: Try again.']" in simple_log()


def test_user_ids_are_not_logged(api: ApiClient, log_lines: Log) -> None:
    api.chat(user=ALICE)
    assert ALICE not in str(log_lines())


def test_log_lines_outside_a_request_have_no_request_id(log_lines: Log) -> None:
    Context().run(logging.getLogger("chat").warning, "the disk is nearly full")
    assert log_lines() == [
        {
            "level": "WARNING",
            "logger": "chat",
            "message": "the disk is nearly full",
            "timestamp": ANY,
        }
    ]


def test_a_request_is_a_readable_line(api: ApiClient, simple_log: Callable[[], str]) -> None:
    response = api.chat("two words", headers={"X-Request-ID": "mine"})
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d INFO POST /v1/chat 200 \d+\.\d ms owner=default provider=mock "
        r"model=mock-1 prompt_tokens=2 completion_tokens=4 "
        rf"interaction_id={response.json()['interaction_id']} request_id=mine\n",
        simple_log(),
    )


def test_a_failure_is_a_readable_line(api: ApiClient, simple_log: Callable[[], str]) -> None:
    api.get("/nowhere", headers={"X-Request-ID": "mine"})
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d INFO GET - 404 \d+\.\d ms code=not_found request_id=mine\n",
        simple_log(),
    )


def test_an_exception_is_readable_with_its_traceback(
    api: ApiClient, simple_log: Callable[[], str], use_provider: Callable[[Any], None]
) -> None:
    use_provider(FakeProvider(RuntimeError("boom")))
    api.chat()
    assert simple_log().count("RuntimeError: boom") == 1
    assert len(re.findall(r"(?m)^\d\d:\d\d:\d\d ERROR unhandled \w+$", simple_log())) == 1
    assert re.search(r"(?m)^\d\d:\d\d:\d\d INFO POST /v1/chat 500 ", simple_log())


@pytest.mark.parametrize("given", ['"}', "a\nINFO forged", "\u2028"])
def test_no_line_can_be_forged(
    api: ApiClient, log_lines: Log, simple_log: Callable[[], str], given: str
) -> None:
    api.get("/v1/health", headers={"X-Request-ID": given, "User-Agent": given})
    api.request("GET", f"/nowhere/{given.encode('unicode_escape').decode()}")
    assert len(log_lines()) == 2
    assert len(simple_log().splitlines()) == 2
    assert "forged" not in simple_log()


# --- On a terminal, and not -----------------------------------------------------------------------

REQUEST = """
import django; django.setup()
from django.test import Client
Client(headers={"host": "localhost"}).get("/v1/health", headers={"x-request-id": "mine"})
"""
PLAIN_LINE = r"\d\d:\d\d:\d\d INFO GET /v1/health 200 [0-9.]+ ms request_id=mine\r?\n"
COLORED_LINE = (
    r"\d\d:\d\d:\d\d INFO \x1b\[1mGET /v1/health\x1b\[0m \x1b\[32m200\x1b\[0m [0-9.]+ ms "
    r"request_id=mine\r\n"
)
JSON_LINE = r'\{"level":"INFO","logger":"chat\.request".*"request_id":"mine".*\}\r?\n'


def log_of_a_request(stderr: int, variables: dict[str, str]) -> "subprocess.Popen[bytes]":
    ours = {"ENV_FILE": os.devnull, "DJANGO_SETTINGS_MODULE": "chatproject.settings"}
    ours |= {"SECRET_KEY": "secret", "TERM": "xterm"}
    return subprocess.Popen(
        [sys.executable, "-c", REQUEST],
        cwd=ROOT,
        env=base_environment() | ours | variables,
        stderr=stderr,
    )


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, COLORED_LINE),
        ({"NO_COLOR": ""}, COLORED_LINE),
        ({"NO_COLOR": "1"}, PLAIN_LINE),
        ({"TERM": "dumb"}, PLAIN_LINE),
        ({"LOG_FORMAT": "json"}, JSON_LINE),
    ],
    ids=repr,
)
def test_a_terminal_shows_readable_lines(variables: dict[str, str], line: str) -> None:
    ours, theirs = pty.openpty()
    process = log_of_a_request(theirs, variables)
    assert process.wait(timeout=60) == 0
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    os.close(theirs)
    assert re.fullmatch(line, shown)


@pytest.mark.parametrize(
    ("variables", "line"), [({}, JSON_LINE), ({"LOG_FORMAT": "simple"}, PLAIN_LINE)], ids=repr
)
def test_a_pipe_gets_json_and_no_colors(variables: dict[str, str], line: str) -> None:
    with log_of_a_request(subprocess.PIPE, variables) as process:
        _, log = process.communicate(timeout=60)
    assert re.fullmatch(line, log.decode())
