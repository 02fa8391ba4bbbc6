"""A provider without network or key, with predictable answers, that fails on request.

It answers `You said: …` with the last prompt, counts words as tokens, and costs nothing. After the
results of tools it answers `The tool said: …`. `tool_choice` and `response_format` are obeyed, with
made-up values that are valid for their JSON schemas. Other parameters are accepted and change
nothing. Directives anywhere in the prompt, as separate words, change the answer:

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
    mock:think=Hmm      think this before the answer; several words: mock:think="I should add."
    mock:tool=add       call this tool, if the request has tools, with made-up arguments
    mock:tool=add {"a": 1}   call this tool with these arguments; several directives, several calls

The option `directives` holds directives for all calls; the prompt's take precedence. The last
delay, pace, thought and outcome win. Anything else is plain text.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, ClassVar

from providers import answer_errors, mock_answer
from providers.accumulator import joined
from providers.base import (
    Completion,
    CompletionRequest,
    Delta,
    FinishReason,
    Usage,
    content_text,
    reasoning_text,
)
from providers.deadline import Deadline
from providers.errors import ContentFiltered, DeadlineExceeded, ProviderError
from providers.estimates import with_estimates

_DIRECTIVE = re.compile(
    r"(?<!\S)mock:(?:delay=(?P<delay>[0-9]{1,4}(?:\.[0-9]{1,3})?)"
    r"|pace=(?P<pace>[0-9]{1,2}(?:\.[0-9]{1,3})?)"
    r"|think=(?P<thought>\"[^\"]+\"|[^\s\"]\S*)"
    r"|tool=(?P<tool>[A-Za-z0-9_.:-]{1,128})"
    r"|fail=(?P<fail>[45][0-9]{2}|timeout|garbled)"
    r"|(?P<outcome>ok|fail|empty|filter|length|break))(?!\S)"
)

_SPACE = re.compile(r"\s*")


def invalid_directive(text: str) -> str:
    """Return a word that is only like a directive, or the whole text if it has no directive.

    Return an empty string for a text of directives.
    """
    if not _DIRECTIVE.search(text):
        return text
    rest: str = _read_directives(text)["text"]
    return next((word for word in rest.split() if "mock:" in word.lower()), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Directives:
    """The directives of a prompt. `text` is the prompt without them.

    `delay` and `pace` are in seconds.
    """

    text: str
    delay: float = 0.0
    pace: float = 0.0
    thought: str = ""
    outcome: str = "ok"
    calls: tuple[mock_answer.PromptedCall, ...] = ()


class Mock:
    name: ClassVar[str] = "mock"
    is_remote: ClassVar[bool] = False

    def __init__(self, *, model: str = "mock-1", directives: str = "") -> None:
        self.model = model
        self._directives = directives

    def unsupported(self, request: CompletionRequest) -> Sequence[str]:
        return ()

    def list_price(self, model: str, usage: Usage) -> Decimal:
        return Decimal(0)

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        directives = self._directives_for(request)
        _sleep(directives.delay, deadline)
        completion = _answer(request, directives, directives.outcome)
        _report(request, completion.usage)
        return completion

    def stream(
        self, request: CompletionRequest, deadline: Deadline
    ) -> Iterator[Delta | Completion]:
        directives = self._directives_for(request)
        breaks = directives.outcome == "break"
        _sleep(directives.delay, deadline)
        completion = _answer(request, directives, "ok" if breaks else directives.outcome)
        pieces = list(mock_answer.pieces(completion.message))
        shown: list[dict[str, Any]] = []
        try:
            for number, piece in enumerate(pieces):
                if breaks and number == len(pieces) // 2:
                    raise _error("break")
                if number:
                    _sleep(directives.pace, deadline)
                shown.append(piece)
                yield Delta(piece)
        except (GeneratorExit, ProviderError):
            _report_abandoned(request, shown)
            raise
        _report(request, completion.usage)
        yield completion

    def check(self, deadline: Deadline) -> None:
        """Do nothing: the mock is always available."""

    def list_models(self, deadline: Deadline) -> list[str]:
        return [self.model]

    def _directives_for(self, request: CompletionRequest) -> _Directives:
        prompt = mock_answer.prompt(request)
        return _Directives(**(_read_directives(self._directives) | _read_directives(prompt)))


def _read_directives(prompt: str) -> dict[str, Any]:
    """Return the fields of _Directives that a prompt sets."""
    found: dict[str, Any] = {}
    texts: list[str] = []
    position = 0
    while match := _DIRECTIVE.search(prompt, position):
        texts.append(prompt[position : match.start()])
        position = match.end()
        if match["delay"]:
            found["delay"] = float(match["delay"])
        elif match["pace"]:
            found["pace"] = float(match["pace"])
        elif match["thought"]:
            found["thought"] = match["thought"].strip('"')
        elif match["tool"]:
            arguments, position = _read_object(prompt, position)
            call = mock_answer.PromptedCall(match["tool"], arguments)
            found["calls"] = (*found.get("calls", ()), call)
        else:
            found["outcome"] = match["fail"] or match["outcome"]
    texts.append(prompt[position:])
    return {**found, "text": "".join(texts).strip()}


def _read_object(text: str, position: int) -> tuple[str | None, int]:
    """Return the JSON object that comes next, as text, and the position behind it."""
    start = _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it always matches
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, position
    return (text[start:end], end) if isinstance(value, dict) else (None, position)


def _sleep(delay: float, deadline: Deadline) -> None:
    deadline.sleep(delay)
    if deadline.expired:
        raise _error("timeout")


def _answer(request: CompletionRequest, directives: _Directives, outcome: str) -> Completion:
    if outcome not in ("ok", "length"):
        raise _error(outcome)
    message: dict[str, Any] = {}
    if directives.thought:
        message["reasoning_content"] = directives.thought
    if outcome == "length":
        return _completion(request, message, "length")
    if calls := mock_answer.tool_calls(request, directives.calls, directives.text):
        if not request.parameters.get("tools"):  # only the legacy `functions`
            message["function_call"] = calls[0]["function"]
            return _completion(request, message, "function_call")
        return _completion(request, message | {"tool_calls": calls}, "tool_calls")
    text = mock_answer.text(request, directives.text)
    words = text.split()
    limit = request.parameters.get("max_tokens")
    if limit is not None and limit < len(words):
        return _completion(request, message | {"content": " ".join(words[:limit])}, "length")
    return _completion(request, message | {"content": text}, "stop")


def _completion(
    request: CompletionRequest, message: dict[str, Any], finish_reason: FinishReason
) -> Completion:
    inputs = (content_text(message.get("content")) for message in request.messages)
    prompt_tokens = sum(len(given.split()) for given in inputs)
    reasoning_tokens = len((reasoning_text(message) or "").split())
    completion_tokens = len(mock_answer.all_text(message).split())
    usage = Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        reasoning_tokens=reasoning_tokens or None,
        cost_usd=Decimal(0),
    )
    return Completion(
        message=message, model=request.model, finish_reason=finish_reason, usage=usage
    )


def _report(request: CompletionRequest, usage: Usage) -> None:
    if request.on_usage:
        request.on_usage(usage)


def _report_abandoned(request: CompletionRequest, shown: list[dict[str, Any]]) -> None:
    """Report the usage of an unfinished stream: estimated, as for a vendor that reports it last."""
    if shown:
        usage = with_estimates(Usage(), request, joined(shown))
        _report(request, replace(usage, cost_usd=Decimal(0)))


def _error(outcome: str) -> ProviderError:
    reason = f"mock {outcome}"
    if outcome == "filter":
        return ContentFiltered(answer_errors.CONTENT_FILTERED, reason=reason)
    if outcome == "timeout":
        return DeadlineExceeded("The provider did not answer in time.", reason=reason)
    if outcome == "break":
        return answer_errors.truncated_stream()
    if outcome == "empty":
        return answer_errors.empty_answer("mock", outcome)
    if outcome == "garbled":
        return answer_errors.unusable_answer("mock", outcome)
    return answer_errors.error_for_status(500 if outcome == "fail" else int(outcome), reason=reason)
