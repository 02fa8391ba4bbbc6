"""OpenAI, or any OpenAI-compatible server: Azure, Ollama, vLLM, llama.cpp, …"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlsplit

import httpx

from providers import prices
from providers.base import CompletionRequest, Message
from providers.chat_completions import ChatCompletionsProvider
from providers.deadline import Deadline

OPENAI_HOST = "api.openai.com"
AZURE_DOMAIN = ".openai.azure.com"


class OpenAI(ChatCompletionsProvider):
    """`headers` are sent with each request: Azure, for example, takes its key as `api-key`."""

    name = "openai"

    def __init__(self, *, headers: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._headers |= headers or {}
        self._secrets |= set(self._headers.values())
        host = urlsplit(self._base_url).hostname or ""
        # A region may come before the host: `eu.api.openai.com`.
        is_openai = f".{host}".endswith(f".{OPENAI_HOST}")
        # OpenAI's reasoning models refuse `max_tokens`; Ollama ignores the other field.
        self.limit_field = "max_completion_tokens" if is_openai else "max_tokens"
        # Most other servers refuse the role `developer`.
        self._has_developer = is_openai or host.endswith(AZURE_DOMAIN)

    def _ask(
        self, request: CompletionRequest, deadline: Deadline, *, stream: bool
    ) -> AbstractContextManager[httpx.Response]:
        prices.load_in_background(self._base_url)
        return super()._ask(request, deadline, stream=stream)

    def _messages(self, request: CompletionRequest) -> Sequence[Message]:
        if self._has_developer:
            return request.messages
        return [
            {**message, "role": "system"} if message["role"] == "developer" else message
            for message in request.messages
        ]
