"""OpenAI, or any OpenAI-compatible server: Ollama, vLLM, llama.cpp, …"""

from typing import ClassVar
from urllib.parse import urlsplit

import httpx

from providers.chat_completions import ChatCompletionsProvider


class OpenAI(ChatCompletionsProvider):
    name: ClassVar[str] = "openai"

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        model: str,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(api_key=api_key, base_url=base_url, model=model, transport=transport)
        # OpenAI's reasoning models refuse `max_tokens`; Ollama ignores `max_completion_tokens`.
        if urlsplit(base_url).hostname == "api.openai.com":
            self.max_tokens_field = "max_completion_tokens"
