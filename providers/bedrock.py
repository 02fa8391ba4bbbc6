"""Amazon Bedrock's Converse API: models of many makers in the operator's own AWS account.

https://docs.aws.amazon.com/bedrock/latest/userguide/conversation-inference.html describes the
calls, and https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html
the errors. Requests are signed with the operator's credentials, or carry a Bedrock API key.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import quote, unquote

import httpx

from providers import answer_errors, bedrock_request, eventstream, parsing, prices, sigv4
from providers.base import CompletionRequest, FinishReason, Message, Usage
from providers.bedrock_answer import Answer
from providers.bedrock_request import (
    FORCED_TOOL,
    JSON_TOOL,
    STREAMED_TOOLS,
    STRICT_TOOLS,
    TEXT_FORMAT,
)
from providers.deadline import Deadline
from providers.errors import (
    AddressUnknown,
    MalformedAnswer,
    ModelUnavailable,
    ProviderError,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderOverloaded,
    RequestRejected,
)
from providers.eventstream import BrokenFrame, Frame
from providers.http_provider import HttpProvider
from providers.parsing import (
    as_items,
    as_list,
    as_str,
    first_known,
    get_path,
    identifier,
    token_count,
)
from providers.refusals import Refusals
from providers.sigv4 import Keys, Signer
from providers.vendor_answer import finish_reason
from providers.vendor_http import body_chunks, peek, read_error

SERVICE, SIGNING_NAME = "bedrock-runtime", "bedrock"
STREAMING = "converse-stream"
NO_KEYS = Keys("", "", None)
NO_CREDENTIALS = "The provider has no usable AWS credentials."
NO_REGION = "The provider has no AWS region."

# An id of a model or of an inference profile, or an ARN. It becomes part of the URL.
_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,2047}")
# The region of an inference profile: `us.anthropic.claude-…`.
_PROFILE_REGION = re.compile(r"[a-z-]{2,6}\.(?=[a-z0-9]+\.)")

# Any other stop reason means `stop`, or `tool_calls` if there are any.
_FINISH_REASONS: dict[str, FinishReason] = {
    **dict.fromkeys(("max_tokens", "model_context_window_exceeded"), "length"),
    **dict.fromkeys(("guardrail_intervened", "content_filtered"), "content_filter"),
}
_MALFORMED_STOP_REASONS = {"malformed_model_output", "malformed_tool_use"}

# The HTTP statuses of exceptions inside streams, which have none.
_STATUS_BY_CODE = {
    "ValidationException": 400,
    "AccessDeniedException": 403,
    "ResourceNotFoundException": 404,
    "ModelTimeoutException": 408,
    "ModelErrorException": 424,
    "ModelStreamErrorException": 424,
    **dict.fromkeys(("ThrottlingException", "ModelNotReadyException"), 429),
    "InternalServerException": 500,
    "ServiceUnavailableException": 503,
}
# AWS sends some of these with a 400.
_CREDENTIALS_CODES = {
    *("UnrecognizedClientException", "InvalidClientTokenId", "ExpiredTokenException"),
    *("InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature"),
    *("IncompleteSignatureException", "MissingAuthenticationToken", "RequestExpired"),
    *("MissingAuthenticationTokenException", "ExpiredToken", "NotAuthorized"),
}
_PERMISSION = re.compile(r"\b(?:bedrock|aws-marketplace):[A-Z][A-Za-z]{2,60}")
_UNKNOWN_MODEL = re.compile(
    r"model identifier is invalid|ARN is invalid|on-demand throughput isn.t supported"
    r"|end of its life",
    re.IGNORECASE,
)
_PER_DAY = re.compile(r"\bper day\b|\bdaily\b", re.IGNORECASE)
_EXTRANEOUS_KEY = re.compile(r"extraneous key \[([A-Za-z0-9_.-]{1,64})\]")

# Feature -> pattern of an error message that complains about it.
_COMPLAINTS = {
    TEXT_FORMAT: re.compile(r"output_?config|text_?format|response_?format", re.IGNORECASE),
    STRICT_TOOLS: re.compile(r"\bstrict\b"),
    FORCED_TOOL: re.compile(r"tool_?choice", re.IGNORECASE),
    STREAMED_TOOLS: re.compile(r"tool use in streaming mode", re.IGNORECASE),
}
# A complaint about a field itself, not about its value.
_UNKNOWN_FIELD = re.compile(
    r"extra inputs|not (?:supported|permitted|allowed)|(?:does not|doesn.t) support|unsupported"
    r"|un(?:known|recogni[sz]ed)",
    re.IGNORECASE,
)


class _Credentials:
    """The configured keys, or else those that botocore finds, looked for by the first call."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._found: Callable[[], Keys] | None = None
        self._lock = threading.Lock()

    def __call__(self) -> Keys:
        """Return the keys of the moment. Raises ProviderMisconfigured."""
        if self._keys.access_key and self._keys.secret_key:
            return self._keys
        from botocore.exceptions import BotoCoreError  # not where the environment has keys

        try:
            with self._lock:
                self._found = self._found or sigv4.credentials(self._keys)
            if self._found:
                return self._found()
        except BotoCoreError as exc:
            raise ProviderMisconfigured(NO_CREDENTIALS, reason=type(exc).__name__) from exc
        raise ProviderMisconfigured(NO_CREDENTIALS, reason="no_credentials")


class Bedrock(HttpProvider[Answer]):
    """`api_key` is a Bedrock API key, without which requests are signed.

    `region` may be that of AWS's configuration file, and an empty `base_url` is AWS's own for it.
    `guardrail` is `id:version`.
    """

    name: ClassVar[str] = "bedrock"

    def __init__(
        self,
        *,
        model: str,
        api_key: str = "",
        base_url: str = "",
        region: str = "",
        keys: Keys = NO_KEYS,
        guardrail: str = "",
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(api_key=api_key, base_url=base_url, model=model, transport=transport)
        self._region = region
        self._guardrail = guardrail
        self._signer: Signer | None = None
        self._find_keys = _Credentials(keys)
        self._refusals = Refusals()
        if not api_key:
            self._sign = self._signed

    def unsupported(self, request: CompletionRequest) -> Sequence[str]:
        return bedrock_request.unsupported(request)

    def check(self, deadline: Deadline) -> None:
        """Send a request without messages, which Bedrock refuses after the permission to call."""
        body = {"messages": [], "inferenceConfig": {"maxTokens": 1}}
        try:
            with self._open(_path(self.model, "converse"), deadline, body) as response:
                self._raise_for_status(response)
        except RequestRejected:
            pass

    def list_models(self, deadline: Deadline) -> list[str]:
        """Return the configured model: to list others takes another permission and service."""
        return [self.model]

    def list_price(self, model: str, usage: Usage) -> Decimal | None:
        return _list_price(model, usage)

    def _open(
        self, path: str, deadline: Deadline, body: Any = None, **headers: str
    ) -> AbstractContextManager[httpx.Response]:
        if not self._base_url:
            self._base_url = sigv4.endpoint(SERVICE, self._known_region()).rstrip("/")
        return super()._open(path, deadline, body, **headers)

    def _signed(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes
    ) -> Mapping[str, str]:
        """Return the headers with a signature. Raises ProviderMisconfigured."""
        self._signer = self._signer or Signer(
            SIGNING_NAME, region=self._known_region(), credentials=self._current_keys
        )
        return self._signer.sign(method, url, headers, content)

    def _current_keys(self) -> Keys:
        keys = self._find_keys()
        self._secrets = set(filter(None, keys))  # AWS's complaint about a signature repeats some
        return keys

    def _known_region(self) -> str:
        """Return the region. Raises ProviderMisconfigured without one."""
        if not self._region:
            from botocore.exceptions import BotoCoreError  # not where the environment has a region

            try:
                self._region = sigv4.region_of_profile()
            except BotoCoreError as exc:
                raise ProviderMisconfigured(NO_REGION, reason=type(exc).__name__) from exc
        if not self._region:
            raise ProviderMisconfigured(NO_REGION, reason="no_region")
        return self._region

    def _ask(
        self, request: CompletionRequest, deadline: Deadline, *, stream: bool
    ) -> AbstractContextManager[httpx.Response]:
        refused = self._refusals.of(request.model)
        body = bedrock_request.body(request, guardrail=self._guardrail, refused=refused)
        stream = stream and not (STREAMED_TOOLS in refused and "toolConfig" in body)
        path = _path(request.model, STREAMING if stream else "converse")
        accept = {"accept": eventstream.CONTENT_TYPE} if stream else {}
        prices.load_in_background()
        return self._open(path, deadline, body, **accept)

    def _new_answer(self, request: CompletionRequest) -> Answer:
        refused = self._refusals.of(request.model)
        return Answer(
            parallel_calls=request.parameters.get("parallel_tool_calls", True),
            json_wanted=bedrock_request.wants_json(request),
            json_tool=bedrock_request.has_json_tool(request, refused),
        )

    def _is_stream(self, response: httpx.Response) -> bool:
        """Return whether the body is frames, whose length begins with a zero."""
        kind = str(response.headers.get("content-type", "")).lower()
        if "html" in kind:
            return False
        start = peek(response)
        return start.startswith(b"\0") or ("eventstream" in kind and not start.startswith(b"{"))

    def _read_chunks(self, response: httpx.Response) -> Iterator[dict[str, Any] | None]:
        try:
            for frame in eventstream.read_frames(body_chunks(response)):
                yield self._event(frame, response.headers)
        except BrokenFrame as exc:
            message = "The provider broke off its answer."
            raise ProviderFailed(message, reason=f"frame_{exc}", retry=False) from exc

    def _event(self, frame: Frame, headers: Mapping[str, str]) -> dict[str, Any]:
        """Return an event under its type. Raises the error of an exception."""
        fields, body = frame.headers, parsing.load_json(frame.payload)
        kind = fields.get(":message-type")
        if kind == "exception":
            name = fields.get(":exception-type", "")
            body = {**dict(as_items(body)), "__type": name[:1].upper() + name[1:]}
            raise self._error_with_message(200, headers, body)
        if kind == "error":
            body = {
                "__type": fields.get(":error-code", ""),
                "message": fields.get(":error-message"),
            }
            raise self._error_with_message(200, headers, body)
        return {fields.get(":event-type", ""): answer_errors.as_object(body)}

    def _raise_if_unusable(self, answer: Answer) -> None:
        stop = answer.stop_reason
        if not stop:
            raise answer_errors.unusable_answer("stopReason")
        if stop in _MALFORMED_STOP_REASONS:
            reason = parsing.log_reason("stopReason", stop)
            raise MalformedAnswer("The provider returned a malformed answer.", reason=reason)
        if answer.has_broken_call:
            raise answer_errors.broken_call()

    def _finish_reason(self, answer: Answer, message: Message) -> FinishReason:
        return finish_reason(_FINISH_REASONS, answer.stop_reason, message)

    def _empty_answer_error(self, answer: Answer) -> ProviderError:
        return answer_errors.empty_answer(answer.stop_reason)

    def _read_usage(self, answer: Answer, request: CompletionRequest) -> Usage:
        usage = _tokens(answer.reported_usage)
        written = token_count(get_path(answer.reported_usage, "cacheWriteInputTokens"))
        hourly = [
            token_count(get_path(each, "inputTokens"))
            for each in as_list(get_path(answer.reported_usage, "cacheDetails"))
            if get_path(each, "ttl") == "1h"
        ]
        written_1h = parsing.sum_tokens(hourly) if hourly else None
        cost = _list_price(self._model(answer, request), usage, written, written_1h)
        return replace(usage, cost_usd=cost)

    def _raise_for_status(self, response: httpx.Response) -> None:
        """Raise the error of a response. It is retried without a feature that the model refuses."""
        if response.is_success:
            return
        body = read_error(response)
        error = self._error_with_message(response.status_code, response.headers, body)
        if type(error) is RequestRejected and self._remember_refused(response, _message(body)):
            error.retry, error.retry_after = True, 0.0
        raise error

    def _remember_refused(self, response: httpx.Response, message: str) -> bool:
        """Remember the features that a message refuses. Return whether to ask again without them.

        A schema may be refused by itself, and is remembered in place of the feature.
        """
        complaints = {name for name, words in _COMPLAINTS.items() if words.search(message)}
        sent = parsing.load_json(response.request.read()) if complaints else None
        name, operation = response.request.url.raw_path.decode("ascii").split("/")[-2:]
        refused = complaints & _features(sent, streamed=operation == STREAMING)
        if TEXT_FORMAT in refused and not _UNKNOWN_FIELD.search(message):
            refused = refused - {TEXT_FORMAT} | {_sent_schema(sent)}
        model = unquote(name)
        if refused <= self._refusals.of(model):
            return False
        self._refusals.add(model, refused)
        return True

    def _error(self, status: int, headers: Mapping[str, str], body: Any) -> ProviderError:
        """Return the error of a body: by its code, then its message, then the status."""
        code, message = _code(headers, body), parsing.error_message(_message(body))
        if status <= 299:
            nested = parsing.error_status(get_path(body, "error", "code"))
            status = _STATUS_BY_CODE.get(code) or nested or 502
        reason = parsing.log_reason("HTTP", status, code)
        if status == 424:  # the model's own error
            original = parsing.error_status(get_path(body, "originalStatusCode"))
            status = original or 502
            reason = parsing.log_reason("HTTP", 424, code, original)
        if code in _CREDENTIALS_CODES:
            return ProviderMisconfigured(answer_errors.CREDENTIALS, reason=reason)
        # The log then names the permission that is missing.
        if status == 403:
            reason = " ".join(dict.fromkeys([reason, *_PERMISSION.findall(message)]))
        if code == "ServiceQuotaExceededException":
            return answer_errors.error_for_status(429, reason=reason, retry=False)
        if code == "UnknownOperationException":  # not of Bedrock's runtime
            return AddressUnknown(answer_errors.NO_ADDRESS, reason=reason)
        if status in (400, 422):
            if _UNKNOWN_MODEL.search(message):
                return ModelUnavailable(answer_errors.NO_MODEL, reason=reason)
            found = _EXTRANEOUS_KEY.search(message)
            return answer_errors.rejection(message, found[1] if found else "", reason=reason)
        wait = parsing.retry_after(headers.get("retry-after"))
        if code == "ModelNotReadyException":
            text = "The provider's model is not ready."
            return ProviderOverloaded(text, reason=reason, retry_after=wait)
        retry = False if status == 429 and _PER_DAY.search(message) else None
        return answer_errors.error_for_status(status, reason=reason, retry=retry, retry_after=wait)


def _path(model: str, operation: str) -> str:
    """Return the path of an operation, encoded as AWS does. Raises RequestRejected."""
    if not _MODEL_ID.fullmatch(model):
        raise RequestRejected(answer_errors.PARAMETER.format("model"), reason="model_id")
    return f"model/{quote(model, safe='')}/{operation}"


def _code(headers: Mapping[str, str], body: Any) -> str:
    """Return the name of an exception, without the address and the namespace around it."""
    places = (headers.get("x-amzn-errortype"), get_path(body, "__type"), get_path(body, "code"))
    names = (as_str(each).partition(":")[0].rpartition("#")[2] for each in places)
    return next(filter(None, map(identifier, names)), "")


def _message(body: Any) -> str:
    texts = (get_path(body, "message"), get_path(body, "Message"))
    return next(filter(None, map(as_str, texts)), as_str(get_path(body, "error", "message")))


def _features(sent: Any, *, streamed: bool) -> set[str]:
    """Return the features that a request has, and can be sent without."""
    tools = [get_path(tool, "toolSpec") for tool in as_list(get_path(sent, "toolConfig", "tools"))]
    has_json_tool = any(get_path(tool, "name") == JSON_TOOL for tool in tools)
    features = {
        TEXT_FORMAT: _sent_schema(sent),
        STRICT_TOOLS: any(get_path(tool, "strict") for tool in tools),
        FORCED_TOOL: has_json_tool and get_path(sent, "toolConfig", "toolChoice"),
        STREAMED_TOOLS: streamed and tools,
    }
    return {name for name, present in features.items() if present}


def _sent_schema(sent: Any) -> str:
    path = ("outputConfig", "textFormat", "structure", "jsonSchema", "schema")
    return as_str(get_path(sent, *path))


def _tokens(reported: Any) -> Usage:
    """Return the usage. Bedrock counts tokens that the cache has or gets apart from the others."""
    names = ("inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens", "outputTokens")
    prompt, cached, written, answer = (token_count(get_path(reported, each)) for each in names)
    if prompt is not None:
        prompt = parsing.sum_tokens((prompt, cached or 0, written or 0))
    total = parsing.sum_tokens((prompt, answer))
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=answer,
        total_tokens=token_count(get_path(reported, "totalTokens")) if total is None else total,
        cached_tokens=cached,
    )


def _list_price(
    model: str, usage: Usage, written: int | None = None, written_1h: int | None = None
) -> Decimal | None:
    """Return the list price of a model, for an ARN by the id at its end, in its region if known.

    `written` tokens went into the cache, `written_1h` of them for an hour.
    """
    name = model.rpartition("/")[2]
    names = dict.fromkeys((name, _PROFILE_REGION.sub("", name, count=1)))
    costs = (
        prices.cost(
            each,
            usage,
            provider_id="aws",
            cache_write_tokens=written,
            cache_write_1h_tokens=written_1h,
        )
        for each in names
    )
    return first_known(costs)
