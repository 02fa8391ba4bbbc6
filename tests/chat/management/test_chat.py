"""manage.py chat, on a terminal and in a pipe."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from chat.storage import backend
from chat.storage.base import Status
from providers.base import Completion, CompletionRequest, Delta
from providers.deadline import Deadline
from providers.errors import DeadlineExceeded
from tests.factories import ALICE, FailingSettleStore, FakeProvider, all_records
from tests.server_process import ROOT, base_environment

WAIT_SECONDS = 60.0
HELLO = Completion(message={"content": "Hello."}, model="mock-1", finish_reason="stop")


def piped(text: str, *words: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    call_command("chat", *words, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def refused(text: str, *words: str, monkeypatch: pytest.MonkeyPatch) -> str:
    with pytest.raises(CommandError) as excinfo:
        piped(text, *words, monkeypatch=monkeypatch)
    assert excinfo.value.returncode == 1
    return str(excinfo.value)


# --- In a pipe ------------------------------------------------------------------------------------


def test_all_of_the_input_is_one_question(
    each_storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = piped(
        "Hi,\nyou there!\n", "--user", ALICE, "--system", "Be brief.", monkeypatch=monkeypatch
    )
    assert out == "You said: Hi,\nyou there!\n"
    [record] = backend().interactions.list_by_user("default", ALICE, limit=2).records
    assert (record.prompt, record.user_id, record.system) == ("Hi,\nyou there!", ALICE, "Be brief.")
    assert re.fullmatch(rf"mock-1 · 10 tokens · 0 USD · \d+ ms · {record.interaction_id}\n", err)


def test_an_answer_may_come_as_json(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = piped("Olá \x9b!", "--format", "json", monkeypatch=monkeypatch)
    assert (out.count("\n"), out.isascii(), err) == (1, True, "")
    answer = json.loads(out)
    [record] = all_records()
    assert (answer["interaction_id"], answer["response"]) == (
        record.interaction_id,
        "You said: Olá \x9b!",
    )
    assert answer["recorded"] is True


def test_a_conversation_is_continued(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped("Hi", monkeypatch=monkeypatch)
    [first] = all_records()
    piped("And?", "--continue", first.interaction_id, monkeypatch=monkeypatch)
    assert all_records()[1].previous_interaction_id == first.interaction_id


@pytest.mark.parametrize(
    ("text", "words", "reason"),
    [
        ("", [], "prompt: This field may not be blank."),
        (
            "Hi",
            ["--model", "unknown"],
            "model: Unknown model, or not allowed for this key; see GET /v1/models.",
        ),
        ("Hi", ["--max-tokens", "0"], "max_tokens: Ensure this value"),
        ("Hi", ["--continue", "unknown"], "previous_interaction_id: No such turn."),
        ("Hi", ["--user", "a/b"], "a user id has"),
        ("mock:fail", [], "The provider failed. "),
        ("mock:break a b", [], "The provider broke off its answer."),
    ],
)
def test_a_failed_chat_ends_with_the_reason(
    transactional_db: None,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    words: list[str],
    reason: str,
) -> None:
    assert reason in refused(text, *words, monkeypatch=monkeypatch)


def test_without_the_storage_a_chat_ends_with_a_hint(
    unreachable_database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "are its tables there (migrate)?" in refused("Hi", monkeypatch=monkeypatch)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_question_must_be_text(db: None, monkeypatch: pytest.MonkeyPatch, errors: str) -> None:
    given = io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8", errors=errors)
    monkeypatch.setattr("sys.stdin", given)
    with pytest.raises(CommandError) as excinfo:
        call_command("chat")
    assert str(excinfo.value) == "Standard input must be a text in UTF-8."
    assert all_records() == []


class Interrupted(FakeProvider):
    """A provider that is interrupted (Ctrl-C) at its first word."""

    def stream(
        self, request: CompletionRequest, deadline: Deadline
    ) -> Iterator[Delta | Completion]:
        yield Delta({"content": "An "})
        signal.raise_signal(signal.SIGINT)
        deadline.sleep(20)
        raise DeadlineExceeded("It came to its end.")


def test_an_interrupt_in_a_pipe_is_an_end_of_its_own(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch, use_provider: Any
) -> None:
    use_provider(Interrupted(HELLO))
    with pytest.raises(CommandError) as excinfo:
        piped("Hi", monkeypatch=monkeypatch)
    assert excinfo.value.returncode == 130
    assert [(record.status, record.response) for record in all_records()] == [
        (Status.ABORTED, "An ")
    ]


def test_terminal_escapes_of_a_model_are_removed(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch, use_provider: Any
) -> None:
    text = "\x1b]0;title\x07\x9b31m red\r\u202eder\t\x7fend\n"
    use_provider(
        FakeProvider(Completion(message={"content": text}, model="m\x1b", finish_reason="stop"))
    )
    out, err = piped("Hi", monkeypatch=monkeypatch)
    assert out == "]0;title31m redder\tend\n\n"
    assert err.startswith("m · ")


def test_a_refusal_is_the_answer(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch, use_provider: Any
) -> None:
    message = {"refusal": "I cannot.", "reasoning": "Hm."}
    use_provider(FakeProvider(Completion(message=message, model="m", finish_reason="stop")))
    out, err = piped("Hi", monkeypatch=monkeypatch)
    assert (out, "Hm." in err) == ("I cannot.\n", False)


def test_an_unrecorded_answer_is_marked(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch, use_store: Any
) -> None:
    use_store(FailingSettleStore)
    out, err = piped("Hi", monkeypatch=monkeypatch)
    assert (out, err.endswith("· not recorded\n")) == ("You said: Hi\n", True)


# --- At a terminal --------------------------------------------------------------------------------


# Makes the terminal that the process was given its own, so that Ctrl-C reaches it.
CONTROLLED = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class Terminal:
    """A process of the command on its own terminal."""

    def __init__(self, *words: str, **variables: str) -> None:
        self.screen = ""
        self._read = 0
        self._file, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", CONTROLLED, str(ROOT / "manage.py"), *words],
            env={**base_environment(), "ENV_FILE": os.devnull, "TERM": "dumb", **variables},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def until(self, text: str) -> None:
        """Wait for a text after those waited for before."""
        end = time.monotonic() + WAIT_SECONDS
        while (found := self.screen.find(text, self._read)) < 0:
            ready, _, _ = select.select([self._file], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {text!r} in {self.screen!r}"
            self.screen += os.read(self._file, 4096).decode()
        self._read = found + len(text)

    def waits(self) -> None:
        """Wait until the process sleeps: Python may miss a signal that comes just before.

        Its echo is no proof: on a busy machine the process may be preempted right after it.
        """
        time.sleep(0.2)
        stat = Path(f"/proc/{self._process.pid}/stat")
        end = time.monotonic() + WAIT_SECONDS
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < end
            time.sleep(0.02)

    def type(self, text: str) -> None:
        os.write(self._file, text.encode())

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def hang_up(self) -> None:
        os.close(self._file)
        self._file = -1

    def ended(self) -> int:
        code = self._process.wait(WAIT_SECONDS)
        if self._file >= 0:
            self.hang_up()
        return code


@pytest.fixture
def database(transactional_db: None) -> str:
    return str(connection.settings_dict["NAME"])


def test_a_terminal_conversation_can_be_stopped_and_ended(database: str) -> None:
    terminal = Terminal("chat", "--user", ALICE, DATABASE_PATH=database)
    terminal.until("> ")
    terminal.type("One?\n")
    terminal.until("You said: One?")
    terminal.until("4 tokens")
    terminal.until("> ")
    terminal.type("mock:think=Hmm And?\n")
    terminal.until("\x1b[2mHmm\x1b[0m")
    terminal.until("You said:")
    terminal.until("> ")
    terminal.type("mock:pace=0.5 a b c d e f\n")
    terminal.until("You said:")
    terminal.type("\x03")
    terminal.until("(stopped)")
    terminal.until("> ")
    terminal.type("mock:fail=429\n")
    terminal.until("limit or quota")
    terminal.until("> ")
    terminal.type("half a line")
    terminal.until("half a line")
    terminal.waits()
    terminal.type("\x03")
    terminal.until("> ")
    terminal.type("\n")
    terminal.until("> ")
    terminal.type("Two?\n")
    terminal.until("You said: Two?")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.ended() == 0
    one, thought, stopped, failed, two = all_records()
    assert [one.status, thought.status, two.status] == [Status.OK] * 3
    assert (stopped.status, failed.status) == (Status.ABORTED, Status.ERROR)
    assert stopped.response
    assert two.previous_interaction_id == thought.interaction_id


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_chat_once_its_record_is_settled(
    database: str, number: signal.Signals
) -> None:
    terminal = Terminal("chat", DATABASE_PATH=database)
    terminal.until("> ")
    terminal.type("mock:pace=0.5 a b c d e f\n")
    terminal.until("You said:")
    if number == signal.SIGHUP:
        terminal.hang_up()
    else:
        terminal.signal(number)
    assert terminal.ended() == -number
    [record] = all_records()
    assert record.status is Status.ABORTED
    assert record.response


def test_without_stored_content_questions_stand_alone(database: str) -> None:
    terminal = Terminal("chat", DATABASE_PATH=database, STORE_CONTENT="false")
    terminal.until("questions do not continue the conversation")
    for word in ("One?", "Two?"):
        terminal.until("> ")
        terminal.type(f"{word}\n")
        terminal.until(f"You said: {word}")
    terminal.until("> ")
    terminal.type("/quit\n")
    assert terminal.ended() == 0
    assert [record.previous_interaction_id for record in all_records()] == [None, None]
