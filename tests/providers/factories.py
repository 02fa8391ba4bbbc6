"""What the tests of the providers share: a question, and the ways to ask it and to fail."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from providers.base import Completion, CompletionRequest, Deadline, Message, Provider
from providers.errors import ProviderError
from tests.stub_vendor import StubVendor

FIXTURES = Path(__file__).parent.parent / "fixtures"

KEY = "sk-secret-key"
PROMPT = "What is the airspeed of an unladen swallow?"
SECONDS = 20.0  # more than any answer takes, on a busy machine too
QUESTION = CompletionRequest(model="model-1", messages=(Message(role="user", content=PROMPT),))


@dataclass(frozen=True)
class Failure:
    """All of a ProviderError but its sentence and its reason."""

    kind: type[ProviderError]
    retry: bool = False
    retry_after: float | None = None


def ask(
    provider: Provider, request: CompletionRequest = QUESTION, *, seconds: float = SECONDS
) -> Completion:
    return provider.complete(request, Deadline(seconds))


def pieces_of(
    provider: Provider, request: CompletionRequest = QUESTION, *, seconds: float = SECONDS
) -> tuple[list[str], Completion]:
    """What a stream gives: the pieces of the text, and the answer they come to."""
    *pieces, completion = provider.stream(request, Deadline(seconds))
    assert isinstance(completion, Completion)
    assert all(isinstance(piece, str) and piece for piece in pieces)
    texts = [str(piece) for piece in pieces]
    assert "".join(texts) == completion.text
    return texts, completion


def broken_off(
    provider: Provider, request: CompletionRequest = QUESTION, *, seconds: float = SECONDS
) -> tuple[list[str], ProviderError]:
    """What a stream gives until it fails, and how it fails."""
    pieces: list[str] = []
    try:
        pieces.extend(map(str, provider.stream(request, Deadline(seconds))))
    except ProviderError as exc:
        return pieces, exc
    raise AssertionError(f"no error, but {pieces}")


def error_of(
    provider: Provider, request: CompletionRequest = QUESTION, *, seconds: float = SECONDS
) -> ProviderError:
    try:
        completion = provider.complete(request, Deadline(seconds))
    except ProviderError as exc:
        return exc
    raise AssertionError(f"no error, but {completion}")


def failure_of(
    provider: Provider, request: CompletionRequest = QUESTION, *, seconds: float = SECONDS
) -> Failure:
    error = error_of(provider, request, seconds=seconds)
    return Failure(type(error), error.retry, error.retry_after)


def load(name: str) -> dict[str, Any]:
    """A recorded answer: status, headers and body."""
    answer: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text("utf-8"))
    return answer


def replay(vendor: StubVendor, name: str) -> None:
    answer = load(name)
    vendor.reply(answer["body"], status=answer["status"], headers=answer["headers"])
