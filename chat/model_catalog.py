"""The models that callers may name, and the routes (provider and model) that serve them."""

import functools
import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.conf import settings

import providers
from chat.callers import Caller
from chat.errors import ValidationFailed, field_error
from chat.http_transport import http_transport
from chat.storage.redaction import redact_text
from providers.base import CompletionRequest, Provider
from providers.deadline import Deadline
from providers.errors import ProviderError
from providers.media import URL_FIELDS
from providers.parsing import as_objects, as_str, get_path
from providers.router import Route, Router, UnknownModel

logger = logging.getLogger(__name__)

# How long a vendor may take to list its models, and how long a list and a failure are cached.
LISTING_SECONDS = 3.0
KEEP_LISTING_SECONDS = 600.0
RETRY_LISTING_SECONDS = 60.0
# Alias for the configured default model, for clients that must name one.
DEFAULT_MODEL_ALIAS = "default"
# An error names this many of the fields that a provider lacks: a message may have a million.
MAX_NAMED_FIELDS = 100
# Parameters that make a vendor, or a gateway with OpenAI's API, call other models than `model`.
OTHER_MODELS = {
    "openrouter": ("models", "preset"),
    "openai": ("models", "preset", "fallbacks"),
}
# What OpenRouter runs beside the model without asking another one:
# https://openrouter.ai/docs/guides/features/plugins and https://openrouter.ai/tools
PLUGINS = {
    *("context-compression", "file-parser", "moderation", "response-healing", "web", "web-fetch"),
}
TOOLS = {"apply_patch", "bash", "datetime", "files", "shell", "web_fetch", "web_search"}


def configured_providers() -> list[Provider]:
    """Build the configured providers, the preferred one first."""
    return [
        providers.build(name, options, http_transport())
        for name, options in settings.PROVIDERS.items()
    ]


@functools.cache
def router() -> Router:
    """Return the router over the configured providers, built once per process."""
    configured = configured_providers()
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


def check_other_models(
    caller: Caller, routes: Sequence[Route], parameters: Mapping[str, Any]
) -> None:
    """Raise ValidationFailed for a parameter that could choose a model which is not allowed."""
    if router().allows_any and not _allowed_models(caller):
        return
    names = {route.provider.name for route in routes}
    for name in dict.fromkeys(each for vendor in names for each in OTHER_MODELS.get(vendor, ())):
        models = parameters.get(name) or ()
        models = models if isinstance(models, list | tuple) else [models]
        if not all(_is_allowed(caller, model) for model in models):
            detail = "Names an unknown model, or one that is not allowed for this key."
            raise ValidationFailed(errors=[field_error(name, "invalid", detail)])
    if "openrouter" in names:
        plugins = parameters.get("plugins") or []
        for plugin in plugins if isinstance(plugins, list) else [plugins]:
            if (name := as_str(get_path(plugin, "id"))) not in PLUGINS:
                raise _may_ask_others("plugins", name)
        for tool in as_objects(parameters.get("tools")):
            kind = as_str(tool.get("type"))
            _, vendor, name = kind.rpartition("openrouter:")
            if name == "image_generation" or (vendor and name not in TOOLS):
                raise _may_ask_others("tools", kind)


def _may_ask_others(field: str, name: str) -> ValidationFailed:
    detail = f"{name or 'This'} may ask a model that is not allowed."
    return ValidationFailed(errors=[field_error(field, "invalid", detail)])


def _is_allowed(caller: Caller, model: Any) -> bool:
    try:
        return isinstance(model, str) and bool(_allowed(caller, router().routes(model)))
    except UnknownModel:
        return False


def list_models(caller: Caller) -> dict[str, Route]:
    """Return all models that the caller may name, by the name to use, the default first.

    If any model is allowed, these are the vendors' own too, or those that the key is restricted to.
    """
    routes = _allowed(caller, router().known)
    names: dict[str, Route] = {}
    if router().allows_any:
        restricted = _allowed_models(caller)
        named = [route for name in restricted for route in router().routes(name)]
        names = {DEFAULT_MODEL_ALIAS: routes_for(caller, None)[0]}
        routes += named if restricted else _vendors_models()
    for route in dict.fromkeys(routes):
        names[_name(route)] = route
    return names


def _name(route: Route) -> str:
    """Return the shortest unambiguous name of a model: its id, or `provider:id`."""
    return route.model if router().routes(route.model)[0] == route else route.full_name


def _vendors_models() -> list[Route]:
    """Ask all vendors at once for their models."""
    providers_ = list(router().providers.values())
    deadline = Deadline(LISTING_SECONDS)
    with ThreadPoolExecutor(len(providers_), thread_name_prefix="models") as pool:
        listed = pool.map(lambda provider: _listing(provider).models(deadline), providers_)
        return [
            Route(provider, model)
            for provider, models in zip(providers_, listed, strict=True)
            for model in models
        ]


@functools.cache
def _listing(provider: Provider) -> "VendorListing":
    return VendorListing(provider)


class VendorListing:
    """The cached ids of a vendor's models. If the vendor fails, the last list stays."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._lock = threading.Lock()
        self._models: list[str] = []
        self._fresh_until = -math.inf

    def models(self, deadline: Deadline) -> list[str]:
        """Return the models; ask the vendor if the list is too old. Other threads wait for it."""
        with self._lock:
            if time.monotonic() >= self._fresh_until:
                self._ask(deadline)
            return self._models

    def _ask(self, deadline: Deadline) -> None:
        seconds = RETRY_LISTING_SECONDS
        try:
            self._models = self._provider.list_models(deadline)
            seconds = KEEP_LISTING_SECONDS
        except ProviderError as exc:
            causes = (exc.reason or str(exc), redact_text(exc.vendor_message))
            text = ": ".join(filter(None, causes))
            logger.warning("models of %s not listed: %s", self._provider.name, text)
        self._fresh_until = time.monotonic() + seconds


def _allowed(caller: Caller, routes: Sequence[Route]) -> list[Route]:
    names = _allowed_models(caller)
    return [route for route in routes if not names or not route.names.isdisjoint(names)]


def _allowed_models(caller: Caller) -> Sequence[str]:
    """Return the models that the caller's key is restricted to; empty means no restriction."""
    return caller.key.allowed_models if caller.key else ()


def supporting(routes: Sequence[Route], request: CompletionRequest) -> list[Route]:
    """Return the routes whose provider supports everything in the request.

    Raises ValidationFailed if there is none, with the fields that the first one lacks.
    """
    lacking = [route.provider.unsupported(request) for route in routes]
    found = [route for route, names in zip(routes, lacking, strict=True) if not names]
    if not found:
        provider = routes[0].provider.name
        raise ValidationFailed(
            errors=[
                field_error(name, "unsupported", _why_unsupported(provider, name))
                for name in lacking[0][:MAX_NAMED_FIELDS]
            ]
        )
    return found


def _why_unsupported(provider: str, name: str) -> str:
    kind, _, field = name.partition(".")
    if field and field == URL_FIELDS.get(kind):
        return f"Provider {provider} does not fetch addresses: send the content as a data URL."
    return f"Provider {provider} does not support this field."
