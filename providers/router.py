"""Which provider is asked for which model, how often, and what each attempt came to."""

import itertools
import math
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from providers.base import Completion, CompletionRequest, Deadline, Provider
from providers.circuit_breaker import CircuitBreaker
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
OPEN_CIRCUIT = "The provider is disabled for now after repeated failures (circuit breaker open)."
# Who had less time than this to answer is not blamed for it.
MIN_FAIR_TIMEOUT = 0.3

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One call to a provider. `outcome` is `ok`, the code of its error, or `aborted`."""

    provider: str
    model: str
    outcome: str
    latency_ms: int


@dataclass(frozen=True, slots=True)
class Route:
    provider: Provider
    model: str

    @property
    def names(self) -> frozenset[str]:
        """What a model may be called: its id, or `provider:id`."""
        return frozenset((self.model, f"{self.provider.name}:{self.model}"))


class UnknownModel(ValueError):
    """The model is none of those that may be asked."""


class Router:
    """The configured providers, the first of them the one that is asked unless told otherwise.

    Clients may name the providers' own models and those in `allowed`: model ids, `provider:id`
    for a given provider, or `*` for any. With `fallback`, the other providers are asked when the
    first one fails. A remote provider that failed `threshold` times in a row rests `rest_seconds`.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        allowed: Collection[str] = (),
        *,
        fallback: bool = True,
        threshold: int = 5,
        rest_seconds: float = 60.0,
        backoff_seconds: float = 0.5,
    ) -> None:
        self._providers = {provider.name: provider for provider in providers}
        self._defaults = [Route(provider, provider.model) for provider in providers]
        self._any = ANY_MODEL in allowed
        listed = [self._parse(model) for model in allowed if model != ANY_MODEL]
        self._known = list(dict.fromkeys(self._defaults + listed))
        self._fallback = fallback
        self._cooldowns = {
            provider.name: CircuitBreaker(
                threshold if provider.is_remote else math.inf, reset_timeout=rest_seconds
            )
            for provider in providers
        }
        self._backoff_seconds = backoff_seconds

    def routes(self, model: str | None) -> list[Route]:
        """Who is asked, in order, for a model: a bare id, `provider:id`, or None for the default.

        Whoever names a model gets that model: only providers that have it stand in for each other.
        Raises UnknownModel.
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
        """The models that may be named, the one that is asked by default at the head."""
        return list(self._known)

    def ask(
        self,
        routes: Sequence[Route],
        request: CompletionRequest,
        deadline: Deadline,
        attempts: list[Attempt],
    ) -> Completion:
        """The first answer that one of the routes gives before the deadline.

        Each call is added to `attempts`, the one that answered last. Raises ProviderError.
        """
        completion = self._first(routes, request, deadline, attempts, _complete)
        self._cooldowns[attempts[-1].provider].record_success()
        return completion

    def stream(
        self,
        routes: Sequence[Route],
        request: CompletionRequest,
        deadline: Deadline,
        attempts: list[Attempt],
    ) -> Iterator[str | Completion]:
        """Likewise, the text in pieces as they come, and then the whole answer.

        Others are asked only as long as no piece has come. Raises ProviderError.
        """
        events = self._first(routes, request, deadline, attempts, _open)
        started, begun = time.monotonic(), attempts[-1]
        outcome = "aborted"
        cooldown = self._cooldowns[begun.provider]
        try:
            yield from events
            outcome = "ok"
            cooldown.record_success()
        except DeadlineExceeded as exc:
            outcome = "aborted" if deadline.cancelled else exc.code
            cooldown.record_success()  # its answer was too long, or is not wanted any more
            raise
        except ProviderError as exc:
            outcome = exc.code
            if _counts_against_breaker(exc, MIN_FAIR_TIMEOUT):
                cooldown.record_failure()
            raise
        finally:
            elapsed = begun.latency_ms + round((time.monotonic() - started) * 1000)
            attempts[-1] = replace(begun, outcome=outcome, latency_ms=elapsed)

    def _first(
        self,
        routes: Sequence[Route],
        request: CompletionRequest,
        deadline: Deadline,
        attempts: list[Attempt],
        ask: "Ask[T]",
    ) -> T:
        errors: list[ProviderError] = []
        for route in routes:
            asked = replace(request, model=route.model)
            try:
                return self._persist(route, asked, deadline, attempts, ask)
            except ProviderError as exc:
                if not exc.fallback:
                    raise
                errors.append(exc)
        raise _combined_error(errors)

    def _persist(
        self,
        route: Route,
        request: CompletionRequest,
        deadline: Deadline,
        attempts: list[Attempt],
        ask: "Ask[T]",
    ) -> T:
        """Ask one provider, again when that may help and the wait fits what is left."""
        cooldown = self._cooldowns[route.provider.name]
        for retries in itertools.count():
            try:
                return self._call(route, request, deadline, attempts, ask)
            except ProviderError as exc:
                wait = self._wait(exc, retries)
                fits = wait < deadline.remaining() and cooldown.remaining() <= 0
                if not exc.retry or retries == MAX_RETRIES or not fits:
                    raise
            deadline.sleep(wait)
        raise AssertionError("the last retry returns or raises")

    def _wait(self, error: ProviderError, retries: int) -> float:
        """The vendor's own hint, or else full jitter under an exponential ceiling, in seconds."""
        if error.retry_after is not None:
            return error.retry_after
        ceiling = min(self._backoff_seconds * 2**retries, MAX_BACKOFF_SECONDS)
        return random.uniform(0, ceiling)  # noqa: S311  (no secret)

    def _call(
        self,
        route: Route,
        request: CompletionRequest,
        deadline: Deadline,
        attempts: list[Attempt],
        ask: "Ask[T]",
    ) -> T:
        if deadline.reached:
            raise DeadlineExceeded("No provider answered in time.")
        cooldown = self._cooldowns[route.provider.name]
        given = deadline.remaining()
        if not cooldown.allow(given):
            raise ProviderOverloaded(
                OPEN_CIRCUIT,
                reason="circuit_open",
                retry=False,
                retry_after=cooldown.remaining(),
            )
        started = time.monotonic()
        outcome = "internal_error"
        try:
            answer = ask(route.provider, request, deadline)
            outcome = "ok"
        except ProviderError as exc:
            outcome = "aborted" if deadline.cancelled else exc.code
            if isinstance(exc, RequestRejected | ContentFiltered):
                cooldown.record_success()  # what it said no to was the request
            elif _counts_against_breaker(exc, given) and not deadline.cancelled:
                cooldown.record_failure()
            raise
        finally:
            elapsed = round((time.monotonic() - started) * 1000)
            name = route.provider.name
            attempts.append(
                Attempt(provider=name, model=route.model, outcome=outcome, latency_ms=elapsed)
            )
        return answer

    def _parse(self, model: str) -> Route:
        """Ids may hold colons themselves (`llama3:8b`): only a provider's name is a prefix."""
        prefix, colon, rest = model.partition(":")
        if colon and rest and prefix in self._providers:
            return Route(self._providers[prefix], rest)
        return Route(self._defaults[0].provider, model)


Ask = Callable[[Provider, CompletionRequest, Deadline], T]


def _complete(provider: Provider, request: CompletionRequest, deadline: Deadline) -> Completion:
    return provider.complete(request, deadline)


def _open(
    provider: Provider, request: CompletionRequest, deadline: Deadline
) -> Iterator[str | Completion]:
    """The provider's stream once its first piece is there: until then it may fail like a call."""
    events = provider.stream(request, deadline)
    return itertools.chain([next(events)], events)


def _counts_against_breaker(error: ProviderError, given: float) -> bool:
    """Whether a failure tells of the provider's health, and not of one request.

    A client can ask for a model that is not there, for an empty answer, or with no time left, and
    must not put the provider to rest for all others by it. `given` is in seconds.
    """
    match error:
        case DeadlineExceeded():
            return given >= MIN_FAIR_TIMEOUT
        case ProviderFailed():
            return error.retry
        case _:
            return not isinstance(error, ModelUnavailable)


def _combined_error(errors: Sequence[ProviderError]) -> ProviderError:
    """What the failure of all comes to: overloaded only if each of them is."""
    for error in errors:
        if not isinstance(error, ProviderOverloaded):
            return error
    hints = [error.retry_after for error in errors if error.retry_after is not None]
    return ProviderOverloaded(
        str(errors[0]), reason=errors[0].reason, retry_after=min(hints, default=None)
    )
