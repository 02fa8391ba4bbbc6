"""The story of one chat request, and of looking it up again."""

import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import uuid_utils
from django.conf import settings
from django.utils.crypto import salted_hmac

import providers
from chat import telemetry
from chat.authentication import Caller
from chat.errors import NotFound, StorageUnavailable, ValidationFailed, problem_of
from chat.storage import store
from chat.storage.base import Failure, Record, Status
from providers.base import ChatRequest, Deadline, Message, ProviderError
from providers.router import Attempt, Route, Router, UnknownModel

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A settled record, and whether the ledger has it."""

    record: Record
    recorded: bool


@functools.cache
def router() -> Router:
    """The configured providers, made once per process."""
    return Router(
        [providers.build(name, options) for name, options in settings.PROVIDERS.items()],
        settings.ALLOWED_MODELS,
    )


def chat(*, caller: Caller, question: Question, deadline: Deadline) -> Answer:
    """Ask a model, and leave exactly one record of it.

    1. Claim: the record is written as pending, so that nothing is asked that is not on record.
    2. Ask the provider.
    3. Settle: the outcome is written, once. An answer that cannot be written is still given.

    Raises Problem.
    """
    started = time.monotonic()
    route = _route(question.model)
    record = _pending(caller, question, route, deadline)
    with telemetry.timed("storage"):
        store().claim(record)
    telemetry.annotate(interaction_id=record.interaction_id)
    attempts: list[Attempt] = []
    try:
        with telemetry.timed("provider"):
            completion = router().ask(route, _request(record, route), deadline, attempts)
    except Exception as exc:
        problem = problem_of(exc)
        failure = Failure(code=problem.code, detail=problem.detail)
        _settle(replace(record, status=Status.ERROR, error=failure), started, attempts)
        if isinstance(exc, ProviderError):
            telemetry.annotate(reason=exc.reason)
        raise problem from exc
    answered = replace(
        record,
        status=Status.OK,
        provider=route.provider.name,
        model=completion.model,
        response=completion.text,
        finish_reason=completion.finish_reason,
        usage=completion.usage,
    )
    return _settle(answered, started, attempts)


def get_interaction(*, caller: Caller, interaction_id: str) -> Record:
    """One record of the caller's owner. Raises NotFound, StorageUnavailable."""
    try:
        canonical = str(UUID(interaction_id))
    except ValueError:
        raise NotFound from None
    record = store().get(canonical)
    if record is None or record.owner != caller.owner:
        raise NotFound
    return record


def _route(model: str | None) -> Route:
    try:
        return router().route(model)
    except UnknownModel as exc:
        error = {"field": "model", "code": "unknown", "detail": "This model may not be asked."}
        raise ValidationFailed(errors=[error]) from exc


def _pending(caller: Caller, question: Question, route: Route, deadline: Deadline) -> Record:
    now = datetime.now(UTC)
    interaction_id = str(uuid_utils.uuid7())
    parameters = {
        name: value
        for name in ("temperature", "top_p", "max_tokens", "stop")
        if (value := getattr(question, name)) is not None
    }
    return Record(
        interaction_id=interaction_id,
        owner=caller.owner,
        user_id=question.user_id,
        prompt=question.prompt,
        system=question.system,
        parameters=parameters,
        metadata=question.metadata or {},
        created_at=now,
        deadline_at=now + timedelta(seconds=deadline.remaining()),
        conversation_id=interaction_id,
        request_id=telemetry.request_id(),
        provider=route.provider.name,
        model=route.model,
    )


def _request(record: Record, route: Route) -> ChatRequest:
    end_user = salted_hmac("chat.end_user", f"{record.owner} {record.user_id}").hexdigest()
    return ChatRequest(
        model=route.model,
        messages=(Message(role="user", content=record.prompt),),
        system=record.system,
        temperature=record.parameters.get("temperature"),
        top_p=record.parameters.get("top_p"),
        max_tokens=record.parameters.get("max_tokens"),
        stop=tuple(record.parameters.get("stop", ())),
        end_user=end_user,
    )


def _settle(outcome: Record, started: float, attempts: list[Attempt]) -> Answer:
    """Write the outcome. What cannot be written is logged whole, to be stored later."""
    elapsed = round((time.monotonic() - started) * 1000)
    record = replace(outcome, latency_ms=elapsed, attempts=tuple(attempts))
    telemetry.annotate(
        provider=record.provider,
        model=record.model,
        prompt_tokens=record.usage.prompt_tokens,
        completion_tokens=record.usage.completion_tokens,
    )
    try:
        with telemetry.timed("storage"):
            recorded = store().settle(record)
    except StorageUnavailable:
        logger.exception("an interaction could not be recorded", extra={"record": asdict(record)})
        recorded = False
    return Answer(record=record, recorded=recorded)
