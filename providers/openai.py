"""Any server that speaks OpenAI's chat completions: OpenAI itself, Ollama, vLLM, llama.cpp, …

https://platform.openai.com/docs/api-reference/chat describes the call, and
https://platform.openai.com/docs/guides/error-codes the errors. Servers keep to the first and vary
the second, so that everything in an answer is read as if it might be missing.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import urlsplit

from providers import parsing, prices, vendor_http
from providers.base import Completion, CompletionRequest, Deadline, FinishReason, Message, Usage
from providers.errors import (
    ContentFiltered,
    ModelUnavailable,
    ProviderError,
    ProviderMisconfigured,
    RequestRejected,
)

_FINISH: dict[str, FinishReason] = {
    "length": "length",
    "model_length": "length",  # Mistral: the model's length, not the request's
    "content_filter": "content_filter",
}
_FAILED_FINISH_REASONS = {"error", "insufficient_system_resource"}  # the second one is DeepSeek's

# What an error's code or type means, whatever the status it came with.
_BY_LABEL: dict[str, tuple[type[ProviderError], str]] = {
    **dict.fromkeys(
        ("content_filter", "content_policy_violation", "moderation_blocked", "refusal"),
        (ContentFiltered, parsing.CONTENT_FILTERED),
    ),
    **dict.fromkeys(
        ("model_not_found", "model_deprecated", "invalid_model", "wrong_endpoint"),
        (ModelUnavailable, parsing.NO_MODEL),
    ),
    **dict.fromkeys(
        ("context_length_exceeded", "token_limit_exceeded", "string_too_long"),
        (RequestRejected, parsing.TOO_LONG),
    ),
    "max_tokens_exceeded": (RequestRejected, parsing.PARAMETER.format("max_tokens")),
    "invalid_api_key": (ProviderMisconfigured, parsing.CREDENTIALS),
}

# The status that an error inside a 200 stands for, when it carries no number.
_STATUS = {
    "invalid_request_error": 400,
    "invalid_request": 400,
    "invalid_prompt": 400,
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

# Servers without a code for an unknown model say it in words only.
_NO_MODEL = re.compile(
    r"not a valid model|\bmodel\b.{0,80}(not found|does not exist)", re.IGNORECASE
)

# Local models whose server does not know their thoughts write them before the answer.
THINK_START, THINK_END = "<think>", "</think>"
_THOUGHTS = re.compile(r"\A(?:\s*<think>.*?(?:</think>\s*|\Z))+", re.DOTALL)


class OpenAI:
    name: ClassVar[str] = "openai"
    is_remote: ClassVar[bool] = True

    # Where an error keeps its identifiers, the most telling first.
    label_paths: ClassVar[tuple[tuple[str, ...], ...]] = (("code",), ("type",))
    # Those after which the account has to be topped up, or to wait for another day.
    spent: ClassVar[frozenset[str]] = frozenset(
        {"insufficient_quota", "billing_hard_limit_reached"}
    )
    DEFAULT_MAX_TOKENS: ClassVar[int | None] = None

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "response_format",
            "seed",
            "frequency_penalty",
            "presence_penalty",
            "reasoning_effort",
            "image_url",
            "input_audio",
            "file",
        }
    )

    def __init__(self, *, api_key: str, base_url: str, model: str) -> None:
        self.model = model
        self._base_url = base_url
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        # OpenAI's reasoning models refuse the old name; Ollama ignores the new one without a word.
        is_openai = urlsplit(base_url).hostname == "api.openai.com"
        self._limit_field = "max_completion_tokens" if is_openai else "max_tokens"

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        answer = vendor_http.post(
            f"{self._base_url}/chat/completions",
            headers=self._headers,
            body=self._body(request),
            deadline=deadline,
        )
        if not 200 <= answer.status <= 299:
            raise self._failure(answer.status, answer.headers, _error_in(answer.json()))
        return self._completion(parsing.json_object(answer), answer.headers, request)

    def stream(self, request: CompletionRequest, deadline: Deadline) -> Iterator[str | Completion]:
        streaming = {"stream": True, "stream_options": {"include_usage": True}}
        with vendor_http.opened(
            f"{self._base_url}/chat/completions",
            headers={**self._headers, "accept": "text/event-stream"},
            body=self._body(request) | streaming,
            deadline=deadline,
        ) as reply:
            if not reply.succeeded:
                error = _error_in(reply.read().json())
                raise self._failure(reply.status, reply.headers, error)
            if not reply.streamed:  # some servers answer at once, whatever they are asked
                body = parsing.json_object(reply.read())
                yield from parsing.finish_stream(self._completion(body, reply.headers, request), "")
                return
            yield from self._read(reply, request)

    def check(self, deadline: Deadline) -> None:
        body = self._get("models", deadline)
        entries = parsing.as_list(parsing.get_path(body, "data"))
        listed = {parsing.as_str(parsing.get_path(entry, "id")) for entry in entries}
        # Ollama's list names the version that goes without saying.
        if listed and listed.isdisjoint({self.model, f"{self.model}:latest"}):
            raise ModelUnavailable("The vendor does not list the model.", reason=self.model)

    def _get(self, path: str, deadline: Deadline) -> Any:
        """What the vendor has at a path of its API."""
        answer = vendor_http.get(
            f"{self._base_url}/{path}", headers=self._headers, deadline=deadline
        )
        if not 200 <= answer.status <= 299:
            raise self._failure(answer.status, answer.headers, _error_in(answer.json()))
        return answer.json()

    def _read(
        self, reply: vendor_http.Reply, request: CompletionRequest
    ) -> Iterator[str | Completion]:
        """The events of a stream, and then the answer that they come to."""
        whole = _StreamAccumulator()
        for data in reply.events():
            if data == vendor_http.DONE:
                whole.ended = True
                break
            chunk = parsing.event_object(data)
            for envelope in (chunk, parsing.get_path(chunk, "choices", 0)):
                if parsing.get_path(envelope, "error"):
                    raise self._failure(200, reply.headers, _error_in(envelope))
            if text := whole.add(chunk):
                yield text
        if not whole.ended:
            raise parsing.truncated_stream()
        yield from parsing.finish_stream(
            self._completion(whole.body(), reply.headers, request), "".join(whole.sent)
        )

    def _body(self, request: CompletionRequest) -> dict[str, Any]:
        system = [{"role": "system", "content": request.system}] if request.system else []
        limit = request.max_tokens
        body = {
            "model": request.model,
            "messages": system + [_message(message) for message in request.messages],
            "temperature": request.temperature,
            "top_p": request.top_p,
            self._limit_field: self.DEFAULT_MAX_TOKENS if limit is None else limit,
            "stop": list(request.stop) or None,
            "user": request.end_user,
            **request.options,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _completion(
        self, body: dict[str, Any], headers: Mapping[str, str], request: CompletionRequest
    ) -> Completion:
        """The answer in a body that came as a success, which does not make it one."""
        choice = parsing.get_path(body, "choices", 0)
        for envelope in (body, choice):
            if parsing.get_path(envelope, "error"):
                raise self._failure(200, headers, _error_in(envelope))
        finish = parsing.as_str(parsing.get_path(choice, "finish_reason"))
        if finish in _FAILED_FINISH_REASONS:
            raise parsing.error_for_status(502, reason=parsing.reason("finish_reason", finish))
        text = _text(parsing.get_path(choice, "message", "content"))
        wanted = "tools" in request.options
        calls = _tool_calls(parsing.get_path(choice, "message", "tool_calls")) if wanted else ()
        model = parsing.model_name(body.get("model"), request.model)
        usage = _usage(body.get("usage"))
        cost = self._cost(body.get("usage"), model, usage)
        usage = dataclasses.replace(usage, cost_usd=cost)
        if not text and parsing.get_path(choice, "message", "refusal"):
            raise ContentFiltered(parsing.CONTENT_FILTERED, reason="refusal", usage=usage)
        return parsing.build_completion(
            text,
            "tool_calls" if calls and finish != "length" else _FINISH.get(finish, "stop"),
            model=model,
            usage=usage,
            empty=self._empty(body.get("choices")),
            tool_calls=calls,
        )

    def _cost(self, reported: Any, model: str, usage: Usage) -> Decimal | None:
        """US dollars: `reported`, the vendor's usage object, has none here."""
        return prices.cost(model, usage, provider_api_url=self._base_url)

    def _empty(self, choices: Any) -> ProviderError:
        """The error for choices without text."""
        return parsing.unusable_answer("no_text", parsing.get_path(choices, 0, "finish_reason"))

    def _failure(
        self, status: int, headers: Mapping[str, str], error: dict[str, Any]
    ) -> ProviderError:
        labels = self._labels(error)
        if status <= 299:
            status = _status_of(labels)
        reason = parsing.reason("HTTP", status, *labels)
        for label in labels:
            if label in _BY_LABEL:
                kind, sentence = _BY_LABEL[label]
                return kind(sentence, reason=reason)
        if status in (400, 422):
            message = parsing.message(error.get("message"))
            if _NO_MODEL.search(message):
                return ModelUnavailable(parsing.NO_MODEL, reason=reason)
            return parsing.rejected(message, _parameter(error), reason=reason)
        return self._by_status(status, headers, error, reason)

    def _labels(self, error: dict[str, Any]) -> list[str]:
        return [parsing.identifier(parsing.get_path(error, *path)) for path in self.label_paths]

    def _by_status(
        self, status: int, headers: Mapping[str, str], error: dict[str, Any], reason: str
    ) -> ProviderError:
        return parsing.error_for_status(
            status,
            reason=reason,
            retry=None if self.spent.isdisjoint(self._labels(error)) else False,
            retry_after=parsing.retry_after(headers.get("retry-after")),
        )


class _StreamAccumulator:
    """A streamed answer put together again, in the shape of one that came at once."""

    def __init__(self) -> None:
        self.ended = False
        self.sent: list[str] = []
        self._held: str | None = ""
        self._thought = False
        self._finish: str | None = None
        self._model: Any = None
        self._usage: Any = None
        self._refused = False
        self._calls: dict[int, dict[str, str]] = {}

    def add(self, chunk: dict[str, Any]) -> str:
        """Take a chunk; the text of it that is to be shown. What repeats replaces."""
        self._model = chunk.get("model") or self._model
        self._usage = (
            chunk.get("usage") or parsing.get_path(chunk, "x_groq", "usage") or self._usage
        )
        choice = parsing.get_path(chunk, "choices", 0)
        delta = parsing.get_path(choice, "delta")
        if finish := parsing.as_str(parsing.get_path(choice, "finish_reason")):
            self._finish = self._finish or finish
            self.ended = True
        self._refused = self._refused or bool(parsing.get_path(delta, "refusal"))
        for call in parsing.as_list(parsing.get_path(delta, "tool_calls")):
            self._add_call(call)
        text = self._shown(parsing.clean_text(_parts(parsing.get_path(delta, "content"))))
        if text:
            self.sent.append(text)
        return text

    def _add_call(self, call: Any) -> None:
        """The first delta of a call names it, and those that follow add to its arguments."""
        index = parsing.token_count(parsing.get_path(call, "index"))
        if index is None:  # some servers do not number them, and send each whole
            index = len(self._calls)
        known = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        known["id"] = parsing.as_str(parsing.get_path(call, "id")) or known["id"]
        known["name"] = parsing.as_str(parsing.get_path(call, "function", "name")) or known["name"]
        known["arguments"] += parsing.as_str(parsing.get_path(call, "function", "arguments"))

    def _shown(self, piece: str) -> str:
        """What may be shown: thoughts before the answer wait, and what may become some."""
        if self._held is None:
            return piece
        self._held += piece
        while (begun := self._held.lstrip()).startswith(THINK_START):
            _, end, rest = begun.partition(THINK_END)
            if not end:
                return ""
            self._held, self._thought = rest, True
        if self._thought:
            self._held = begun
        if THINK_START.startswith(begun):
            return ""
        shown, self._held = self._held, None
        return shown

    def body(self) -> dict[str, Any]:
        calls = [
            {"id": call["id"], "function": {"name": call["name"], "arguments": call["arguments"]}}
            for _, call in sorted(self._calls.items())
        ]
        message = {
            "content": "".join(self.sent) or self._held,
            "refusal": self._refused,
            "tool_calls": calls,
        }
        choice = {"message": message, "finish_reason": self._finish}
        return {"model": self._model, "usage": self._usage, "choices": [choice]}


def _message(message: Message) -> dict[str, Any]:
    names = ("tool_calls", "tool_call_id", "name")
    given = {name: value for name in names if (value := getattr(message, name)) is not None}
    content = None if message.tool_calls and not message.content else message.content
    return {"role": message.role, "content": content, **given}


def _tool_calls(reported: Any) -> tuple[dict[str, Any], ...]:
    """The calls that a model asks for, in one shape; what has no name is none."""
    calls = []
    for number, call in enumerate(parsing.as_list(reported)):
        name = parsing.as_str(parsing.get_path(call, "function", "name"))
        arguments = parsing.clean_text(
            parsing.as_str(parsing.get_path(call, "function", "arguments"))
        )
        if name:
            function = {"name": parsing.clean_text(name), "arguments": arguments or "{}"}
            id_ = (
                parsing.clean_text(parsing.as_str(parsing.get_path(call, "id"))) or f"call_{number}"
            )
            calls.append({"id": id_, "type": "function", "function": function})
    return tuple(calls)


def _error_in(body: Any) -> dict[str, Any]:
    """The error, out of any of the envelopes that servers put it in."""
    if isinstance(body, list):
        body = parsing.get_path(body, 0)
    error = parsing.get_path(body, "error")
    if isinstance(error, dict):
        return error
    if not isinstance(body, dict):
        return {}
    return body | {"message": error} if isinstance(error, str) else body


def _status_of(labels: list[str]) -> int:
    """The status that an error inside a success stands for; 502 when it does not say."""
    statuses = (_STATUS.get(label) or parsing.error_status(label) for label in labels)
    return next(filter(None, statuses), 502)


def _parameter(error: dict[str, Any]) -> str:
    """The request's parameter that an error is about: OpenAI's `param`, or FastAPI's `loc`."""
    if param := parsing.identifier(error.get("param")):
        return param
    details = parsing.get_path(error, "message", "detail") or error.get("detail")
    steps = [
        parsing.identifier(step) for step in parsing.as_list(parsing.get_path(details, 0, "loc"))
    ]
    return parsing.identifier(".".join(step for step in steps if step != "body"))


def _text(content: Any) -> str:
    """What a message shows: its content is a string, an array of parts, or null."""
    return _THOUGHTS.sub("", _parts(content))


def _parts(content: Any) -> str:
    if isinstance(content, list):
        shown = [part for part in content if parsing.get_path(part, "type") == "text"]
        content = "".join(parsing.as_str(part.get("text")) for part in shown)
    return parsing.as_str(content)


def _usage(reported: Any) -> Usage:
    prompt = parsing.token_count(parsing.get_path(reported, "prompt_tokens"))
    answer = parsing.token_count(parsing.get_path(reported, "completion_tokens"))
    total = parsing.token_count(parsing.get_path(reported, "total_tokens"))
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=answer,
        total_tokens=parsing.total((prompt, answer)) if total is None else total,
        cached_tokens=parsing.token_count(
            parsing.get_path(reported, "prompt_tokens_details", "cached_tokens")
        ),
        reasoning_tokens=parsing.token_count(
            parsing.get_path(reported, "completion_tokens_details", "reasoning_tokens")
        ),
    )
