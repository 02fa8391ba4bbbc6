"""What the tests of the API share: who asks, what is kept, a client, and the ways to fail."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.db import connections
from django.http import HttpResponse
from django.test import Client

from chat.errors import StorageUnavailable
from chat.models import Interaction
from chat.storage import store
from chat.storage.base import ErrorInfo, InteractionRecord, Status
from chat.storage.orm.interactions import OrmInteractionStore
from providers.base import Completion, CompletionRequest, Deadline, Usage
from providers.router import Attempt

ALICE = "alice"
BOB = "bob@example.org"
KEY = "sk-first-0123456789"
OTHER_KEY = "sk-second-9876543210"

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"

NOON = datetime(2026, 1, 1, 12, 0, 0, 123456, UTC)

# What was accepted and not answered yet.
PENDING = InteractionRecord(
    interaction_id="01998a6e-6f4c-7c3e-9d57-3f1a2b4c5d6e",
    owner="default",
    user_id=ALICE,
    prompt="Olá!",
    created_at=NOON,
    deadline_at=NOON.replace(second=25),
    conversation_id="01998a6e-6f4c-7c3e-9d57-3f1a2b4c5d6e",
    model="model-1",
    provider="openai",
    request_id="request-1",
)
ANSWERED = replace(
    PENDING,
    status=Status.OK,
    model="model-1-of-today",
    response="Olá! Como posso ajudar?",
    finish_reason="stop",
    latency_ms=812,
    usage=Usage(
        prompt_tokens=9,
        completion_tokens=41,
        total_tokens=50,
        cached_tokens=4,
        reasoning_tokens=30,
        cost_usd=Decimal("0.000104"),
    ),
    attempts=(Attempt(provider="openai", model="model-1", outcome="ok", latency_ms=805),),
)
FAILED = replace(
    PENDING,
    status=Status.ERROR,
    latency_ms=7,
    error=ErrorInfo(code="provider_error", detail="The provider failed."),
    attempts=(Attempt(provider="openai", model="model-1", outcome="provider_error", latency_ms=6),),
)


class ApiClient:
    """A client of the API. What it posts is JSON, unless it is bytes already."""

    def __init__(self, handler: Any) -> None:
        self.http = Client()
        self.http.handler = handler
        self.http.raise_request_exception = False

    def chat(
        self,
        prompt: Any = "Olá!",
        user: Any = ALICE,
        headers: dict[str, str] | None = None,
        **fields: Any,
    ) -> HttpResponse:
        body = {"userId": user, "prompt": prompt, **fields}
        return self.post("/v1/chat", body, headers=headers)

    def post(
        self,
        path: str,
        body: Any,
        *,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> HttpResponse:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.generic("POST", path, data, content_type, headers=headers)

    def get(self, path: str, headers: dict[str, str] | None = None) -> HttpResponse:
        return self.http.get(path, headers=headers)

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None
    ) -> HttpResponse:
        return self.http.generic(method, path, headers=headers)


def problem(response: HttpResponse) -> dict[str, Any]:
    """The answer, which must be a problem in the documented shape, without its request id."""
    assert response["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = json.loads(response.content)
    assert body.keys() == {"type", "title", "status", "detail", "code", "request_id", "errors"}
    assert body["type"] == f"urn:problem:{body['code']}"
    assert body["status"] == response.status_code
    assert body.pop("request_id") == response["X-Request-ID"]
    assert body["title"]
    assert body["detail"]
    for error in body["errors"]:
        assert error.keys() == {"field", "code", "detail"}
    return body


def status_and_code(response: HttpResponse) -> tuple[int, str]:
    """The status and the code of an answer that must be a problem."""
    return response.status_code, problem(response)["code"]


def field_errors(response: HttpResponse) -> list[tuple[str, str]]:
    """Which fields an answer finds fault with, and why."""
    assert status_and_code(response) == (400, "validation_error")
    return [(error["field"], error["code"]) for error in problem(response)["errors"]]


def all_records() -> list[InteractionRecord]:
    """All records, the oldest first."""
    ids = Interaction.objects.order_by("created_at").values_list("pk", flat=True)
    return [record for id_ in ids if (record := store().get(id_))]


def store_record(record: InteractionRecord) -> InteractionRecord:
    """Have the store keep a record, its outcome included."""
    assert store().claim(replace(record, status=Status.PENDING)) is None
    if record.status is not Status.PENDING:
        assert store().settle(record)
    return record


def run_concurrently(count: int, act: Callable[[int], Any]) -> list[Any]:
    """What `act` returns for 0, 1, 2, …, each called in a thread of its own, all at the same time.

    An exception counts as what was returned.
    """
    results: list[Any] = [None] * count
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = act(number)
        except Exception as exc:
            results[number] = exc
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class FailingSettleStore(OrmInteractionStore):
    """A store that is lost while the model answers."""

    def settle(self, record: InteractionRecord) -> bool:
        raise StorageUnavailable


class VanishingStore(OrmInteractionStore):
    """A store whose record is gone when the model has answered."""

    def settle(self, record: InteractionRecord) -> bool:
        Interaction.objects.all().delete()
        return super().settle(record)


class FakeProvider:
    """A provider that does what it is told, and remembers what it was asked."""

    name = "mock"
    is_remote = False
    capabilities: frozenset[str] = frozenset()
    model = "mock-1"

    def __init__(self, outcome: Completion | Exception) -> None:
        self.outcome = outcome
        self.asked: list[CompletionRequest] = []

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        self.asked.append(request)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def stream(self, request: CompletionRequest, deadline: Deadline) -> Iterator[str | Completion]:
        completion = self.complete(request, deadline)
        yield completion.text
        yield completion


class Clock:
    """Stands in for the module `time` where a test decides what time it is."""

    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now
