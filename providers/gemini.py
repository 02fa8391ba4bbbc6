"""Google's Gemini API.

https://ai.google.dev/api/generate-content describes the call, and
https://ai.google.dev/gemini-api/docs/troubleshooting the errors. Answers are proto3 JSON, which
leaves out zero, false and empty values: any key may be missing.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar

import httpx

from providers import parsing, prices
from providers.base import Completion, CompletionRequest, FinishReason, Usage
from providers.deadline import Deadline
from providers.errors import ContentFiltered, ProviderError, RequestRejected
from providers.http_provider import HttpProvider
from providers.parsing import as_list, as_str, get_path, identifier, token_count
from providers.vendor_http import DONE, read_events

# These models ignore temperature and topP; Google has announced that later ones will refuse them.
_WITHOUT_SAMPLING = re.compile(
    r"gemini-(3\.5-flash-lite|3\.([6-9]|[1-9][0-9])|[4-9]|[1-9][0-9]|flash(-lite)?-latest)"
)

# A model id becomes part of the URL. Names of other resources have a slash.
_MODEL_ID = re.compile(r"[A-Za-z0-9._-]+")

# Any other finish reason means `stop`.
_FINISH_REASONS: dict[str, FinishReason] = {
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST"), "content_filter"),
    **dict.fromkeys(("PROHIBITED_CONTENT", "SPII", "ESCALATION"), "content_filter"),
    **dict.fromkeys(("MODEL_ARMOR", "IMAGE_SAFETY"), "content_filter"),
    **dict.fromkeys(("IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"), "content_filter"),
}

# Finish reasons that fail like this status. 502 is retried: the next answer may be well formed.
_FAILED_FINISH_REASONS = {
    "MALFORMED_FUNCTION_CALL": 502,
    "MALFORMED_RESPONSE": 502,
    "PUP_LIMITED_DISABLED": 403,
}
_UNUSABLE_FINISH_REASONS = {
    "",  # proto3 JSON leaves out FINISH_REASON_UNSPECIFIED, the zero value
    "FINISH_REASON_UNSPECIFIED",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "MISSING_THOUGHT_SIGNATURE",
    "NO_IMAGE",
}

# The status that Google should send instead of 400, for a wrong key or a project without billing.
_STATUS_BY_CODE = {"API_KEY_INVALID": 401, "UNAUTHENTICATED": 401, "FAILED_PRECONDITION": 403}

_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,9})?)(?P<unit>ms|s)")
_RETRY_IN = re.compile(rf"retry in {_DURATION.pattern}")
_CREDIT_DEPLETED = re.compile(r"\b(prepaid|prepayment|credits?)\b.{0,80}\bdepleted", re.DOTALL)
PER_MINUTE_SECONDS = 60.0


class Gemini(HttpProvider):
    name: ClassVar[str] = "gemini"

    def check(self, deadline: Deadline) -> None:
        self._get(f"models/{_model_id(self.model)}", deadline)

    def _credentials(self, api_key: str) -> dict[str, str]:
        # Not in the URL: logs and exceptions repeat URLs.
        return {"x-goog-api-key": api_key}

    def _ask(
        self, request: CompletionRequest, deadline: Deadline, *, stream: bool
    ) -> AbstractContextManager[httpx.Response]:
        model = _model_id(request.model)
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return self._open(f"models/{model}:{method}", deadline, _body(request, model))

    def _read_stream(
        self, response: httpx.Response, request: CompletionRequest
    ) -> Iterator[str | Completion]:
        """Yield the text of a stream's events, then the completion.

        Each event has the shape of an answer; its counts replace those before. The stream ends with
        the body, and is complete if one of its events had a finish reason.
        """
        pieces: list[str] = []
        answer: dict[str, Any] = {}
        finish = ""
        for data in read_events(response):
            if data == DONE:  # sent by servers that imitate Gemini
                break
            chunk = parsing.event_object(data)
            self._raise_error_inside(chunk, response.headers)
            answer |= {name: value for name, value in chunk.items() if value}
            candidate = get_path(chunk, "candidates", 0)
            finish = as_str(get_path(candidate, "finishReason")) or finish
            if text := parsing.clean_text(_text(candidate)):
                pieces.append(text)
                yield text
        if not finish and not get_path(answer, "promptFeedback", "blockReason"):
            raise parsing.truncated_stream()
        text = "".join(pieces)
        answer["candidates"] = [{"content": {"parts": [{"text": text}]}, "finishReason": finish}]
        yield from parsing.finish_stream(self._completion(answer, request), text)

    def _completion(self, body: dict[str, Any], request: CompletionRequest) -> Completion:
        model = parsing.model_name(body.get("modelVersion"), _model_id(request.model))
        usage = _usage(body.get("usageMetadata"))
        usage = replace(usage, cost_usd=prices.cost(model, usage, provider_id="google"))
        if block := get_path(body, "promptFeedback", "blockReason"):
            reason = parsing.log_reason("blockReason", block)
            raise ContentFiltered(parsing.CONTENT_FILTERED, reason=reason, usage=usage)
        candidate = get_path(body, "candidates", 0)
        finish = as_str(get_path(candidate, "finishReason"))
        if status := _FAILED_FINISH_REASONS.get(finish):
            reason = parsing.log_reason("finishReason", finish)
            raise parsing.error_for_status(status, reason=reason)
        if finish in _UNUSABLE_FINISH_REASONS:
            raise parsing.unusable_answer("finishReason", finish)
        completion = Completion(
            text=parsing.clean_text(_text(candidate)),
            model=model,
            finish_reason=_FINISH_REASONS.get(finish, "stop"),
            usage=usage,
        )
        return parsing.require_content(completion, empty=parsing.unusable_answer("no_text", finish))

    def _error(self, status: int, headers: Mapping[str, str], body: Any) -> ProviderError:
        if isinstance(body, list):  # a stream's error is an array of one
            body = get_path(body, 0)
        error = get_path(body, "error")
        details = as_list(get_path(error, "details"))
        message = parsing.error_message(get_path(error, "message"))
        codes = [get_path(error, "status"), *(get_path(detail, "reason") for detail in details)]
        codes = [identifier(code) for code in codes]
        quotas = _exhausted_quotas(details)
        if status <= 299:
            status = parsing.error_status(get_path(error, "code")) or 502
        reason = parsing.log_reason("HTTP", status, *codes, *quotas)
        if status == 400:
            status = next((_STATUS_BY_CODE[code] for code in codes if code in _STATUS_BY_CODE), 400)
        if status in (400, 422):
            return parsing.rejection(message, _rejected_field(details), reason=reason)
        daily = any("PerDay" in quota for quota in quotas)
        if status == 429 and (daily or _CREDIT_DEPLETED.search(message)):
            # A daily quota also comes with a short delay, after which it is still exhausted.
            return parsing.error_for_status(429, reason=reason, retry=False)
        wait = _retry_delay(headers, details, message)
        if wait is None and any("PerMinute" in quota for quota in quotas):
            wait = PER_MINUTE_SECONDS
        return parsing.error_for_status(status, reason=reason, retry_after=wait)


def _model_id(name: str) -> str:
    """Return a model id that is safe in a URL. Raises RequestRejected."""
    model = name.removeprefix("models/")
    if not _MODEL_ID.fullmatch(model):
        raise RequestRejected(parsing.PARAMETER.format("model"), reason="model_id")
    return model


def _body(request: CompletionRequest, model: str) -> dict[str, Any]:
    sampling = _WITHOUT_SAMPLING.match(model) is None
    config = {
        "temperature": request.temperature if sampling else None,
        "topP": request.top_p if sampling else None,
        "maxOutputTokens": request.max_tokens,
        "stopSequences": list(request.stop) or None,
    }
    body = {
        "contents": _contents(request),
        "systemInstruction": {"parts": [{"text": request.system}]} if request.system else None,
        "generationConfig": {k: v for k, v in config.items() if v is not None} or None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _contents(request: CompletionRequest) -> list[dict[str, Any]]:
    """Return the messages without blank ones, such as empty answers, which Gemini refuses."""
    contents: list[dict[str, Any]] = []
    for message in request.messages:
        if not message.text.strip():
            continue
        role = "user" if message.role == "user" else "model"
        part = {"text": message.text}
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"].append(part)
        else:
            contents.append({"role": role, "parts": [part]})
    return contents


def _text(candidate: Any) -> str:
    """Return the text of a candidate, without the model's thoughts."""
    parts = as_list(get_path(candidate, "content", "parts"))
    shown = [part for part in parts if not get_path(part, "thought")]
    return "".join(as_str(get_path(part, "text")) for part in shown)


def _usage(reported: Any) -> Usage:
    """Return the usage. Google counts thoughts and tool use apart from answer and prompt."""
    prompt = _sum(reported, "promptTokenCount", "toolUsePromptTokenCount")
    answer = _sum(reported, "candidatesTokenCount", "thoughtsTokenCount")
    total = token_count(get_path(reported, "totalTokenCount"))
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=answer,
        total_tokens=parsing.sum_tokens((prompt, answer)) if total is None else total,
        cached_tokens=token_count(get_path(reported, "cachedContentTokenCount")),
        reasoning_tokens=token_count(get_path(reported, "thoughtsTokenCount")),
    )


def _sum(reported: Any, *names: str) -> int | None:
    """Return the sum of the counts that are present (a zero is left out); None without any."""
    counts = [value for name in names if (value := get_path(reported, name)) is not None]
    return parsing.sum_tokens(map(token_count, counts)) if counts else None


def _rejected_field(details: list[Any]) -> str:
    """Return the request's field that an error names; empty if it names none."""
    fields = (identifier(get_path(detail, "fieldViolations", 0, "field")) for detail in details)
    return next(filter(None, fields), "")


def _exhausted_quotas(details: list[Any]) -> list[str]:
    """Return the ids of the exhausted quotas."""
    violations = [item for detail in details for item in as_list(get_path(detail, "violations"))]
    return [identifier(get_path(violation, "quotaId")) for violation in violations]


def _retry_delay(headers: Mapping[str, str], details: list[Any], message: str) -> float | None:
    """Return the delay in whole seconds: from RetryInfo, the message, or (rarely) the header."""
    delays = [as_str(get_path(detail, "retryDelay")) for detail in details]
    for match in (*map(_DURATION.fullmatch, delays), _RETRY_IN.search(message)):
        if match:
            seconds = float(match["number"]) / (1000 if match["unit"] == "ms" else 1)
            return parsing.wait_seconds(math.ceil(seconds))
    return parsing.retry_after(headers.get("retry-after"))
