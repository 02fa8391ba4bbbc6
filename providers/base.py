"""The values that a provider takes and returns, and the Provider protocol."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, Protocol

# Values that change nothing. Some clients always send them, so they require no capability.
NEUTRAL_OPTIONS = {"frequency_penalty": 0, "presence_penalty": 0}

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]

COST_DECIMALS = 12

# How often a deadline looks whether anybody still waits, and a call at its deadline.
LOOK_SECONDS = 0.2


class Deadline:
    """A point on the monotonic clock by which everything has to be done, or a word to stop.

    `abandoned` tells whether nobody waits any more. It is asked now and then, by whoever asks how
    much time is left, and where it is true that is the word.
    """

    def __init__(self, seconds: float, abandoned: Callable[[], bool] | None = None) -> None:
        now = time.monotonic()
        self._end = now + seconds
        self._cancelled = threading.Event()
        self._abandoned = abandoned
        self._look_at = now + LOOK_SECONDS

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return 0.0 if self.cancelled else self.left_by_the_clock()

    def left_by_the_clock(self) -> float:
        """The same for what has to be done though nobody waits for it any more."""
        return max(0.0, self._end - time.monotonic())

    @property
    def reached(self) -> bool:
        return self.cancelled or time.monotonic() >= self._end

    @property
    def cancelled(self) -> bool:
        due = time.monotonic() >= self._look_at
        if self._abandoned and due and not self._cancelled.is_set():
            self._look_at = time.monotonic() + LOOK_SECONDS
            if self._abandoned():
                self.cancel()
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Nobody waits any more: what runs under this deadline ends, in whatever thread it is."""
        self._cancelled.set()

    def within(self, seconds: float) -> "Deadline":
        """One that ends after `seconds`, if not before with this one."""
        part = copy(self)
        part._end = min(self._end, time.monotonic() + seconds)
        return part

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond the deadline."""
        part = self.within(seconds)
        while remaining := part.remaining():
            self._cancelled.wait(min(remaining, LOOK_SECONDS))


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
