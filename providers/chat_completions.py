"""The dialect of OpenAI-compatible vendors: chat completions.

https://platform.openai.com/docs/api-reference/chat describes the call, and
https://platform.openai.com/docs/guides/error-codes the errors. Compatible servers follow the
first and vary the second. Any field of their answers may be missing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar

import httpx

from providers import parsing, prices
from providers.accumulator import Accumulator, clean_value
from providers.base import Completion, CompletionRequest, Delta, FinishReason, Usage
from providers.deadline import Deadline
from providers.errors import (
    ContentFiltered,
    ModelUnavailable,
    ProviderError,
    ProviderFailed,
    ProviderMisconfigured,
    RequestRejected,
)
from providers.http_provider import HttpProvider
from providers.parsing import as_list, as_str, get_path, identifier, token_count
from providers.vendor_http import DONE, read_events

_CALLED: dict[str, FinishReason] = {"tool_calls": "tool_calls", "function_call": "function_call"}
BROKEN_CALL = "The provider's answer ended within the arguments of a tool call."
_FAILED_FINISH_REASONS = {"error", "insufficient_system_resource"}  # the second one is DeepSeek's

# The error for an error code or type, whatever the HTTP status.
_BY_CODE: dict[str, tuple[type[ProviderError], str]] = {
    "content_filter": (ContentFiltered, parsing.CONTENT_FILTERED),
    "content_policy_violation": (ContentFiltered, parsing.CONTENT_FILTERED),
    "moderation_blocked": (ContentFiltered, parsing.CONTENT_FILTERED),
    "refusal": (ContentFiltered, parsing.CONTENT_FILTERED),
    "model_not_found": (ModelUnavailable, parsing.NO_MODEL),
    "model_deprecated": (ModelUnavailable, parsing.NO_MODEL),
    "invalid_model": (ModelUnavailable, parsing.NO_MODEL),
    "wrong_endpoint": (ModelUnavailable, parsing.NO_MODEL),
    "context_length_exceeded": (RequestRejected, parsing.TOO_LONG),
    "token_limit_exceeded": (RequestRejected, parsing.TOO_LONG),
    "string_too_long": (RequestRejected, parsing.TOO_LONG),
    "max_tokens_exceeded": (RequestRejected, parsing.PARAMETER.format("max_tokens")),
    "invalid_api_key": (ProviderMisconfigured, parsing.CREDENTIALS),
}

# The HTTP status for an error code inside a 200.
_STATUS_BY_CODE = {
    **dict.fromkeys(("invalid_request_error", "invalid_request", "invalid_prompt"), 400),
    "authentication": 401,
    "payment_required": 402,
    "permission_denied": 403,
    "not_found": 404,
    "payload_too_large": 413,
    "unprocessable": 422,
    "rate_limit_exceeded": 429,
    "provider_overloaded": 503,
    "timeout": 504,
}

# Some servers have no error code for an unknown model.
_UNKNOWN_MODEL = re.compile(
    r"not a valid model|\bmodel\b.{0,80}(not found|does not exist)", re.IGNORECASE
)


# The fields of an answer that OpenAI has beside the choices, and that clients get in our own terms.
_KNOWN_FIELDS = {"id", "object", "created", "model", "choices", "usage", "x_groq", "obfuscation"}


class Answer:
    """An answer of chat completions, whole or from the chunks of a stream.

    All choices are looked through: some servers write the text into one and the tool calls into
    another. `ended` is whether the stream's end marker has come.
    """

    def __init__(self) -> None:
        self.ended = False
        self.model: Any = None
        self.usage: Any = None
        self.extras: dict[str, Any] = {}
        self.finish_reasons: list[str] = []
        self.choices = 0  # that had content of any kind
        self.broken_call: str | None = None
        self._accumulator = Accumulator()
        self._choice_of: dict[str, Any] = {}  # field of the message -> index of its choice
        self._logprobs: dict[str, list[Any]] = {}

    @property
    def message(self) -> dict[str, Any]:
        return self._accumulator.message

    @property
    def finish_reason(self) -> FinishReason:
        """Tool calls win over the vendor's word: some say `stop` with them."""
        message = self.message
        finish = next(iter(self.finish_reasons), "length")  # nobody knows the answer to be whole
        if finish in ("length", "model_length"):
            return "length"
        for field, reason in _CALLED.items():
            if message.get(field):
                return reason
        return "content_filter" if finish == "content_filter" else "stop"

    def add(self, chunk: dict[str, Any]) -> Delta | None:
        """Add a chunk of a stream. Return what a client may see of it, if anything.

        A repeated model or usage replaces the one before; Groq has its own place for the usage.
        """
        extras = self._add_fields(chunk)
        shown: dict[str, Any] = {}
        for choice in as_list(chunk.get("choices")):
            self._add_finish_reason(choice)
            if logprobs := self._add_logprobs(choice):
                extras["logprobs"] = logprobs
            if delta := self._own_fields(choice, get_path(choice, "delta")):
                shown |= self._accumulator.add(delta)
        return Delta(shown, extras) if shown or extras else None

    def add_whole(self, body: dict[str, Any]) -> None:
        self._add_fields(body)
        message: dict[str, Any] = {}
        for choice in as_list(body.get("choices")):
            self._add_finish_reason(choice)
            self._add_logprobs(choice)
            message |= self._own_fields(choice, get_path(choice, "message"))
        self._accumulator.add_whole(message)
        self.broken_call = self._accumulator.broken_call

    def finish(self) -> Delta | None:
        shown = self._accumulator.finish()
        self.broken_call = self._accumulator.broken_call
        return Delta(shown) if shown else None

    def _add_fields(self, body: dict[str, Any]) -> dict[str, Any]:
        """Take the fields beside the choices. Return those that are new, for the client."""
        self.model = body.get("model") or self.model
        self.usage = body.get("usage") or get_path(body, "x_groq", "usage") or self.usage
        others = body.keys() - _KNOWN_FIELDS
        if not others:
            return {}
        values = {name: clean_value(body[name]) for name in others if body[name] is not None}
        new = {name: each for name, each in values.items() if self.extras.get(name) != each}
        self.extras |= new
        return new

    def _add_finish_reason(self, choice: Any) -> None:
        if reason := as_str(get_path(choice, "finish_reason")):
            self.finish_reasons.append(reason)

    def _add_logprobs(self, choice: Any) -> dict[str, Any] | None:
        """Take the log probabilities of a choice: lists, which grow with a stream."""
        logprobs = clean_value(get_path(choice, "logprobs"))
        if not isinstance(logprobs, dict) or not logprobs:
            return None
        for name, value in logprobs.items():
            self._logprobs.setdefault(name, []).extend(as_list(value))
        self.extras["logprobs"] = {name: value or None for name, value in self._logprobs.items()}
        return logprobs

    def _own_fields(self, choice: Any, message: Any) -> dict[str, Any]:
        """Return a message's fields, without those that another choice has answered before."""
        if not isinstance(message, dict):
            return {}
        self.choices += 1
        index = choice.get("index")
        return {
            name: value
            for name, value in message.items()
            if value and self._choice_of.setdefault(name, index) == index
        }


class ChatCompletionsProvider(HttpProvider):
    """Call `{base_url}/chat/completions`. Subclasses set `name` and adapt the differences."""

    default_max_tokens: ClassVar[int | None] = None
    # Where an error object keeps its codes, the most specific first.
    error_code_paths: ClassVar[tuple[tuple[str, ...], ...]] = (("code",), ("type",))
    # After these the account needs credit or another day: no retry.
    quota_exhausted_codes: ClassVar[frozenset[str]] = frozenset(
        {"insufficient_quota", "billing_hard_limit_reached"}
    )

    def unsupported(self, request: CompletionRequest) -> Sequence[str]:
        return ()  # the vendor gets what the client sent, and refuses what it does not have

    def list_models(self, deadline: Deadline) -> list[str]:
        entries = as_list(get_path(self._get("models", deadline), "data"))
        return [id_ for entry in entries if (id_ := as_str(get_path(entry, "id")))]

    def check(self, deadline: Deadline) -> None:
        listed = set(self.list_models(deadline))
        # Ollama lists `llama3` as `llama3:latest`.
        if listed and listed.isdisjoint({self.model, f"{self.model}:latest"}):
            raise ModelUnavailable("The vendor does not list the model.", reason=self.model)

    def _ask(
        self, request: CompletionRequest, deadline: Deadline, *, stream: bool
    ) -> AbstractContextManager[httpx.Response]:
        path, body = "chat/completions", self._body(request)
        if not stream:
            return self._open(path, deadline, body)
        options = {**body.get("stream_options", {}), "include_usage": True}
        body |= {"stream": True, "stream_options": options}
        return self._open(path, deadline, body, accept="text/event-stream")

    @property
    def _max_tokens_field(self) -> str:
        return "max_tokens"

    def _body(self, request: CompletionRequest) -> dict[str, Any]:
        parameters = dict(request.parameters)
        limit = parameters.pop("max_tokens", self.default_max_tokens)
        body = {
            "model": request.model,
            "messages": request.messages,
            **parameters,
            self._max_tokens_field: limit,
            "user": request.end_user,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _read_stream(
        self, response: httpx.Response, request: CompletionRequest
    ) -> Iterator[Delta | Completion]:
        answer = Answer()
        for data in read_events(response):
            if data == DONE:
                answer.ended = True
                break
            chunk = parsing.event_object(data)
            self._raise_error_inside(chunk, response.headers)
            if delta := answer.add(chunk):
                yield delta
        if not answer.ended and not answer.finish_reasons:
            raise parsing.truncated_stream()
        if delta := answer.finish():
            yield delta
        yield self._answered(answer, request)

    def _completion(self, body: dict[str, Any], request: CompletionRequest) -> Completion:
        answer = Answer()
        answer.add_whole(body)
        return self._answered(answer, request)

    def _answered(self, answer: Answer, request: CompletionRequest) -> Completion:
        """Return the completion of a whole answer. Raises ProviderError for an unusable one."""
        failed = _FAILED_FINISH_REASONS.intersection(answer.finish_reasons)
        for finish in failed:
            raise parsing.error_for_status(502, reason=parsing.log_reason("finish_reason", finish))
        model = parsing.model_name(answer.model, request.model)
        usage = _usage(answer.usage)
        usage = replace(usage, cost_usd=self._cost(answer.usage, model, usage))
        if answer.broken_call:
            # The tool's name is content, and stays out of the log.
            raise ProviderFailed(BROKEN_CALL, reason="broken_tool_call", retry=False, usage=usage)
        completion = Completion(
            message=answer.message,
            model=model,
            finish_reason=answer.finish_reason,
            usage=usage,
            extras=answer.extras,
        )
        return parsing.require_content(completion, empty=self._empty_answer_error(answer))

    def _cost(self, reported_usage: Any, model: str, usage: Usage) -> Decimal | None:
        """Return the cost in US dollars: by default the list price of the tokens."""
        return prices.cost(model, usage, provider_api_url=self._base_url)

    def _empty_answer_error(self, answer: Answer) -> ProviderError:
        """Return the error for an answer without content."""
        return parsing.empty_answer(*answer.finish_reasons)

    def _error(self, status: int, headers: Mapping[str, str], body: Any) -> ProviderError:
        """Return the error of a body: by its codes, then its message, then the status."""
        error = _error_object(body)
        codes = self._codes(error)
        if status <= 299:
            status = _status_for(codes)
        reason = parsing.log_reason("HTTP", status, *codes)
        for code in codes:
            if code in _BY_CODE:
                kind, sentence = _BY_CODE[code]
                return kind(sentence, reason=reason)
        if status in (400, 422):
            message = parsing.error_message(error.get("message"))
            if _UNKNOWN_MODEL.search(message):
                return ModelUnavailable(parsing.NO_MODEL, reason=reason)
            return parsing.rejection(message, _rejected_parameter(error), reason=reason)
        return self._error_for_status(status, headers, error, reason)

    def _error_for_status(
        self, status: int, headers: Mapping[str, str], error: dict[str, Any], reason: str
    ) -> ProviderError:
        """Return the error for a status whose body has no known code."""
        return parsing.error_for_status(
            status,
            reason=reason,
            retry=False if self._quota_exhausted(error) else None,
            retry_after=parsing.retry_after(headers.get("retry-after")),
        )

    def _codes(self, error: dict[str, Any]) -> list[str]:
        return [identifier(get_path(error, *path)) for path in self.error_code_paths]

    def _quota_exhausted(self, error: dict[str, Any]) -> bool:
        return not self.quota_exhausted_codes.isdisjoint(self._codes(error))


def _usage(reported: Any) -> Usage:
    prompt = token_count(get_path(reported, "prompt_tokens"))
    answer = token_count(get_path(reported, "completion_tokens"))
    total = token_count(get_path(reported, "total_tokens"))
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=answer,
        total_tokens=parsing.sum_tokens((prompt, answer)) if total is None else total,
        cached_tokens=token_count(get_path(reported, "prompt_tokens_details", "cached_tokens")),
        reasoning_tokens=token_count(
            get_path(reported, "completion_tokens_details", "reasoning_tokens")
        ),
    )


def _error_object(body: Any) -> dict[str, Any]:
    """Return the error object of a body, out of any envelope that servers put it in."""
    if isinstance(body, list):
        body = get_path(body, 0)
    error = get_path(body, "error")
    if isinstance(error, dict):
        return error
    if not isinstance(body, dict):
        return {}
    return body | {"message": error} if isinstance(error, str) else body


def _status_for(codes: list[str]) -> int:
    """Return the HTTP status for the codes of an error inside a 200; 502 when they are unknown."""
    statuses = (_STATUS_BY_CODE.get(code) or parsing.error_status(code) for code in codes)
    return next(filter(None, statuses), 502)


def _rejected_parameter(error: dict[str, Any]) -> str:
    """Return the request's parameter that an error names: OpenAI's `param`, or FastAPI's `loc`."""
    if param := identifier(error.get("param")):
        return param
    details = get_path(error, "message", "detail") or error.get("detail")
    steps = [identifier(step) for step in as_list(get_path(details, 0, "loc"))]
    return identifier(".".join(step for step in steps if step != "body"))
