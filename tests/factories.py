"""Shared by the tests: records, stores that fail, a fake provider and a clock."""

import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

from django.db import connection, connections

from chat.models import Interaction
from chat.storage import backend
from chat.storage.base import ErrorInfo, InteractionRecord, InteractionStore, Status
from chat.storage.errors import RecordTooLarge, StorageUnavailable
from chat.storage.orm.interactions import OrmInteractionStore
from chat.storage.transcripts import SentConversation
from providers.base import Completion, CompletionRequest, Delta, Usage
from providers.deadline import Deadline
from providers.router import Attempt
from providers.vendor_answer import as_stream

ALICE = "alice"
BOB = "bob@example.org"
KEY = "sk-first-0123456789"
OTHER_KEY = "sk-second-9876543210"

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"

NOON = datetime(2026, 1, 1, 12, 0, 0, 123456, UTC)

# Accepted, not answered yet.
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


def all_records() -> list[InteractionRecord]:
    """Return all records, oldest first."""
    ids = Interaction.objects.order_by("created_at").values_list("pk", flat=True)
    return [record for id_ in ids if (record := backend().interactions.get(id_))]


def database_bytes() -> bytes:
    """Return all that SQLite's files contain.

    Another process reads them: a file that this one closes loses SQLite's locks on it, and a
    server that starts later deletes the log of a database that it takes for unused.
    """
    database = Path(connection.settings_dict["NAME"])
    files = [database, *database.parent.glob(f"{database.name}-*")]
    return subprocess.run(["cat", *files], capture_output=True, check=True).stdout


def purge_database() -> None:
    """Overwrite what earlier tests have deleted from SQLite's files."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def store_record(record: InteractionRecord) -> InteractionRecord:
    """Store a record with its outcome."""
    assert backend().interactions.claim(replace(record, status=Status.PENDING)) is None
    if record.status is not Status.PENDING:
        assert backend().interactions.settle(record)
    return record


def converse(
    store: InteractionStore, count: int, *, root: Mapping[str, Any] | None = None, **fields: Any
) -> list[InteractionRecord]:
    """Store the turns of a client that sends all messages each time; return the whole records.

    `fields` are those of all records, `root` those of the first one.
    """
    turns: list[InteractionRecord] = []
    messages: list[Any] = []
    for number in range(count):
        messages = [*messages, {"role": "user", "content": f"question {number}"}]
        claim = replace(
            PENDING,
            **{"created_at": NOON + timedelta(minutes=number), **fields, **(root or {})},
            interaction_id=str(uuid4()),
            parameters={"temperature": 0.5, "messages": messages},
        )
        claim = replace(claim, conversation_id=claim.interaction_id)
        sent = SentConversation(claim)
        if turns:
            claim = replace(
                claim,
                conversation_id=turns[0].conversation_id,
                previous_interaction_id=turns[-1].interaction_id,
            )
        turn = store.find_turn(sent.digest) if sent.digest else None
        kept = SentConversation(claim).after(turn) if turn else claim
        assert store.claim(kept) is None
        answer = replace(kept, status=Status.OK, response=f"answer {number}")
        answer = replace(answer, transcript=sent.transcript(answer))
        assert store.settle(answer)
        whole = {"parameters": claim.parameters, "system": claim.system, "earlier": None}
        turns.append(replace(answer, **whole))
        root = None
        messages = [*messages, {"role": "assistant", "content": f"answer {number}"}]
    return turns


def run_concurrently(count: int, act: Callable[[int], Any]) -> list[Any]:
    """Call `act` with 0, 1, 2, … in concurrent threads; return the results or exceptions."""
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
    """A store that becomes unavailable while the model answers."""

    def settle(self, record: InteractionRecord) -> bool:
        raise StorageUnavailable


class FullSettleStore(OrmInteractionStore):
    """A store that no answer fits into; `tries` counts the settlements."""

    tries = 0

    def settle(self, record: InteractionRecord) -> bool:
        FullSettleStore.tries += 1
        raise RecordTooLarge


class LosingStore(OrmInteractionStore):
    """A store that writes an outcome, and loses its answer."""

    def settle(self, record: InteractionRecord) -> bool:
        if super().settle(record):
            raise StorageUnavailable
        return False


class VanishingStore(OrmInteractionStore):
    """A store whose record is deleted while the model answers."""

    def settle(self, record: InteractionRecord) -> bool:
        Interaction.objects.all().delete()
        return super().settle(record)


class FakeProvider:
    """A provider with a fixed outcome, which records its requests."""

    name = "mock"
    is_remote = False
    model = "mock-1"

    def __init__(self, outcome: Completion | Exception) -> None:
        self.outcome = outcome
        self.requests: list[CompletionRequest] = []

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        self.requests.append(request)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if request.on_usage:
            request.on_usage(self.outcome.usage)
        return self.outcome

    def stream(
        self, request: CompletionRequest, deadline: Deadline
    ) -> Iterator[Delta | Completion]:
        return as_stream(self.complete(request, deadline))

    def list_price(self, model: str, usage: Usage) -> Decimal | None:
        return Decimal(0)

    def unsupported(self, request: CompletionRequest) -> tuple[str, ...]:
        return ()

    def check(self, deadline: Deadline) -> None:
        pass

    def list_models(self, deadline: Deadline) -> list[str]:
        return [self.model]


class Clock:
    """A replacement for the module `time`, with a time that the test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now
