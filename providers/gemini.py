"""Google's Gemini API.

https://ai.google.dev/api/generate-content describes the call, and
https://ai.google.dev/gemini-api/docs/troubleshooting the errors. Answers are proto3 JSON, which
leaves out zero, false and empty values: any key may be missing.
"""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import quote

import httpx

from providers import answer_errors, gemini_request, parsing, prices
from providers.base import CompletionRequest, Delta, FinishReason, Message, Usage
from providers.clean_values import clean_value
from providers.deadline import Deadline
from providers.errors import ContentFiltered, MalformedAnswer, ProviderError, RequestRejected
from providers.http_provider import HttpProvider
from providers.parsing import as_list, as_str, get_path, identifier, token_count
from providers.vendor_answer import VendorAnswer, finish_reason

# A model id becomes part of the URL. Names of other resources have a slash.
_MODEL_ID = re.compile(r"[A-Za-z0-9._-]+")

# Any other finish reason means `stop`, or `tool_calls` if there are any.
_FINISH_REASONS: dict[str, FinishReason] = {
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST"), "content_filter"),
    **dict.fromkeys(("PROHIBITED_CONTENT", "SPII", "ESCALATION"), "content_filter"),
    **dict.fromkeys(("MODEL_ARMOR", "IMAGE_SAFETY"), "content_filter"),
    **dict.fromkeys(("IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"), "content_filter"),
}

# A second answer is mostly well formed.
_MALFORMED_FINISH_REASONS = {"MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE"}
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


# Fields of a candidate that clients get unchanged: the sources of the text.
_EXTRAS = ("citationMetadata", "groundingMetadata")
# Fields of a delta that are joined from the texts of several parts.
_TEXTS = ("content", "reasoning_content")


class Answer(VendorAnswer):
    """An answer of Gemini, whole or from the events of a stream, each of which has its shape.

    Gemini cannot be told to call one tool at a time. Without `parallel_calls` the answer has only
    the first call; the model repeats the others when it gets the result.
    """

    def __init__(self, *, parallel_calls: bool = True) -> None:
        super().__init__()
        self.finish_reason = ""
        self._parallel_calls = parallel_calls
        self._prompt_feedback: Any = None
        self._has_candidate = False
        self._calls = 0
        self._images = 0

    @property
    def block_reason(self) -> Any:
        return get_path(self._prompt_feedback, "blockReason")

    @property
    def finished(self) -> bool:
        return bool(self.finish_reason or self.block_reason)

    @property
    def has_only_usage(self) -> bool:
        """Whether there is only the usage, and no candidate: an empty answer."""
        return bool(self.reported_usage) and not self._has_candidate

    def add(self, body: dict[str, Any]) -> Delta | None:
        """Add an event, or the whole answer. Return the part that clients may see, if any."""
        self.add_usage(body)
        candidate = get_path(body, "candidates", 0)
        self._has_candidate |= candidate is not None
        self.finish_reason = as_str(get_path(candidate, "finishReason")) or self.finish_reason
        extras = {name: clean_value(get_path(candidate, name)) for name in _EXTRAS}
        extras = {name: value for name, value in extras.items() if value}
        self.extras |= extras
        delta: dict[str, Any] = {}
        for part in as_list(get_path(candidate, "content", "parts")):
            self._add_part(delta, part)
        shown = self._accumulator.add(
            {name: "".join(each) if name in _TEXTS else each for name, each in delta.items()}
        )
        return Delta(shown, extras) if shown or extras else None

    def add_usage(self, body: dict[str, Any]) -> None:
        self.model = body.get("modelVersion") or self.model
        self.reported_usage = body.get("usageMetadata") or self.reported_usage
        self._prompt_feedback = body.get("promptFeedback") or self._prompt_feedback

    def add_whole(self, body: dict[str, Any]) -> None:
        self.add(body)
        self.finish()

    def finish(self) -> Delta | None:
        shown = self._accumulator.finish()
        return Delta(shown) if shown else None

    def _add_part(self, delta: dict[str, Any], part: Any) -> None:
        """Add a part to a delta: text, a thought, a whole tool call or an image.

        Texts are lists of their parts.

        A thought signature must be sent back with its call or image, else with the message.
        """
        signature = as_str(get_path(part, "thoughtSignature"))
        signed = (
            {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}
        )
        if call := get_path(part, "functionCall"):
            if self._calls and not self._parallel_calls:
                return
            delta.setdefault("tool_calls", []).append(_tool_call(call, self._calls) | signed)
            self._calls += 1
        elif image := _image(part):
            delta.setdefault("images", []).append(image | {"index": self._images} | signed)
            self._images += 1
        else:
            field = "reasoning_content" if get_path(part, "thought") else "content"
            delta.setdefault(field, []).append(as_str(get_path(part, "text")))
            delta |= signed


class Gemini(HttpProvider[Answer]):
    name: ClassVar[str] = "gemini"

    def unsupported(self, request: CompletionRequest) -> Sequence[str]:
        return gemini_request.unsupported(request)

    def check(self, deadline: Deadline) -> None:
        self._get(f"models/{_model_id(self.model)}", deadline)

    def list_models(self, deadline: Deadline) -> list[str]:
        """Return the models that chat, of all pages."""
        models: list[str] = []
        # The largest page that Google allows.
        query = "pageSize=1000"
        while query:
            page = self._get(f"models?{query}", deadline)
            models += filter(None, map(_chat_model, as_list(get_path(page, "models"))))
            token = as_str(get_path(page, "nextPageToken"))
            query = f"pageSize=1000&pageToken={quote(token, safe='')}" if token else ""
        return models

    def _credentials(self, api_key: str) -> dict[str, str]:
        # Not in the URL: logs and exceptions repeat URLs.
        return {"x-goog-api-key": api_key}

    def _ask(
        self, request: CompletionRequest, deadline: Deadline, *, stream: bool
    ) -> AbstractContextManager[httpx.Response]:
        # Before all else: the name becomes a part of the URL.
        model = _model_id(request.model)
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        body = gemini_request.body(request, model)
        prices.load_in_background()
        return self._open(f"models/{model}:{method}", deadline, body)

    def _new_answer(self, request: CompletionRequest) -> Answer:
        return Answer(parallel_calls=request.parameters.get("parallel_tool_calls", True))

    def _raise_if_unusable(self, answer: Answer) -> None:
        if answer.block_reason:
            reason = parsing.log_reason("blockReason", answer.block_reason)
            raise ContentFiltered(answer_errors.CONTENT_FILTERED, reason=reason)
        error = _finish_error(answer.finish_reason)
        if error and not answer.has_only_usage:
            raise error

    def _finish_reason(self, answer: Answer, message: Message) -> FinishReason:
        return finish_reason(_FINISH_REASONS, answer.finish_reason, message)

    def _empty_answer_error(self, answer: Answer) -> ProviderError:
        return answer_errors.empty_answer(answer.finish_reason)

    def _truncated_stream_error(self, answer: Answer) -> ProviderError:
        if answer.has_only_usage:
            return self._empty_answer_error(answer)
        return super()._truncated_stream_error(answer)

    def _model(self, answer: Answer, request: CompletionRequest) -> str:
        return parsing.model_name(answer.model, request.model.removeprefix("models/"))

    def _read_usage(self, answer: Answer, request: CompletionRequest) -> Usage:
        usage = _tokens(answer.reported_usage)
        tier = as_str(get_path(answer.reported_usage, "serviceTier")).lower()
        return replace(usage, cost_usd=self.list_price(self._model(answer, request), usage, tier))

    def list_price(self, model: str, usage: Usage, tier: str = "") -> Decimal | None:
        name = model.removeprefix("models/")
        return prices.cost(name, usage, provider_id="google", service_tier=tier)

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
            return answer_errors.rejection(message, _rejected_field(details), reason=reason)
        daily = any("PerDay" in quota for quota in quotas)
        if status == 429 and (daily or _CREDIT_DEPLETED.search(message)):
            # A daily quota also comes with a short delay, after which it is still exhausted.
            return answer_errors.error_for_status(429, reason=reason, retry=False)
        wait = _retry_delay(headers, details, message)
        if wait is None and any("PerMinute" in quota for quota in quotas):
            wait = PER_MINUTE_SECONDS
        return answer_errors.error_for_status(status, reason=reason, retry_after=wait)


def _model_id(name: str) -> str:
    """Return a model id that is safe in a URL. Raises RequestRejected."""
    model = name.removeprefix("models/")
    if not _MODEL_ID.fullmatch(model):
        raise RequestRejected(answer_errors.PARAMETER.format("model"), reason="model_id")
    return model


def _finish_error(finish: str) -> ProviderError | None:
    """Return the error for a finish reason that leaves no usable answer."""
    reason = parsing.log_reason("finishReason", finish)
    if finish in _MALFORMED_FINISH_REASONS:
        return MalformedAnswer("The provider returned a malformed answer.", reason=reason)
    if finish == "PUP_LIMITED_DISABLED":
        return answer_errors.error_for_status(403, reason=reason)
    if finish in _UNUSABLE_FINISH_REASONS:
        return answer_errors.unusable_answer("finishReason", finish)
    return None


def _chat_model(entry: Any) -> str:
    """Return the id of a listed model; empty for one that does not generate content."""
    methods = as_list(get_path(entry, "supportedGenerationMethods"))
    name = as_str(get_path(entry, "name")).removeprefix("models/")
    return name if "generateContent" in methods else ""


def _tool_call(call: Any, index: int) -> dict[str, Any]:
    function = {"name": get_path(call, "name"), "arguments": get_path(call, "args") or {}}
    return {"index": index, "id": get_path(call, "id"), "type": "function", "function": function}


def _image(part: Any) -> dict[str, Any] | None:
    """Return the image of a part; None for another part, and for the draft of an image."""
    mime_type = as_str(get_path(part, "inlineData", "mimeType"))
    data = as_str(get_path(part, "inlineData", "data"))
    if not mime_type.startswith("image/") or not data or get_path(part, "thought"):
        return None
    return {"type": "image_url", "image_url": {"url": f"data:{mime_type};base64,{data}"}}


def _tokens(reported: Any) -> Usage:
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
