"""What a language-model provider is: the values it takes and gives, and how it fails.

ProviderError
 ├── RequestRejected         the vendor refuses this very request; nobody else is asked
 ├── ContentFiltered         a safety filter refused it; nobody else is asked
 ├── ProviderMisconfigured   key, credit or address: the operator's trouble
 │    └── ModelUnavailable   the vendor does not have the model
 ├── ProviderFailed          broken, unreachable, or an answer that is no answer
 ├── ProviderOverloaded      rate limit, quota or overload
 └── DeadlineReached         the request's time is used up
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, Literal, Protocol

# What some clients always send, and what changes nothing.
NEUTRAL_OPTIONS = {"frequency_penalty": 0, "presence_penalty": 0}

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]

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
    """One message. Parts, tools' calls and their results are in OpenAI's terms, as they came."""

    role: Literal["user", "assistant", "tool"]
    content: str | list[dict[str, Any]]
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """The text of the content, whatever else is in it."""
        if isinstance(self.content, str):
            return self.content
        texts = (part["text"] for part in self.content if part.get("type") == "text")
        return "\n".join(texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """One question to a model.

    `messages` alternate from the oldest to the newest and end with the user's. `end_user` is an
    opaque, stable id that vendors use to isolate abuse; it never is a name or an address.
    `conversation_id` is ours, and not sent to them.
    A parameter that is None (an empty tuple for `stop`) is left to the vendor. `options` are
    further parameters in OpenAI's terms, for providers that take them (`Provider.takes`).
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
    def needs(self) -> set[str]:
        """What a provider has to take, beyond text, to answer this."""
        parts = (m.content for m in self.messages if not isinstance(m.content, str))
        kinds = {part["type"] for content in parts for part in content} - {"text"}
        calls = {"tools" for m in self.messages if m.tool_calls or m.role == "tool"}
        options = {
            name for name, value in self.options.items() if value != NEUTRAL_OPTIONS.get(name)
        }
        return {*options, *kinds, *calls}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens and US dollars; None is unknown, which is not zero.

    `prompt_tokens` include `cached_tokens`, and `completion_tokens` include `reasoning_tokens`.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A model's answer. `text` may be empty only when it ended by `length`, or in `tool_calls`.

    `tool_calls` are `{"id", "type": "function", "function": {"name", "arguments"}}`.
    """

    text: str
    model: str
    finish_reason: FinishReason
    usage: Usage = field(default_factory=Usage)
    tool_calls: tuple[dict[str, Any], ...] = ()


class Provider(Protocol):
    """A vendor of language models.

    `model` is the one it is asked for by default. A provider that is not `remote` cannot be down:
    however often it fails, it is asked again. `takes` names the options and the kinds of content
    that it takes beyond text.
    """

    name: ClassVar[str]
    remote: ClassVar[bool]
    takes: ClassVar[frozenset[str]]
    model: str

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        """Answer the request, in one call to the vendor, before the deadline.

        Raises ProviderError, and nothing else whatever the vendor sends.
        """

    def stream(self, request: CompletionRequest, deadline: Deadline) -> Iterator[str | Completion]:
        """Answer likewise: the text in pieces as they come, none empty, then all of the answer.

        Closing the iterator ends the call to the vendor.
        """

    def probe(self, deadline: Deadline) -> None:
        """See whether the vendor is there and takes the key, without asking a model.

        Raises ProviderError; ModelUnavailable where the vendor does not list the model.
        """


class ProviderError(Exception):
    """Why a provider gave no answer.

    The message is a sentence of ours that may be shown to a client: it never quotes a vendor's
    body, which can repeat the prompt or name the account. `reason` is for the log: the vendor's
    HTTP status and error code. `retry` says that asking the same provider again may help,
    `fallback` that another one may. `retry_after` is the vendor's own hint, in seconds.
    """

    code: ClassVar[str]
    retry: bool = False
    fallback: bool = False

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        retry: bool | None = None,
        retry_after: float | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after
        self.usage = usage or Usage()
        if retry is not None:
            self.retry = retry


class RequestRejected(ProviderError):
    code = "provider_rejected"


class ContentFiltered(ProviderError):
    code = "content_filtered"


class ProviderMisconfigured(ProviderError):
    code = "provider_error"
    fallback = True


class ModelUnavailable(ProviderMisconfigured):
    pass


class ProviderFailed(ProviderError):
    code = "provider_error"
    retry = True
    fallback = True


class ProviderOverloaded(ProviderError):
    code = "provider_unavailable"
    retry = True
    fallback = True


class DeadlineExceeded(ProviderError):
    code = "provider_timeout"
