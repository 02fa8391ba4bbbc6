"""A request, the ways to send it, and the recorded answers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from providers.accumulator import joined
from providers.base import Completion, CompletionRequest, Delta, Provider, Usage
from providers.deadline import Deadline
from providers.errors import ProviderError
from providers.router import Attempt
from tests.stub_vendor import StubVendor

FIXTURES = Path(__file__).parent.parent / "fixtures"

KEY = "sk-secret-key"
PROMPT = "What is the airspeed of an unladen swallow?"
TIMEOUT_SECONDS = 20.0  # longer than any answer takes, even on a busy machine
REQUEST = CompletionRequest(model="model-1", messages=({"role": "user", "content": PROMPT},))

# Parameters with fields that vendors of another dialect have no place for, and those fields.
UNKNOWN_FIELDS: dict[str, Any] = {
    "tools": [
        {"type": "function", "function": {"name": "add"}},
        {"type": "function", "function": {"name": "sub", "foo": 1}, "defer_loading": True},
    ],
    "tool_choice": {
        "type": "function",
        "function": {"name": "add", "foo": 1},
        "disable_parallel": True,
    },
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object"}, "bar": "x"},
        "schema": {"type": "object"},
    },
}
UNKNOWN_NAMES = [
    *("tools[1].defer_loading", "tools[1].function.foo"),
    *("tool_choice.disable_parallel", "tool_choice.function.foo"),
    *("response_format.schema", "response_format.json_schema.bar"),
]
# The same for the tools that a model may call.
UNKNOWN_IN_ALLOWED_TOOLS: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "add"}}],
    "tool_choice": {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "auto",
            "tools": [{"type": "function", "function": {"name": "add", "foo": 1}, "bar": 1}],
            "baz": 1,
        },
    },
}
UNKNOWN_NAMES_IN_ALLOWED_TOOLS = [
    f"tool_choice.allowed_tools.{name}" for name in ("baz", "tools[0].bar", "tools[0].function.foo")
]
# Fields that change nothing.
NEUTRAL_FIELDS: dict[str, Any] = {
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "add",
                "strict": True,
                "description": "",
                "foo": None,
                "cache_control": {"type": "ephemeral"},
            },
            "cache_control": {"type": "ephemeral"},
            "defer_loading": False,
        }
    ],
    "tool_choice": "auto",
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {}, "strict": True, "description": "An n."},
    },
}


class Attempts(list[Attempt]):
    """The attempts that a router reports."""

    def add(self, attempt: Attempt, error: ProviderError | None) -> None:
        self.append(attempt)


@dataclass(frozen=True)
class ErrorSummary:
    """A ProviderError without its sentence and its reason."""

    kind: type[ProviderError]
    retry: bool = False
    retry_after: float | None = None


def summarize(error: ProviderError) -> ErrorSummary:
    return ErrorSummary(type(error), error.retry, error.retry_after)


def complete(
    provider: Provider, request: CompletionRequest = REQUEST, *, seconds: float = TIMEOUT_SECONDS
) -> Completion:
    return provider.complete(request, Deadline(seconds))


def raised_error(
    provider: Provider, request: CompletionRequest = REQUEST, *, seconds: float = TIMEOUT_SECONDS
) -> ProviderError:
    try:
        completion = provider.complete(request, Deadline(seconds))
    except ProviderError as exc:
        return exc
    raise AssertionError(f"no error, but {completion}")


def error_summary(
    provider: Provider, request: CompletionRequest = REQUEST, *, seconds: float = TIMEOUT_SECONDS
) -> ErrorSummary:
    return summarize(raised_error(provider, request, seconds=seconds))


def read_deltas(
    provider: Provider, request: CompletionRequest = REQUEST, *, seconds: float = TIMEOUT_SECONDS
) -> tuple[list[dict[str, Any]], Completion]:
    """Return the pieces of a stream's message, and its completion."""
    *pieces, completion = provider.stream(request, Deadline(seconds))
    assert isinstance(completion, Completion)
    deltas = [piece for piece in pieces if isinstance(piece, Delta)]
    assert deltas == pieces
    assert all(delta.message or delta.extras for delta in deltas)
    assert joined(delta.message for delta in deltas) == completion.message
    return [delta.message for delta in deltas if delta.message], completion


def read_stream(
    provider: Provider, request: CompletionRequest = REQUEST, *, seconds: float = TIMEOUT_SECONDS
) -> tuple[list[str], Completion]:
    """Return the pieces of text of a stream, and its completion."""
    deltas, completion = read_deltas(provider, request, seconds=seconds)
    return [delta["content"] for delta in deltas if "content" in delta], completion


def counting(request: CompletionRequest = REQUEST) -> tuple[CompletionRequest, list[Usage]]:
    """Return the request, and a list to which the usage of its calls is added."""
    reported: list[Usage] = []
    return request._replace(on_usage=reported.append), reported


def read_failing_stream(
    provider: Provider, request: CompletionRequest = REQUEST, *, seconds: float = TIMEOUT_SECONDS
) -> tuple[list[str], ProviderError]:
    """Return the pieces of text before a stream fails, and its error."""
    pieces: list[str] = []
    try:
        for event in provider.stream(request, Deadline(seconds)):
            assert isinstance(event, Delta)
            pieces += [event.message["content"]] if "content" in event.message else []
    except ProviderError as exc:
        return pieces, exc
    raise AssertionError(f"no error, but {pieces}")


def load_recording(name: str) -> dict[str, Any]:
    """Return a recorded answer: status, headers and body."""
    recording: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text("utf-8"))
    return recording


def reply_with_recording(stub_vendor: StubVendor, name: str) -> None:
    recording = load_recording(name)
    stub_vendor.reply(recording["body"], status=recording["status"], headers=recording["headers"])
