"""A provider without network or key, with predictable answers, that fails on request.

It answers `You said: …` with the last prompt, counts words as tokens, and costs nothing.
Directives anywhere in the prompt, as separate words, change that:

    mock:delay=2.5      wait this many seconds, at most until the deadline
    mock:fail           fail like a vendor that answers 500
    mock:fail=429       fail like a vendor that answers with this status, 400 to 599
    mock:fail=timeout   fail like a vendor that misses the deadline, but at once
    mock:fail=garbled   fail like a vendor whose answer cannot be parsed
    mock:empty          fail like a vendor that sends an empty answer
    mock:filter         refuse the prompt like a safety filter
    mock:length         answer with no text and finish reason `length`
    mock:ok             answer as usual
    mock:pace=0.1       stream one word every 0.1 seconds
    mock:break          break off in the middle of a stream

The option `directives` holds directives for all calls; the prompt's take precedence. The last
delay, pace and outcome win. Anything else is plain text.
"""

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import ClassVar

from providers import parsing
from providers.base import (
    Completion,
    CompletionRequest,
    Delta,
    FinishReason,
    Usage,
    content_text,
)
from providers.deadline import Deadline
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

    def __init__(self, *, model: str = "mock-1", directives: str = "") -> None:
        self.model = model
        self._directives = directives

    def unsupported(self, request: CompletionRequest) -> Sequence[str]:
        return ()

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        delay, _, outcome = self._directives_for(request)
        _sleep(delay, deadline)
        return _answer(request, outcome)

    def stream(
        self, request: CompletionRequest, deadline: Deadline
    ) -> Iterator[Delta | Completion]:
        delay, pace, outcome = self._directives_for(request)
        breaks = outcome == "break"
        _sleep(delay, deadline)
        completion = _answer(request, "ok" if breaks else outcome)
        words = _WORD.findall(completion.text)
        for number, word in enumerate(words):
            if breaks and number == len(words) // 2:
                raise _error("break")
            if number:
                _sleep(pace, deadline)
            yield Delta({"content": word})
        yield completion

    def check(self, deadline: Deadline) -> None:
        """Do nothing: the mock is always available."""

    def list_models(self, deadline: Deadline) -> list[str]:
        return [self.model]

    def _directives_for(self, request: CompletionRequest) -> tuple[float, float, str]:
        """Return the delay and the pace in seconds, and the outcome."""
        delay = pace = 0.0
        outcome = "ok"
        for match in _DIRECTIVE.finditer(f"{self._directives} {_prompt(request)}"):
            if match["delay"]:
                delay = float(match["delay"])
            elif match["pace"]:
                pace = float(match["pace"])
            else:
                outcome = match["fail"] or match["outcome"]
        return delay, pace, outcome


def _sleep(delay: float, deadline: Deadline) -> None:
    deadline.sleep(delay)
    if deadline.expired:
        raise _error("timeout")


def _prompt(request: CompletionRequest) -> str:
    """Return the text of the last user's message."""
    texts = [content_text(m.get("content")) for m in request.messages if m.get("role") == "user"]
    return texts[-1] if texts else ""


def _answer(request: CompletionRequest, outcome: str) -> Completion:
    if outcome == "length":
        return _completion(request, "", "length")
    if outcome != "ok":
        raise _error(outcome)
    text = f"You said: {_prompt(request)}"
    words = text.split()
    limit = request.parameters.get("max_tokens")
    if limit is not None and limit < len(words):
        return _completion(request, " ".join(words[:limit]), "length")
    return _completion(request, text, "stop")


def _completion(request: CompletionRequest, text: str, finish_reason: FinishReason) -> Completion:
    inputs = (content_text(message.get("content")) for message in request.messages)
    prompt_tokens = sum(len(given.split()) for given in inputs)
    completion_tokens = len(text.split())
    return Completion(
        message={"content": parsing.clean_text(text)} if text else {},
        model=request.model,
        finish_reason=finish_reason,
        usage=Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            cost_usd=Decimal(0),
        ),
    )


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
