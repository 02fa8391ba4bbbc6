"""The dialect of OpenAI-compatible vendors: chat completions.

https://platform.openai.com/docs/api-reference/chat describes the call, and
https://platform.openai.com/docs/guides/error-codes the errors. Compatible servers follow the
first and vary the second. Any field of their answers may be missing.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar

import httpx

from providers import parsing, prices
from providers.assistant_message import StreamAccumulator, tool_calls, visible_text
from providers.base import Completion, CompletionRequest, FinishReason, Message, Usage
from providers.deadline import Deadline
from providers.errors import (
    ContentFiltered,
    ModelUnavailable,
    ProviderError,
    ProviderMisconfigured,
    RequestRejected,
)
from providers.http_provider import HttpProvider
from providers.parsing import as_list, as_str, get_path, identifier, token_count
from providers.vendor_http import DONE, read_events

_FINISH_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "model_length": "length",  # Mistral: the model's own limit
    "content_filter": "content_filter",
}
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


_TOOLS = {"tools", "tool_choice", "parallel_tool_calls"}
_SAMPLING = {"seed", "frequency_penalty", "presence_penalty"}
_ANSWER = {"response_format", "reasoning_effort"}
_CONTENT_PARTS = {"image_url", "input_audio", "file"}


class ChatCompletionsProvider(HttpProvider):
    """Call `{base_url}/chat/completions`. Subclasses set `name` and adapt the differences."""

    capabilities = frozenset(_TOOLS | _SAMPLING | _ANSWER | _CONTENT_PARTS)

    default_max_tokens: ClassVar[int | None] = None
    # Where an error object keeps its codes, the most specific first.
    error_code_paths: ClassVar[tuple[tuple[str, ...], ...]] = (("code",), ("type",))
    # After these the account needs credit or another day: no retry.
    quota_exhausted_codes: ClassVar[frozenset[str]] = frozenset(
        {"insufficient_quota", "billing_hard_limit_reached"}
    )

    def check(self, deadline: Deadline) -> None:
        entries = as_list(get_path(self._get("models", deadline), "data"))
        listed = {as_str(get_path(entry, "id")) for entry in entries}
        # Ollama lists `llama3` as `llama3:latest`.
        if listed and listed.isdisjoint({self.model, f"{self.model}:latest"}):
            raise ModelUnavailable("The vendor does not list the model.", reason=self.model)

    def _ask(
        self, request: CompletionRequest, deadline: Deadline, *, stream: bool
    ) -> AbstractContextManager[httpx.Response]:
        path, body = "chat/completions", self._body(request)
        if not stream:
            return self._open(path, deadline, body)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        return self._open(path, deadline, body, accept="text/event-stream")

    @property
    def _max_tokens_field(self) -> str:
        return "max_tokens"

    def _body(self, request: CompletionRequest) -> dict[str, Any]:
        system = [{"role": "system", "content": request.system}] if request.system else []
        limit = self.default_max_tokens if request.max_tokens is None else request.max_tokens
        body = {
            "model": request.model,
            "messages": system + [_message(message) for message in request.messages],
            "temperature": request.temperature,
            "top_p": request.top_p,
            self._max_tokens_field: limit,
            "stop": list(request.stop) or None,
            "user": request.end_user,
            **request.options,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _read_stream(
        self, response: httpx.Response, request: CompletionRequest
    ) -> Iterator[str | Completion]:
        accumulator = StreamAccumulator()
        for data in read_events(response):
            if data == DONE:
                accumulator.finished = True
                break
            chunk = parsing.event_object(data)
            self._raise_error_inside(chunk, response.headers)
            if text := accumulator.add(chunk):
                yield text
        if not accumulator.finished:
            raise parsing.truncated_stream()
        completion = self._completion(accumulator.body(), request)
        yield from parsing.finish_stream(completion, accumulator.text)

    def _completion(self, body: dict[str, Any], request: CompletionRequest) -> Completion:
        choice = get_path(body, "choices", 0)
        finish = as_str(get_path(choice, "finish_reason"))
        if finish in _FAILED_FINISH_REASONS:
            raise parsing.error_for_status(502, reason=parsing.log_reason("finish_reason", finish))
        text = visible_text(get_path(choice, "message", "content"))
        reported_calls = get_path(choice, "message", "tool_calls")
        calls = tool_calls(reported_calls) if "tools" in request.options else ()
        model = parsing.model_name(body.get("model"), request.model)
        usage = _usage(body.get("usage"))
        usage = replace(usage, cost_usd=self._cost(body.get("usage"), model, usage))
        if not text and get_path(choice, "message", "refusal"):
            raise ContentFiltered(parsing.CONTENT_FILTERED, reason="refusal", usage=usage)
        called = calls and finish != "length"
        completion = Completion(
            text=parsing.clean_text(text),
            model=model,
            finish_reason="tool_calls" if called else _FINISH_REASONS.get(finish, "stop"),
            usage=usage,
            tool_calls=calls,
        )
        empty = self._empty_answer_error(body.get("choices"))
        return parsing.require_content(completion, empty=empty)

    def _cost(self, reported_usage: Any, model: str, usage: Usage) -> Decimal | None:
        """Return the cost in US dollars: by default the list price of the tokens."""
        return prices.cost(model, usage, provider_api_url=self._base_url)

    def _empty_answer_error(self, choices: Any) -> ProviderError:
        """Return the error for choices without text."""
        return parsing.unusable_answer("no_text", get_path(choices, 0, "finish_reason"))

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


def _message(message: Message) -> dict[str, Any]:
    names = ("tool_calls", "tool_call_id", "name")
    given = {name: value for name in names if (value := getattr(message, name)) is not None}
    content = None if message.tool_calls and not message.content else message.content
    return {"role": message.role, "content": content, **given}


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
