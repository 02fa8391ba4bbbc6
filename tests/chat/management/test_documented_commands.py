"""The sessions of docs/keys.md and docs/commands.md print what the documents say.

test_bulk.py has those of the commands on many records.
"""

import io
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command

from chat import api_keys
from tests.factories import ALICE, ANSWERED, store_record
from tests.server_process import free_port
from tests.stub_vendor import OPENAI_ANSWER, StubVendor

Configure = Callable[..., None]
DOCS = Path(__file__).parents[3] / "docs"
# What differs from run to run, and numbers of usage.
CHANGING = [
    (r"sca_[0-9a-f]{16}_[\w…-]+", "SECRET"),
    (r"sca_[0-9a-f]{16}", "KEY"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
]


def sessions(document: str, *commands: str) -> Iterator[tuple[str, str]]:
    """Yield each line after a prompt that runs one of the commands, and what it prints."""
    text = (DOCS / document).read_text()
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for entry in block.split("$ ")[1:]:
            line, printed = entry.split("\n", 1)
            if any(f"manage.py {command}" in line for command in commands):
                yield line, printed


def run(line: str, monkeypatch: pytest.MonkeyPatch, names: dict[str, str]) -> str:
    """Run a line with this run's names of keys; return what a terminal shows."""
    typed, _, command = line.rpartition("manage.py ")
    words = [names.get(word, word) for word in shlex.split(command.removesuffix(" 2>/dev/null"))]
    if typed:
        monkeypatch.setattr("sys.stdin", io.StringIO(shlex.split(typed)[1]))
    shown = io.StringIO()
    hidden = io.StringIO() if "2>/dev/null" in line else shown
    try:
        call_command(*words, stdout=shown, stderr=hidden, no_color=True)
    except CommandError as exc:
        shown.write(f"CommandError: {exc}\n")
    return shown.getvalue()


def masked(text: str) -> str:
    for pattern, name in CHANGING:
        text = re.sub(pattern, name, text)
    return text


@pytest.mark.django_db(transaction=True)
def test_keys_are_made_listed_rotated_and_revoked_as_documented(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names: dict[str, str] = {}
    lines = list(sessions("keys.md", "create", "list", "rotate", "revoke"))
    assert len(lines) == 5
    for line, documented in lines:
        shown = run(line, monkeypatch, names)
        assert masked(shown) == masked(documented)
        prefix = r"sca_[0-9a-f]{16}"
        names.update(zip(re.findall(prefix, documented), re.findall(prefix, shown), strict=True))


@pytest.mark.django_db(transaction=True)
def test_usage_is_reported_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in ("default", "team-blue"):
        key, _ = api_keys.create(owner=owner, name="app")
        changes = {"owner": owner, "key_id": key.key_id, "created_at": datetime.now(UTC)}
        store_record(replace(ANSWERED, interaction_id=str(uuid4()), **changes))
    [(line, documented)] = sessions("keys.md", "usage_report")

    def without_numbers(text: str) -> str:
        return re.sub(r" +", " ", re.sub(r"[\d.]+", "N", text))

    assert without_numbers(run(line, monkeypatch, {})) == without_numbers(documented)


@pytest.mark.django_db(transaction=True)
def test_a_question_in_a_pipe_is_answered_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [pair for pair in sessions("commands.md", "chat") if "|" in pair[0]]
    assert len(lines) == 2
    for line, documented in lines:
        assert run(line, monkeypatch, {}) == documented


@pytest.mark.django_db(transaction=True)
def test_a_user_is_erased_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(4):
        store_record(replace(ANSWERED, interaction_id=str(uuid4()), user_id=ALICE))
    lines = list(sessions("commands.md", "erase_user"))
    assert len(lines) == 2
    for line, documented in lines:
        assert run(line, monkeypatch, {}) == documented


@pytest.fixture
def vendors(change_settings: Configure) -> Iterator[StubVendor]:
    """OpenRouter, which cannot be reached, and an OpenAI-compatible server without our model."""
    options = {"api_key": "key", "model": "google/gemini-3.5-flash-lite"}
    with StubVendor() as stub:
        unreachable = {**options, "base_url": f"http://127.0.0.1:{free_port()}/api/v1"}
        other = {"api_key": "", "base_url": f"{stub.url}/v1", "model": "gemma-3-270m"}
        change_settings(PROVIDERS={"openrouter": unreachable, "openai": other})
        yield stub


@pytest.mark.django_db(transaction=True)
def test_the_doctor_reports_as_documented(
    vendors: StubVendor, change_settings: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_settings(REQUIRE_API_KEY=True, API_KEYS=[])
    vendors.reply({"data": [{"id": "another"}]})
    [(line, documented)] = sessions("commands.md", "doctor")
    # The vendors are checked at the same time, and named as they answer.
    assert sorted(run(line, monkeypatch, {}).splitlines()) == sorted(documented.splitlines())


@pytest.mark.django_db(transaction=True)
def test_providers_are_checked_as_documented(
    vendors: StubVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = {"message": {"role": "assistant", "content": "Cat."}, "finish_reason": "stop"}
    vendors.reply({**OPENAI_ANSWER, "model": "gemma-3-270m", "choices": [choice]})
    [(line, documented)] = sessions("commands.md", "check_providers")

    def without_latency(text: str) -> list[str]:
        return sorted(re.sub(r" +\d+(?= +(?:\d+|-) +(?:\d|-))", " MS", text).splitlines())

    assert without_latency(run(line, monkeypatch, {})) == without_latency(documented)
