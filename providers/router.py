"""Route a model's requests to providers, with retries, fallback and circuit breakers."""

import math
import random
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

from providers.base import AnsweredMessage, Completion, CompletionRequest, Delta, Provider, Usage
from providers.circuit_breaker import CircuitBreaker, Permit
from providers.deadline import Deadline
from providers.errors import (
    AddressUnknown,
    ContentFiltered,
    DeadlineExceeded,
    EmptyAnswer,
    MalformedAnswer,
    ModelUnavailable,
    ProviderError,
    ProviderFailed,
    ProviderOverloaded,
    RequestRejected,
    VendorSilent,
)

ANY_MODEL = "*"
MAX_BACKOFF_SECONDS = 8.0
# A timeout shorter than this does not count against the provider's circuit breaker.
MIN_FAIR_TIMEOUT = 0.3
OPEN_CIRCUIT = "The provider is disabled for now after repeated failures (circuit breaker open)."

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One ended call to a provider, and its usage.

    `outcome` is `ok`, the code of its error, or `aborted`.
    """

    provider: str
    model: str
    outcome: str
    latency_ms: int
    usage: Usage = field(default_factory=Usage)


# Receives each attempt when it has ended, with its error if it failed.
OnAttempt = Callable[[Attempt, ProviderError | None], None]


class Route(NamedTuple):
    """A model at a provider."""

    provider: Provider
    model: str

    @property
    def full_name(self) -> str:
        return f"{self.provider.name}:{self.model}"

    @property
    def names(self) -> frozenset[str]:
        """The names by which clients may ask for the model: its id, and `provider:id`."""
        return frozenset((self.model, self.full_name))


class UnknownModel(ValueError):
    """The model is not configured, and not allowed."""


class Router:
    """The configured providers, the default one first.

    `allowed` lists the models that clients may name besides the providers' own: a model id,
    `provider:id`, or `*` for any. With `fallback`, a failed request goes on to the next route.
    After `threshold` failures in a row, a remote provider is skipped for `reset_timeout`.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        allowed: Collection[str] = (),
        *,
        fallback: bool = True,
        threshold: int = 5,
        reset_timeout: float = 60.0,
        backoff_seconds: float = 0.5,
    ) -> None:
        self.providers = {provider.name: provider for provider in providers}
        self._defaults = [Route(provider, provider.model) for provider in providers]
        self.allows_any = ANY_MODEL in allowed
        listed = [self._parse(model) for model in allowed if model != ANY_MODEL]
        # The routes of all models that clients may name, the default one first.
        self.known = list(dict.fromkeys(self._defaults + listed))
        self._fallback = fallback
        self._breakers = {
            provider.name: CircuitBreaker(
                threshold if provider.is_remote else math.inf, reset_timeout
            )
            for provider in providers
        }
        self._backoff_seconds = backoff_seconds

    def routes(self, model: str | None) -> list[Route]:
        """Return the routes for a model (an id, `provider:id`, or None for the default), in order.

        A named model is never replaced by another: only providers that have it are routes. Raises
        UnknownModel.
        """
        if model is None:
            routes = self._defaults
        else:
            routes = [known for known in self.known if model in known.names]
            if not routes and self.allows_any:
                routes = [self._parse(model)]
        if not routes:
            raise UnknownModel(model)
        return routes if self._fallback else routes[:1]

    def complete(
        self,
        routes: Sequence[Route],
        request: CompletionRequest,
        deadline: Deadline,
        on_attempt: OnAttempt,
    ) -> tuple[Route, Completion]:
        """Return the first successful completion and its route. Raises ProviderError."""

        def ask(provider: Provider, request: CompletionRequest) -> Generator[Completion]:
            yield provider.complete(request, deadline)

        [answer] = self._run(routes, request, deadline, on_attempt, ask)
        return answer

    def stream(
        self,
        routes: Sequence[Route],
        request: CompletionRequest,
        deadline: Deadline,
        on_attempt: OnAttempt,
    ) -> Generator[tuple[Route, Delta | Completion]]:
        """Yield the answer in pieces as they come, then whole, each with its route.

        All come from one route: after the first piece, an error is final. Closing the generator
        ends the call to the vendor. Raises ProviderError.
        """

        def ask(provider: Provider, request: CompletionRequest) -> Generator[Delta | Completion]:
            yield from provider.stream(request, deadline)

        return self._run(routes, request, deadline, on_attempt, ask)

    def _run(
        self,
        routes: Sequence[Route],
        request: CompletionRequest,
        deadline: Deadline,
        on_attempt: OnAttempt,
        ask: "Ask[T]",
    ) -> Generator[tuple[Route, T]]:
        """Try the routes in order until one answers or its error rules out a fallback."""
        errors: list[ProviderError] = []
        for route in routes:
            own = _request_for(route, request)
            attempt = partial(self._attempt, route, own, deadline, on_attempt, ask)
            try:
                events, first = self._try_with_retries(route, deadline, attempt)
            except ProviderError as exc:
                if not exc.fallback:
                    raise
                errors.append(exc)
                continue
            with closing(events):
                yield route, first
                for event in events:
                    yield route, event
            return
        raise _combined_error(errors)

    def _try_with_retries(
        self, route: Route, deadline: Deadline, attempt: Callable[[], Generator[T]]
    ) -> tuple[Generator[T], T]:
        """Try one route, with retries while they may help and their wait fits the deadline.

        Return the events of the answer, and the first of them.
        """
        breaker = self._breakers[route.provider.name]
        retries = 0
        while True:
            events = attempt()
            try:
                return events, next(events)
            except ProviderError as exc:
                wait = self._wait_seconds(exc, retries)
                # If this failure has opened the circuit, a retry would be refused.
                fits = wait < deadline.remaining() and breaker.remaining() <= 0
                if not exc.retry or retries >= exc.max_retries or not fits:
                    raise
            deadline.sleep(wait)
            retries += 1

    def _wait_seconds(self, error: ProviderError, retries: int) -> float:
        """Return the vendor's `Retry-After`, else an exponential backoff with full jitter."""
        if error.retry_after is not None:
            return error.retry_after
        ceiling = min(self._backoff_seconds * 2**retries, MAX_BACKOFF_SECONDS)
        return random.uniform(0, ceiling)  # noqa: S311  (no secret)

    def _attempt(
        self,
        route: Route,
        request: CompletionRequest,
        deadline: Deadline,
        on_attempt: OnAttempt,
        ask: "Ask[T]",
    ) -> Generator[T]:
        """Yield the events of one call, if the circuit allows it, and report its outcome.

        The attempt lasts until the generator ends or is closed.
        """
        breaker, timeout = self._breakers[route.provider.name], deadline.remaining()
        permit = _permit(breaker, timeout)
        started, begun, outcome = time.monotonic(), False, "ok"
        error: ProviderError | None = None
        usages: list[Usage] = []  # of this call: one, or none if it could not begin
        request = request._replace(on_usage=usages.append)
        try:
            with closing(ask(route.provider, request)) as events:
                for event in events:
                    yield event
                    begun = True
        # GeneratorExit as well: a call that its reader ends is an attempt on record.
        except BaseException as exc:
            outcome = _outcome(exc, deadline)
            error = exc if isinstance(exc, ProviderError) else None
            _report_failure(exc, breaker, deadline, begun=begun, fair=timeout >= MIN_FAIR_TIMEOUT)
            raise
        else:
            breaker.record_success()
        finally:
            breaker.release(permit)
            attempt = Attempt(
                provider=route.provider.name,
                model=route.model,
                outcome=outcome,
                latency_ms=round((time.monotonic() - started) * 1000),
                usage=usages[-1] if usages else Usage(),
            )
            on_attempt(attempt, error)

    def _parse(self, model: str) -> Route:
        """Parse `provider:id` or a bare id, which may itself hold colons (`llama3:8b`)."""
        prefix, colon, rest = model.partition(":")
        if colon and rest and prefix in self.providers:
            return Route(self.providers[prefix], rest)
        return Route(self._defaults[0].provider, model)


Ask = Callable[[Provider, CompletionRequest], Generator[T]]


def _permit(breaker: CircuitBreaker, timeout: float) -> Permit:
    """Return the breaker's permit for a call of at most `timeout` seconds.

    Raises DeadlineExceeded without time for a call, ProviderOverloaded for an open circuit.
    """
    if not timeout:
        raise DeadlineExceeded("No provider answered in time.")
    if permit := breaker.allow(timeout):
        return permit
    # A used-up quota is unlikely to be back by the next trial call.
    wait = None if breaker.used_up else breaker.remaining()
    raise ProviderOverloaded(OPEN_CIRCUIT, reason="circuit_open", retry=False, retry_after=wait)


def _request_for(route: Route, request: CompletionRequest) -> CompletionRequest:
    """Return the request for the route's provider."""
    messages = tuple(
        message.sent_to(route.provider.name, route.model)
        if isinstance(message, AnsweredMessage)
        else message
        for message in request.messages
    )
    return request._replace(model=route.model, messages=messages)


def _outcome(error: BaseException, deadline: Deadline) -> str:
    if isinstance(error, ProviderError) and not deadline.cancelled:
        return error.code
    return "aborted" if isinstance(error, ProviderError | GeneratorExit) else "internal_error"


def _report_failure(
    error: BaseException, breaker: CircuitBreaker, deadline: Deadline, *, begun: bool, fair: bool
) -> None:
    """Report an error to the circuit breaker if it says something about the provider's health.

    Failures that a client can cause must not disable the provider for others: an unknown model, a
    prompt for an empty answer, or a deadline that left too little time (then it is not `fair`).
    """
    match error:
        # A vendor that refuses a request is well.
        case RequestRejected() | ContentFiltered():
            breaker.record_success()
        # Before DeadlineExceeded, its base class: such a silence is the vendor's fault.
        case VendorSilent():
            breaker.record_failure()
        case DeadlineExceeded() if begun:  # the vendor answered, but for too long
            breaker.record_success()
        case DeadlineExceeded() if not fair:
            pass
        case AddressUnknown() | ModelUnavailable():
            pass
        case EmptyAnswer() | MalformedAnswer() | ProviderFailed(retry=False):
            pass
        case ProviderError() if not deadline.cancelled:
            used_up = isinstance(error, ProviderOverloaded) and not error.retry
            breaker.record_failure(used_up=used_up)


def _combined_error(errors: Sequence[ProviderError]) -> ProviderError:
    """Return the error of a request whose routes all failed: overloaded only if all are."""
    for error in errors:
        if not isinstance(error, ProviderOverloaded):
            return error
    # The earliest one: a retry needs one vendor only.
    hints = [error.retry_after for error in errors if error.retry_after is not None]
    return ProviderOverloaded(
        str(errors[0]),
        reason=errors[0].reason,
        retry=any(error.retry for error in errors),
        retry_after=min(hints, default=None),
    )
