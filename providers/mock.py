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
    mock:pace=0.1       stream a word every so many seconds
    mock:break          break off in the middle of a stream

The option `directives` takes the same words, for all calls; a prompt's own go before them. Of
several delays, or of several outcomes, the last one counts. What is not exactly a directive is
plain text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

from providers import parsing
from providers.base import Completion, CompletionRequest, Deadline, FinishReason, Usage
from providers.errors import ContentFiltered, DeadlineExceeded, ProviderError

_DIRECTIVE = re.compile(
    r"(?<!\S)mock:(?:delay=(?P<delay>[0-9]{1,4}(?:\.[0-9]{1,3})?)"
    r"|pace=(?P<pace>[0-9]{1,2}(?:\.[0-9]{1,3})?)"
    r"|fail=(?P<fail>[45][0-9]{2}|timeout|garbled)"
    r"|(?P<outcome>ok|fail|empty|filter|length|break))(?!\S)"
)

_WORD = re.compile(r"\s*\S+|\s+\Z")


class Mock:
    name: ClassVar[str] = "mock"
    is_remote: ClassVar[bool] = False
    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *, model: str = "mock-1", directives: str = "") -> None:
        self.model = model
        self._directives = directives

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        told = self._told(request)
        _sleep(told.delay, deadline)
        return self._answer(request, told.outcome)

    def check(self, deadline: Deadline) -> None:
        """It is always there."""

    def stream(self, request: CompletionRequest, deadline: Deadline) -> Iterator[str | Completion]:
        told = self._told(request)
        _sleep(told.delay, deadline)
        completion = self._answer(request, "ok" if told.outcome == "break" else told.outcome)
        words = _WORD.findall(completion.text)
        for number, word in enumerate(words):
            if told.outcome == "break" and number == len(words) // 2:
                raise _error("break")
            if number:
                _sleep(told.pace, deadline)
            yield word
        yield completion

    def _told(self, request: CompletionRequest) -> "_Told":
        return _parse(f"{self._directives} {request.messages[-1].text}")

    def _answer(self, request: CompletionRequest, outcome: str) -> Completion:
        prompt = request.messages[-1].text
        if outcome == "length":
            return _completion(request, "", "length")
        if outcome != "ok":
            raise _error(outcome)
        text = f"You said: {prompt}"
        words = text.split()
        if request.max_tokens is not None and request.max_tokens < len(words):
            return _completion(request, " ".join(words[: request.max_tokens]), "length")
        return _completion(request, text, "stop")


@dataclass
class _Told:
    """What directives ask for; times in seconds."""

    delay: float = 0.0
    pace: float = 0.0
    outcome: str = "ok"


def _parse(text: str) -> _Told:
    told = _Told()
    for match in _DIRECTIVE.finditer(text):
        if match["delay"]:
            told.delay = float(match["delay"])
        elif match["pace"]:
            told.pace = float(match["pace"])
        else:
            told.outcome = match["fail"] or match["outcome"]
    return told


def _sleep(delay: float, deadline: Deadline) -> None:
    deadline.sleep(delay)
    if deadline.reached:
        raise _error("timeout")


def _error(outcome: str) -> ProviderError:
    reason = f"mock {outcome}"
    if outcome == "filter":
        return ContentFiltered(parsing.CONTENT_FILTERED, reason=reason)
    if outcome == "timeout":
        return DeadlineExceeded("The provider did not answer in time.", reason=reason)
    if outcome == "break":
        return parsing.truncated_stream()
    if outcome in ("garbled", "empty"):
        return parsing.unusable_answer("mock", outcome)
    return parsing.error_for_status(500 if outcome == "fail" else int(outcome), reason=reason)


def _completion(request: CompletionRequest, text: str, finish_reason: FinishReason) -> Completion:
    asked = [request.system or "", *(message.text for message in request.messages)]
    prompt_tokens = sum(len(turn.split()) for turn in asked)
    completion_tokens = len(text.split())
    return Completion(
        text=parsing.clean_text(text),
        model=request.model,
        finish_reason=finish_reason,
        usage=Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            cost_usd=Decimal(0),
        ),
    )
