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

from providers import http, prices, wire
from providers.base import (
    ChatRequest,
    Completion,
    ContentFiltered,
    Deadline,
    FinishReason,
    Message,
    ModelUnavailable,
    ProviderError,
    ProviderMisconfigured,
    RequestRejected,
    Usage,
)

_FINISH: dict[str, FinishReason] = {
    "length": "length",
    "model_length": "length",  # Mistral: the model's length, not the request's
    "content_filter": "content_filter",
}
_BROKEN = {"error", "insufficient_system_resource"}  # the second one is DeepSeek's

# What an error's code or type means, whatever the status it came with.
_BY_LABEL: dict[str, tuple[type[ProviderError], str]] = {
    **dict.fromkeys(
        ("content_filter", "content_policy_violation", "moderation_blocked", "refusal"),
        (ContentFiltered, wire.CONTENT_FILTERED),
    ),
    **dict.fromkeys(
        ("model_not_found", "model_deprecated", "invalid_model", "wrong_endpoint"),
        (ModelUnavailable, wire.NO_MODEL),
    ),
    **dict.fromkeys(
        ("context_length_exceeded", "token_limit_exceeded", "string_too_long"),
        (RequestRejected, wire.TOO_LONG),
    ),
    "max_tokens_exceeded": (RequestRejected, wire.PARAMETER.format("max_tokens")),
    "invalid_api_key": (ProviderMisconfigured, wire.CREDENTIALS),
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
THOUGHTS, THOUGHTS_END = "<think>", "</think>"
_THOUGHTS = re.compile(r"\A(?:\s*<think>.*?(?:</think>\s*|\Z))+", re.DOTALL)


class OpenAI:
    name: ClassVar[str] = "openai"
    remote: ClassVar[bool] = True

    # Where an error keeps its identifiers, the most telling first.
    label_paths: ClassVar[tuple[tuple[str, ...], ...]] = (("code",), ("type",))
    # Those after which the account has to be topped up, or to wait for another day.
    spent: ClassVar[frozenset[str]] = frozenset(
        {"insufficient_quota", "billing_hard_limit_reached"}
    )
    DEFAULT_MAX_TOKENS: ClassVar[int | None] = None

    takes: ClassVar[frozenset[str]] = frozenset(
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

    def complete(self, request: ChatRequest, deadline: Deadline) -> Completion:
        answer = http.post(
            f"{self._base_url}/chat/completions",
            headers=self._headers,
            body=self._body(request),
            deadline=deadline,
        )
        if not 200 <= answer.status <= 299:
            raise self._failure(answer.status, answer.headers, _error_in(answer.json()))
        return self._completion(wire.json_object(answer), answer.headers, request)

    def stream(self, request: ChatRequest, deadline: Deadline) -> Iterator[str | Completion]:
        streaming = {"stream": True, "stream_options": {"include_usage": True}}
        with http.opened(
            f"{self._base_url}/chat/completions",
            headers={**self._headers, "accept": "text/event-stream"},
            body=self._body(request) | streaming,
            deadline=deadline,
        ) as reply:
            if not reply.succeeded:
                error = _error_in(reply.read().json())
                raise self._failure(reply.status, reply.headers, error)
            if not reply.streamed:  # some servers answer at once, whatever they are asked
                body = wire.json_object(reply.read())
                yield from wire.streamed(self._completion(body, reply.headers, request), "")
                return
            yield from self._read(reply, request)

    def probe(self, deadline: Deadline) -> None:
        body = self._get("models", deadline)
        entries = wire.items(wire.dig(body, "data"))
        listed = {wire.string(wire.dig(entry, "id")) for entry in entries}
        # Ollama's list names the version that goes without saying.
        if listed and listed.isdisjoint({self.model, f"{self.model}:latest"}):
            raise ModelUnavailable("The vendor does not list the model.", reason=self.model)

    def _get(self, path: str, deadline: Deadline) -> Any:
        """What the vendor has at a path of its API."""
        answer = http.get(f"{self._base_url}/{path}", headers=self._headers, deadline=deadline)
        if not 200 <= answer.status <= 299:
            raise self._failure(answer.status, answer.headers, _error_in(answer.json()))
        return answer.json()

    def _read(self, reply: http.Reply, request: ChatRequest) -> Iterator[str | Completion]:
        """The events of a stream, and then the answer that they come to."""
        whole = _Whole()
        for data in reply.events():
            if data == http.END:
                whole.ended = True
                break
            chunk = wire.event_object(data)
            for envelope in (chunk, wire.dig(chunk, "choices", 0)):
                if wire.dig(envelope, "error"):
                    raise self._failure(200, reply.headers, _error_in(envelope))
            if text := whole.add(chunk):
                yield text
        if not whole.ended:
            raise wire.cut_off()
        yield from wire.streamed(
            self._completion(whole.body(), reply.headers, request), "".join(whole.sent)
        )

    def _body(self, request: ChatRequest) -> dict[str, Any]:
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
        self, body: dict[str, Any], headers: Mapping[str, str], request: ChatRequest
    ) -> Completion:
        """The answer in a body that came as a success, which does not make it one."""
        choice = wire.dig(body, "choices", 0)
        for envelope in (body, choice):
            if wire.dig(envelope, "error"):
                raise self._failure(200, headers, _error_in(envelope))
        finish = wire.string(wire.dig(choice, "finish_reason"))
        if finish in _BROKEN:
            raise wire.by_status(502, reason=wire.reason("finish_reason", finish))
        text = _text(wire.dig(choice, "message", "content"))
        wanted = "tools" in request.options
        calls = _tool_calls(wire.dig(choice, "message", "tool_calls")) if wanted else ()
        model = wire.model_name(body.get("model"), request.model)
        usage = _usage(body.get("usage"))
        cost = self._cost(body.get("usage"), model, usage)
        usage = dataclasses.replace(usage, cost_usd=cost)
        if not text and wire.dig(choice, "message", "refusal"):
            raise ContentFiltered(wire.CONTENT_FILTERED, reason="refusal", usage=usage)
        return wire.completion(
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
        return wire.garbled("no_text", wire.dig(choices, 0, "finish_reason"))

    def _failure(
        self, status: int, headers: Mapping[str, str], error: dict[str, Any]
    ) -> ProviderError:
        labels = self._labels(error)
        if status <= 299:
            status = _status_of(labels)
        reason = wire.reason("HTTP", status, *labels)
        for label in labels:
            if label in _BY_LABEL:
                kind, sentence = _BY_LABEL[label]
                return kind(sentence, reason=reason)
        if status in (400, 422):
            message = wire.message(error.get("message"))
            if _NO_MODEL.search(message):
                return ModelUnavailable(wire.NO_MODEL, reason=reason)
            return wire.rejected(message, _parameter(error), reason=reason)
        return self._by_status(status, headers, error, reason)

    def _labels(self, error: dict[str, Any]) -> list[str]:
        return [wire.label(wire.dig(error, *path)) for path in self.label_paths]

    def _by_status(
        self, status: int, headers: Mapping[str, str], error: dict[str, Any], reason: str
    ) -> ProviderError:
        return wire.by_status(
            status,
            reason=reason,
            retry=None if self.spent.isdisjoint(self._labels(error)) else False,
            retry_after=wire.retry_after(headers.get("retry-after")),
        )


class _Whole:
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
        self._usage = chunk.get("usage") or wire.dig(chunk, "x_groq", "usage") or self._usage
        choice = wire.dig(chunk, "choices", 0)
        delta = wire.dig(choice, "delta")
        if finish := wire.string(wire.dig(choice, "finish_reason")):
            self._finish = self._finish or finish
            self.ended = True
        self._refused = self._refused or bool(wire.dig(delta, "refusal"))
        for call in wire.items(wire.dig(delta, "tool_calls")):
            self._add_call(call)
        text = self._shown(wire.clean_text(_parts(wire.dig(delta, "content"))))
        if text:
            self.sent.append(text)
        return text

    def _add_call(self, call: Any) -> None:
        """The first delta of a call names it, and those that follow add to its arguments."""
        index = wire.count(wire.dig(call, "index"))
        if index is None:  # some servers do not number them, and send each whole
            index = len(self._calls)
        known = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        known["id"] = wire.string(wire.dig(call, "id")) or known["id"]
        known["name"] = wire.string(wire.dig(call, "function", "name")) or known["name"]
        known["arguments"] += wire.string(wire.dig(call, "function", "arguments"))

    def _shown(self, piece: str) -> str:
        """What may be shown: thoughts before the answer wait, and what may become some."""
        if self._held is None:
            return piece
        self._held += piece
        while (begun := self._held.lstrip()).startswith(THOUGHTS):
            _, end, rest = begun.partition(THOUGHTS_END)
            if not end:
                return ""
            self._held, self._thought = rest, True
        if self._thought:
            self._held = begun
        if THOUGHTS.startswith(begun):
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
    for number, call in enumerate(wire.items(reported)):
        name = wire.string(wire.dig(call, "function", "name"))
        arguments = wire.clean_text(wire.string(wire.dig(call, "function", "arguments")))
        if name:
            function = {"name": wire.clean_text(name), "arguments": arguments or "{}"}
            id_ = wire.clean_text(wire.string(wire.dig(call, "id"))) or f"call_{number}"
            calls.append({"id": id_, "type": "function", "function": function})
    return tuple(calls)


def _error_in(body: Any) -> dict[str, Any]:
    """The error, out of any of the envelopes that servers put it in."""
    if isinstance(body, list):
        body = wire.dig(body, 0)
    error = wire.dig(body, "error")
    if isinstance(error, dict):
        return error
    if not isinstance(body, dict):
        return {}
    return body | {"message": error} if isinstance(error, str) else body


def _status_of(labels: list[str]) -> int:
    """The status that an error inside a success stands for; 502 when it does not say."""
    statuses = (_STATUS.get(label) or wire.error_status(label) for label in labels)
    return next(filter(None, statuses), 502)


def _parameter(error: dict[str, Any]) -> str:
    """The request's parameter that an error is about: OpenAI's `param`, or FastAPI's `loc`."""
    if param := wire.label(error.get("param")):
        return param
    details = wire.dig(error, "message", "detail") or error.get("detail")
    steps = [wire.label(step) for step in wire.items(wire.dig(details, 0, "loc"))]
    return wire.label(".".join(step for step in steps if step != "body"))


def _text(content: Any) -> str:
    """What a message shows: its content is a string, an array of parts, or null."""
    return _THOUGHTS.sub("", _parts(content))


def _parts(content: Any) -> str:
    if isinstance(content, list):
        shown = [part for part in content if wire.dig(part, "type") == "text"]
        content = "".join(wire.string(part.get("text")) for part in shown)
    return wire.string(content)


def _usage(reported: Any) -> Usage:
    prompt = wire.count(wire.dig(reported, "prompt_tokens"))
    answer = wire.count(wire.dig(reported, "completion_tokens"))
    total = wire.count(wire.dig(reported, "total_tokens"))
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=answer,
        total_tokens=wire.total((prompt, answer)) if total is None else total,
        cached_tokens=wire.count(wire.dig(reported, "prompt_tokens_details", "cached_tokens")),
        reasoning_tokens=wire.count(
            wire.dig(reported, "completion_tokens_details", "reasoning_tokens")
        ),
    )
