"""The values that a provider takes and returns, and the Provider protocol."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, Protocol

from providers.deadline import Deadline

# Values that change nothing. Some clients always send them, so they require no capability.
NEUTRAL_OPTIONS = {"frequency_penalty": 0, "presence_penalty": 0}

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]

COST_DECIMALS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. Content parts, tool calls and tool results are in OpenAI's format."""

    role: Literal["user", "assistant", "tool"]
    content: str | list[dict[str, Any]]
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """Return the text of the content, without its other parts."""
        if isinstance(self.content, str):
            return self.content
        texts = (part["text"] for part in self.content if part.get("type") == "text")
        return "\n".join(texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """One request to a model.

    `messages` go from the oldest to the newest; the last one is the user's, or a tool's result.
    `end_user` is an opaque, stable id that vendors use to isolate abuse, never a name or an
    address. `conversation_id` is ours and is not sent to vendors. The vendor chooses a parameter
    that is None (for `stop`: empty). `options` are further parameters in OpenAI's format; they
    need a provider with that capability (`Provider.capabilities`).
    """

    model: str
    messages: tuple[Message, ...]
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    end_user: str | None = None
    conversation_id: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def required_capabilities(self) -> set[str]:
        """Name the options and the kinds of content that a provider needs beyond text."""
        parts = (m.content for m in self.messages if not isinstance(m.content, str))
        kinds = {part["type"] for content in parts for part in content} - {"text"}
        calls = {"tools" for m in self.messages if m.tool_calls or m.role == "tool"}
        options = {
            name for name, value in self.options.items() if value != NEUTRAL_OPTIONS.get(name)
        }
        return {*options, *kinds, *calls}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens and US dollars. None means unknown, which is not zero.

    `prompt_tokens` include `cached_tokens`; `completion_tokens` include `reasoning_tokens`.
    `cost_usd` has at most COST_DECIMALS decimals.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A model's answer.

    `text` is empty only with `tool_calls` or when `finish_reason` is `length`. `tool_calls` are
    `{"id", "type": "function", "function": {"name", "arguments"}}`.
    """

    text: str
    model: str
    finish_reason: FinishReason
    usage: Usage = field(default_factory=Usage)
    tool_calls: tuple[dict[str, Any], ...] = ()


class Provider(Protocol):
    """The adapter of one vendor of language models.

    `model` is the default model. `capabilities` names the options and the kinds of content that
    the provider supports beyond text. The circuit breaker skips a remote provider after repeated
    failures; one with `is_remote = False` is always called.
    """

    model: str

    @property
    def name(self) -> str: ...

    @property
    def is_remote(self) -> bool: ...

    @property
    def capabilities(self) -> frozenset[str]: ...

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        """Answer the request in one call to the vendor, before the deadline.

        Raises only ProviderError, whatever the vendor sends.
        """

    def stream(self, request: CompletionRequest, deadline: Deadline) -> Iterator[str | Completion]:
        """Yield the text in non-empty pieces as they arrive, then the whole answer.

        Raises only ProviderError. Closing the iterator ends the call to the vendor.
        """

    def check(self, deadline: Deadline) -> None:
        """Check that the vendor is reachable and accepts the key, without calling a model.

        Raises ProviderError; ModelUnavailable where the vendor does not list the model.
        """
