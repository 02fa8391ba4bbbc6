"""What OpenAPI says of each operation.

The views know nothing of it: it is laid over them when the first document is generated, because
drf-spectacular takes longer to import than all of the views.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any

from drf_spectacular import generators
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    extend_schema_field,
    extend_schema_view,
)
from rest_framework.serializers import CharField, ChoiceField, Serializer

from chat import errors
from chat.api import serializers, views
from chat.api.openai import errors as openai_errors
from chat.api.openai import views as openai
from chat.api.openai.serializers import ROLES, CompletionSerializer, MessagesField, ToolChoiceField
from chat.api.serializers import (
    AnswerSerializer,
    ChatSerializer,
    ConversationSerializer,
    DeletionSerializer,
    HealthSerializer,
    IndexSerializer,
    PageQuerySerializer,
    PageSerializer,
    ProblemSerializer,
    ReadySerializer,
    RecordSerializer,
    UsageReportSerializer,
    UserQuerySerializer,
)
from chat.errors import Problem
from chat.storage.base import Status
from chat.usage import DEFAULT_DAYS, MAX_DAYS, UsageGroup

QUESTION = {"userId": "user123", "prompt": "Olá!"}
ANSWER = {
    "interaction_id": "01998a6e-6f4c-7c3e-9d57-3f1a2b4c5d6e",
    "userId": "user123",
    "prompt": "Olá!",
    "response": "Olá! Como posso ajudar?",
    "model": "google/gemini-3.5-flash-lite",
    "timestamp": "2026-01-01T12:00:00.000000Z",
    "conversation_id": "01998a6e-6f4c-7c3e-9d57-3f1a2b4c5d6e",
    "previous_interaction_id": None,
    "provider": "openrouter",
    "finish_reason": "stop",
    "cached": False,
    "latency_ms": 812,
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 41,
        "total_tokens": 50,
        "cached_tokens": None,
        "reasoning_tokens": None,
        "cost_usd": "0.000104",
    },
    "metadata": {},
}
RECORD = {
    **ANSWER,
    "status": "ok",
    "error": None,
    "attempts": [
        {
            "provider": "openrouter",
            "model": "google/gemini-3.5-flash-lite",
            "outcome": "ok",
            "latency_ms": 805,
        }
    ],
}

EVENTS = 'event: delta\ndata: {"text":"Olá!"}\n\nevent: done\ndata: {"interaction_id": …}\n\n'
COMPLETION_REQUEST = {"model": "default", "messages": [{"role": "user", "content": "Olá!"}]}
COMPLETION = {
    "id": "chatcmpl-01998a6e-6f4c-7c3e-9d57-3f1a2b4c5d6e",
    "object": "chat.completion",
    "created": 1767268800,
    "system_fingerprint": None,
    "model": "google/gemini-3.5-flash-lite",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Olá!", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 41,
        "total_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    },
    "interaction_id": "01998a6e-6f4c-7c3e-9d57-3f1a2b4c5d6e",
}
MODEL = {
    "id": "google/gemini-3.5-flash-lite",
    "object": "model",
    "created": 0,
    "owned_by": "openrouter",
}
COUNTS = {
    "requests": 12,
    "errors": 1,
    "prompt_tokens": 108,
    "completion_tokens": 492,
    "total_tokens": 600,
    "cost_usd": "0.001248",
}
USAGE = {"items": [{"date": "2026-01-01", **COUNTS}], "total": COUNTS, "next_cursor": None}

# What DRF answers of itself, with the codes that it gives.
FRAMEWORK_ERRORS = {
    405: ("method_not_allowed", "This address does not take that method."),
    406: ("not_acceptable", "Only application/json is answered."),
    415: ("unsupported_media_type", "Only application/json is read."),
}
KEY_ERRORS = (errors.MissingApiKey, errors.InvalidApiKey)


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # untyped hook
    """Either header carries the key."""

    target_class = "chat.api.authentication.ApiKeyAuthentication"
    name = ["apiKey", "bearer"]

    def get_security_requirement(self, auto_schema: AutoSchema) -> list[dict[str, list[Any]]]:
        return [{name: []} for name in self.name]

    def get_security_definition(self, auto_schema: AutoSchema) -> list[dict[str, Any]]:
        return [
            {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            {"type": "http", "scheme": "bearer"},
        ]


def _problems(problems: Sequence[type[Problem]], *framework: int) -> dict[Any, OpenApiResponse]:
    """A response for each status, with an example for each code."""
    examples: dict[int, list[OpenApiExample]] = {}
    for problem in problems:
        examples.setdefault(problem.status, []).append(
            _example(problem.status, problem.code, problem.title, problem.default_detail)
        )
    for status in framework:
        code, detail = FRAMEWORK_ERRORS[status]
        examples[status] = [_example(status, code, code.replace("_", " ").capitalize(), detail)]
    return {
        (status, "application/problem+json"): OpenApiResponse(
            ProblemSerializer,
            description=", ".join(f"`{example.name}`" for example in of_status),
            examples=of_status,
        )
        for status, of_status in examples.items()
    }


def _example(status: int, code: str, title: str, detail: str) -> OpenApiExample:
    value = {
        "type": f"urn:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": "01998a6e-6f4c-7c3e-9d57-3f1a2b4c5d6e",
        "errors": [],
    }
    return OpenApiExample(code, value, status_codes=[status])


def _answer(name: str, value: Any) -> OpenApiExample:
    """An example of a success."""
    return OpenApiExample(name, value, response_only=True, status_codes=[200])


def _header_out(name: str, kind: type, description: str, *statuses: int) -> OpenApiParameter:
    return OpenApiParameter(
        name,
        kind,
        OpenApiParameter.HEADER,
        response=list(statuses) or True,
        description=description,
    )


LIST_ERRORS = _problems(
    (errors.ValidationFailed, *KEY_ERRORS, errors.InternalError, errors.StorageUnavailable),
    405,
    406,
)
REQUEST_ID = [
    OpenApiParameter(
        "X-Request-ID",
        str,
        OpenApiParameter.HEADER,
        description="Your own id for the request: up to 128 of `A-Z a-z 0-9 . _ -`.",
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
    ),
    _header_out("X-Request-ID", str, "The id of the request, in our log too."),
    _header_out("Server-Timing", str, "Milliseconds spent: total, provider, storage."),
]
IDEMPOTENCY = [
    OpenApiParameter(
        "Idempotency-Key",
        str,
        OpenApiParameter.HEADER,
        description=(
            "Your own key for this request, 1 to 255 printable ASCII characters. However often it "
            "is sent, a model is asked once, and every answer is the first one. A request that "
            "failed may be tried again with the same key."
        ),
        pattern=r"^[ -~]{1,255}$",
    ),
    _header_out("Idempotency-Replayed", str, "`true` when this answer was given before.", 200),
]
CACHE_CONTROL = OpenApiParameter(
    "Cache-Control",
    str,
    OpenApiParameter.HEADER,
    description="`no-cache` asks a model even if the server keeps answers.",
)
COUNTED = (200, 400, 402, 409, 422, 429, 500, 502, 503, 504)
ALLOWANCE = [
    _header_out("X-RateLimit-Limit", int, "Requests a minute.", *COUNTED),
    _header_out("X-RateLimit-Remaining", int, "What is left of them.", *COUNTED),
    _header_out("X-RateLimit-Reset", int, "Seconds until all are back.", *COUNTED),
]
RETRY_AFTER = _header_out("Retry-After", int, "Seconds to wait.", 409, 429, 503)

chat = extend_schema(
    operation_id="chat",
    tags=["chat"],
    summary="One prompt, one answer",
    description=(
        "Asks a model and records the interaction, whatever comes of it. With `stream`, the answer "
        "is `text/event-stream`: `delta` events with a piece of the text each, then `done` with "
        "the whole answer, or `error` with problem details."
    ),
    request=ChatSerializer,
    parameters=[*REQUEST_ID, *IDEMPOTENCY, CACHE_CONTROL, *ALLOWANCE, RETRY_AFTER],
    responses={
        200: OpenApiResponse(
            AnswerSerializer,
            description="The answer.",
            examples=[_answer("answer", ANSWER)],
        ),
        (200, "text/event-stream"): OpenApiResponse(
            str,
            description="The answer.",
            examples=[_answer("events", EVENTS)],
        ),
        **_problems(
            (
                errors.MalformedJson,
                errors.ValidationFailed,
                errors.ProviderRejected,
                *KEY_ERRORS,
                errors.BudgetExceeded,
                errors.NotFound,
                errors.ConversationConflict,
                errors.IdempotencyInFlight,
                errors.AnswerNotStored,
                errors.PayloadTooLarge,
                errors.ContentFiltered,
                errors.IdempotencyMismatch,
                errors.RateLimited,
                errors.InternalError,
                errors.ProviderFailed,
                errors.ProviderUnavailable,
                errors.StorageUnavailable,
                errors.ProviderTimeout,
            ),
            405,
            406,
            415,
        ),
    },
    examples=[OpenApiExample("question", QUESTION, request_only=True)],
)
interaction = extend_schema(
    operation_id="getInteraction",
    tags=["history"],
    summary="One record",
    description="What was asked, what came back, or why nothing did.",
    parameters=[
        *REQUEST_ID,
        OpenApiParameter("interaction_id", str, OpenApiParameter.PATH, description="Its UUID."),
        _header_out("Retry-After", int, "Seconds to wait.", 503),
    ],
    responses={
        200: OpenApiResponse(
            RecordSerializer,
            description="The record.",
            examples=[_answer("record", RECORD)],
        ),
        **_problems(
            (
                *KEY_ERRORS,
                errors.NotFound,
                errors.InternalError,
                errors.StorageUnavailable,
            ),
            405,
            406,
        ),
    },
)
listed = extend_schema(
    operation_id="listUserInteractions",
    tags=["history"],
    summary="A user's records",
    description="The newest first, in pages.",
    parameters=[
        *REQUEST_ID,
        OpenApiParameter("user_id", str, OpenApiParameter.PATH, description="The user's id."),
        UserQuerySerializer,
        _header_out("Retry-After", int, "Seconds to wait.", 503),
    ],
    responses={
        200: OpenApiResponse(
            PageSerializer,
            description="The page.",
            examples=[_answer("page", {"items": [RECORD], "next_cursor": None})],
        ),
        **LIST_ERRORS,
    },
)
erased = extend_schema(
    operation_id="eraseUserInteractions",
    tags=["history"],
    summary="Erase a user's records",
    description=(
        "All of them, for good. Where there are more than can be erased in the time of a request, "
        "the answer is a 503, and the same request goes on: ask again until it is a 200."
    ),
    parameters=[
        *REQUEST_ID,
        OpenApiParameter("user_id", str, OpenApiParameter.PATH, description="The user's id."),
        _header_out("Retry-After", int, "Seconds to wait.", 503),
    ],
    request=None,
    responses={
        200: OpenApiResponse(
            DeletionSerializer,
            description="How many were erased.",
            examples=[_answer("deleted", {"deleted": 3})],
        ),
        **LIST_ERRORS,
    },
)
conversation = extend_schema(
    operation_id="getConversation",
    tags=["history"],
    summary="The turns of a conversation",
    description="The oldest first, in pages.",
    parameters=[
        *REQUEST_ID,
        OpenApiParameter("conversation_id", str, OpenApiParameter.PATH, description="Its UUID."),
        PageQuerySerializer,
        _header_out("Retry-After", int, "Seconds to wait.", 503),
    ],
    responses={
        200: OpenApiResponse(
            ConversationSerializer,
            description="The turns.",
            examples=[
                _answer(
                    "conversation",
                    {
                        "conversation_id": RECORD["conversation_id"],
                        "items": [RECORD],
                        "next_cursor": None,
                    },
                )
            ],
        ),
        **_problems(
            (
                errors.ValidationFailed,
                *KEY_ERRORS,
                errors.NotFound,
                errors.InternalError,
                errors.StorageUnavailable,
            ),
            405,
            406,
        ),
    },
)


class ErrorSerializer(Serializer[Any]):
    """What went wrong, in OpenAI's words."""

    message = CharField()
    type = CharField()
    param = CharField(allow_null=True)
    code = CharField(allow_null=True)


class OpenAIErrorSerializer(Serializer[Any]):
    """An error in OpenAI's shape."""

    error = ErrorSerializer()


def _openai_errors(problems: Sequence[type[Problem]]) -> dict[Any, OpenApiResponse]:
    """A response for each status, with an example for each problem."""
    examples: dict[int, list[OpenApiExample]] = {}
    for problem in problems:
        status, body = openai_errors.rendered(problem())
        examples.setdefault(status, []).append(
            OpenApiExample(problem.code, body, response_only=True, status_codes=[status])
        )
    return {
        status: OpenApiResponse(
            OpenAIErrorSerializer,
            description=", ".join(f"`{example.name}`" for example in of_status),
            examples=of_status,
        )
        for status, of_status in examples.items()
    }


completions = extend_schema(
    operation_id="createChatCompletion",
    tags=["openai"],
    summary="OpenAI's chat completions",
    description=(
        "The same service, ledger, keys and limits behind the interface that OpenAI's clients "
        "speak. With `stream`, the answer is `text/event-stream` of its chunks."
    ),
    request=CompletionSerializer,
    parameters=[*REQUEST_ID, *IDEMPOTENCY, CACHE_CONTROL, *ALLOWANCE, RETRY_AFTER],
    responses={
        200: OpenApiResponse(
            OpenApiTypes.OBJECT,
            description="The completion.",
            examples=[_answer("completion", COMPLETION)],
        ),
        **_openai_errors(
            (
                errors.MalformedJson,
                errors.ValidationFailed,
                errors.ProviderRejected,
                errors.ContentFiltered,
                *KEY_ERRORS,
                errors.BudgetExceeded,
                errors.IdempotencyInFlight,
                errors.AnswerNotStored,
                errors.PayloadTooLarge,
                errors.IdempotencyMismatch,
                errors.RateLimited,
                errors.InternalError,
                errors.ProviderFailed,
                errors.ProviderUnavailable,
                errors.StorageUnavailable,
                errors.ProviderTimeout,
            )
        ),
    },
    examples=[OpenApiExample("request", COMPLETION_REQUEST, request_only=True)],
)
models = extend_schema(
    operation_id="listModels",
    tags=["openai"],
    summary="The models that may be named",
    parameters=REQUEST_ID,
    responses={
        200: OpenApiResponse(
            OpenApiTypes.OBJECT,
            description="The list.",
            examples=[_answer("models", {"object": "list", "data": [MODEL]})],
        ),
        **_openai_errors((*KEY_ERRORS, errors.InternalError)),
    },
)
model = extend_schema(
    operation_id="getModel",
    tags=["openai"],
    summary="One model",
    parameters=[
        *REQUEST_ID,
        OpenApiParameter(
            "model_id", str, OpenApiParameter.PATH, description="Its id, slashes and all."
        ),
    ],
    responses={
        200: OpenApiResponse(
            OpenApiTypes.OBJECT,
            description="The model.",
            examples=[_answer("model", MODEL)],
        ),
        **_openai_errors((*KEY_ERRORS, errors.NotFound, errors.InternalError)),
    },
)
usage = extend_schema(
    operation_id="getUsage",
    tags=["usage"],
    summary="What was used",
    description=(
        "Requests, tokens and cost of the caller's owner, by date, model or user: sums over "
        "settled records, counted as they are settled. Users come in pages; `total` is always of "
        "the whole period. What was erased since is not among the users, but in all else."
    ),
    parameters=[
        *REQUEST_ID,
        OpenApiParameter(
            "from", date, description=f"The first day, in UTC; default: {DEFAULT_DAYS} days in all."
        ),
        OpenApiParameter(
            "to", date, description=f"The last day; default: today. No more than {MAX_DAYS} in all."
        ),
        OpenApiParameter(
            "group_by", str, enum=[each.value for each in UsageGroup], default=UsageGroup.DATE.value
        ),
        OpenApiParameter(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
            description="Users on a page.",
        ),
        OpenApiParameter("cursor", str, description="The `next_cursor` of the page before."),
        _header_out("Retry-After", int, "Seconds to wait.", 503),
    ],
    responses={
        200: OpenApiResponse(
            UsageReportSerializer,
            description="The usage.",
            examples=[_answer("usage", USAGE)],
        ),
        **LIST_ERRORS,
    },
)
health = extend_schema(
    operation_id="health",
    tags=["service"],
    summary="Is the process up?",
    description="Touches nothing else: neither the storage nor a provider.",
    auth=[],
    parameters=REQUEST_ID,
    responses={
        200: OpenApiResponse(HealthSerializer, description="It is."),
        **_problems((), 405, 406),
    },
)
ready = extend_schema(
    operation_id="ready",
    tags=["service"],
    summary="Can requests be served?",
    description="Is the storage reachable, and a provider configured? Never calls a model.",
    auth=[],
    parameters=REQUEST_ID,
    responses={
        200: OpenApiResponse(ReadySerializer, description="Yes."),
        503: OpenApiResponse(ReadySerializer, description="No; `checks` say why."),
        **_problems((), 405, 406),
    },
)
index = extend_schema(
    operation_id="index",
    tags=["service"],
    summary="What this server is",
    auth=[],
    parameters=REQUEST_ID,
    responses={
        (200, "application/json"): OpenApiResponse(
            IndexSerializer,
            description="Name, version, links. Who asks for text/html gets the playground instead.",
        ),
        **_problems((), 405, 406),
    },
)

extend_schema_view(post=chat)(views.ChatView)
extend_schema_view(get=interaction)(views.InteractionView)
extend_schema_view(get=listed, delete=erased)(views.UserInteractionsView)
extend_schema_view(get=conversation)(views.ConversationView)
extend_schema_view(post=completions)(openai.CompletionsView)
extend_schema_view(get=models)(openai.ModelsView)
extend_schema_view(get=model)(openai.ModelView)
extend_schema_view(get=usage)(views.UsageView)
extend_schema_view(get=health)(views.HealthView)
extend_schema_view(get=ready)(views.ReadyView)
extend_schema_view(get=index)(views.IndexView)

STOP = {"type": "string", "maxLength": serializers.MAX_STOP_LENGTH}
extend_schema_field(
    {"oneOf": [STOP, {"type": "array", "items": STOP, "maxItems": serializers.MAX_STOPS}]}
)(serializers.StopField)
extend_schema_field(
    {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {
                "role": {"type": "string", "enum": list(ROLES)},
                "content": {
                    "oneOf": [
                        {"type": "string"},
                        {"type": "array", "items": {"type": "object"}},
                        {"type": "null"},
                    ]
                },
            },
            "required": ["role"],
        },
    }
)(MessagesField)
extend_schema_field({"oneOf": [{"type": "string"}, {"type": "object"}]})(ToolChoiceField)
extend_schema_field(ChoiceField(choices=[status.value for status in Status]))(
    RecordSerializer.get_status
)


class SchemaGenerator(generators.SchemaGenerator):
    """drf-spectacular's, which settings name, so that this module comes with it."""
