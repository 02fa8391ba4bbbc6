"""The store on Django's ORM: SQLite on a laptop."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from django.db import DatabaseError, IntegrityError, connection
from django.db.models import QuerySet

from chat.errors import StorageUnavailable
from chat.models import Interaction
from chat.storage.base import Failure, Record, Status
from providers.base import Usage
from providers.router import Attempt


@contextmanager
def database_errors() -> Iterator[None]:
    """Nothing of the database's own leaves this package."""
    try:
        yield
    except DatabaseError as exc:
        raise StorageUnavailable from exc


class OrmStore:
    """See `InteractionStore`. Each write is one statement, and so atomic."""

    @database_errors()
    def claim(self, record: Record) -> Record | None:
        try:
            Interaction(**_row(record)).save(force_insert=True)
        except IntegrityError:
            return self.get(record.interaction_id)
        return None

    @database_errors()
    def take_over(self, record: Record, holder: Record) -> bool:
        return _unchanged(holder).update(**_row(record)) == 1

    @database_errors()
    def settle(self, record: Record) -> bool:
        claim = replace(record, status=Status.PENDING)
        return _unchanged(claim).update(**_outcome(record)) == 1

    @database_errors()
    def get(self, interaction_id: str) -> Record | None:
        row = Interaction.objects.filter(interaction_id=interaction_id).first()
        return None if row is None else _record(row)

    @database_errors()
    def ping(self) -> None:
        Interaction.objects.order_by().values_list("pk").first()
        connection.ensure_connection()


def _unchanged(record: Record) -> QuerySet[Interaction]:
    return Interaction.objects.filter(
        interaction_id=record.interaction_id, status=record.status, deadline_at=record.deadline_at
    )


def _row(record: Record) -> dict[str, Any]:
    return {
        "interaction_id": record.interaction_id,
        "owner": record.owner,
        "user_id": record.user_id,
        "created_at": record.created_at,
        "deadline_at": record.deadline_at,
        "request_id": record.request_id,
        "request_hash": record.request_hash,
        "conversation_id": record.conversation_id,
        "previous_interaction_id": record.previous_interaction_id,
        "prompt": record.prompt,
        "system": record.system,
        "parameters": record.parameters,
        "metadata": record.metadata,
        **_outcome(record),
    }


def _outcome(record: Record) -> dict[str, Any]:
    return {
        "status": record.status,
        "provider": record.provider,
        "model": record.model,
        "response": record.response,
        "finish_reason": record.finish_reason,
        "cached": record.cached,
        "latency_ms": record.latency_ms,
        "attempts": [asdict(attempt) for attempt in record.attempts],
        "error_code": record.error and record.error.code,
        "error_detail": record.error and record.error.detail,
        **asdict(record.usage),
    }


def _record(row: Interaction) -> Record:
    return Record(
        interaction_id=row.interaction_id,
        owner=row.owner,
        user_id=row.user_id,
        created_at=row.created_at,
        deadline_at=row.deadline_at,
        request_id=row.request_id,
        request_hash=row.request_hash,
        conversation_id=row.conversation_id,
        previous_interaction_id=row.previous_interaction_id,
        prompt=row.prompt,
        system=row.system,
        parameters=row.parameters,
        metadata=row.metadata,
        status=Status(row.status),
        provider=row.provider,
        model=row.model,
        response=row.response,
        finish_reason=row.finish_reason,
        cached=row.cached,
        latency_ms=row.latency_ms,
        attempts=tuple(Attempt(**attempt) for attempt in row.attempts),
        error=Failure(code=row.error_code, detail=row.error_detail or "")
        if row.error_code
        else None,
        usage=Usage(
            prompt_tokens=row.prompt_tokens,
            completion_tokens=row.completion_tokens,
            total_tokens=row.total_tokens,
            cached_tokens=row.cached_tokens,
            reasoning_tokens=row.reasoning_tokens,
            cost_usd=row.cost_usd,
        ),
    )
