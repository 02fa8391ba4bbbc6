"""Google's Gemini API.

https://ai.google.dev/api/generate-content describes the call, and
https://ai.google.dev/gemini-api/docs/troubleshooting the errors. Answers are proto3 JSON, which
leaves out whatever is zero, false or empty: any key may be missing.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from providers import parsing, prices, vendor_http
from providers.base import Completion, CompletionRequest, Deadline, FinishReason, Usage
from providers.errors import ContentFiltered, ProviderError, RequestRejected

# These models ignore temperature and topP, and a coming generation is announced to refuse them.
_WITHOUT_SAMPLING = re.compile(
    r"gemini-(3\.5-flash-lite|3\.([6-9]|[1-9][0-9])|[4-9]|[1-9][0-9]|flash(-lite)?-latest)"
)

# A model id becomes a part of the address. Names of other resources have a slash.
_MODEL_ID = re.compile(r"[A-Za-z0-9._-]+")

_FINISH: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(
        (
            "SAFETY",
            "RECITATION",
            "LANGUAGE",
            "BLOCKLIST",
            "PROHIBITED_CONTENT",
            "SPII",
            "ESCALATION",
            "MODEL_ARMOR",
            "IMAGE_SAFETY",
            "IMAGE_PROHIBITED_CONTENT",
            "IMAGE_RECITATION",
        ),
        "content_filter",
    ),
}

# Ends that are as good as this status: a malformed answer may come out well the next time.
_BROKEN = {"MALFORMED_FUNCTION_CALL": 502, "MALFORMED_RESPONSE": 502, "PUP_LIMITED_DISABLED": 403}
_NO_ANSWER = {
    "",  # cut off: the same as the next one, which JSON leaves out
    "FINISH_REASON_UNSPECIFIED",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "MISSING_THOUGHT_SIGNATURE",
    "NO_IMAGE",
}

# Google says 400 to a wrong key, and to a project without billing in a country that needs it.
_STATUS = {"API_KEY_INVALID": 401, "UNAUTHENTICATED": 401, "FAILED_PRECONDITION": 403}

_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,9})?)(?P<unit>ms|s)")
_RETRY_IN = re.compile(rf"retry in {_DURATION.pattern}")
_DEPLETED = re.compile(r"\b(prepaid|prepayment|credits?)\b.{0,80}\bdepleted", re.DOTALL)
PER_MINUTE_SECONDS = 60.0


class Gemini:
    name: ClassVar[str] = "gemini"
    is_remote: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *, api_key: str, base_url: str, model: str) -> None:
        self.model = model
        self._base_url = base_url
        # Not in the URL, which logs and exceptions repeat.
        self._headers = {"x-goog-api-key": api_key}

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        model = _model_id(request.model)
        answer = vendor_http.post(
            f"{self._base_url}/models/{model}:generateContent",
            headers=self._headers,
            body=_body(request, model),
            deadline=deadline,
        )
        if not 200 <= answer.status <= 299:
            raise _failure(answer.status, answer.headers, answer.json())
        return _completion(parsing.json_object(answer), answer.headers, model)

    def stream(self, request: CompletionRequest, deadline: Deadline) -> Iterator[str | Completion]:
        model = _model_id(request.model)
        with vendor_http.opened(
            f"{self._base_url}/models/{model}:streamGenerateContent?alt=sse",
            headers=self._headers,
            body=_body(request, model),
            deadline=deadline,
        ) as reply:
            if not reply.succeeded:
                raise _failure(reply.status, reply.headers, reply.read().json())
            if not reply.streamed:
                body = parsing.json_object(reply.read())
                yield from parsing.finish_stream(_completion(body, reply.headers, model), "")
                return
            yield from _read(reply, model)

    def check(self, deadline: Deadline) -> None:
        url = f"{self._base_url}/models/{_model_id(self.model)}"
        answer = vendor_http.get(url, headers=self._headers, deadline=deadline)
        if not 200 <= answer.status <= 299:
            raise _failure(answer.status, answer.headers, answer.json())


def _model_id(name: str) -> str:
    model = name.removeprefix("models/")
    if not _MODEL_ID.fullmatch(model):
        raise RequestRejected(parsing.PARAMETER.format("model"), reason="model_id")
    return model


def _read(reply: vendor_http.Reply, model: str) -> Iterator[str | Completion]:
    """The events of a stream, each of the shape of an answer, and then what they come to.

    Counts are those of all so far: what repeats replaces. The end is the end of the body, and the
    answer is whole if a reason to finish was among its events.
    """
    sent: list[str] = []
    whole: dict[str, Any] = {}
    finish = ""
    for data in reply.events():
        if data == vendor_http.DONE:  # not Google's, but of servers that stand in for it
            break
        chunk = parsing.event_object(data)
        if chunk.get("error"):
            raise _failure(200, reply.headers, chunk)
        whole |= {name: value for name, value in chunk.items() if value}
        candidate = parsing.get_path(chunk, "candidates", 0)
        finish = parsing.as_str(parsing.get_path(candidate, "finishReason")) or finish
        if text := parsing.clean_text(_text(candidate)):
            sent.append(text)
            yield text
    if not finish and not parsing.get_path(whole, "promptFeedback", "blockReason"):
        raise parsing.truncated_stream()
    text = "".join(sent)
    whole["candidates"] = [{"content": {"parts": [{"text": text}]}, "finishReason": finish}]
    yield from parsing.finish_stream(_completion(whole, reply.headers, model), text)


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
    """The turns, without the blank ones, which are refused: an answer may have been empty."""
    contents: list[dict[str, Any]] = []
    for message in request.messages:
        role = "user" if message.role == "user" else "model"
        part = {"text": message.text}
        if not message.text.strip():
            continue
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"].append(part)
        else:
            contents.append({"role": role, "parts": [part]})
    return contents


def _completion(body: dict[str, Any], headers: Mapping[str, str], model: str) -> Completion:
    """The answer in a body that came as a success, which does not make it one."""
    if body.get("error"):
        raise _failure(200, headers, body)
    model = parsing.model_name(body.get("modelVersion"), model)
    usage = _usage(body.get("usageMetadata"))
    usage = dataclasses.replace(usage, cost_usd=prices.cost(model, usage, provider_id="google"))
    if block := parsing.get_path(body, "promptFeedback", "blockReason"):
        reason = parsing.reason("blockReason", block)
        raise ContentFiltered(parsing.CONTENT_FILTERED, reason=reason, usage=usage)
    candidate = parsing.get_path(body, "candidates", 0)
    finish = parsing.as_str(parsing.get_path(candidate, "finishReason"))
    if finish in _BROKEN:
        raise parsing.error_for_status(
            _BROKEN[finish], reason=parsing.reason("finishReason", finish)
        )
    if finish in _NO_ANSWER:
        raise parsing.unusable_answer("finishReason", finish)
    return parsing.build_completion(
        _text(candidate),
        _FINISH.get(finish, "stop"),
        model=model,
        usage=usage,
        empty=parsing.unusable_answer("no_text", finish),
    )


def _text(candidate: Any) -> str:
    """What a candidate shows: its parts without the model's thoughts."""
    parts = parsing.as_list(parsing.get_path(candidate, "content", "parts"))
    return "".join(
        parsing.as_str(parsing.get_path(part, "text"))
        for part in parts
        if not parsing.get_path(part, "thought")
    )


def _usage(reported: Any) -> Usage:
    """Google counts the thoughts beside the answer, and what tools read beside the prompt."""
    prompt = _sum(reported, "promptTokenCount", "toolUsePromptTokenCount")
    answer = _sum(reported, "candidatesTokenCount", "thoughtsTokenCount")
    total = parsing.token_count(parsing.get_path(reported, "totalTokenCount"))
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=answer,
        total_tokens=parsing.total((prompt, answer)) if total is None else total,
        cached_tokens=parsing.token_count(parsing.get_path(reported, "cachedContentTokenCount")),
        reasoning_tokens=parsing.token_count(parsing.get_path(reported, "thoughtsTokenCount")),
    )


def _sum(reported: Any, *names: str) -> int | None:
    """The counts that are there, since a zero is left out; None when none is."""
    counts = [value for name in names if (value := parsing.get_path(reported, name)) is not None]
    return parsing.total(map(parsing.token_count, counts)) if counts else None


def _failure(status: int, headers: Mapping[str, str], body: Any) -> ProviderError:
    if isinstance(body, list):  # an error may come as a stream of one
        body = parsing.get_path(body, 0)
    error = parsing.get_path(body, "error")
    details = parsing.as_list(parsing.get_path(error, "details"))
    message = parsing.message(parsing.get_path(error, "message"))
    labels = [parsing.identifier(parsing.get_path(error, "status"))]
    labels += [parsing.identifier(parsing.get_path(detail, "reason")) for detail in details]
    quotas = _quotas(details)
    if status <= 299:
        status = parsing.error_status(parsing.get_path(error, "code")) or 502
    reason = parsing.reason("HTTP", status, *labels, *quotas)
    if status == 400:
        status = next((_STATUS[label] for label in labels if label in _STATUS), status)
    if status in (400, 422):
        fields = (
            parsing.identifier(parsing.get_path(d, "fieldViolations", 0, "field")) for d in details
        )
        return parsing.rejected(message, next(filter(None, fields), ""), reason=reason)
    if status == 429 and (_DEPLETED.search(message) or any("PerDay" in quota for quota in quotas)):
        # A daily quota names a delay too: some seconds, after which it is used up still.
        return parsing.error_for_status(429, reason=reason, retry=False)
    wait = _wait(headers, details, message)
    if wait is None and any("PerMinute" in quota for quota in quotas):
        wait = PER_MINUTE_SECONDS
    return parsing.error_for_status(status, reason=reason, retry_after=wait)


def _quotas(details: list[Any]) -> list[str]:
    """The ids of the quotas that are used up."""
    violations = [
        item for d in details for item in parsing.as_list(parsing.get_path(d, "violations"))
    ]
    return [parsing.identifier(parsing.get_path(violation, "quotaId")) for violation in violations]


def _wait(headers: Mapping[str, str], details: list[Any], message: str) -> float | None:
    """Whole seconds; Google says them in RetryInfo, or in words, and hardly ever in a header."""
    delays = [parsing.as_str(parsing.get_path(detail, "retryDelay")) for detail in details]
    for match in (*map(_DURATION.fullmatch, delays), _RETRY_IN.search(message)):
        if match:
            number = float(match["number"])
            return parsing.wait_seconds(
                math.ceil(number / 1000 if match["unit"] == "ms" else number)
            )
    return parsing.retry_after(headers.get("retry-after"))
