"""Language models behind one interface.

A module adapts each vendor; `gemini_*`, `bedrock_*` and `mock_*` are its parts.
"""

import pkgutil
from collections.abc import Mapping
from typing import Any

import httpx

from providers.base import Provider

_CLASSES = {
    "openrouter": "providers.openrouter:OpenRouter",
    "gemini": "providers.gemini:Gemini",
    "openai": "providers.openai:OpenAI",
    "bedrock": "providers.bedrock:Bedrock",
    "mock": "providers.mock:Mock",
}


def build(
    name: str, options: Mapping[str, Any], transport: httpx.BaseTransport | None = None
) -> Provider:
    """Build a provider by its name. Raises KeyError for an unknown name.

    `options` are its keyword arguments: `api_key`, `base_url` and `model`, for OpenAI `headers`,
    too, for Bedrock `region`, `keys` and `guardrail`; for the mock `model` and `directives`. Remote
    providers send through `transport`, by default the process's own CurlTransport. The provider's
    module is imported here: unused ones cost no start-up time.
    """
    cls: Any = pkgutil.resolve_name(_CLASSES[name])
    provider: Provider = cls(**options, transport=transport) if cls.is_remote else cls(**options)
    return provider
