"""Monthly budgets of keys and of their users: exact, also under load, and after a crash."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.core.cache import caches

from chat import api_keys
from chat.storage import backend
from chat.storage.base import CounterKind, InteractionRecord, Reservation, Status
from chat.storage.errors import BudgetSpent
from providers.base import Completion, CompletionRequest, Usage
from providers.deadline import Deadline
from tests.client import ApiClient, status_and_code
from tests.dynamodb_local import Calls, botocore_client
from tests.factories import (
    ALICE,
    ANSWERED,
    BOB,
    PENDING,
    FakeProvider,
    run_concurrently,
    store_record,
)
from tests.server_process import ROOT, Server, base_environment
from tests.stub_vendor import DONE, FINISH, OPENAI_ANSWER, StubVendor, chunk

Configure = Callable[..., None]
MODEL = "google/gemini-2.5-flash"
COSTLY = Completion(
    message={"content": "Olá"},
    model="mock-1",
    finish_reason="stop",
    usage=Usage(cost_usd=Decimal("0.02")),
)


class Slow(FakeProvider):
    """A provider that takes its time and money."""

    def list_price(self, model: str, usage: Usage) -> Decimal:
        return Decimal("0.05")

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        deadline.sleep(0.5)
        return super().complete(request, deadline)


@pytest.fixture(autouse=True)
def required(change_settings: Configure) -> None:
    change_settings(REQUIRE_API_KEY=True, RATE_LIMIT_PER_MINUTE=0)
    for name in ("keys", "refused_keys"):
        caches[name].clear()


@pytest.fixture
def slow(use_provider: Callable[[Any], None]) -> Slow:
    provider = Slow(COSTLY)
    use_provider(provider)
    return provider


def new_key(**limits: str) -> str:
    amounts = {name: Decimal(value) for name, value in limits.items()}
    return api_keys.create(owner="default", name="app", **amounts)[1]


def ask(api: ApiClient, key: str, user: str = ALICE, **fields: Any) -> Any:
    return api.chat("Olá!", user, headers={"X-API-Key": key}, **fields)


def test_each_user_of_a_key_has_a_budget(
    handler: Any, api: ApiClient, each_storage: str, slow: Slow
) -> None:
    key = new_key(user_monthly_budget_usd="0.03")
    assert [ask(api, key).status_code for _ in range(3)] == [200, 200, 402]
    assert status_and_code(ask(api, key)) == (402, "budget_exceeded")
    assert ask(api, key, BOB).status_code == 200
    other = new_key(user_monthly_budget_usd="0.03", monthly_budget_usd="0.02")
    assert ask(api, other).status_code == 200
    assert ask(api, other, BOB).status_code == 402
    assert usage_report(handler, other)["budget"] == {
        "monthly_usd": "0.02",
        "spent_usd": "0.02",
        "user_monthly_usd": "0.03",
    }


def test_a_key_sees_its_usage_and_its_budgets_as_documented(
    api: ApiClient, transactional_db: None
) -> None:
    document = (ROOT / "docs/keys.md").read_text()
    [query] = re.findall(r"^GET (/v1/usage\S+)$", document, re.MULTILINE)
    [budget] = re.findall(r"```json\n(.*?)\n```", document, re.DOTALL)
    limits = {"monthly_budget_usd": Decimal(25), "user_monthly_budget_usd": Decimal("0.5")}
    key, text = api_keys.create(owner="default", name="app", **limits)
    usage = replace(ANSWERED.usage, cost_usd=Decimal("3.1"))
    changes = {"key_id": key.key_id, "created_at": datetime.now(UTC), "usage": usage}
    store_record(replace(ANSWERED, interaction_id=str(uuid4()), **changes))
    answer = api.get(query, headers={"X-API-Key": text}).json()
    assert answer["budget"] == json.loads(f"{{{budget}}}")["budget"]


def test_an_erased_user_has_no_new_budget(api: ApiClient, each_storage: str, slow: Slow) -> None:
    key = new_key(user_monthly_budget_usd="0.01")
    assert ask(api, key).status_code == 200
    deleted = api.request("DELETE", f"/v1/users/{ALICE}/interactions", headers={"X-API-Key": key})
    assert deleted.json() == {"deleted": 1}
    assert ask(api, key).status_code == 402


@pytest.mark.parametrize("budget", ["monthly_budget_usd", "user_monthly_budget_usd"])
def test_a_budget_for_one_lets_one_of_fifty_concurrent_requests_pass(
    handler: Any, each_storage: str, slow: Slow, budget: str
) -> None:
    key = new_key(**{budget: "0.01"})
    answers = run_concurrently(50, lambda _: ask(ApiClient(handler), key))
    assert Counter(map(str, (getattr(each, "status_code", each) for each in answers))) == {
        "200": 1,
        "402": 49,
    }
    assert len(slow.requests) == 1


def usage_report(handler: Any, key: str) -> Any:
    return ApiClient(handler).get("/v1/usage", headers={"X-API-Key": key}).json()


def test_concurrent_requests_pass_while_the_budget_has_room(
    handler: Any, each_storage: str, slow: Slow
) -> None:
    key = new_key(monthly_budget_usd="10", user_monthly_budget_usd="10")
    answers = run_concurrently(30, lambda _: ask(ApiClient(handler), key))
    assert [getattr(each, "status_code", each) for each in answers] == [200] * 30
    assert not any("recorded" in answer.json() for answer in answers)
    assert usage_report(handler, key)["budget"]["spent_usd"] == "0.6"


def test_processes_share_a_budget(tmp_path: Path) -> None:
    variables = {
        "LLM_PROVIDER": "openrouter",
        "OPENROUTER_API_KEY": "k",
        "OPENROUTER_MODEL": MODEL,
        "REQUIRE_API_KEY": "true",
        "API_KEY": "another-key-of-the-test",
        "WEB_CONCURRENCY": "3",
        "RATE_LIMIT_PER_MINUTE": "0",
    }
    with StubVendor() as vendor:
        # A request that arrives late meets the cost of the first one.
        vendor.reply(OPENAI_ANSWER | {"usage": {"cost": 0.02}}, delay=1.0)
        variables["OPENROUTER_BASE_URL"] = f"{vendor.url}/v1"
        with Server(tmp_path, **variables) as server:
            key = _create_key(tmp_path, variables)
            answers = run_concurrently(50, lambda _: server.chat(headers={"X-API-Key": key}))
        assert Counter(answer.status_code for answer in answers) == {200: 1, 402: 49}
        assert len(vendor.requests) == 1


def _create_key(folder: Path, variables: dict[str, str]) -> str:
    environment = {"ENV_FILE": "/dev/null", "DATABASE_PATH": str(folder / "server.db")}
    command = ["create_api_key", "app", "--user-monthly-budget-usd", "0.000001"]
    made = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), *command],
        env=base_environment() | environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.strip()


def test_an_answer_is_replayed_though_the_budget_is_spent(
    api: ApiClient, each_storage: str, slow: Slow
) -> None:
    key = new_key(monthly_budget_usd="0.01")
    once = {"X-API-Key": key, "Idempotency-Key": "once"}
    first, second = (api.chat("Olá!", headers=once) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert second["Idempotency-Replayed"] == "true"
    assert second.json() == first.json()
    assert api.chat("Other", headers=once).status_code == 422
    assert ask(api, key).status_code == 402


def test_aborted_streams_spend_a_budget(
    api: ApiClient, each_storage: str, change_settings: Configure
) -> None:
    with StubVendor() as vendor:
        options = {"api_key": "k", "base_url": f"{vendor.url}/v1", "model": MODEL}
        change_settings(PROVIDERS={"openrouter": options})
        # Each costs a little more than 0.0001 dollars: 200 bytes are 50 tokens.
        pieces, gap = [chunk("y" * 200), chunk("never"), FINISH, DONE], [0, 30, 0, 0]
        key = new_key(user_monthly_budget_usd="0.002")
        statuses = []
        for _ in range(21):
            vendor.stream(pieces, gap=gap)
            answer = ask(api, key, stream=True)
            statuses.append(answer.status_code)
            if answer.status_code == 200:
                next(iter(answer.streaming_content))
                answer.close()
            vendor.clear()
        assert statuses[0] == 200
        assert statuses[-1] == 402
        assert len([status for status in statuses if status == 200]) < 21


# --- The stores -----------------------------------------------------------------------------------


def claimed(**changes: Any) -> InteractionRecord:
    now = datetime.now(UTC)
    return replace(
        PENDING,
        interaction_id=str(uuid4()),
        created_at=now,
        deadline_at=now + timedelta(seconds=25),
        key_id="0123456789abcdef",
        **changes,
    )


def reservation(amount: int = 10, *, seconds: float = 60) -> Reservation:
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    return Reservation(by=CounterKind.KEY_USER, name="k.u", limit=10, amount=amount, until=until)


def test_a_reservation_is_released_by_the_settlement(each_storage: str) -> None:
    store, record, other = backend().interactions, claimed(), claimed()
    reserved = reservation()
    assert store.claim(record, reserved) is None
    with pytest.raises(BudgetSpent):
        store.claim(other, reserved)
    assert store.get(other.interaction_id) is None
    assert store.settle(replace(record, status=Status.OK, response="Hi."), reserved)
    assert store.claim(other, reserved) is None


def test_the_cost_replaces_the_reservation(each_storage: str) -> None:
    store, record, reserved = backend().interactions, claimed(), reservation(1)
    assert store.claim(record, reserved) is None
    usage = Usage(cost_usd=Decimal(10).scaleb(-12))
    outcome = replace(record, status=Status.ERROR, usage=usage, attempts=ANSWERED.attempts)
    assert store.settle(outcome, reserved)
    with pytest.raises(BudgetSpent):
        store.claim(claimed(), reserved)


def test_a_reservation_left_by_a_crash_is_released(each_storage: str) -> None:
    store = backend().interactions
    assert store.claim(claimed(), reservation(seconds=2)) is None
    with pytest.raises(BudgetSpent):
        store.claim(claimed(), reservation())
    Deadline(2.1).sleep(2.1)
    assert store.claim(claimed(), reservation()) is None
    with pytest.raises(BudgetSpent):
        store.claim(claimed(), reservation())


def test_a_take_over_replaces_the_reservation_of_its_id(each_storage: str) -> None:
    store, record = backend().interactions, claimed()
    reserved = reservation(4)
    assert store.claim(record, reserved) is None
    later = replace(record, deadline_at=record.deadline_at + timedelta(seconds=9))
    assert store.take_over(later, record, reserved)
    assert not store.take_over(replace(later, owner="default"), record, reserved)
    assert not store.settle(replace(record, status=Status.ERROR), reserved)
    assert store.claim(claimed(), reservation(4)) is None  # 8 of 10
    assert store.claim(claimed(), reservation(4)) is None  # the one that crosses it
    with pytest.raises(BudgetSpent):
        store.claim(claimed(), reservation(4))
    assert store.settle(replace(later, status=Status.OK, response="Hi."), reserved)
    assert store.claim(claimed(), reservation(4)) is None


def test_keys_without_a_budget_write_nothing_more(
    api: ApiClient, each_storage: str, slow: Slow
) -> None:
    from chat.models import Reservation as Row

    assert ask(api, new_key()).status_code == 200
    month = backend().usage.daily(
        "default", CounterKind.KEY_USER, datetime.now(UTC).date(), datetime.now(UTC).date()
    )
    assert (month, Row.objects.count()) == ({}, 0)


def test_a_refused_reservation_leaves_the_others_free(each_storage: str) -> None:
    store = backend().interactions
    user, key = reservation(), reservation()._replace(by=CounterKind.KEY, name="k")
    assert store.claim(claimed(), key) is None
    with pytest.raises(BudgetSpent):
        store.claim(claimed(), user, key)
    assert store.claim(claimed(), user) is None


def test_a_taken_id_reserves_nothing(each_storage: str) -> None:
    store, record = backend().interactions, claimed()
    assert store.claim(record) is None
    assert store.claim(record, reservation()) is not None
    assert store.claim(claimed(), reservation()) is None


def test_imported_costs_spend_a_budget(each_storage: str) -> None:
    store = backend().interactions
    first, reserved = claimed(), reservation(1)
    key = reserved._replace(by=CounterKind.KEY, name=first.key_id)
    assert store.claim(first, key) is None
    assert store.settle(replace(first, status=Status.OK, response="Hi."), key)
    usage = Usage(cost_usd=Decimal(10).scaleb(-12))
    imported = replace(ANSWERED, interaction_id=str(uuid4()), created_at=first.created_at)
    store_record(replace(imported, key_id=first.key_id, usage=usage, attempts=()))
    with pytest.raises(BudgetSpent):
        store.claim(claimed(), key)


# --- DynamoDB -------------------------------------------------------------------------------------


def test_concurrent_claims_do_not_wait_for_each_other(dynamodb: str, calls: Calls) -> None:
    from chat.storage.dynamodb.interactions import DynamoInteractionStore

    store, reserved = DynamoInteractionStore(), reservation(1)._replace(limit=1000)
    records = [claimed() for _ in range(60)]
    claims = run_concurrently(60, lambda number: store.claim(records[number], reserved))
    assert claims == [None] * 60
    writes = [operation for operation, _ in calls if operation not in ("GetItem", "BatchGetItem")]
    assert Counter(writes) == {"UpdateItem": 60, "PutItem": 60}


def test_the_item_of_a_budget_does_not_grow(dynamodb: str) -> None:
    from chat.storage.dynamodb.interactions import DynamoInteractionStore

    store = DynamoInteractionStore()
    for seconds in range(60, 90):
        record, reserved = claimed(), reservation(1, seconds=seconds)._replace(limit=1000)
        assert store.claim(record, reserved) is None
        assert store.settle(replace(record, status=Status.OK, response="Hi."), reserved)
    [item] = _budget_items()
    assert item.keys() >= {"pk", "committed", "settled", "expires_at"}
    assert len(item) < 8


def test_what_a_crash_left_reserved_ends_among_many_that_were_released(dynamodb: str) -> None:
    from chat.storage.dynamodb.interactions import DynamoInteractionStore

    store, records = DynamoInteractionStore(), [claimed() for _ in range(60)]
    small = [reservation(1, seconds=seconds)._replace(limit=1000) for seconds in range(60, 120)]
    for record, reserved in zip(records, small, strict=True):
        assert store.claim(record, reserved) is None
    crashed = reservation(1000, seconds=1)._replace(limit=1000)
    assert store.claim(claimed(), crashed) is None
    for record, reserved in zip(records, small, strict=True):
        assert store.settle(replace(record, status=Status.OK, response="Hi."), reserved)
    Deadline(2).sleep(2)
    assert store.claim(claimed(), small[-1]) is None


def _budget_items() -> list[dict[str, Any]]:
    items = botocore_client().scan(TableName=settings.STATE_TABLE_NAME)["Items"]
    return [item for item in items if item["pk"]["S"].startswith("budget#")]
