"""create_api_key, list_api_keys, revoke_api_key, rotate_api_key."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import call_command

from chat import api_keys
from chat.storage import backend
from chat.storage.base import ApiKey
from tests.commands import in_shell, refusal, run

Configure = Callable[..., None]


def the_key() -> ApiKey:
    [key] = backend().api_keys.all()
    return key


def test_a_key_is_shown_once_and_alone(each_storage: str) -> None:
    out, err = run("create_api_key", "mobile app")
    assert api_keys.FORMAT.fullmatch(out.removesuffix("\n"))
    assert err == "A key of default. It is not shown again.\n"
    secret = out.strip().split("_")[2]
    for command in (["list_api_keys"], ["list_api_keys", "--format", "json"]):
        assert secret not in "".join(run(*command))
    assert api_keys.verify(out.strip()).name == "mobile app"


def test_a_key_does_not_expire_at_once(db: None) -> None:
    assert refusal("create_api_key", "app", "--expires-in", "0d").startswith("--expires-in 0 ")


def test_a_key_has_the_terms_that_it_was_given(
    each_storage: str, change_settings: Configure
) -> None:
    change_settings(ALLOWED_MODELS=["model-2"])
    before = datetime.now(UTC)
    words = ["--owner", "team:blue", "--expires-in", "90d", "--rate-limit", "0"]
    words += ["--monthly-budget-usd", "12.50", "--user-monthly-budget-usd", "0.10"]
    words += ["--model", "model-2", "--model", "mock:mock-1"]
    out, _ = run("create_api_key", "mobile app", *words, "--format", "json")
    told, key = json.loads(out), the_key()
    assert api_keys.verify(told.pop("key")).key_id == key.key_id
    assert (key.owner, key.name, key.rate_limit) == ("team:blue", "mobile app", 0)
    assert key.monthly_budget_usd == Decimal("12.50")
    assert key.allowed_models == ("model-2", "mock:mock-1")
    assert key.expires_at
    assert timedelta(0) <= key.expires_at - before - timedelta(days=90) < timedelta(minutes=1)
    assert told == {
        "key_id": key.key_id,
        "prefix": f"sca_{key.key_id}",
        "owner": "team:blue",
        "name": "mobile app",
        "status": "active",
        "created_at": key.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "expires_at": key.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "revoked_at": None,
        "last_used_at": None,
        "rate_limit": 0,
        "monthly_budget_usd": "12.5",
        "user_monthly_budget_usd": "0.1",
        "allowed_models": ["model-2", "mock:mock-1"],
    }


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["  "], "a name has"),
        (["x" * 129], "a name has"),
        (["a\nb"], "a name has"),
        (["app", "--owner", "a b"], "an owner has"),
        (["app", "--owner", ""], "an owner has"),
        (["app", "--owner", "a#b"], "an owner has"),
        (["app", "--owner", "."], "neither . nor .."),
        (["app", "--owner", ".."], "neither . nor .."),
        (["app", "--rate-limit", "-1"], "a rate limit is"),
        (["app", "--rate-limit", "x"], "a rate limit is"),
        (["app", "--expires-in", "90"], "is not a time such as"),
        (["app", "--expires-in", "999999d"], "is not a time such as"),
        (["app", "--monthly-budget-usd", "-1"], "is not an amount such as"),
        (["app", "--monthly-budget-usd", "NaN"], "is not an amount such as"),
        (["app", "--monthly-budget-usd", "0.0000000000001"], "is not an amount such as"),
        (["app", "--model", "unknown"], "unknown is not allowed here"),
        ([], "required: name"),
    ],
)
def test_an_invalid_key_is_not_created(db: None, words: list[str], reason: str) -> None:
    assert reason in refusal("create_api_key", *words)
    assert list(backend().api_keys.all()) == []


def test_keys_are_listed_in_a_table(each_storage: str) -> None:
    assert run("list_api_keys") == ("", "No keys. Create one with create_api_key.\n")
    run("create_api_key", "first", "--rate-limit", "5")
    run("create_api_key", "second", "--owner", "team:blue", "--monthly-budget-usd", "7")
    first, second = backend().api_keys.all()
    run("revoke_api_key", first.prefix)
    head, *lines = run("list_api_keys")[0].splitlines()
    assert head.split()[:4] == ["prefix", "owner", "name", "status"]
    assert [line.split()[:4] for line in lines] == [
        [first.prefix, "default", "first", "revoked"],
        [second.prefix, "team:blue", "second", "active"],
    ]
    [only] = json.loads(run("list_api_keys", "--owner", "team:blue", "--format", "json")[0])
    assert (only["name"], only["monthly_budget_usd"]) == ("second", "7")
    assert json.loads(run("list_api_keys", "--owner", "nobody", "--format", "json")[0]) == []


def test_a_key_is_revoked_by_its_prefix_or_its_id(each_storage: str) -> None:
    run("create_api_key", "app")
    key = the_key()
    said = f"{key.prefix} (app, of default)"
    assert run("revoke_api_key", key.key_id, "--dry-run")[0] == f"{said} would be revoked.\n"
    assert the_key().revoked_at is None
    assert run("revoke_api_key", key.key_id)[0] == f"{said} is revoked.\n"
    revoked_at = the_key().revoked_at
    assert revoked_at
    assert run("revoke_api_key", key.prefix)[0] == f"{said} was revoked before.\n"
    assert the_key().revoked_at == revoked_at


def test_a_key_is_rotated(each_storage: str) -> None:
    old = run("create_api_key", "app")[0].strip()
    before = the_key()
    assert run("rotate_api_key", before.prefix, "--dry-run") == (
        "",
        f"{before.prefix} (app, of default) would get a new secret.\n",
    )
    assert the_key() == before
    out, err = run("rotate_api_key", before.prefix, "--grace", "2h")
    assert err == f"{before.prefix} (app, of default) has a new secret. It is not shown again.\n"
    after = the_key()
    assert after.previous_digest == before.digest
    assert after.previous_until
    assert api_keys.verify(out.strip()).key_id == api_keys.verify(old).key_id
    told = json.loads(run("rotate_api_key", before.prefix, "--format", "json")[0])
    assert api_keys.verify(told["key"]).key_id == told["key_id"]


@pytest.mark.parametrize("output", ["> /dev/full", "| true"])
def test_a_key_that_cannot_be_shown_is_named(transactional_db: None, output: str) -> None:
    code, out, err = in_shell(f"manage.py create_api_key app {output}")
    key = the_key()
    said = f"The key {key.prefix} was made, but could not be shown: rotate it."
    assert (code, out, err) == (1, b"", f"CommandError: {said}\n")
    code, out, err = in_shell(f"manage.py rotate_api_key {key.prefix} {output}")
    said = f"{key.prefix} (app, of default) has a new secret that could not be shown: "
    assert (code, out, err) == (1, b"", f"CommandError: {said}rotate it again.\n")
    assert the_key().digest != key.digest


@pytest.mark.parametrize("status", ["expired", "revoked"])
def test_an_inactive_key_is_not_rotated(each_storage: str, status: str) -> None:
    if status == "expired":
        api_keys.create(owner="default", name="app", expires_at=datetime.now(UTC))
    else:
        run("create_api_key", "app")
        run("revoke_api_key", the_key().prefix)
    assert f"is {status}; make a new one" in refusal("rotate_api_key", the_key().prefix)


@pytest.mark.parametrize("command", ["revoke_api_key", "rotate_api_key"])
@pytest.mark.parametrize("key", ["x", "sca_", "0" * 16, "a" * 3000])
def test_an_unknown_key_is_an_error(each_storage: str, command: str, key: str) -> None:
    assert refusal(command, key).startswith("Unknown API key.")


@pytest.mark.parametrize("command", ["revoke_api_key", "rotate_api_key"])
def test_a_key_that_changes_meanwhile_is_left_alone(
    db: None, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    run("create_api_key", "app")
    key = the_key()

    def stale(text: str) -> ApiKey:
        api_keys.rotate(key, grace=timedelta(0))
        return key

    monkeypatch.setattr(f"chat.management.commands.{command}.find_key", stale)
    assert refusal(command, key.prefix) == "The key was changed meanwhile; run the command again."


@pytest.mark.parametrize(
    "words",
    [
        ["create_api_key", "app"],
        ["list_api_keys"],
        ["revoke_api_key", "0" * 16],
        ["rotate_api_key", "0" * 16],
        ["usage_report"],
    ],
)
def test_commands_report_an_unavailable_storage(
    unreachable_database: None, words: list[str]
) -> None:
    assert refusal(*words).startswith("The storage is unreachable: is it up")


@pytest.mark.parametrize(
    "command",
    ["create_api_key", "list_api_keys", "revoke_api_key", "rotate_api_key", "usage_report"],
)
def test_each_command_explains_itself(command: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as excinfo:
        call_command(command, "--help")
    assert excinfo.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) > 10
