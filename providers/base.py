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

import time
from dataclasses import dataclass, field
from decimal import Decimal
from typing import ClassVar, Literal, Protocol

FinishReason = Literal["stop", "length", "content_filter"]


class Deadline:
    """A point on the monotonic clock by which everything has to be done."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    @property
    def reached(self) -> bool:
        return time.monotonic() >= self._end


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One question to a model.

    `messages` alternate from the oldest to the newest and end with the user's. `end_user` is an
    opaque, stable id that vendors use to isolate abuse; it never is a name or an address.
    A parameter that is None (an empty tuple for `stop`) is left to the vendor.
    """

    model: str
    messages: tuple[Message, ...]
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    end_user: str | None = None


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
    """A model's answer. `text` may be empty only when `finish_reason` is `length`."""

    text: str
    model: str
    finish_reason: FinishReason
    usage: Usage = field(default_factory=Usage)


class Provider(Protocol):
    """A vendor of language models.

    `model` is the one it is asked for by default. A provider that is not `remote` cannot be down:
    however often it fails, it is asked again.
    """

    name: ClassVar[str]
    remote: ClassVar[bool]
    model: str

    def complete(self, request: ChatRequest, deadline: Deadline) -> Completion:
        """Answer the request, in one call to the vendor, before the deadline.

        Raises ProviderError, and nothing else whatever the vendor sends.
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
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after
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


class DeadlineReached(ProviderError):
    code = "provider_timeout"
