"""The parts of the OpenAPI document that drf-spectacular cannot derive from the views.

The first request for the document imports this module, through the setting
DEFAULT_GENERATOR_CLASS. drf-spectacular takes longer to import than all views.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy
from datetime import date
from functools import partial
from typing import Any, ClassVar

from django.urls import get_script_prefix
from drf_spectacular import generators
from drf_spectacular.extensions import (
    OpenApiAuthenticationExtension,
    OpenApiSerializerFieldExtension,
    OpenApiViewExtension,
)
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    Direction,
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    extend_schema_view,
)
from rest_framework.serializers import CharField, Serializer
from rest_framework.views import APIView

from chat import errors
from chat.api import openapi_examples as examples
from chat.api import serializers
from chat.api.fields import MAX_STOP_LENGTH, MAX_STOPS, RESPONSE_FORMATS
from chat.api.openai.errors import render_problem
from chat.api.openai.fields import OBJECT_PARTS, ROLES
from chat.api.openai.responses.serializers import ResponseSerializer
from chat.api.openai.serializers import CompletionSerializer
from chat.errors import Problem
from chat.storage.base import MAX_ID_LENGTH, USER_ID_PATTERN
from chat.usage import DEFAULT_DAYS, MAX_DAYS, UsageGroup
from providers.base import TEXT_PARTS

Responses = dict[Any, OpenApiResponse]


class SchemaGenerator(generators.SchemaGenerator):
    """drf-spectacular's generator, with links and the prefix of a REST API's stage.

    Its name in the settings imports this module.
    """

    def get_schema(self, request: Any = None, public: bool = False) -> Any:
        # drf-spectacular's method has no types.
        schema = super().get_schema(request=request, public=public)  # type: ignore[no-untyped-call]
        if prefix := get_script_prefix().rstrip("/"):
            # Behind a REST API the stage is a part of each address that "Try it out" calls.
            schema["servers"] = [{"url": prefix}]
        for path in schema["paths"].values():
            for operation in path.values():
                if links := LINKS.get(operation["operationId"]):
                    operation["responses"]["200"]["links"] = links
        return schema


class ApiKeyScheme(OpenApiAuthenticationExtension):
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


# --- Fields whose JSON is of several types ---------------------------------------------------


class FieldSchema(OpenApiSerializerFieldExtension):
    """Gives `schema` for the field `target_class`."""

    schema: ClassVar[dict[str, Any]]

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        return deepcopy(self.schema)  # drf-spectacular adds to it


STOP = {"type": "string", "maxLength": MAX_STOP_LENGTH}


class StopFieldSchema(FieldSchema):
    target_class = "chat.api.fields.StopField"
    schema = {"oneOf": [STOP, {"type": "array", "items": STOP, "maxItems": MAX_STOPS}]}


def _object(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


TEXT, OBJECT = {"type": "string"}, {"type": "object"}
NAME = {"type": "string", "minLength": 1}
INPUT_TEXT = _object("type", "text", type={"const": "input_text"}, text=TEXT)
# The values of content parts under the key named by their type.
PART_VALUES = dict.fromkeys(TEXT_PARTS, TEXT) | dict.fromkeys(OBJECT_PARTS, OBJECT)
CONTENT_PARTS = [
    *(
        _object("type", kind, type={"const": kind}, **{kind: value})
        for kind, value in PART_VALUES.items()
    ),
    _object("type", type={"type": "string", "not": {"enum": list(PART_VALUES)}}),
]
CONTENT = [TEXT, {"type": "array", "items": {"oneOf": CONTENT_PARTS}}]
ASKING_ROLES = [role for role in ROLES if role not in ("assistant", "tool")]


class MessagesFieldSchema(FieldSchema):
    target_class = "chat.api.openai.fields.MessagesField"
    schema = {
        "type": "array",
        "minItems": 1,
        "items": {
            "oneOf": [
                _object("role", "content", role={"enum": ASKING_ROLES}, content={"oneOf": CONTENT}),
                _object(
                    *("role", "content", "tool_call_id"),
                    role={"const": "tool"},
                    content={"oneOf": CONTENT},
                    tool_call_id=TEXT,
                ),
                _object(
                    "role",
                    role={"const": "assistant"},
                    content={"oneOf": [*CONTENT, {"type": "null"}]},
                    tool_calls={"type": ["array", "null"], "items": {"type": "object"}},
                )
                | {"minProperties": 2},
            ]
        },
    }


class InputFieldSchema(FieldSchema):
    target_class = "chat.api.openai.responses.serializers.InputField"
    schema = {
        "oneOf": [
            TEXT,
            {
                "type": "array",
                "minItems": 1,
                "items": {
                    "oneOf": [
                        _object(
                            *("role", "content"),
                            type={"const": "message"},
                            role={"enum": ["user", "system", "developer", "assistant"]},
                            content={"oneOf": [TEXT, {"type": "array", "items": INPUT_TEXT}]},
                        ),
                        _object(
                            *("type", "call_id", "name", "arguments"),
                            type={"const": "function_call"},
                            call_id=NAME,
                            name=NAME,
                            arguments=TEXT,
                        ),
                        _object(
                            *("type", "call_id", "output"),
                            type={"const": "function_call_output"},
                            call_id=NAME,
                            output=TEXT,
                        ),
                    ]
                },
            },
        ]
    }


class ResponseFormatFieldSchema(FieldSchema):
    target_class = "chat.api.fields.ResponseFormatField"
    schema = {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": list(RESPONSE_FORMATS)},
            "json_schema": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "schema": {"type": "object"}},
                "required": ["name"],
            },
        },
        "required": ["type"],
    }


class ToolChoiceFieldSchema(FieldSchema):
    target_class = "chat.api.openai.fields.ToolChoiceField"
    schema = {"oneOf": [{"type": "string"}, {"type": "object"}]}


# --- Errors ----------------------------------------------------------------------------------


class MethodNotAllowed(Problem, status=405, code="method_not_allowed", title="Method not allowed"):
    """DRF's 405, which has no class in `chat.errors`; likewise the next two."""

    default_detail = "This path does not support the method."


class NotAcceptable(Problem, status=406, code="not_acceptable", title="Not acceptable"):
    default_detail = "Answers are application/json only."


class UnsupportedMediaType(
    Problem, status=415, code="unsupported_media_type", title="Unsupported media type"
):
    default_detail = "The body must be application/json."


class ErrorSerializer(Serializer[Any]):
    """The fields of an error in OpenAI's format."""

    message = CharField()
    type = CharField()
    param = CharField(allow_null=True)
    code = CharField(allow_null=True)


class OpenAIErrorSerializer(Serializer[Any]):
    """An error in OpenAI's shape."""

    error = ErrorSerializer()


KEY_ERRORS = (errors.MissingApiKey, errors.InvalidApiKey)
DRF_ERRORS = (MethodNotAllowed, NotAcceptable)
BUSY_ERRORS = (errors.StorageFailed, errors.ServerBusy)
READ_ERRORS = (*KEY_ERRORS, errors.InternalError, *BUSY_ERRORS, *DRF_ERRORS)
MODEL_ERRORS = (
    errors.MalformedJson,
    errors.ValidationFailed,
    errors.ProviderRejected,
    errors.ContentFiltered,
    *KEY_ERRORS,
    errors.BudgetExceeded,
    errors.NotFound,
    errors.ModelNotFound,
    errors.IdempotencyInFlight,
    errors.ConversationConflict,
    errors.AnswerNotStored,
    errors.PayloadTooLarge,
    errors.IdempotencyMismatch,
    errors.RateLimited,
    errors.InternalError,
    errors.ProviderFailed,
    errors.ProviderUnavailable,
    *BUSY_ERRORS,
    errors.ProviderTimeout,
)


def _problems(*problems: type[Problem]) -> Responses:
    """Document problem details: one response a status, one example a problem."""
    rendered = [(problem.code, problem.status, problem().body(examples.ID)) for problem in problems]
    return _error_responses(serializers.ProblemSerializer, "application/problem+json", rendered)


def _openai_errors(*problems: type[Problem]) -> Responses:
    """Document the same in OpenAI's shape."""
    rendered = [(problem.code, *render_problem(problem())) for problem in problems]
    return _error_responses(OpenAIErrorSerializer, "application/json", rendered)


def _error_responses(
    serializer: type[Serializer[Any]],
    content_type: str,
    rendered: Iterable[tuple[str, int, dict[str, Any]]],
) -> Responses:
    by_status: dict[int, list[OpenApiExample]] = {}
    for code, status, body in rendered:
        example = OpenApiExample(code, body, response_only=True, status_codes=[status])
        by_status.setdefault(status, []).append(example)
    return {
        (status, content_type): OpenApiResponse(
            serializer,
            description=", ".join(f"`{example.name}`" for example in of_status),
            examples=of_status,
        )
        for status, of_status in sorted(by_status.items())
    }


# --- Parameters and headers ------------------------------------------------------------------


def _path(name: str, description: str, example: str, kind: Any = str) -> OpenApiParameter:
    return OpenApiParameter(
        name,
        kind,
        OpenApiParameter.PATH,
        description=description,
        examples=[OpenApiExample(name, example)],
    )


def _query(name: str, kind: Any, description: str) -> OpenApiParameter:
    return OpenApiParameter(name, kind, description=description)


def _request_header(name: str, description: str, pattern: str | None = None) -> OpenApiParameter:
    return OpenApiParameter(
        name, str, OpenApiParameter.HEADER, description=description, pattern=pattern
    )


def _response_header(name: str, kind: type, description: str, *statuses: int) -> OpenApiParameter:
    """Document a header of the responses with these statuses; without any, of all responses."""
    return OpenApiParameter(
        name,
        kind,
        OpenApiParameter.HEADER,
        response=list(statuses) or True,
        description=description,
    )


REQUEST_ID = [
    _request_header(
        "X-Request-ID",
        "Your id for the request: up to 128 of `A-Z a-z 0-9 . _ -`. Any other is replaced.",
    ),
    _response_header("X-Request-ID", str, "The id of the request, also in the log."),
    _response_header("Server-Timing", str, "Milliseconds spent: total, provider, storage."),
]
READ_HEADERS = [*REQUEST_ID, _response_header("Retry-After", int, "Seconds to wait.", 503)]
# Statuses that may follow after a request was counted.
COUNTED = (200, 400, 402, 409, 422, 429, 500, 502, 503, 504)
MODEL_HEADERS = [
    *REQUEST_ID,
    _request_header(
        "Idempotency-Key",
        "Your own key for this request, 1 to 255 printable ASCII characters. Requests repeated "
        "with the same key return the first answer; the model is called once. A request that "
        "failed may be tried again with the same key.",
        r"^[ -~]{1,255}$",
    ),
    _response_header("Idempotency-Replayed", str, "`true` if this answer was given before.", 200),
    _request_header("Cache-Control", "`no-cache` skips the answer cache."),
    _response_header("X-RateLimit-Limit", int, "Requests per minute.", *COUNTED),
    _response_header("X-RateLimit-Remaining", int, "Requests left in this minute.", *COUNTED),
    _response_header("X-RateLimit-Reset", int, "Seconds until the limit resets.", *COUNTED),
    _response_header("Retry-After", int, "Seconds to wait.", 409, 429, 503),
]


USER_ID = {
    "type": "string",
    "maxLength": MAX_ID_LENGTH,
    "pattern": "^" + USER_ID_PATTERN.replace(r"\Z", "$") + "$",
}
NOT_EMPTY = {"type": "string", "minLength": 1}
ITEMS_ON_A_PAGE = {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}
USERS_ON_A_PAGE = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}


# --- Links -----------------------------------------------------------------------------------


def _link(operation_id: str, **parameters: str) -> dict[str, Any]:
    """Return a link to the operation that takes values of the answer, named by JSON pointers."""
    taken = {name: f"$response.body#{pointer}" for name, pointer in parameters.items()}
    return {"operationId": operation_id, "parameters": taken}


RECORD_LINKS = {
    "record": _link("getInteraction", interaction_id="/interaction_id"),
    "conversation": _link("getConversation", conversation_id="/conversation_id"),
    "records of the user": _link("listUserInteractions", user_id="/userId"),
    "erasure of the user": _link("eraseUserInteractions", user_id="/userId"),
}
ITEM_LINKS = {
    "record": _link("getInteraction", interaction_id="/items/0/interaction_id"),
    "conversation": _link("getConversation", conversation_id="/items/0/conversation_id"),
}
LINKS: dict[str, dict[str, Any]] = {
    "chat": RECORD_LINKS,
    "getInteraction": RECORD_LINKS,
    "createResponse": {
        "record": _link("getInteraction", interaction_id="/interaction_id"),
        "response": _link("getResponse", response_id="/id"),
        "input items": _link("listResponseInputItems", response_id="/id"),
        "deletion": _link("deleteResponse", response_id="/id"),
    },
    "createChatCompletion": {"record": _link("getInteraction", interaction_id="/interaction_id")},
    "listUserInteractions": ITEM_LINKS,
    "getConversation": ITEM_LINKS,
    "listModels": {"model": _link("getModel", model_id="/data/0/id")},
}


# --- Operations ------------------------------------------------------------------------------


def document(common: Callable[[Any], Any], target: str, **operations: Callable[[Any], Any]) -> None:
    """Document the view with this dotted path.

    `operations` maps methods to `extend_schema`s, and `common` is one of all methods.
    """

    class ViewSchema(OpenApiViewExtension):
        target_class = target

        def view_replacement(self) -> type[APIView]:
            view = type(self.target.__name__, (self.target,), {})
            documented: type[APIView] = common(extend_schema_view(**operations)(view))
            return documented


document_chat = partial(document, extend_schema(tags=["chat"], parameters=MODEL_HEADERS))
document_history = partial(document, extend_schema(tags=["history"], parameters=READ_HEADERS))
document_openai = partial(document, extend_schema(tags=["openai"], parameters=REQUEST_ID))
document_usage = partial(document, extend_schema(tags=["usage"], parameters=READ_HEADERS))
document_service = partial(
    document, extend_schema(tags=["service"], parameters=REQUEST_ID, auth=[])
)


def _requests(**samples: Any) -> list[OpenApiExample]:
    """Return examples of a request by name."""
    return [OpenApiExample(name, value, request_only=True) for name, value in samples.items()]


def _response(
    serializer: Any, description: str, *, status: int = 200, **samples: Any
) -> OpenApiResponse:
    """Document a response, with its examples by name."""
    return OpenApiResponse(
        serializer,
        description=description,
        examples=[
            OpenApiExample(name, value, response_only=True, status_codes=[status])
            for name, value in samples.items()
        ],
    )


document_chat(
    "chat.api.views.ChatView",
    post=extend_schema(
        operation_id="chat",
        summary="One prompt, one answer",
        description=(
            "Asks a model and records the interaction, also if it fails. With `stream`, the "
            "answer is `text/event-stream`: `delta` events with pieces of the text, `reasoning` "
            "events with pieces of the model's visible thinking, then `done` with the whole "
            "answer, or `error` with problem details."
        ),
        request=serializers.ChatSerializer,
        responses={
            200: _response(
                serializers.AnswerSerializer,
                "The answer.",
                answer=examples.CHAT_ANSWER,
                reasoning=examples.REASONED_ANSWER,
            ),
            (200, "text/event-stream"): _response(
                OpenApiTypes.ANY, "The answer.", events=examples.CHAT_EVENTS
            ),
            **_problems(*MODEL_ERRORS, *DRF_ERRORS, UnsupportedMediaType),
        },
        examples=_requests(
            question=examples.CHAT_REQUEST,
            next_turn=examples.NEXT_TURN_REQUEST,
            stream=examples.STREAM_REQUEST,
            image=examples.IMAGE_REQUEST,
            structured_output=examples.JSON_REQUEST,
        ),
    ),
)
document_history(
    "chat.api.views.InteractionView",
    get=extend_schema(
        operation_id="getInteraction",
        summary="One record",
        description="The request, and its answer or error.",
        parameters=[_path("interaction_id", "Its UUID.", examples.ID)],
        responses={
            200: _response(
                serializers.WholeRecordSerializer,
                "The record.",
                answered=examples.RECORD,
                failed=examples.FAILED_RECORD,
            ),
            **_problems(errors.NotFound, *READ_ERRORS),
        },
    ),
)
document_history(
    "chat.api.views.UserInteractionsView",
    get=extend_schema(
        operation_id="listUserInteractions",
        summary="A user's records",
        description="The newest first, in pages.",
        parameters=[
            _path("user_id", "The user's id.", "user123", USER_ID),
            serializers.UserQuerySerializer,
        ],
        responses={
            200: _response(serializers.PageSerializer, "The page.", page=examples.PAGE),
            **_problems(errors.ValidationFailed, *READ_ERRORS),
        },
    ),
    delete=extend_schema(
        operation_id="eraseUserInteractions",
        summary="Erase a user's records",
        description=(
            "Deletes all records of the user for good. If one request's time is not enough, the "
            "answer is a 503: repeat the request until it returns 200."
        ),
        parameters=[_path("user_id", "The user's id.", "user123", USER_ID)],
        request=None,
        responses={
            200: _response(
                serializers.DeletionSerializer,
                "The number of erased records.",
                deleted={"deleted": 3},
            ),
            **_problems(errors.ValidationFailed, *READ_ERRORS),
        },
    ),
)
document_history(
    "chat.api.views.ConversationView",
    get=extend_schema(
        operation_id="getConversation",
        summary="The turns of a conversation",
        description="The oldest first, in pages.",
        parameters=[
            _path("conversation_id", "Its UUID.", examples.ID),
            serializers.PageQuerySerializer,
        ],
        responses={
            200: _response(
                serializers.ConversationSerializer, "The turns.", conversation=examples.CONVERSATION
            ),
            **_problems(errors.ValidationFailed, errors.NotFound, *READ_ERRORS),
        },
    ),
)
document_openai(
    "chat.api.openai.views.CompletionsView",
    post=extend_schema(
        operation_id="createChatCompletion",
        summary="OpenAI's chat completions",
        description=(
            "For OpenAI's clients, with the same ledger, keys and limits. With `stream`, the "
            "answer is `text/event-stream` of chunks. Unknown parameters and message fields are "
            "passed to the vendor unchanged. A field that the vendor does not support is a 400 "
            "that names it."
        ),
        request=CompletionSerializer,
        parameters=MODEL_HEADERS,
        responses={
            200: _response(
                OpenApiTypes.OBJECT,
                "The completion.",
                completion=examples.COMPLETION,
                tool_call=examples.TOOL_CALL_COMPLETION,
            ),
            (200, "text/event-stream"): _response(
                OpenApiTypes.ANY, "The chunks.", chunks=examples.COMPLETION_EVENTS
            ),
            **_openai_errors(*MODEL_ERRORS),
        },
        examples=_requests(
            request=examples.COMPLETION_REQUEST,
            tools=examples.TOOLS_REQUEST,
            tool_results=examples.TOOL_RESULT_REQUEST,
            stream=examples.COMPLETION_STREAM_REQUEST,
        ),
    ),
)
document_responses = partial(document, extend_schema(tags=["openai"], parameters=READ_HEADERS))
RESPONSE_ID = _path(
    "response_id", "Its id: `resp_` and the id of its record.", f"resp_{examples.ID}"
)
RESPONSE_ERRORS = (*KEY_ERRORS, errors.NotFound, errors.InternalError, errors.StorageFailed)
document_openai(
    "chat.api.openai.responses.views.ResponsesView",
    post=extend_schema(
        operation_id="createResponse",
        summary="OpenAI's responses",
        description=(
            "For OpenAI's clients, with the same ledger, keys and limits. `previous_response_id` "
            "continues a record's conversation; `instructions` apply to one response. With "
            "`stream`, the answer is `text/event-stream` of OpenAI's events. Hosted tools, "
            "`background`, `conversation`, `prompt` and `truncation: auto` are a 400 that names "
            "them. Other parameters are passed to the vendor unchanged."
        ),
        request=ResponseSerializer,
        parameters=MODEL_HEADERS,
        responses={
            200: _response(
                OpenApiTypes.OBJECT,
                "The response.",
                response=examples.RESPONSE,
                tool_call=examples.TOOL_CALL_RESPONSE,
            ),
            (200, "text/event-stream"): _response(
                OpenApiTypes.ANY, "The events.", events=examples.RESPONSE_EVENTS
            ),
            **_openai_errors(*MODEL_ERRORS),
        },
        examples=_requests(
            text=examples.RESPONSE_REQUEST,
            tools=examples.RESPONSE_TOOLS_REQUEST,
            tool_results=examples.RESPONSE_RESULTS_REQUEST,
            stream=examples.RESPONSE_STREAM_REQUEST,
        ),
    ),
)
document_responses(
    "chat.api.openai.responses.views.ResponseView",
    get=extend_schema(
        operation_id="getResponse",
        summary="One response",
        description="A record in the form of a response; 404 if its texts are not stored.",
        parameters=[RESPONSE_ID],
        responses={
            200: _response(OpenApiTypes.OBJECT, "The response.", response=examples.RESPONSE),
            **_openai_errors(*RESPONSE_ERRORS),
        },
    ),
    delete=extend_schema(
        operation_id="deleteResponse",
        summary="Delete a response",
        description="Deletes its record. Later turns go on without it; usage stays counted.",
        parameters=[RESPONSE_ID],
        responses={
            200: _response(OpenApiTypes.OBJECT, "Done.", deleted=examples.DELETED_RESPONSE),
            **_openai_errors(*RESPONSE_ERRORS),
        },
    ),
)
document_responses(
    "chat.api.openai.responses.views.ResponseItemsView",
    get=extend_schema(
        operation_id="listResponseInputItems",
        summary="The input items of a response",
        description="The items of its own `input`, without those of earlier responses.",
        parameters=[
            RESPONSE_ID,
            _query("limit", ITEMS_ON_A_PAGE, "Items on a page."),
            OpenApiParameter("order", str, enum=["asc", "desc"], default="desc"),
            _query("after", NOT_EMPTY, "The id of the last item of the page before."),
        ],
        responses={
            200: _response(OpenApiTypes.OBJECT, "The items.", items=examples.RESPONSE_ITEMS),
            **_openai_errors(errors.ValidationFailed, *RESPONSE_ERRORS),
        },
    ),
)
document_openai(
    "chat.api.openai.views.ModelsView",
    get=extend_schema(
        operation_id="listModels",
        summary="List the models",
        description=(
            "The models that this key may use. With `ALLOWED_MODELS=*` these are `default` and "
            "all models of the vendors."
        ),
        responses={
            200: _response(OpenApiTypes.OBJECT, "The list.", models=examples.MODELS),
            **_openai_errors(*KEY_ERRORS, errors.InternalError),
        },
    ),
)
document_openai(
    "chat.api.openai.views.ModelView",
    get=extend_schema(
        operation_id="getModel",
        summary="One model",
        description="One of the models that this key may use.",
        parameters=[_path("model_id", "Its id, slashes included.", examples.MODEL_ID)],
        responses={
            200: _response(OpenApiTypes.OBJECT, "The model.", model=examples.MODEL),
            **_openai_errors(*KEY_ERRORS, errors.NotFound, errors.InternalError),
        },
    ),
)
document_usage(
    "chat.api.views.UsageView",
    get=extend_schema(
        operation_id="getUsage",
        summary="Requests, tokens and cost",
        description=(
            "Requests, tokens and cost of the caller's owner, by date, model or user. A record "
            "counts when it is settled. Users come in pages; `total` is always of the whole "
            "period. Erased users are missing by user, but included in all other sums."
        ),
        parameters=[
            _query("from", date, f"The first day, in UTC; default: {DEFAULT_DAYS} days in all."),
            _query("to", date, f"The last day; default: today. No more than {MAX_DAYS} in all."),
            OpenApiParameter(
                "group_by", str, enum=[each.value for each in UsageGroup], default="date"
            ),
            _query("limit", USERS_ON_A_PAGE, "Users on a page."),
            _query("cursor", NOT_EMPTY, "The `next_cursor` of the page before."),
        ],
        responses={
            200: _response(
                serializers.UsageReportSerializer,
                "The usage.",
                by_date=examples.USAGE,
                by_user=examples.USERS_USAGE,
            ),
            **_problems(errors.ValidationFailed, *READ_ERRORS),
        },
    ),
)
document_service(
    "chat.api.views.HealthView",
    get=extend_schema(
        operation_id="health",
        summary="Liveness",
        description="Touches nothing else: neither the storage nor a provider.",
        responses={
            200: _response(
                serializers.HealthSerializer, "The process is up.", healthy=examples.HEALTH
            ),
            **_problems(*DRF_ERRORS),
        },
    ),
)
document_service(
    "chat.api.views.ReadyView",
    get=extend_schema(
        operation_id="ready",
        summary="Readiness",
        description="Is the storage reachable, and a provider configured? Never calls a model.",
        responses={
            200: _response(serializers.ReadySerializer, "Yes.", ready=examples.READY),
            503: _response(
                serializers.ReadySerializer,
                "No; `checks` say why.",
                status=503,
                not_ready=examples.NOT_READY,
            ),
            **_problems(*DRF_ERRORS),
        },
    ),
)
document_service(
    "chat.api.views.IndexView",
    get=extend_schema(
        operation_id="index",
        summary="Name, version and links",
        description="JSON, or the playground for clients that accept HTML, as browsers do.",
        responses={
            (200, "application/json"): _response(
                serializers.IndexSerializer,
                "Name, version and links. A request for text/html gets the playground.",
                index=examples.INDEX,
            ),
            **_problems(*DRF_ERRORS),
        },
    ),
)
