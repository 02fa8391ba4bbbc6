"""The dialect of OpenAI-compatible vendors: chat completions.

https://platform.openai.com/docs/api-reference/chat describes the call, and
https://platform.openai.com/docs/guides/error-codes the errors. Compatible servers follow the
first and vary the second. Any field of their answers may be missing.
"""

import re
from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar

import httpx

from providers import answer_errors, parsing, prices, reported_usage
from providers.accumulator import CONTENT_PARTS, TEXT_TYPES
from providers.base import CompletionRequest, Delta, FinishReason, Message, Usage
from providers.completions_answer import Answer
from providers.deadline import Deadline
from providers.errors import (
    ContentFiltered,
    ModelUnavailable,
    ProviderError,
    ProviderMisconfigured,
    RequestRejected,
)
from providers.http_provider import HttpProvider
from providers.parsing import as_list, as_objects, as_str, get_path, identifier
from providers.refusals import Refusals
from providers.refused_fields import THOUGHTS, TOKEN_LIMITS, refused_fields
from providers.vendor_http import read_error

_OTHER_LIMIT = dict(zip(TOKEN_LIMITS, reversed(TOKEN_LIMITS), strict=True))
# With one of these fields an assistant's message needs no content.
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "audio")
_FAILED_FINISH_REASONS = {"error", "insufficient_system_resource"}  # the second one is DeepSeek's

# The error for an error code or type, whatever the HTTP status.
_BY_CODE: dict[str, tuple[type[ProviderError], str]] = {
    "content_filter": (ContentFiltered, answer_errors.CONTENT_FILTERED),
    "content_policy_violation": (ContentFiltered, answer_errors.CONTENT_FILTERED),
    "moderation_blocked": (ContentFiltered, answer_errors.CONTENT_FILTERED),
    "refusal": (ContentFiltered, answer_errors.CONTENT_FILTERED),
    "model_not_found": (ModelUnavailable, answer_errors.NO_MODEL),
    "model_deprecated": (ModelUnavailable, answer_errors.NO_MODEL),
    "invalid_model": (ModelUnavailable, answer_errors.NO_MODEL),
    "wrong_endpoint": (ModelUnavailable, answer_errors.NO_MODEL),
    "context_length_exceeded": (RequestRejected, answer_errors.TOO_LONG),
    "token_limit_exceeded": (RequestRejected, answer_errors.TOO_LONG),
    "string_too_long": (RequestRejected, answer_errors.TOO_LONG),
    "max_tokens_exceeded": (RequestRejected, answer_errors.PARAMETER.format("max_tokens")),
    "invalid_api_key": (ProviderMisconfigured, answer_errors.CREDENTIALS),
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


class ChatCompletionsProvider(HttpProvider[Answer]):
    """Call `{base_url}/chat/completions`. Subclasses set `name` and adapt the differences."""

    default_max_tokens: ClassVar[int | None] = None
    # Where an error object keeps its codes, the most specific first.
    error_code_paths: ClassVar[tuple[tuple[str, ...], ...]] = (("code",), ("type",))
    # After these the account needs credit or another day: no retry.
    quota_exhausted_codes: ClassVar[frozenset[str]] = frozenset(
        {"insufficient_quota", "billing_hard_limit_reached"}
    )

    limit_field = "max_tokens"  # until a server refuses this name

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._refusals = Refusals()

    def unsupported(self, request: CompletionRequest) -> Sequence[str]:
        return ()  # the vendor gets every field, and refuses those that it does not have

    def list_models(self, deadline: Deadline) -> list[str]:
        body = self._get("models", deadline)
        entries = as_list(get_path(body, "data")) or as_list(body)  # a bare list: Together
        return [id_ for entry in entries if (id_ := as_str(get_path(entry, "id")))]

    def check(self, deadline: Deadline) -> None:
        listed = set(self.list_models(deadline))
        # Ollama lists `llama3` as `llama3:latest`.
        if listed and listed.isdisjoint({self.model, f"{self.model}:latest"}):
            raise ModelUnavailable("The vendor does not list the model.", reason=self.model)

    def _ask(
        self, request: CompletionRequest, deadline: Deadline, *, stream: bool
    ) -> AbstractContextManager[httpx.Response]:
        body = self._body(request, stream=stream)
        accept = {"accept": "text/event-stream"} if stream else {}
        return self._open("chat/completions", deadline, body, **accept)

    def _body(self, request: CompletionRequest, *, stream: bool) -> dict[str, Any]:
        """Return the request in the vendor's terms, without fields that it has refused before."""
        refused = self._refusals.of(request.model)
        messages = self._messages(request)
        if thoughts := refused.intersection(THOUGHTS):
            messages = [_without(message, thoughts) for message in messages]
        messages = [_with_content(message) for message in messages]
        body: dict[str, Any] = {"model": request.model, "messages": messages, **request.parameters}
        limit = body.pop("max_tokens", self.default_max_tokens)
        if limit is not None:
            body[self._limit_name(refused)] = limit
        if request.end_user is not None and "user" not in refused:
            body["user"] = request.end_user
        options = body.pop("stream_options", {})
        if stream:
            body["stream"] = True
            if "stream_options" not in refused:
                options = {**options, "include_usage": True}
            if options:
                body["stream_options"] = options
        return body

    def _raise_for_status(self, response: httpx.Response) -> None:
        """Raise the error of a response. It is retried without the fields that it refuses."""
        if response.is_success:
            return
        body = read_error(response)
        error = self._error_with_message(response.status_code, response.headers, body)
        if response.status_code in (400, 422) and type(error) is RequestRejected:
            refused = refused_fields(_error_object(body), error.vendor_message)
            error.retry = self._remember_refused(response.request.read(), refused)
            # At once: the vendor is not overloaded, it only refused a field.
            error.retry_after = 0.0 if error.retry else None
        raise error

    def _remember_refused(self, sent: bytes, refused: set[str]) -> bool:
        """Remember the fields that an error refuses. Return whether to ask again without them.

        Only what we have added to the request counts.
        """
        request = parsing.load_json(sent) if refused else None
        if not isinstance(request, dict):
            return False
        known = self._refusals.of(request["model"])
        ours = request.keys() - {_OTHER_LIMIT[name] for name in known.intersection(TOKEN_LIMITS)}
        if "include_usage" not in request.get("stream_options", {}):
            ours.discard("stream_options")
        ours |= {name for message in request["messages"] for name in THOUGHTS if name in message}
        refused &= ours
        self._refusals.add(request["model"], refused)
        return bool(refused)

    def _messages(self, request: CompletionRequest) -> Sequence[Message]:
        return request.messages

    def _limit_name(self, refused: Set[str]) -> str:
        """Return the name of the token limit: the alternative if the usual one was refused."""
        usual = self.limit_field
        other = _OTHER_LIMIT[usual]
        return other if usual in refused and other not in refused else usual

    def _new_answer(self, request: CompletionRequest) -> Answer:
        return Answer()

    def _raise_if_unusable(self, answer: Answer) -> None:
        for finish in _FAILED_FINISH_REASONS.intersection(answer.finish_reasons):
            raise answer_errors.error_for_status(
                502, reason=parsing.log_reason("finish_reason", finish)
            )
        if answer.has_broken_call:
            raise answer_errors.broken_call()

    def _finish_reason(self, answer: Answer, message: Message) -> FinishReason:
        return answer.finish_reason(message)

    def _read_usage(self, answer: Answer, request: CompletionRequest) -> Usage:
        usage = reported_usage.tokens(answer.reported_usage)
        tier = as_str(answer.extras.get("service_tier"))

        def cost(model: str) -> Decimal | None:
            return self._cost(answer.reported_usage, model, usage, tier)

        return replace(usage, cost_usd=self._price(answer, request, cost))

    def _cost(self, reported: Any, model: str, usage: Usage, tier: str) -> Decimal | None:
        """Return the cost in US dollars: the vendor's own, else the list price of the tokens."""
        cost = reported_usage.cost(reported)
        return self.list_price(model, usage, tier) if cost is None else cost

    def list_price(self, model: str, usage: Usage, tier: str = "") -> Decimal | None:
        return prices.cost(model, usage, provider_api_url=self._base_url, service_tier=tier)

    def _empty_answer_error(self, answer: Answer) -> ProviderError:
        """Return the error for an answer without content."""
        if not answer.readable:
            return answer_errors.unusable_answer("no_choices")
        return answer_errors.empty_answer(*answer.finish_reasons)

    def _add_text(self, chunk: dict[str, Any], answer: Answer) -> Sequence[Delta] | None:
        text = answer.continued_text(chunk)
        if not text:
            return None
        delta = answer.add_text(text)
        return (delta,) if delta else ()

    def _raise_error_inside(
        self, body: dict[str, Any], headers: Mapping[str, str], answer: Answer
    ) -> None:
        """Raise the error inside a 200: in the body, in a choice, or without an envelope."""
        super()._raise_error_inside(body, headers, answer)
        for choice in as_objects(body.get("choices")):
            if choice.get("error"):
                answer.add_usage(body)
                raise self._error_with_message(200, headers, choice)
        if "choices" not in body and _is_flat_error(body):
            raise self._error_with_message(200, headers, body)

    def _error_with_message(
        self, status: int, headers: Mapping[str, str], body: Any
    ) -> ProviderError:
        error = super()._error_with_message(status, headers, body)
        if isinstance(error, RequestRejected):
            error.param = _rejected_parameter(_error_object(body))
        return error

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
                return ModelUnavailable(answer_errors.NO_MODEL, reason=reason)
            return answer_errors.rejection(message, _rejected_parameter(error), reason=reason)
        return self._error_for_status(status, headers, error, reason)

    def _error_for_status(
        self, status: int, headers: Mapping[str, str], error: dict[str, Any], reason: str
    ) -> ProviderError:
        """Return the error for a status whose body has no known code."""
        return answer_errors.error_for_status(
            status,
            reason=reason,
            retry=False if self._quota_exhausted(error) else None,
            retry_after=parsing.retry_after(headers.get("retry-after")),
        )

    def _codes(self, error: dict[str, Any]) -> list[str]:
        return [identifier(get_path(error, *path)) for path in self.error_code_paths]

    def _quota_exhausted(self, error: dict[str, Any]) -> bool:
        return not self.quota_exhausted_codes.isdisjoint(self._codes(error))


def _without(message: Message, names: Set[str]) -> Message:
    return {name: value for name, value in message.items() if name not in names}


def _with_content(message: Message) -> Message:
    """Return the message with the content that a request has: all parts, and no needless null."""
    if CONTENT_PARTS in message:
        message = _with_parts(_without(message, {CONTENT_PARTS}), message[CONTENT_PARTS])
    # OpenAI refuses the null of its own answers.
    if message.get("content") is not None or any(map(message.get, _INSTEAD_OF_CONTENT)):
        return message
    return {**message, "content": ""}


def _with_parts(message: Message, parts: Any) -> Message:
    """Return the message with the parts that are no text after the others of its content."""
    parts = [part for part in as_objects(parts) if part.get("type") not in TEXT_TYPES]
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}] if content else []
    return {**message, "content": [*as_list(content), *parts]} if parts else message


def _error_object(body: Any) -> dict[str, Any]:
    """Return the error object of a body, without the envelope that some servers put around it."""
    if isinstance(body, list):
        body = get_path(body, 0)
    error = get_path(body, "error")
    if isinstance(error, dict):
        return error
    if not isinstance(body, dict):
        return {}
    return body | {"message": error} if isinstance(error, str) else body


def _is_flat_error(body: dict[str, Any]) -> bool:
    message = as_str(body.get("message"))
    return body.get("object") == "error" or bool(message or body.get("detail"))


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
