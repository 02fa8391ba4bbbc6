"""The values that a provider takes and returns, and the Provider protocol.

A conversation is kept in the terms of OpenAI's chat completions, whole: a message is the JSON
object that the client or the vendor wrote, with the fields that we do not know left in place.
https://platform.openai.com/docs/api-reference/chat describes messages, parameters and deltas.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple, Protocol

from providers.deadline import Deadline

Message = Mapping[str, Any]

INSTRUCTION_ROLES = ("system", "developer")
# Content parts whose text is a string under the key named by their type.
TEXT_PARTS = ("text", "refusal")
# The fields of an assistant's message that OpenAI takes.
OPENAI_MESSAGE_FIELDS = {"role", "content", "refusal", "tool_calls", "function_call"}
OPENAI_CALL_FIELDS = {"id", "type", "function", "custom"}
# The fields in which vendors write a model's visible thoughts.
# DeepSeek and vLLM write the first one, OpenRouter and Ollama the second.
REASONING_FIELDS = ("reasoning_content", "reasoning")

FinishReason = Literal["stop", "length", "tool_calls", "function_call", "content_filter"]

COST_DECIMALS = 12


def content_text(content: Any) -> str:
    """Return the text of a message's content: a string, a list of parts, or null."""
    if isinstance(content, list):
        texts = [
            part[part["type"]]
            for part in content
            if isinstance(part, Mapping) and part.get("type") in TEXT_PARTS
        ]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def reasoning_text(message: Message) -> str | None:
    """Return the visible thoughts of an assistant's message; None without any."""
    return _plain_thoughts(message) or _thoughts_in_details(message)


class DeltaThoughts:
    """Find the visible thoughts in a stream's deltas.

    `reasoning_details` count only until the thoughts come in a field of their own, which has the
    same text.
    """

    def __init__(self) -> None:
        self._plain = False

    def add(self, delta: Message) -> str | None:
        """Return the thoughts of the next delta; None without any."""
        if text := _plain_thoughts(delta):
            self._plain = True
            return text
        return None if self._plain else _thoughts_in_details(delta)


def _plain_thoughts(message: Message) -> str | None:
    for name in REASONING_FIELDS:  # a generator takes three times as long, for each delta
        text = message.get(name)
        if text and isinstance(text, str):
            return text
    return None


def _thoughts_in_details(message: Message) -> str | None:
    """Return the texts of OpenRouter's `reasoning_details`. Encrypted ones have none."""
    details = message.get("reasoning_details")
    if not isinstance(details, list):
        return None
    known = [detail for detail in details if isinstance(detail, Mapping)]
    texts = [detail.get(name) for detail in known for name in ("text", "summary")]
    return "".join(text for text in texts if isinstance(text, str)) or None


class AnsweredMessage(dict[str, Any]):
    """An assistant's message, with its provider and the model, as far as it is known.

    `client_fields` are the names of fields that the client sent with this request, in the message
    or its calls; any vendor gets them.
    """

    def __init__(
        self,
        message: Message,
        provider: str,
        model: str | None,
        client_fields: Collection[str] = (),
    ) -> None:
        super().__init__(message)
        self._provider = provider
        self._model = model
        self._client_fields = client_fields

    def with_calls(self, wanted: Callable[[Message], bool]) -> "AnsweredMessage":
        """Return the message with only the wanted tool calls."""
        calls = self.get("tool_calls") or ()
        kept = [call for call in calls if wanted(call)]
        if len(kept) == len(calls):
            return self
        message = {name: value for name, value in self.items() if name != "tool_calls"}
        return self.with_fields(message | ({"tool_calls": kept} if kept else {}))

    def with_fields(self, message: Message) -> "AnsweredMessage":
        """Return a message with other fields of the same model."""
        return AnsweredMessage(message, self._provider, self._model, self._client_fields)

    def sent_to(self, provider: str, model: str) -> Message:
        """Return the message: whole for its own model, for others without the vendor's own fields.

        Vendors refuse fields that they do not know, and signatures of other models.
        """
        if provider == self._provider and self._model in (None, model):
            return self
        return self.without_vendor_fields()

    def without_vendor_fields(self) -> Message:
        """Return the fields that any vendor gets: OpenAI's, and the client's own."""
        taken = {*OPENAI_MESSAGE_FIELDS, *self._client_fields}
        plain = {name: value for name, value in self.items() if name in taken}
        if calls := plain.get("tool_calls"):
            taken = {*OPENAI_CALL_FIELDS, *self._client_fields}
            plain["tool_calls"] = [
                {name: value for name, value in call.items() if name in taken} for call in calls
            ]
        return plain


class CompletionRequest(NamedTuple):
    """One request to a model."""

    model: str
    # Oldest first, instructions included. Answers of earlier turns may be AnsweredMessages.
    messages: tuple[Message, ...]
    # For each message its number among those that the client sent with this request, None for one
    # of an earlier turn. Empty: the client sent them all.
    numbers: tuple[int | None, ...] = ()
    # The others of a chat completion, under OpenAI's names, without nulls. The token limit is
    # always `max_tokens`.
    parameters: Mapping[str, Any] = {}
    # An opaque, stable id by which vendors isolate abuse, never a name or an address.
    end_user: str | None = None
    # Ours; not sent to vendors.
    conversation_id: str | None = None
    # Gets the usage of the call, however it ended, with estimates for unreported tokens.
    on_usage: "Callable[[Usage], object] | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens and US dollars. None means unknown, which is not zero.

    `prompt_tokens` include `cached_tokens`; `completion_tokens` include `reasoning_tokens`.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    # With at most COST_DECIMALS decimals.
    cost_usd: Decimal | None = None
    # The vendor did not report the tokens: `providers.estimates` did.
    estimated: bool = False

    @property
    def known(self) -> bool:
        """Whether anything is known."""
        return any(getattr(self, name) is not None for name in _AMOUNTS)

    @property
    def reported(self) -> bool:
        """Whether the vendor reported the tokens of the prompt and of the answer."""
        return not self.estimated and None not in (self.prompt_tokens, self.completion_tokens)

    def __add__(self, other: "Usage") -> "Usage":
        """Return the sum; unknown values add nothing."""
        return Usage(
            **{name: _sum(getattr(self, name), getattr(other, name)) for name in _AMOUNTS},
            estimated=self.estimated or other.estimated,
        )


_AMOUNTS = (
    *("prompt_tokens", "completion_tokens", "total_tokens"),
    *("cached_tokens", "reasoning_tokens", "cost_usd"),
)


def _sum(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return one + other


class Delta(NamedTuple):
    """A piece of a streamed answer."""

    # The fields of OpenAI's deltas, except `role`. A piece of a tool call has the call's `index`.
    message: dict[str, Any]
    # New fields of the answer beside its message.
    extras: Mapping[str, Any] = {}
    # The model that answers, in the first piece of a vendor's stream and the last; else empty.
    model: str = ""


class Completion(NamedTuple):
    """A model's answer.

    The text is empty only with tool calls, with images or audio, or if `finish_reason` is `length`.
    """

    # The assistant's message without `role`: `content` (str), `tool_calls`, and all other fields
    # of the vendor.
    message: dict[str, Any]
    model: str
    finish_reason: FinishReason
    usage: Usage = Usage()
    # The fields beside the message: `logprobs`, `choice` with the other fields of the choice,
    # `usage` with the other details of the tokens, and those that OpenAI does not have, such as
    # `citations`.
    extras: Mapping[str, Any] = {}

    @property
    def text(self) -> str:
        return self.message.get("content") or ""


class Provider(Protocol):
    """The adapter of one vendor of language models.

    `model` is the default model. The circuit breaker skips a remote provider after repeated
    failures; one with `is_remote = False` is always called.
    """

    model: str

    @property
    def name(self) -> str: ...

    @property
    def is_remote(self) -> bool: ...

    def unsupported(self, request: CompletionRequest) -> Sequence[str]:
        """Return the names of the parameters and content parts that the vendor does not support.

        For a URL that it does not fetch the name is the path in the part, such as `image_url.url`.
        """

    def list_price(self, model: str, usage: Usage) -> Decimal | None:
        """Return the list price of tokens in US dollars; None if it is unknown."""

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        """Answer the request in one call to the vendor, before the deadline.

        Raises only ProviderError, whatever the vendor sends.
        """

    def stream(
        self, request: CompletionRequest, deadline: Deadline
    ) -> Iterator[Delta | Completion]:
        """Yield the answer in pieces as they arrive, then the whole answer.

        The pieces make up the message of the whole (`providers.accumulator.joined`). Raises only
        ProviderError. Closing the iterator ends the call to the vendor.
        """

    def check(self, deadline: Deadline) -> None:
        """Check that the vendor is reachable and accepts the key, without calling a model.

        Raises ProviderError; ModelUnavailable where the vendor does not list the model.
        """

    def list_models(self, deadline: Deadline) -> list[str]:
        """Return the ids of the vendor's models. Raises ProviderError."""
