"""A provider that needs no network and no key, answers the same every time, and fails on request.

It answers `You said: …` with the last prompt, counts words as tokens, and costs nothing. A prompt
tells it to misbehave with directives, words of their own anywhere in the text:

    mock:delay=2.5      answer after so many seconds, but never after the deadline
    mock:fail           fail like a vendor that answers 500
    mock:fail=429       fail like a vendor that answers with that status, 400 to 599
    mock:fail=timeout   fail like a vendor that was not done at the deadline, without the wait
    mock:fail=garbled   fail like a vendor whose answer cannot be read
    mock:empty          answer nothing, which is a failure
    mock:filter         refuse the prompt like a safety filter
    mock:length         use up the length before the first word: an empty answer
    mock:ok             answer as usual

The option `directives` takes the same words, for all calls; a prompt's own go before them. Of
several delays, or of several outcomes, the last one counts. What is not exactly a directive is
plain text.
"""

import re
import time
from decimal import Decimal
from typing import ClassVar

from providers import wire
from providers.base import (
    ChatRequest,
    Completion,
    ContentFiltered,
    Deadline,
    DeadlineReached,
    FinishReason,
    ProviderError,
    Usage,
)

_DIRECTIVE = re.compile(
    r"(?<!\S)mock:(?:delay=(?P<delay>[0-9]{1,4}(?:\.[0-9]{1,3})?)"
    r"|fail=(?P<fail>[45][0-9]{2}|timeout|garbled)"
    r"|(?P<outcome>ok|fail|empty|filter|length))(?!\S)"
)


class Mock:
    name: ClassVar[str] = "mock"
    remote: ClassVar[bool] = False

    def __init__(self, *, model: str = "mock-1", directives: str = "") -> None:
        self.model = model
        self._directives = directives

    def complete(self, request: ChatRequest, deadline: Deadline) -> Completion:
        prompt = request.messages[-1].content
        delay, outcome = _parse(f"{self._directives} {prompt}")
        _sleep(delay, deadline)
        if outcome == "length":
            return _completion(request, "", "length")
        if outcome != "ok":
            raise _error(outcome)
        text = f"You said: {prompt}"
        words = text.split()
        if request.max_tokens is not None and request.max_tokens < len(words):
            return _completion(request, " ".join(words[: request.max_tokens]), "length")
        return _completion(request, text, "stop")


def _parse(text: str) -> tuple[float, str]:
    """The delay in seconds and the outcome that the directives in a text ask for."""
    delay, outcome = 0.0, "ok"
    for match in _DIRECTIVE.finditer(text):
        if match["delay"]:
            delay = float(match["delay"])
        else:
            outcome = match["fail"] or match["outcome"]
    return delay, outcome


def _sleep(delay: float, deadline: Deadline) -> None:
    time.sleep(min(delay, deadline.remaining()))
    if deadline.reached:
        raise _error("timeout")


def _error(outcome: str) -> ProviderError:
    reason = f"mock {outcome}"
    if outcome == "filter":
        return ContentFiltered(wire.CONTENT_FILTERED, reason=reason)
    if outcome == "timeout":
        return DeadlineReached("The provider did not answer in time.", reason=reason)
    if outcome in ("garbled", "empty"):
        return wire.garbled("mock", outcome)
    return wire.by_status(500 if outcome == "fail" else int(outcome), reason=reason)


def _completion(request: ChatRequest, text: str, finish_reason: FinishReason) -> Completion:
    asked = [request.system or "", *(message.content for message in request.messages)]
    prompt_tokens = sum(len(turn.split()) for turn in asked)
    completion_tokens = len(text.split())
    return Completion(
        text=wire.clean_text(text),
        model=request.model,
        finish_reason=finish_reason,
        usage=Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            cost_usd=Decimal(0),
        ),
    )
