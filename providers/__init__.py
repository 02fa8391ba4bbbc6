"""Language models behind one interface, each vendor in a file of its own."""

import importlib
from collections.abc import Mapping

from providers.base import Provider

_CLASSES = {
    "openrouter": "providers.openrouter.OpenRouter",
    "gemini": "providers.gemini.Gemini",
    "openai": "providers.openai.OpenAI",
    "mock": "providers.mock.Mock",
}


def build(name: str, options: Mapping[str, str]) -> Provider:
    """The provider of that name.

    `options` are its keyword arguments: `api_key`, `base_url` and `model`; for the mock `model`
    and `directives`. A vendor's module is imported here, so that an unused one costs nothing at
    the start. Raises KeyError for a name nobody has.
    """
    module, _, class_name = _CLASSES[name].rpartition(".")
    provider: Provider = getattr(importlib.import_module(module), class_name)(**options)
    return provider
