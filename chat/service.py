"""The story of one chat request, and of looking it up again."""

import functools
import hashlib
import itertools
import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

import orjson
import uuid_utils
from django.conf import settings
from django.utils.crypto import salted_hmac

import providers
from chat import answer_cache, usage
from chat.api.authentication import Caller
from chat.errors import (
    AnswerNotStored,
    ClientDisconnected,
    ConversationConflict,
    IdempotencyInFlight,
    IdempotencyMismatch,
    NotFound,
    StorageFailed,
    ValidationFailed,
    problem_from_exception,
)
from chat.storage import backend
from chat.storage.base import ErrorInfo, InteractionRecord, Page, Status
from chat.storage.errors import StorageUnavailable
from chat.storage.jsonl import to_json
from chat.storage.redaction import keyed_digest, redact
from chat.telemetry import metrics
from chat.telemetry.context import add_log_fields, current_request_id, server_timing
from providers.base import Completion, CompletionRequest, Deadline, Message
from providers.errors import DeadlineExceeded, ProviderError
from providers.router import Attempt, Route, Router, UnknownModel

# Here go, whole, the records that could not be written.
unrecorded = logging.getLogger("chat.unrecorded")

# What stands for the configured model where a client has to name one.
DEFAULT_MODEL_ALIAS = "default"
MAX_SETTLE_TRIES = 3
ERASED_AT_ONCE = 500
CONTENT_NOT_STORED = (
    "The turn before cannot be continued: this service keeps no content. "
    "Send the turns as messages, to /v1/chat/completions."
)
TURN_HAS_TOOL_CALLS = (
    "The turn before ended in calls of tools. "
    "Send the turns as messages, with the tools' results, to /v1/chat/completions."
)

# The namespace of the ids that follow from idempotency keys.
IDEMPOTENCY_NAMESPACE = UUID("6b4e0f0e-6c63-5a5b-9d0c-6f1f3b0d7c52")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A valid request. What is None is left to the model's vendor, `model` to the configuration.

    `previous_interaction_id` names the turn before this one. A client that keeps the conversation
    itself sends it as `messages` instead, of which `prompt` is the last thing its user said.
    `options` are further parameters, and both are in OpenAI's terms.
    """

    user_id: str
    prompt: str
    system: str | None = None
    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    metadata: Mapping[str, str] | None = None
    previous_interaction_id: str | None = None
    messages: list[dict[str, Any]] | None = None
    options: Mapping[str, Any] | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What is said of how to answer."""
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "stop": self.stop,
            "options": self.options or None,
            "messages": self.messages,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def digest(self) -> str:
        """The same for the same question; what was not given does not count."""
        given = {
            name: value
            for name in CHAT_REQUEST_FIELDS
            if (value := getattr(self, name)) is not None
        }
        return hashlib.sha256(orjson.dumps(given, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def masked(self) -> "ChatRequest":
        """The same question without the addresses and numbers of people (MASK_PII)."""
        from chat.masking import mask_text, mask_value

        texts = ("prompt", "system", "stop", "messages", "options")
        metadata = {
            mask_text(name): mask_text(value) for name, value in (self.metadata or {}).items()
        }
        given = {name: mask_value(getattr(self, name)) for name in texts}
        return replace(self, **given, metadata=metadata or None)


CHAT_REQUEST_FIELDS = [field.name for field in fields(ChatRequest)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatResult:
    """A settled record, whether the ledger has it, and whether it had it before."""

    record: InteractionRecord
    recorded: bool = True
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the text of an answer, its claim, and the model that gives it."""

    record: InteractionRecord
    model: str
    text: str


@functools.cache
def router() -> Router:
    """The configured providers, made once per process."""
    configured = [providers.build(name, options) for name, options in settings.PROVIDERS.items()]
    if settings.TRACING_ENABLED:
        from chat.telemetry.traces import traced

        configured = [traced(provider) for provider in configured]
    return Router(
        configured,
        settings.ALLOWED_MODELS,
        fallback=settings.LLM_FALLBACK,
        threshold=settings.CIRCUIT_BREAKER_THRESHOLD,
        rest_seconds=settings.CIRCUIT_BREAKER_TIMEOUT,
    )


def chat(
    *,
    caller: Caller,
    question: ChatRequest,
    deadline: Deadline,
    idempotency_key: str | None = None,
    use_cache: bool = True,
) -> ChatResult:
    """Ask a model, and leave exactly one record of it.

    1. Look up the turn before, if there is one.
    2. Claim: the record is written as pending, so that nothing is asked that is not on record.
       With an idempotency key its id follows from the key, and the claim is the lock: whoever
       comes second is given the first one's answer.
    3. Ask the providers, or the cache.
    4. Settle: the outcome is written, once. An answer that cannot be written is still given.

    Raises Problem.
    """
    turn = _accept(caller, question, deadline, idempotency_key)
    if turn.earlier:
        return ChatResult(record=turn.earlier, replayed=True)
    with _settle_on_error(turn):
        cached = answer_cache.get(turn.record) if use_cache else None
        if cached:
            return _settle(turn, _record_from_cache(turn.record, cached))
        with _time_provider_call():
            completion = router().ask(turn.routes, turn.request, deadline, turn.attempts)
    return _record_completion(turn, completion)


def stream(
    *,
    caller: Caller,
    question: ChatRequest,
    deadline: Deadline,
    idempotency_key: str | None = None,
    use_cache: bool = True,
) -> Iterator[Delta | ChatResult]:
    """The same steps: the text in pieces as they come, and then the answer.

    An answer that was there already comes at once and alone. When `deadline` is cancelled, what
    came so far is settled as aborted. Raises Problem.
    """
    turn = _accept(caller, question, deadline, idempotency_key)
    if turn.earlier:
        yield ChatResult(record=turn.earlier, replayed=True)
        return
    with _settle_on_error(turn):
        cached = answer_cache.get(turn.record) if use_cache else None
        if cached:
            yield _settle(turn, _record_from_cache(turn.record, cached))
            return
        with _time_provider_call():
            for event in router().stream(turn.routes, turn.request, deadline, turn.attempts):
                if isinstance(event, Completion):
                    completion = event
                else:
                    turn.text.append(event)
                    yield Delta(turn.record, turn.attempts[-1].model, event)
    yield _record_completion(turn, completion)


def routes_for(caller: Caller, model: str | None) -> list[Route]:
    """Who is asked for a model; a key that is for some models has the first of them as default."""
    allowed = _allowed_models(caller)
    try:
        named = None if model == DEFAULT_MODEL_ALIAS else model
        found = router().routes(named or next(iter(allowed), None))
    except UnknownModel:
        found = []
    if allowed:
        found = [route for route in found if not route.names.isdisjoint(allowed)]
    if not found:
        error = {"field": "model", "code": "unknown", "detail": "This model may not be asked."}
        raise ValidationFailed(errors=[error])
    return found


def list_models(caller: Caller) -> list[Route]:
    """The models that the caller may name, as far as they are known."""
    allowed = _allowed_models(caller)
    return [route for route in router().known if not allowed or not route.names.isdisjoint(allowed)]


def _allowed_models(caller: Caller) -> Sequence[str]:
    return caller.key.allowed_models if caller.key else ()


def parse_interaction_id(id_: str) -> str:
    """An id as it is kept, however its UUID is spelled. Raises NotFound for what is none."""
    try:
        return str(UUID(id_))
    except ValueError:
        raise NotFound from None


def get_interaction(*, caller: Caller, interaction_id: str) -> InteractionRecord:
    """One record of the caller's owner. Raises NotFound, StorageUnavailable."""
    id_ = parse_interaction_id(interaction_id)
    with server_timing("storage"):
        record = backend().interactions.get(id_)
    if record is None or record.owner != caller.owner:
        raise NotFound
    return record


def get_conversation(
    *, caller: Caller, conversation_id: str, limit: int, cursor: str | None
) -> Page:
    """Turns of a conversation of the caller's owner. Raises NotFound, and what stores raise."""
    with server_timing("storage"):
        page = backend().interactions.list_by_conversation(
            caller.owner, conversation_id, limit=limit, cursor=cursor
        )
    if not page.records and cursor is None:
        raise NotFound
    return page


def get_interactions(
    *,
    caller: Caller,
    user_id: str,
    limit: int,
    cursor: str | None = None,
    since: datetime | None = None,
    before: datetime | None = None,
) -> Page:
    """A user's records, the newest first. Raises InvalidCursor, StorageUnavailable."""
    with server_timing("storage"):
        return backend().interactions.list_by_user(
            caller.owner, user_id, limit=limit, cursor=cursor, since=since, before=before
        )


def erase_user(*, caller: Caller, user_id: str, deadline: Deadline) -> int:
    """Delete all of a user's records; how many. Raises StorageFailed when time is up."""
    total = 0
    with server_timing("storage"):
        while erased := backend().interactions.delete_by_user(
            caller.owner, user_id, limit=ERASED_AT_ONCE
        ):
            total += erased
            if deadline.reached:
                detail = f"{total} records were erased; ask again until it is a 200."
                raise StorageFailed(detail, retry_after=1)
    return total


@dataclass(slots=True, kw_only=True)
class InFlightChat:
    """One request on its way: its claim, who is asked what, and what came of it so far."""

    record: InteractionRecord
    request: CompletionRequest
    routes: list[Route]
    deadline: Deadline
    started: float
    earlier: InteractionRecord | None = None
    text: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)


def _accept(
    caller: Caller, question: ChatRequest, deadline: Deadline, idempotency_key: str | None
) -> InFlightChat:
    """Claim the request. `earlier` is the answer that it was given before, if it was."""
    started = time.monotonic()
    if settings.MASK_PII:
        question = question.masked()
    asked = routes_for(caller, question.model)
    usage.enforce_budget(caller)
    parent, history = _history(caller, question)
    record = _pending(caller, question, asked[0], deadline, idempotency_key)
    if parent:
        record = replace(
            record,
            conversation_id=parent.conversation_id,
            previous_interaction_id=parent.interaction_id,
            ancestors=tuple(turn.interaction_id for turn in history),
            system=record.system or parent.system,
        )
    request = _request(record, history)
    turn = InFlightChat(
        record=record,
        request=request,
        routes=_supporting(asked, request),
        deadline=deadline,
        started=started,
    )
    add_log_fields(interaction_id=record.interaction_id)
    turn.earlier = _claim(record)
    return turn


def _supporting(routes: list[Route], request: CompletionRequest) -> list[Route]:
    """Those of the routes that take all that is in the request."""
    required = request.required_capabilities
    capable = [route for route in routes if required <= route.provider.capabilities]
    if not capable:
        detail = f"The provider {routes[0].provider.name} does not take it."
        lacking = sorted(required - routes[0].provider.capabilities)
        raise ValidationFailed(
            errors=[{"field": name, "code": "unsupported", "detail": detail} for name in lacking]
        )
    return capable


def _history(
    caller: Caller, question: ChatRequest
) -> tuple[InteractionRecord | None, list[InteractionRecord]]:
    """The turn before, and those of the turns up to it that are sent along, the oldest first.

    One read for the turn before and one for all that came before it, both consistent.
    """
    if question.previous_interaction_id is None:
        return None, []
    try:
        parent = get_interaction(caller=caller, interaction_id=question.previous_interaction_id)
    except NotFound:
        raise NotFound("There is no such previous_interaction_id.") from None
    if parent.user_id != question.user_id:
        raise NotFound("There is no such previous_interaction_id.")
    status = parent.status_at(datetime.now(UTC))
    if status is not Status.OK:
        state = "still running" if status is Status.PENDING else "without an answer"
        raise ConversationConflict(f"The turn before is {state}, and cannot be continued.")
    if parent.lacks_content:
        raise ConversationConflict(CONTENT_NOT_STORED)
    if parent.tool_calls:
        raise ConversationConflict(TURN_HAS_TOOL_CALLS)
    if not settings.HISTORY_TURNS:
        return parent, []
    wanted = parent.ancestors[-settings.HISTORY_TURNS + 1 :] if settings.HISTORY_TURNS > 1 else ()
    with server_timing("storage"):
        found = backend().interactions.get_many(wanted) if wanted else {}
    turns = [*(found[id_] for id_ in wanted if id_ in found), parent]
    return parent, _window(turns, settings.HISTORY_MAX_CHARACTERS - len(question.prompt))


def _window(turns: list[InteractionRecord], characters: int) -> list[InteractionRecord]:
    """The newest of the turns, as many as have so many characters in all."""
    for number, turn in enumerate(reversed(turns)):
        characters -= sum(len(message.text) for message in _messages_of(turn))
        characters -= len(turn.response or "")
        if characters < 0:
            return turns[len(turns) - number :]
    return turns


def _pending(
    caller: Caller,
    question: ChatRequest,
    route: Route,
    deadline: Deadline,
    idempotency_key: str | None,
) -> InteractionRecord:
    now = datetime.now(UTC)
    interaction_id = str(uuid_utils.uuid7())
    request_hash = None
    if idempotency_key is not None:
        interaction_id = str(uuid5(IDEMPOTENCY_NAMESPACE, f"{caller.owner}\n{idempotency_key}"))
        request_hash = question.digest if settings.STORE_CONTENT else keyed_digest(question.digest)
    return InteractionRecord(
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
        request_id=current_request_id(),
        request_hash=request_hash,
        key_id=caller.key.key_id if caller.key else None,
        provider=route.provider.name,
        model=route.model,
    )


def _expiry(now: datetime) -> datetime | None:
    days = settings.RETENTION_DAYS
    return (now + timedelta(days=days)).replace(microsecond=0) if days else None


def _claim(record: InteractionRecord) -> InteractionRecord | None:
    """Write the claim; or else return the answer that the same request was given before.

    Raises IdempotencyMismatch, IdempotencyInFlight.
    """
    with server_timing("storage"):
        holder = backend().interactions.claim(record)
        if holder is None:
            return None
        if holder.request_hash is None or holder.request_hash != record.request_hash:
            raise IdempotencyMismatch
        status = holder.status_at(datetime.now(UTC))
        if holder.lacks_content:
            raise AnswerNotStored
        if status is Status.OK:
            return holder
        if status is Status.PENDING or not backend().interactions.take_over(record, holder):
            raise IdempotencyInFlight
        return None


@contextmanager
def _settle_on_error(turn: InFlightChat) -> Iterator[None]:
    """Settle what fails: nothing that was accepted stays pending."""
    try:
        yield
    except GeneratorExit:
        _settle(turn, _aborted(turn))
        raise
    except Exception as exc:
        problem = problem_from_exception(exc)
        failure = ErrorInfo(code=problem.code, detail=problem.detail)
        failed = replace(_unfinished(turn), status=Status.ERROR, error=failure)
        if isinstance(exc, ProviderError):
            failed = replace(failed, usage=exc.usage)
        if isinstance(exc, DeadlineExceeded) and turn.deadline.cancelled:
            failed, problem = _aborted(turn), ClientDisconnected()
        _settle(turn, failed)
        raise problem from exc


def _aborted(turn: InFlightChat) -> InteractionRecord:
    """The record of a request whose client went away, with what came until then."""
    return replace(_unfinished(turn), status=Status.ABORTED)


def _unfinished(turn: InFlightChat) -> InteractionRecord:
    """The record with what came until now, and whom it came from."""
    if not turn.text:
        return turn.record
    last = turn.attempts[-1]
    return replace(
        turn.record, provider=last.provider, model=last.model, response="".join(turn.text)
    )


@contextmanager
def _time_provider_call() -> Iterator[None]:
    """Time the call to the providers, and log why it failed."""
    try:
        with server_timing("provider"):
            yield
    except ProviderError as exc:
        add_log_fields(reason=exc.reason)
        raise


def _record_completion(turn: InFlightChat, completion: Completion) -> ChatResult:
    """Settle the record with a provider's answer."""
    outcome = replace(
        turn.record,
        status=Status.OK,
        provider=turn.attempts[-1].provider,
        model=completion.model,
        response=completion.text,
        tool_calls=completion.tool_calls,
        finish_reason=completion.finish_reason,
        usage=completion.usage,
    )
    answer = _settle(turn, outcome)
    if answer.recorded:
        answer_cache.put(turn.record, answer.record)
    return answer


def _record_from_cache(record: InteractionRecord, earlier: InteractionRecord) -> InteractionRecord:
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


def _request(record: InteractionRecord, history: Sequence[InteractionRecord]) -> CompletionRequest:
    end_user = salted_hmac("chat.end_user", f"{record.owner} {record.user_id}").hexdigest()
    return CompletionRequest(
        model=record.model,
        messages=tuple(_messages(record, history)),
        system=record.system,
        temperature=record.parameters.get("temperature"),
        top_p=record.parameters.get("top_p"),
        max_tokens=record.parameters.get("max_tokens"),
        stop=tuple(record.parameters.get("stop", ())),
        end_user=end_user,
        conversation_id=record.conversation_id,
        options=record.parameters.get("options", {}),
    )


def _messages(record: InteractionRecord, history: Sequence[InteractionRecord]) -> Iterator[Message]:
    for turn in history:
        yield from _messages_of(turn)
        yield Message(role="assistant", content=turn.response or "")
    yield from _messages_of(record)


def _messages_of(turn: InteractionRecord) -> list[Message]:
    """What a turn asked: its prompt, or all that its client sent of a conversation."""
    messages = turn.parameters.get("messages")
    if messages is None:
        return [Message(role="user", content=turn.prompt)]
    return [Message(**message) for message in messages]


def _settle(turn: InFlightChat, outcome: InteractionRecord) -> ChatResult:
    """Write the outcome. What cannot be written is logged whole, for `replay_records`."""
    elapsed = round((time.monotonic() - turn.started) * 1000)
    record = replace(outcome, latency_ms=elapsed, attempts=tuple(turn.attempts))
    add_log_fields(
        provider=record.provider,
        model=record.model,
        prompt_tokens=record.usage.prompt_tokens,
        completion_tokens=record.usage.completion_tokens,
        **metrics.outcome_metrics(record.usage, record.attempts, turn.routes[0].provider.name),
    )

    try:
        return ChatResult(record=record, recorded=_written(record, turn.deadline))
    except StorageUnavailable:
        unrecorded.exception("not recorded", extra={"record": to_json(redact(record))})
        return ChatResult(record=record, recorded=False)


def _written(record: InteractionRecord, deadline: Deadline) -> bool:
    """Settle persistently. Raises StorageUnavailable when that does not help, or time is up."""
    for tries in itertools.count(1):
        try:
            with server_timing("storage"):
                return backend().interactions.settle(record)
        except StorageUnavailable:
            wait = random.uniform(0, 0.1 * 2**tries)  # noqa: S311  (no secret)
            if tries == MAX_SETTLE_TRIES or wait >= deadline.left_by_the_clock():
                raise
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")
