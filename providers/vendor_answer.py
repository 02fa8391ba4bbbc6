"""What the answers of all vendors have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from providers.accumulator import Accumulator
from providers.base import Completion, Delta, FinishReason, Message, Usage


class VendorAnswer(ABC):
    """An answer in a vendor's terms, whole or from the chunks of a stream."""

    def __init__(self) -> None:
        # As the vendor writes them, if it does.
        self.model: Any = None
        self.reported_usage: Any = None
        # Read from `reported_usage` when it is first needed.
        self.usage: Usage | None = None
        # The fields beside the message for clients.
        self.extras: dict[str, Any] = {}
        self._accumulator = Accumulator()

    @property
    def message(self) -> dict[str, Any]:
        """The message so far."""
        return self._accumulator.message

    @property
    def has_broken_call(self) -> bool:
        """Whether a tool call lacks its name or a part of its arguments, known at the end."""
        return self._accumulator.broken_call is not None

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether the finish reason has arrived."""

    @abstractmethod
    def add(self, chunk: dict[str, Any]) -> Delta | None:
        """Add a chunk of a stream. Return the part that clients may see, if any."""

    @abstractmethod
    def add_whole(self, body: dict[str, Any]) -> None:
        """Add an answer that was not streamed."""

    @abstractmethod
    def add_usage(self, body: dict[str, Any]) -> None:
        """Take the model and the usage of a body, which may be an error's."""

    @abstractmethod
    def finish(self) -> Delta | None:
        """End a stream. Return the pieces that were held back, if any."""


def finish_reason(
    known: Mapping[str, FinishReason], reported: str, message: Message
) -> FinishReason:
    """Return OpenAI's finish reason for a vendor's, by a table of those of unfinished answers."""
    return known.get(reported, "tool_calls" if message.get("tool_calls") else "stop")


def as_stream(completion: Completion) -> Iterator[Delta | Completion]:
    """Yield an answer that was not streamed as a stream of one piece."""
    message = dict(completion.message)
    if calls := message.get("tool_calls"):
        message["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
    if message or completion.extras:
        yield Delta(message, completion.extras, completion.model)
    yield completion
