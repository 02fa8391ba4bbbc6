"""Managed keys over HTTP: made, used, limited, over budget, expired, revoked, rotated."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import caches
from django.core.management import call_command
from pytest_django import Settings

from chat import api_keys
from chat.storage import backend
from chat.storage.base import ApiKey
from chat.storage.errors import StorageUnavailable
from chat.storage.orm import api_keys as orm_api_keys
from providers.base import Completion, Usage
from tests.client import ApiClient, field_errors, status_and_code
from tests.dynamodb_local import Calls, botocore_client
from tests.factories import (
    ALICE,
    ANSWERED,
    BOB,
    KEY,
    Clock,
    FakeProvider,
    database_bytes,
    run_concurrently,
)
from tests.factories import store_record as keep_record

Configure = Callable[..., None]
UNKNOWN = f"sca_{'0' * 16}_{'0' * 64}"


@pytest.fixture(autouse=True)
def needed(change_settings: Configure) -> None:
    """Keys are needed, and this process has seen none."""
    change_settings(REQUIRE_API_KEY=True, API_KEYS=[KEY])
    for name in ("keys", "refused_keys"):
        caches[name].clear()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time by which a process forgets keys."""
    clock = Clock(1_800_000_000)
    monkeypatch.setattr("django.core.cache.backends.locmem.time", clock)
    monkeypatch.setattr("django.core.cache.backends.base.time", clock)
    return clock


def create(*words: str) -> str:
    """The text of a new key, as the command shows it."""
    return command("create_api_key", "app", *words).strip()


def command(*words: str) -> str:
    out = io.StringIO()
    call_command(*words, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def ask(api: ApiClient, key: str, *args: Any, **fields: Any) -> Any:
    return api.chat(*args, headers={"X-API-Key": key}, **fields)


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour passes for keys."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr(api_keys, "datetime", Later)


def prefix(key: str) -> str:
    return key[: len("sca_") + 16]


def kept(key: str) -> ApiKey:
    found = backend().api_keys.get(key.split("_")[1])
    assert found
    return found


# --- Made and used --------------------------------------------------------------------------------


def test_a_created_key_can_be_used(api: ApiClient, each_storage: str) -> None:
    key = create("--owner", "team:blue")
    answer = ask(api, key)
    assert answer.status_code == 200
    path = f"/v1/interactions/{answer.json()['interaction_id']}"
    assert api.get(path, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert status_and_code(api.get(path, headers={"X-API-Key": KEY})) == (404, "not_found")


def test_keys_of_an_owner_see_the_same_records(api: ApiClient, each_storage: str) -> None:
    answer = ask(api, create("--owner", "team:blue"))
    path = f"/v1/interactions/{answer.json()['interaction_id']}"
    other = create("--owner", "team:blue")
    assert api.get(path, headers={"X-API-Key": other}).status_code == 200
    stranger = create("--owner", "team:red")
    assert status_and_code(api.get(path, headers={"X-API-Key": stranger})) == (404, "not_found")


def test_a_key_from_the_environment_keeps_working(api: ApiClient, each_storage: str) -> None:
    create()
    assert ask(api, KEY).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        lambda key: UNKNOWN,
        lambda key: key[:-1] + ("0" if key[-1] != "0" else "1"),
        lambda key: key[:-1],
        lambda key: key + "0",
        lambda key: key.upper(),
        lambda key: prefix(key),
        lambda key: f"{prefix(key)}_",
        lambda key: key.replace("sca_", "sk-"),
        lambda key: f"sca_{'0' * 16}_{key.split('_')[2]}",
    ],
)
def test_invalid_keys_are_refused(
    api: ApiClient, each_storage: str, change: Callable[[str], str]
) -> None:
    assert status_and_code(ask(api, change(create()))) == (401, "invalid_api_key")


def test_nothing_but_a_hash_is_kept(
    api: ApiClient, each_storage: str, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    key = create()
    rotated = command("rotate_api_key", prefix(key), "--grace", "1h").strip()
    assert ask(api, key).status_code == ask(api, rotated).status_code == 200
    stored = str(log_lines()) + at_rest()
    assert kept(key).digest in stored
    for text in (key, rotated):
        assert text.split("_")[2] not in stored


def at_rest() -> str:
    """All that is in the database's files and in the tables."""
    stored = database_bytes().decode("latin-1")
    if settings.STORAGE == "dynamodb":
        for table in (settings.TABLE_NAME, settings.STATE_TABLE_NAME):
            stored += str(botocore_client().scan(TableName=table)["Items"])
    return stored


def test_the_hash_is_of_no_use_without_the_secret_key(
    api: ApiClient, each_storage: str, settings: Settings
) -> None:
    key = create()
    settings.SECRET_KEY = "another"
    assert status_and_code(ask(api, key)) == (401, "invalid_api_key")
    caches["refused_keys"].clear()
    settings.SECRET_KEY_FALLBACKS = ["yet another", "tests"]
    assert ask(api, key).status_code == 200
    rotated = command("rotate_api_key", prefix(key)).strip()
    settings.SECRET_KEY_FALLBACKS = []
    assert ask(api, rotated).status_code == 200


# --- Limits ---------------------------------------------------------------------------------------


def test_a_key_has_its_own_rate_limit(
    api: ApiClient, each_storage: str, change_settings: Configure
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=1)
    key, free = create("--rate-limit", "2"), create("--rate-limit", "0")
    answers = [ask(api, key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0]["X-RateLimit-Limit"] == "2"
    assert [ask(api, free).status_code for _ in range(3)] == [200] * 3
    assert [ask(api, create()).status_code, ask(api, KEY).status_code] == [200, 200]


@pytest.fixture
def priced(use_provider: Callable[..., None]) -> FakeProvider:
    """A model whose answers cost 0.10 dollars."""
    usage = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3, cost_usd=Decimal("0.10"))
    provider = FakeProvider(
        Completion(message={"content": "Olá"}, model="mock-1", finish_reason="stop", usage=usage)
    )
    use_provider(provider)
    return provider


def test_a_key_spends_its_budget_and_no_more(
    api: ApiClient, each_storage: str, priced: FakeProvider
) -> None:
    key, other = create("--monthly-budget-usd", "0.25"), create("--monthly-budget-usd", "0.10")
    answers = [ask(api, key) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 402, 402]
    assert status_and_code(answers[-1]) == (402, "budget_exceeded")
    assert len(priced.requests) == 3
    assert [ask(api, other).status_code for _ in range(2)] == [200, 402]
    assert ask(api, create()).status_code == 200
    assert ask(api, KEY).status_code == 200


def test_a_request_over_budget_leaves_no_record(
    api: ApiClient, each_storage: str, priced: FakeProvider
) -> None:
    key = create("--monthly-budget-usd", "0")
    assert status_and_code(ask(api, key)) == (402, "budget_exceeded")
    usage = api.get("/v1/usage", headers={"X-API-Key": key}).json()
    assert usage["total"]["requests"] == 0


def test_a_budget_is_of_a_month(api: ApiClient, each_storage: str, priced: FakeProvider) -> None:
    key = create("--monthly-budget-usd", "0.10")
    last_month = datetime.now(UTC).replace(day=1) - timedelta(days=1)
    keep_record(
        replace(
            ANSWERED,
            created_at=last_month,
            key_id=kept(key).key_id,
            usage=Usage(cost_usd=Decimal(5)),
        )
    )
    assert [ask(api, key).status_code for _ in range(2)] == [200, 402]


def test_requests_in_flight_that_reserve_nothing_pass(
    handler: Any, each_storage: str, priced: FakeProvider
) -> None:
    key = create("--monthly-budget-usd", "0.20")
    run_concurrently(4, lambda _: ask(ApiClient(handler), key))
    assert 2 <= len(priced.requests) <= 4
    assert ask(ApiClient(handler), key).status_code == 402


def test_a_key_for_some_models_asks_no_others(
    api: ApiClient, each_storage: str, change_settings: Configure
) -> None:
    change_settings(ALLOWED_MODELS=["model-2", "model-3"])
    key = create("--model", "mock:model-2", "--model", "mock-1")
    assert ask(api, key, model="mock-1").json()["model"] == "mock-1"
    assert ask(api, key, model="mock:mock-1").json()["model"] == "mock-1"
    assert ask(api, key, model="model-2").json()["model"] == "model-2"
    for model in ("model-3", "mock:model-3", "unknown"):
        assert field_errors(ask(api, key, model=model)) == [("model", "unknown")]
    assert ask(api, KEY, model="model-3").status_code == 200


def test_the_first_model_of_a_key_is_its_default(
    api: ApiClient, each_storage: str, change_settings: Configure
) -> None:
    change_settings(ALLOWED_MODELS=["model-2"])
    key = create("--model", "model-2", "--model", "mock-1")
    assert ask(api, key).json()["model"] == "model-2"


def test_a_key_without_an_allowed_model_calls_no_model(
    api: ApiClient, each_storage: str, change_settings: Configure
) -> None:
    change_settings(ALLOWED_MODELS=["model-2"])
    key = create("--model", "model-2")
    change_settings(ALLOWED_MODELS=[])
    assert field_errors(ask(api, key)) == [("model", "unknown")]


# --- The end of a key -----------------------------------------------------------------------------


def test_a_key_expires(api: ApiClient, each_storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = create("--expires-in", "1h")
    assert ask(api, key).status_code == 200
    later(monkeypatch)
    assert status_and_code(ask(api, key)) == (401, "invalid_api_key")


def test_a_revoked_key_is_refused_after_half_a_minute(
    api: ApiClient, each_storage: str, clock: Clock
) -> None:
    key = create()
    path = f"/v1/interactions/{ask(api, key).json()['interaction_id']}"
    command("revoke_api_key", prefix(key))
    clock.now += 29.9
    assert ask(api, key).status_code == 200
    clock.now += 0.2
    assert status_and_code(ask(api, key)) == (401, "invalid_api_key")
    assert status_and_code(api.get(path, headers={"X-API-Key": key})) == (401, "invalid_api_key")
    assert api.get(path, headers={"X-API-Key": create()}).status_code == 200


def test_a_rotated_key_has_its_history_and_its_spending(
    api: ApiClient, each_storage: str, priced: FakeProvider, clock: Clock
) -> None:
    old = create("--owner", "team:blue", "--monthly-budget-usd", "0.20", "--rate-limit", "7")
    path = f"/v1/interactions/{ask(api, old).json()['interaction_id']}"
    new = command("rotate_api_key", prefix(old)).strip()
    assert (prefix(new), new == old) == (prefix(old), False)
    answer = ask(api, new)  # at once, though this process has just seen the old one
    assert (answer.status_code, answer["X-RateLimit-Remaining"]) == (200, "5")
    assert api.get(path, headers={"X-API-Key": new}).status_code == 200
    assert status_and_code(ask(api, new)) == (402, "budget_exceeded")
    clock.now += 31
    assert status_and_code(ask(api, old)) == (401, "invalid_api_key")


def test_the_old_secret_can_stay_valid_for_a_while(
    api: ApiClient, each_storage: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = create()
    second = command("rotate_api_key", prefix(first), "--grace", "1h").strip()
    assert [ask(api, key).status_code for key in (first, second)] == [200, 200]
    third = command("rotate_api_key", prefix(first), "--grace", "1h").strip()
    clock.now += 31
    assert [ask(api, key).status_code for key in (first, second, third)] == [401, 200, 200]
    later(monkeypatch)
    clock.now += 31
    assert [ask(api, key).status_code for key in (second, third)] == [401, 200]


# --- What a process remembers ---------------------------------------------------------------------


def test_a_key_is_read_once_in_half_a_minute(
    api: ApiClient, dynamodb: str, change_settings: Configure, clock: Clock, calls: Calls
) -> None:
    change_settings(STORAGE="dynamodb")
    key = create()

    def reads() -> int:
        return sum(
            operation == "GetItem" and arguments["Key"]["pk"]["S"].startswith("key#")
            for operation, arguments in calls
            if "pk" in arguments.get("Key", {})
        )

    assert {ask(api, key).status_code for _ in range(3)} == {200}
    assert reads() == 1
    clock.now += 31
    ask(api, key)
    assert reads() == 2
    assert {ask(api, UNKNOWN).status_code for _ in range(3)} == {401}
    assert reads() == 3
    clock.now += 31
    ask(api, UNKNOWN)
    assert reads() == 4


def test_malformed_keys_are_refused_without_a_read(api: ApiClient, forbid_database: None) -> None:
    assert status_and_code(ask(api, "sca_0_0")) == (401, "invalid_api_key")


def test_a_flood_of_keys_does_not_fill_the_memory() -> None:
    for name, most in (("keys", 1000), ("refused_keys", 10_000)):
        for number in range(most + 100):
            caches[name].set(str(number), True)
        assert len(caches[name]._cache) <= most
        caches[name].clear()


class Down(orm_api_keys.OrmApiKeyStore):
    """A store that is out of reach."""

    def get(self, key_id: str) -> ApiKey | None:
        raise StorageUnavailable


@pytest.fixture
def lose_keys(
    monkeypatch: pytest.MonkeyPatch, change_settings: Callable[..., None]
) -> Callable[[type], None]:
    """Look for keys in a store of this class from now on."""

    def use(kind: type) -> None:
        monkeypatch.setattr("chat.storage.orm.OrmApiKeyStore", kind)
        change_settings()

    return use


def test_without_the_storage_a_key_is_neither_accepted_nor_refused(
    api: ApiClient, lose_keys: Callable[[type], None]
) -> None:
    key = create()
    lose_keys(Down)
    for each in (key, UNKNOWN):
        answer = ask(api, each)
        assert status_and_code(answer) == (503, "storage_unavailable")
        assert answer["Retry-After"]
    assert ask(api, KEY).status_code == 200


def test_a_cached_key_is_valid_without_the_storage(
    api: ApiClient, lose_keys: Callable[[type], None], clock: Clock
) -> None:
    key = create()
    assert ask(api, key).status_code == 200
    lose_keys(Down)
    clock.now += 29
    assert ask(api, key).status_code == 200
    clock.now += 2
    assert status_and_code(ask(api, key)) == (503, "storage_unavailable")


def test_the_last_use_is_known_to_the_hour(
    api: ApiClient, each_storage: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, before = create(), datetime.now(UTC)
    assert kept(key).last_used_at is None
    ask(api, key[:-1] + "x")
    assert kept(key).last_used_at is None
    ask(api, key)
    first = kept(key).last_used_at
    assert first
    assert before <= first <= datetime.now(UTC)
    clock.now += 31
    ask(api, key)
    assert kept(key).last_used_at == first
    later(monkeypatch)
    clock.now += 31
    ask(api, key)
    second = kept(key).last_used_at
    assert second
    assert second - first >= timedelta(hours=1)


class Touchless(orm_api_keys.OrmApiKeyStore):
    """A store that takes no writes."""

    def touch(self, key_id: str, used_at: datetime) -> None:
        raise StorageUnavailable


def test_an_unwritten_last_use_fails_no_request(
    api: ApiClient, lose_keys: Callable[[type], None]
) -> None:
    key = create()
    lose_keys(Touchless)
    assert ask(api, key).status_code == 200
    assert kept(key).last_used_at is None


def test_users_of_a_key_share_its_own_limit(api: ApiClient, each_storage: str) -> None:
    key = create("--rate-limit", "2")
    statuses = [ask(api, key, user=user).status_code for user in (ALICE, BOB, BOB)]
    assert statuses == [200, 200, 429]


def test_users_of_a_key_without_a_limit_are_limited_apart(
    api: ApiClient, each_storage: str, change_settings: Configure
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=1)
    key = create()
    statuses = [ask(api, key, user=user).status_code for user in (ALICE, ALICE, BOB)]
    assert statuses == [200, 429, 200]


def test_the_log_names_the_owner_and_not_the_key(
    api: ApiClient, each_storage: str, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    key = create("--owner", "team:blue")
    ask(api, key)
    assert log_lines()[-1]["owner"] == "team:blue"
    assert key not in json.dumps(log_lines())
