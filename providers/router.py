"""Route a model's requests to providers, with retries, fallback and circuit breakers."""

import itertools
import math
import random
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar

from providers.base import Completion, CompletionRequest, Provider
from providers.circuit_breaker import CircuitBreaker
from providers.deadline import Deadline
from providers.errors import (
    ContentFiltered,
    DeadlineExceeded,
    ModelUnavailable,
    ProviderError,
    ProviderFailed,
    ProviderOverloaded,
    RequestRejected,
)

ANY_MODEL = "*"
MAX_RETRIES = 2
MAX_BACKOFF_SECONDS = 8.0
# A timeout shorter than this does not count against the provider's circuit breaker.
MIN_FAIR_TIMEOUT = 0.3
OPEN_CIRCUIT = "The provider is disabled for now after repeated failures (circuit breaker open)."

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One ended call to a provider. `outcome` is `ok`, the code of its error, or `aborted`."""

    provider: str
    model: str
    outcome: str
    latency_ms: int


# Receives each attempt when it has ended, the failed ones included.
OnAttempt = Callable[[Attempt], None]


@dataclass(frozen=True, slots=True)
class Route:
    """A model at a provider."""

    provider: Provider
    model: str

    @property
    def names(self) -> frozenset[str]:
        """The names by which clients may ask for the model: its id, and `provider:id`."""
        return frozenset((self.model, f"{self.provider.name}:{self.model}"))


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
        self._providers = {provider.name: provider for provider in providers}
        self._defaults = [Route(provider, provider.model) for provider in providers]
        self._any = ANY_MODEL in allowed
        listed = [self._parse(model) for model in allowed if model != ANY_MODEL]
        self._known = list(dict.fromkeys(self._defaults + listed))
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
            routes = [known for known in self._known if model in known.names]
            if not routes and self._any:
                routes = [self._parse(model)]
        if not routes:
            raise UnknownModel(model)
        return routes if self._fallback else routes[:1]

    @property
    def known(self) -> list[Route]:
        """The routes of all models that clients may name, the default one first."""
        return list(self._known)

    def complete(
        self,
        routes: Sequence[Route],
        request: CompletionRequest,
        deadline: Deadline,
        on_attempt: OnAttempt,
    ) -> tuple[Route, Completion]:
        """Return the first completion that a route gives, and that route. Raises ProviderError."""

        def attempt(route: Route, request: CompletionRequest) -> Completion:
            with self._attempt(route, deadline, on_attempt):
                return route.provider.complete(request, deadline)

        return self._try_routes(routes, request, deadline, attempt)

    def stream(
        self,
        routes: Sequence[Route],
        request: CompletionRequest,
        deadline: Deadline,
        on_attempt: OnAttempt,
    ) -> Generator[tuple[Route, str | Completion]]:
        """Yield the text in pieces as they come, then the completion, each with its route.

        All come from one route: after the first piece, an error is final. Closing the generator
        ends the call to the vendor. Raises ProviderError.
        """

        def attempt(route: Route, request: CompletionRequest) -> tuple[Events, str | Completion]:
            events = self._stream_attempt(route, request, deadline, on_attempt)
            return events, next(events)

        route, (events, first) = self._try_routes(routes, request, deadline, attempt)
        with closing(events):
            yield route, first
            for event in events:
                yield route, event

    def _try_routes(
        self,
        routes: Sequence[Route],
        request: CompletionRequest,
        deadline: Deadline,
        attempt: "AttemptFunction[T]",
    ) -> tuple[Route, T]:
        """Try the routes in order until one succeeds or its error rules out a fallback."""
        errors: list[ProviderError] = []
        for route in routes:
            if request.model != route.model:
                request = replace(request, model=route.model)
            try:
                return route, self._try_with_retries(route, request, deadline, attempt)
            except ProviderError as exc:
                if not exc.fallback:
                    raise
                errors.append(exc)
        raise _combined_error(errors)

    def _try_with_retries(
        self,
        route: Route,
        request: CompletionRequest,
        deadline: Deadline,
        attempt: "AttemptFunction[T]",
    ) -> T:
        """Try one route, with retries while they may help and their wait fits the deadline."""
        breaker = self._breakers[route.provider.name]
        for retries in itertools.count():
            try:
                return attempt(route, request)
            except ProviderError as exc:
                wait = self._wait_seconds(exc, retries)
                fits = wait < deadline.remaining() and breaker.remaining() <= 0
                if not exc.retry or retries == MAX_RETRIES or not fits:
                    raise
            deadline.sleep(wait)
        raise AssertionError("the last retry returns or raises")

    def _wait_seconds(self, error: ProviderError, retries: int) -> float:
        """Return the vendor's `Retry-After`, else an exponential backoff with full jitter."""
        if error.retry_after is not None:
            return error.retry_after
        ceiling = min(self._backoff_seconds * 2**retries, MAX_BACKOFF_SECONDS)
        return random.uniform(0, ceiling)  # noqa: S311  (no secret)

    def _stream_attempt(
        self, route: Route, request: CompletionRequest, deadline: Deadline, on_attempt: OnAttempt
    ) -> "Events":
        """Stream from one route. The attempt lasts until the generator ends or is closed."""
        with self._attempt(route, deadline, on_attempt) as running:
            events = route.provider.stream(request, deadline)
            yield next(events)
            running.begun = True
            yield from events

    def _attempt(
        self, route: Route, deadline: Deadline, on_attempt: OnAttempt
    ) -> "_RunningAttempt":
        return _RunningAttempt(route, deadline, self._breakers[route.provider.name], on_attempt)

    def _parse(self, model: str) -> Route:
        """Parse `provider:id` or a bare id, which may itself hold colons (`llama3:8b`)."""
        prefix, colon, rest = model.partition(":")
        if colon and rest and prefix in self._providers:
            return Route(self._providers[prefix], rest)
        return Route(self._defaults[0].provider, model)


Events = Generator[str | Completion]
AttemptFunction = Callable[[Route, CompletionRequest], T]


class _RunningAttempt:
    """A call to a provider: enter only if the circuit allows it; on exit, report its outcome.

    `begun` is set once the first piece of a stream has come.
    """

    begun = False

    def __init__(
        self, route: Route, deadline: Deadline, breaker: CircuitBreaker, on_attempt: OnAttempt
    ) -> None:
        self._route = route
        self._deadline = deadline
        self._breaker = breaker
        self._on_attempt = on_attempt

    def __enter__(self) -> "_RunningAttempt":
        if self._deadline.expired:
            raise DeadlineExceeded("No provider answered in time.")
        self._timeout = self._deadline.remaining()
        if not self._breaker.allow(self._timeout):
            wait = self._breaker.remaining()
            raise ProviderOverloaded(
                OPEN_CIRCUIT, reason="circuit_open", retry=False, retry_after=wait
            )
        self._started = time.monotonic()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        elapsed = round((time.monotonic() - self._started) * 1000)
        self._report_health(error)
        name, outcome = self._route.provider.name, self._outcome(error)
        self._on_attempt(
            Attempt(provider=name, model=self._route.model, outcome=outcome, latency_ms=elapsed)
        )

    def _outcome(self, error: BaseException | None) -> str:
        if error is None:
            return "ok"
        if isinstance(error, ProviderError) and not self._deadline.cancelled:
            return error.code
        return "aborted" if isinstance(error, ProviderError | GeneratorExit) else "internal_error"

    def _report_health(self, error: BaseException | None) -> None:
        """Tell the circuit breaker what the outcome says about the provider's health, if any."""
        match error:
            case None | RequestRejected() | ContentFiltered():
                self._breaker.record_success()
            case DeadlineExceeded() if self.begun:  # it answered, if at too great a length
                self._breaker.record_success()
            case ProviderError() if not self._deadline.cancelled:
                if _counts_against_breaker(error, self._timeout):
                    self._breaker.record_failure()


def _counts_against_breaker(error: ProviderError, timeout: float) -> bool:
    """Return whether a failure is the provider's, and not of one request.

    A client can cause failures, and must not disable the provider for others: by an unknown model,
    by a prompt for an empty answer, or by leaving the provider no time. `timeout` is in seconds.
    """
    match error:
        case DeadlineExceeded():
            return timeout >= MIN_FAIR_TIMEOUT
        case ProviderFailed():
            return error.retry
        case _:
            return not isinstance(error, ModelUnavailable)


def _combined_error(errors: Sequence[ProviderError]) -> ProviderError:
    """Return the error of a request whose routes all failed: overloaded only if all are."""
    for error in errors:
        if not isinstance(error, ProviderOverloaded):
            return error
    hints = [error.retry_after for error in errors if error.retry_after is not None]
    return ProviderOverloaded(
        str(errors[0]), reason=errors[0].reason, retry_after=min(hints, default=None)
    )
