"""The story of one chat request, and of looking it up again."""

import functools
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

import orjson
import tenacity
import uuid_utils
from django.conf import settings
from django.utils.crypto import salted_hmac

import providers
from chat import answer_cache, telemetry, usage
from chat.authentication import Caller
from chat.errors import (
    IdempotencyInFlight,
    IdempotencyMismatch,
    NotFound,
    StorageUnavailable,
    ValidationFailed,
    problem_of,
)
from chat.storage import store
from chat.storage.base import Failure, Record, Status
from chat.storage.jsonl import to_json
from providers.base import ChatRequest, Deadline, Message, ProviderError
from providers.router import Attempt, Route, Router, UnknownModel

# Here go, whole, the records that could not be written.
unrecorded = logging.getLogger("chat.unrecorded")

MAX_SETTLE_TRIES = 3

# The namespace of the ids that follow from idempotency keys.
IDEMPOTENCY = UUID("6b4e0f0e-6c63-5a5b-9d0c-6f1f3b0d7c52")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A valid request. What is None is left to the model's vendor, `model` to the configuration."""

    user_id: str
    prompt: str
    system: str | None = None
    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    metadata: Mapping[str, str] | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What is said of how to answer."""
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "stop": self.stop,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A settled record, whether the ledger has it, and whether it had it before."""

    record: Record
    recorded: bool = True
    replayed: bool = False


@functools.cache
def router() -> Router:
    """The configured providers, made once per process."""
    return Router(
        [providers.build(name, options) for name, options in settings.PROVIDERS.items()],
        settings.ALLOWED_MODELS,
        fallback=settings.LLM_FALLBACK,
        threshold=settings.CIRCUIT_BREAKER_THRESHOLD,
        rest_seconds=settings.CIRCUIT_BREAKER_TIMEOUT,
    )


def chat(
    *,
    caller: Caller,
    question: Question,
    deadline: Deadline,
    idempotency_key: str | None = None,
    use_cache: bool = True,
) -> Answer:
    """Ask a model, and leave exactly one record of it.

    1. Claim: the record is written as pending, so that nothing is asked that is not on record.
       With an idempotency key its id follows from the key, and the claim is the lock: whoever
       comes second is given the first one's answer.
    2. Ask the providers, or the cache.
    3. Settle: the outcome is written, once. An answer that cannot be written is still given.

    Raises Problem.
    """
    started = time.monotonic()
    routes = _routes(caller, question.model)
    usage.enforce_budget(caller)
    record = _pending(caller, question, routes[0], deadline, idempotency_key)
    telemetry.annotate(interaction_id=record.interaction_id)
    if earlier := _claim(record):
        return Answer(record=earlier, replayed=True)
    attempts: list[Attempt] = []
    try:
        cached = answer_cache.find(record) if use_cache else None
        outcome = _again(record, cached) if cached else _ask(record, routes, deadline, attempts)
    except Exception as exc:
        problem = problem_of(exc)
        failure = Failure(code=problem.code, detail=problem.detail)
        failed = replace(record, status=Status.ERROR, error=failure)
        _settle(failed, started, attempts, deadline)
        raise problem from exc
    answer = _settle(outcome, started, attempts, deadline)
    if answer.recorded and not cached:
        answer_cache.keep(record, answer.record)
    return answer


def get_interaction(*, caller: Caller, interaction_id: str) -> Record:
    """One record of the caller's owner. Raises NotFound, StorageUnavailable."""
    try:
        canonical = str(UUID(interaction_id))
    except ValueError:
        raise NotFound from None
    with telemetry.timed("storage"):
        record = store().get(canonical)
    if record is None or record.owner != caller.owner:
        raise NotFound
    return record


def _routes(caller: Caller, model: str | None) -> list[Route]:
    """Who is asked for a model; a key that is for some models has the first of them as default."""
    allowed = caller.key.allowed_models if caller.key else ()
    try:
        routes = router().routes(model or next(iter(allowed), None))
    except UnknownModel:
        routes = []
    if allowed:
        routes = [route for route in routes if not route.names.isdisjoint(allowed)]
    if not routes:
        error = {"field": "model", "code": "unknown", "detail": "This model may not be asked."}
        raise ValidationFailed(errors=[error])
    return routes


def _pending(
    caller: Caller,
    question: Question,
    route: Route,
    deadline: Deadline,
    idempotency_key: str | None,
) -> Record:
    now = datetime.now(UTC)
    interaction_id = str(uuid_utils.uuid7())
    request_hash = None
    if idempotency_key is not None:
        interaction_id = str(uuid5(IDEMPOTENCY, f"{caller.owner}\n{idempotency_key}"))
        request_hash = _hash(question)
    return Record(
        interaction_id=interaction_id,
        owner=caller.owner,
        user_id=question.user_id,
        prompt=question.prompt,
        system=question.system,
        parameters=question.parameters,
        metadata=question.metadata or {},
        created_at=now,
        deadline_at=now + timedelta(seconds=deadline.remaining()),
        expires_at=_expiry(now),
        conversation_id=interaction_id,
        request_id=telemetry.request_id(),
        request_hash=request_hash,
        key_id=caller.key.key_id if caller.key else None,
        provider=route.provider.name,
        model=route.model,
    )


def _expiry(now: datetime) -> datetime | None:
    days = settings.RETENTION_DAYS
    return (now + timedelta(days=days)).replace(microsecond=0) if days else None


def _hash(question: Question) -> str:
    return hashlib.sha256(orjson.dumps(question, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _claim(record: Record) -> Record | None:
    """Write the claim; or else return the answer that the same request was given before.

    Raises IdempotencyMismatch, IdempotencyInFlight.
    """
    with telemetry.timed("storage"):
        holder = store().claim(record)
        if holder is None:
            return None
        if holder.request_hash is None or holder.request_hash != record.request_hash:
            raise IdempotencyMismatch
        status = holder.status_at(datetime.now(UTC))
        if status is Status.OK:
            return holder
        if status is Status.PENDING or not store().take_over(record, holder):
            raise IdempotencyInFlight
        return None


def _ask(
    record: Record, routes: Sequence[Route], deadline: Deadline, attempts: list[Attempt]
) -> Record:
    """The record with a provider's answer."""
    try:
        with telemetry.timed("provider"):
            completion = router().ask(routes, _request(record), deadline, attempts)
    except ProviderError as exc:
        telemetry.annotate(reason=exc.reason)
        raise
    return replace(
        record,
        status=Status.OK,
        provider=attempts[-1].provider,
        model=completion.model,
        response=completion.text,
        finish_reason=completion.finish_reason,
        usage=completion.usage,
    )


def _again(record: Record, earlier: Record) -> Record:
    """The record with the answer of an earlier one, which costs nothing this time."""
    return replace(
        record,
        status=Status.OK,
        provider=earlier.provider,
        model=earlier.model,
        response=earlier.response,
        finish_reason=earlier.finish_reason,
        usage=replace(earlier.usage, cost_usd=Decimal(0)),
        cached=True,
    )


def _request(record: Record) -> ChatRequest:
    end_user = salted_hmac("chat.end_user", f"{record.owner} {record.user_id}").hexdigest()
    return ChatRequest(
        model=record.model,
        messages=(Message(role="user", content=record.prompt),),
        system=record.system,
        temperature=record.parameters.get("temperature"),
        top_p=record.parameters.get("top_p"),
        max_tokens=record.parameters.get("max_tokens"),
        stop=tuple(record.parameters.get("stop", ())),
        end_user=end_user,
    )


def _settle(
    outcome: Record, started: float, attempts: Sequence[Attempt], deadline: Deadline
) -> Answer:
    """Write the outcome. What cannot be written is logged whole, for `replay_records`."""
    elapsed = round((time.monotonic() - started) * 1000)
    record = replace(outcome, latency_ms=elapsed, attempts=tuple(attempts))
    telemetry.annotate(
        provider=record.provider,
        model=record.model,
        prompt_tokens=record.usage.prompt_tokens,
        completion_tokens=record.usage.completion_tokens,
    )

    def give_up(state: tenacity.RetryCallState) -> bool:
        tries, wait = state.attempt_number, state.upcoming_sleep
        return tries >= MAX_SETTLE_TRIES or wait >= deadline.remaining()

    persistently = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(StorageUnavailable),
        wait=tenacity.wait_random_exponential(0.1, 1),
        stop=give_up,
        reraise=True,
    )
    try:
        with telemetry.timed("storage"):
            return Answer(record=record, recorded=persistently(store().settle, record))
    except StorageUnavailable:
        unrecorded.exception("not recorded", extra={"record": to_json(record)})
        return Answer(record=record, recorded=False)
