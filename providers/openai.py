"""OpenAI, or any OpenAI-compatible server: Ollama, vLLM, llama.cpp, …"""

from urllib.parse import urlsplit

from providers.chat_completions import ChatCompletionsProvider


class OpenAI(ChatCompletionsProvider):
    name = "openai"

    @property
    def _max_tokens_field(self) -> str:
        """OpenAI's reasoning models refuse `max_tokens`; Ollama ignores the other field."""
        official = urlsplit(self._base_url).hostname == "api.openai.com"
        return "max_completion_tokens" if official else "max_tokens"
