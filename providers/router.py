"""Which provider is asked for which model, and what each attempt came to."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from providers.base import ChatRequest, Completion, Deadline, Provider, ProviderError

ANY_MODEL = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One call to a provider. `outcome` is `ok` or the code of its error."""

    provider: str
    model: str
    outcome: str
    latency_ms: int


@dataclass(frozen=True, slots=True)
class Route:
    provider: Provider
    model: str


class UnknownModel(ValueError):
    """The model is none of those that may be asked."""


class Router:
    """The configured providers, the first of them the one that is asked unless told otherwise.

    Clients may name the providers' own models and those in `allowed`: model ids, `provider:id`
    for a given provider, or `*` for any.
    """

    def __init__(self, providers: Sequence[Provider], allowed: Collection[str] = ()) -> None:
        self._providers = {provider.name: provider for provider in providers}
        self._primary = providers[0]
        self._any = ANY_MODEL in allowed
        self._routes = {
            (route.provider.name, route.model): route
            for route in map(self._parse, allowed)
            if route.model != ANY_MODEL
        }
        for provider in providers:
            self._routes[provider.name, provider.model] = Route(provider, provider.model)

    def route(self, model: str | None) -> Route:
        """Who answers for a model: a bare id, `provider:id`, or None for the default.

        Raises UnknownModel.
        """
        if model is None:
            return Route(self._primary, self._primary.model)
        wanted = self._parse(model)
        route = self._routes.get((wanted.provider.name, wanted.model))
        if route is None and wanted.model == model:
            route = next((known for known in self._routes.values() if known.model == model), None)
        if route is None and self._any:
            route = wanted
        if route is None:
            raise UnknownModel(model)
        return route

    def ask(
        self, route: Route, request: ChatRequest, deadline: Deadline, attempts: list[Attempt]
    ) -> Completion:
        """Ask the route's provider; the attempt is added to `attempts`. Raises ProviderError."""
        started = time.monotonic()
        outcome = "ok"
        try:
            return route.provider.complete(request, deadline)
        except ProviderError as exc:
            outcome = exc.code
            raise
        finally:
            attempts.append(
                Attempt(
                    provider=route.provider.name,
                    model=route.model,
                    outcome=outcome,
                    latency_ms=round((time.monotonic() - started) * 1000),
                )
            )

    def _parse(self, model: str) -> Route:
        """Ids may hold colons themselves (`llama3:8b`): only a provider's name is a prefix."""
        prefix, colon, rest = model.partition(":")
        if colon and rest and prefix in self._providers:
            return Route(self._providers[prefix], rest)
        return Route(self._primary, model)
