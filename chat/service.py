"""The story of one chat request: accept it, claim its record, ask a provider, settle the record."""

import itertools
import logging
import random
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import uuid_utils
from django.conf import settings

from chat import answer_cache, model_catalog
from chat.budgets import reservations
from chat.callers import Caller
from chat.conversation import (
    ChatRequest,
    History,
    build_completion_request,
    client_path,
    continue_turn,
    load_history,
)
from chat.errors import (
    AnswerNotStored,
    ClientDisconnected,
    IdempotencyInFlight,
    IdempotencyMismatch,
    ModelNotFound,
    Problem,
    problem_from_exception,
)
from chat.storage import backend
from chat.storage.base import ErrorInfo, InteractionRecord, Reservation, Status
from chat.storage.errors import BudgetSpent, RecordTooLarge, StorageUnavailable
from chat.storage.jsonl import to_json
from chat.storage.redaction import keyed_digest, redact, redact_text, strip_content
from chat.storage.time_limit import MAX_SECONDS, storage_deadline
from chat.storage.transcripts import SentConversation
from chat.telemetry import metrics
from chat.telemetry.context import add_log_fields, current_request_id, server_timing
from providers.accumulator import joined
from providers.base import Completion, CompletionRequest, Delta
from providers.deadline import Deadline
from providers.errors import DeadlineExceeded, ModelUnavailable, ProviderError, RequestRejected
from providers.parsing import as_str
from providers.router import Attempt, Route

# Records that could not be written are logged here, whole.
unrecorded = logging.getLogger("chat.unrecorded")

# SETTLE_SECONDS leaves half a second for each of them after the deadline.
MAX_SETTLE_TRIES = 3
# The namespace of record ids derived from idempotency keys.
IDEMPOTENCY_NAMESPACE = UUID("6b4e0f0e-6c63-5a5b-9d0c-6f1f3b0d7c52")


class ChatResult(NamedTuple):
    """A settled record. `recorded`: storage has it. `replayed`: an earlier request made it."""

    record: InteractionRecord
    recorded: bool = True
    replayed: bool = False


class AnswerEnded(NamedTuple):
    """The provider's answer has ended or failed: what follows may wait for the storage."""


class AnswerDelta(NamedTuple):
    """A piece of an answer, with the claimed record, the provider, and the model that was asked."""

    record: InteractionRecord
    provider: str
    model: str
    delta: Delta


def chat(
    *,
    caller: Caller,
    request: ChatRequest,
    deadline: Deadline,
    idempotency_key: str | None = None,
    use_cache: bool = True,
) -> ChatResult:
    """Answer a request, and leave exactly one record of it.

    1. Accept: check the model, and load the turns before.
    2. Claim: write the record as pending before any provider is asked, and reserve the estimated
       cost from the key's budgets. An idempotency key determines the record's id, so the claim is
       also the lock: a repeated request gets the first one's answer.
    3. Ask the cache, then the providers.
    4. Settle: write the outcome, once. The client gets its answer even if this fails.

    Raises Problem.
    """
    in_flight = _accept(caller, request, deadline, idempotency_key)
    if result := _stored_answer(in_flight, use_cache):
        return result
    with _settle_on_error(in_flight), server_timing("provider"):
        in_flight.route, completion = model_catalog.router().complete(
            in_flight.routes, in_flight.completion_request, deadline, in_flight.add_attempt
        )
    return _settle_completion(in_flight, completion)


def stream(
    *,
    caller: Caller,
    request: ChatRequest,
    deadline: Deadline,
    idempotency_key: str | None = None,
    use_cache: bool = True,
) -> Generator[AnswerDelta | AnswerEnded | ChatResult]:
    """Take the same steps as `chat`: yield the answer in pieces as they come, then the result.

    Yield AnswerEnded before the record of an answer is settled. Each event may be read in another
    thread than the one before.

    A stored answer is yielded at once, without pieces. If `deadline` is cancelled or the iterator
    closed, the pieces so far are settled as aborted. Raises Problem.
    """
    in_flight = _accept(caller, request, deadline, idempotency_key)
    if result := _stored_answer(in_flight, use_cache):
        yield result
        return
    with _settle_on_error(in_flight), server_timing("provider"):
        events = model_catalog.router().stream(
            in_flight.routes, in_flight.completion_request, deadline, in_flight.add_attempt
        )
        claimed = in_flight.whole(in_flight.record)
        try:
            with closing(events):  # ends the attempt before the record is settled
                for route, event in events:
                    in_flight.route = route
                    if isinstance(event, Completion):
                        completion = event
                    else:
                        in_flight.deltas.append(event.message)
                        yield AnswerDelta(claimed, route.provider.name, route.model, event)
        except Exception:
            yield AnswerEnded()
            raise
        yield AnswerEnded()
    yield _settle_completion(in_flight, completion)


@dataclass(slots=True, kw_only=True)
class InFlightChat:
    """A claimed request: its question, its routes, and the pieces of the answer so far."""

    # The claim with all messages of the request.
    asked: InteractionRecord
    # The whole conversation, if the client sent it.
    sent: SentConversation | None
    # The claim as it is stored, which may have only the new messages.
    record: InteractionRecord
    completion_request: CompletionRequest
    routes: list[Route]
    # The preferred route, until one answers.
    route: Route
    # The client named a model other than the default.
    names_model: bool
    # Storage gets no texts.
    accounting_only: bool
    deadline: Deadline
    started: float
    reservations: tuple[Reservation, ...] = ()
    # The stored answer, if the request was answered before.
    earlier: InteractionRecord | None = None
    deltas: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    vendor_errors: list[str] = field(default_factory=list)

    def stored(self, record: InteractionRecord) -> InteractionRecord:
        """Return the record as it may be stored."""
        return strip_content(record) if self.accounting_only else record

    def whole(self, record: InteractionRecord) -> InteractionRecord:
        """Return a record with all that was asked, for the client."""
        if self.record is self.asked:
            return record
        return replace(record, system=self.asked.system, parameters=self.asked.parameters)

    def add_attempt(self, attempt: Attempt, error: ProviderError | None) -> None:
        """Add an ended call to a provider, and log why it failed, even if a later call succeeds."""
        self.attempts.append(attempt)
        if error:
            parts = (attempt.provider, error.reason, redact_text(error.vendor_message))
            self.vendor_errors.append(": ".join(filter(None, parts)))
            add_log_fields(vendor_errors=self.vendor_errors)


def _accept(
    caller: Caller, request: ChatRequest, deadline: Deadline, idempotency_key: str | None
) -> InFlightChat:
    """Check the request, build the provider's request from it, and claim its record."""
    started = time.monotonic()
    # Before all else: the record, its digests and the vendor get the masked texts alone.
    if settings.MASK_PII:
        request = request.masked(deadline)
    routes = model_catalog.routes_for(caller, request.model)
    model_catalog.check_other_models(caller, routes, request.parameters)
    history = load_history(caller, request)
    asked = _pending_record(caller, request, history, routes[0], deadline, idempotency_key)
    sent = SentConversation(asked) if request.is_whole and settings.STORE_CONTENT else None
    record = continue_turn(asked, sent) if sent else asked
    completion_request = build_completion_request(request, history, record)
    # Once the request is built: whether a provider supports it depends on earlier turns, too.
    routes = model_catalog.supporting(routes, completion_request)
    in_flight = InFlightChat(
        asked=asked,
        sent=sent,
        record=record,
        completion_request=completion_request,
        routes=routes,
        route=routes[0],
        names_model=request.model not in (None, model_catalog.DEFAULT_MODEL_ALIAS),
        accounting_only=request.accounting_only,
        deadline=deadline,
        started=started,
        reservations=reservations(caller, record, completion_request, routes[0]),
    )
    # Before the claim, so that the log line of one that fails has the id.
    add_log_fields(interaction_id=record.interaction_id)
    in_flight.earlier = _claim(in_flight.stored(record), in_flight.reservations)
    return in_flight


def _pending_record(
    caller: Caller,
    request: ChatRequest,
    history: History,
    route: Route,
    deadline: Deadline,
    idempotency_key: str | None,
) -> InteractionRecord:
    now = datetime.now(UTC)
    interaction_id, request_hash = _identity(caller, request, idempotency_key)
    parent, days = history.parent, settings.RETENTION_DAYS
    inherited = None if request.drops_instructions else history.system
    return InteractionRecord(
        interaction_id=interaction_id,
        owner=caller.owner,
        user_id=request.user_id,
        prompt=request.prompt,
        system=request.system or inherited,
        parameters=request.recorded_parameters,
        metadata=request.metadata or {},
        created_at=now,
        deadline_at=now + timedelta(seconds=deadline.remaining()),
        # Whole seconds, which is what DynamoDB's TTL has: both stores expire it at once.
        expires_at=(now + timedelta(days=days)).replace(microsecond=0) if days else None,
        conversation_id=parent.conversation_id if parent else interaction_id,
        previous_interaction_id=parent.interaction_id if parent else None,
        ancestors=tuple(turn.interaction_id for turn in history.turns),
        request_id=current_request_id(),
        request_hash=request_hash,
        key_id=caller.key.key_id if caller.key else None,
        provider=route.provider.name,
        model=route.model,
    )


def _identity(
    caller: Caller, request: ChatRequest, idempotency_key: str | None
) -> tuple[str, str | None]:
    """Return the record's id, and the digest of the request that a retry with the key must have."""
    if idempotency_key is None:
        return str(uuid_utils.uuid7()), None
    # The owner is part of the name, so a key of one owner never finds a record of another.
    id_ = uuid5(IDEMPOTENCY_NAMESPACE, f"{caller.owner}\n{idempotency_key}")
    # In a record without texts a plain digest would still let a short prompt be guessed.
    keeps_content = settings.STORE_CONTENT and not request.accounting_only
    return str(id_), request.digest if keeps_content else keyed_digest(request.digest)


def _claim(
    record: InteractionRecord, reserved: tuple[Reservation, ...]
) -> InteractionRecord | None:
    """Write the pending record; or return the answered record of the same request.

    Raises IdempotencyMismatch, IdempotencyInFlight, AnswerNotStored.
    """
    with server_timing("storage"):
        try:
            holder = backend().interactions.claim(record, *reserved)
        except BudgetSpent:  # which an answer that is replayed does not need
            holder = backend().interactions.get(record.interaction_id)
            if holder is None:
                raise
        if holder is None:
            return None
        if holder.request_hash is None or holder.request_hash != record.request_hash:
            raise IdempotencyMismatch
        status = holder.status_at(datetime.now(UTC))
        if holder.lacks_content:
            raise AnswerNotStored
        if status is Status.OK:
            return holder
        # Of several retries of a failed request one takes it over, and the others wait for it.
        if status is Status.PENDING or not backend().interactions.take_over(
            record, holder, *reserved
        ):
            raise IdempotencyInFlight
        return None


def _stored_answer(in_flight: InFlightChat, use_cache: bool) -> ChatResult | None:
    """Return the answer that needs no provider: a replayed or a cached one."""
    if in_flight.earlier:
        return ChatResult(record=in_flight.earlier, replayed=True)
    with _settle_on_error(in_flight):
        cached = answer_cache.get(in_flight.asked) if use_cache else None
        return _settle_cached(in_flight, cached) if cached else None


def _settle_cached(in_flight: InFlightChat, cached: InteractionRecord) -> ChatResult:
    """Settle the record with a cached answer, which costs nothing this time."""
    return _settle(
        in_flight,
        status=Status.OK,
        provider=cached.provider,
        model=cached.model,
        response=cached.response,
        tool_calls=cached.tool_calls,
        message=cached.message,
        extras=cached.extras,
        finish_reason=cached.finish_reason,
        usage=replace(cached.usage, cost_usd=Decimal(0)),
        cached=True,
    )


def _settle_completion(in_flight: InFlightChat, completion: Completion) -> ChatResult:
    """Settle the record with a provider's answer, and cache the answer."""
    result = _settle(
        in_flight,
        status=Status.OK,
        provider=in_flight.route.provider.name,
        model=completion.model,
        extras=completion.extras,
        usage=in_flight.attempts[-1].usage,
        **_answer_fields(completion.message, completion.finish_reason),
    )
    if result.recorded and not in_flight.accounting_only:
        answer_cache.put(in_flight.asked, result.record)
    return result


@contextmanager
def _settle_on_error(in_flight: InFlightChat) -> Iterator[None]:
    """Settle the record of a request that fails or is aborted: no claim stays pending."""
    try:
        yield
    except GeneratorExit:
        _settle(in_flight, status=Status.ABORTED, **_partial_answer(in_flight))
        raise
    except Exception as exc:
        if isinstance(exc, ProviderError):
            add_log_fields(reason=exc.reason)
        partial = _partial_answer(in_flight)
        # A cancelled deadline raises the same error as one that has passed.
        if isinstance(exc, DeadlineExceeded) and in_flight.deadline.cancelled:
            _settle(in_flight, status=Status.ABORTED, **partial)
            raise ClientDisconnected from exc
        problem = _problem(in_flight, exc)
        error = ErrorInfo(code=problem.code, detail=problem.detail)
        problem.record = _settle(in_flight, status=Status.ERROR, error=error, **partial).record
        raise problem from exc


def _problem(in_flight: InFlightChat, exc: Exception) -> Problem:
    """Return the problem to show the client: 404 if it named a model that no vendor has."""
    if isinstance(exc, ModelUnavailable) and in_flight.names_model:
        return ModelNotFound()
    problem = problem_from_exception(exc)
    if isinstance(exc, RequestRejected):
        problem.param = client_path(exc.param, in_flight.completion_request, in_flight.asked)
    return problem


def _partial_answer(in_flight: InFlightChat) -> dict[str, Any]:
    """Return the record's fields for the pieces streamed so far: text, route and usage."""
    used: dict[str, Any] = {"usage": in_flight.attempts[-1].usage} if in_flight.attempts else {}
    if not in_flight.deltas:
        return used
    return used | {
        "provider": in_flight.route.provider.name,
        "model": in_flight.route.model,
        **_answer_fields(joined(in_flight.deltas)),
    }


def _answer_fields(message: Mapping[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    """Return an assistant's message as fields of the record.

    A refusal without any other text is the response, and ends it like a filter.
    """
    rest = dict(message)
    response, calls = rest.pop("content", ""), tuple(rest.pop("tool_calls", ()))
    if not response and (refusal := as_str(rest.get("refusal"))):
        response, finish_reason = refusal, "content_filter"
    return {
        "response": response,
        "tool_calls": calls,
        "message": rest,
        "finish_reason": finish_reason,
    }


def _settle(in_flight: InFlightChat, **outcome: Any) -> ChatResult:
    """Write these fields of the outcome. If storage fails, log the record for `replay_records`."""
    record = replace(
        in_flight.record,
        latency_ms=round((time.monotonic() - in_flight.started) * 1000),
        attempts=tuple(in_flight.attempts),
        **outcome,
    )
    if in_flight.sent and record.status is Status.OK:
        # With MASK_PII the next request comes masked, so it has the masked answer.
        transcript = in_flight.sent.transcript(redact(record))
        record = replace(record, transcript=transcript)
    preferred, spent = in_flight.routes[0].provider.name, record.spent
    add_log_fields(
        provider=record.provider,
        model=record.model,
        prompt_tokens=spent.prompt_tokens,
        completion_tokens=spent.completion_tokens,
        **metrics.outcome_metrics(spent, record.attempts, preferred),
    )
    try:
        recorded = _write_outcome(record, in_flight)
    except (StorageUnavailable, RecordTooLarge):
        stored = to_json(redact(in_flight.stored(record)))
        unrecorded.exception("not recorded", extra={"record": stored})
        recorded = False
    return ChatResult(record=in_flight.whole(record), recorded=recorded)


def _write_outcome(record: InteractionRecord, in_flight: InFlightChat) -> bool:
    """Settle the record, with retries within the deadline; False if its claim is gone.

    Raises StorageUnavailable, RecordTooLarge.
    """
    stored = in_flight.stored(record)
    deadline = Deadline(min(in_flight.deadline.remaining_if_not_cancelled(), MAX_SECONDS))
    # The answer is there: all the time that is left may be spent on its record.
    with storage_deadline(deadline, writer_share=1):
        for tries in itertools.count(1):
            try:
                with server_timing("storage"):
                    settled = backend().interactions.settle(stored, *in_flight.reservations)
                    # An earlier try may have succeeded, and its answer was lost.
                    return settled or (tries > 1 and _is_settled(stored))
            except StorageUnavailable:
                # Full jitter: when the storage fails, many requests fail at the same moment.
                wait = random.uniform(0, 0.1 * 2**tries)  # noqa: S311  (no secret)
                if tries == MAX_SETTLE_TRIES or wait >= deadline.remaining():
                    raise
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _is_settled(record: InteractionRecord) -> bool:
    """Return whether the storage has this outcome."""
    found = backend().interactions.get(record.interaction_id)
    return found is not None and found.outcome_id == record.outcome_id
