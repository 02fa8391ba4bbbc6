"""The models that callers may name, and the routes (provider and model) that serve them."""

import functools
from collections.abc import Sequence

from django.conf import settings

import providers
from chat.callers import Caller
from chat.errors import ValidationFailed, field_error
from chat.http_transport import http_transport
from providers.base import CompletionRequest
from providers.router import Route, Router, UnknownModel

# Alias for the configured default model, for clients that must name one.
DEFAULT_MODEL_ALIAS = "default"


@functools.cache
def router() -> Router:
    """Return the router over the configured providers, built once per process."""
    configured = [
        providers.build(name, options, http_transport())
        for name, options in settings.PROVIDERS.items()
    ]
    if settings.TRACING_ENABLED:
        from chat.telemetry.traces import TracedProvider

        configured = [TracedProvider(provider) for provider in configured]
    return Router(
        configured,
        settings.ALLOWED_MODELS,
        fallback=settings.LLM_FALLBACK,
        threshold=settings.CIRCUIT_BREAKER_THRESHOLD,
        reset_timeout=settings.CIRCUIT_BREAKER_TIMEOUT,
    )


def routes_for(caller: Caller, model: str | None) -> list[Route]:
    """Return the routes that serve a model, in the order in which they are tried.

    Without a model, a key restricted to some models gets the first of them. Raises
    ValidationFailed for a model that is unknown or not allowed.
    """
    named = None if model == DEFAULT_MODEL_ALIAS else model
    try:
        known = router().routes(named or next(iter(_allowed_models(caller)), None))
    except UnknownModel:
        known = []
    routes = _allowed(caller, known)
    if not routes:
        detail = "Unknown model, or not allowed for this key; see GET /v1/models."
        raise ValidationFailed(errors=[field_error("model", "unknown", detail)])
    return routes


def list_models(caller: Caller) -> list[Route]:
    """Return the routes of all models that the caller may name, the default first."""
    return _allowed(caller, router().known)


def _allowed(caller: Caller, routes: Sequence[Route]) -> list[Route]:
    names = _allowed_models(caller)
    return [route for route in routes if not names or not route.names.isdisjoint(names)]


def _allowed_models(caller: Caller) -> Sequence[str]:
    """Return the models that the caller's key is restricted to; empty means no restriction."""
    return caller.key.allowed_models if caller.key else ()


def supporting(routes: Sequence[Route], request: CompletionRequest) -> list[Route]:
    """Return the routes whose provider can be told everything in the request.

    Raises ValidationFailed if there is none, with the fields that the first one lacks.
    """
    lacking = [route.provider.unsupported(request) for route in routes]
    found = [route for route, names in zip(routes, lacking, strict=True) if not names]
    if not found:
        detail = f"Provider {routes[0].provider.name} does not support this field."
        raise ValidationFailed(
            errors=[field_error(name, "unsupported", detail) for name in lacking[0]]
        )
    return found
