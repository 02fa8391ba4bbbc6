"""The operations in the OpenAPI document."""

from collections.abc import Callable
from functools import partial
from typing import Any

from drf_spectacular.extensions import OpenApiViewExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.views import APIView

from chat import errors
from chat.api import openapi_examples as examples
from chat.api import serializers
from chat.api.openai.responses.serializers import ItemsQuerySerializer, ResponseSerializer
from chat.api.openai.serializers import CompletionSerializer
from chat.api.openapi_parts import (
    DRF_ERRORS,
    MODEL_ERRORS,
    MODEL_HEADERS,
    OPENAI_READ_ERRORS,
    READ_ERRORS,
    READ_HEADERS,
    REQUEST_ID,
    USER_ID,
    WRONG_TYPE,
    openai_errors,
    path_parameter,
    problems,
    requests,
    response,
)


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
document_openai_call = partial(document, extend_schema(tags=["openai"], parameters=MODEL_HEADERS))
document_openai = partial(document, extend_schema(tags=["openai"], parameters=READ_HEADERS))
document_usage = partial(document, extend_schema(tags=["usage"], parameters=READ_HEADERS))
document_service = partial(
    document, extend_schema(tags=["service"], parameters=REQUEST_ID, auth=[])
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
            200: response(
                serializers.AnswerSerializer,
                "The answer.",
                answer=examples.CHAT_ANSWER,
                reasoning=examples.REASONED_ANSWER,
            ),
            (200, "text/event-stream"): response(
                OpenApiTypes.ANY, "The answer.", events=examples.CHAT_EVENTS
            ),
            **problems(*MODEL_ERRORS, *DRF_ERRORS, WRONG_TYPE),
        },
        examples=requests(
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
        parameters=[path_parameter("interaction_id", "Its UUID.", examples.ID)],
        responses={
            200: response(
                serializers.WholeRecordSerializer,
                "The record.",
                answered=examples.RECORD,
                failed=examples.FAILED_RECORD,
            ),
            **problems(errors.NotFound(), *READ_ERRORS),
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
            path_parameter("user_id", "The user's id.", "user123", USER_ID),
            serializers.UserQuerySerializer,
        ],
        responses={
            200: response(serializers.PageSerializer, "The page.", page=examples.PAGE),
            **problems(errors.ValidationFailed(), *READ_ERRORS),
        },
    ),
    delete=extend_schema(
        operation_id="eraseUserInteractions",
        summary="Erase a user's records",
        description=(
            "Deletes all records of the user for good. If one request's time is not enough, the "
            "answer is a 503: repeat the request until it returns 200."
        ),
        parameters=[path_parameter("user_id", "The user's id.", "user123", USER_ID)],
        request=None,
        responses={
            200: response(
                serializers.DeletionSerializer,
                "The number of erased records.",
                deleted={"deleted": 3},
            ),
            **problems(errors.ValidationFailed(), *READ_ERRORS),
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
            path_parameter("conversation_id", "Its UUID.", examples.ID),
            serializers.PageQuerySerializer,
        ],
        responses={
            200: response(
                serializers.ConversationSerializer, "The turns.", conversation=examples.CONVERSATION
            ),
            **problems(errors.ValidationFailed(), errors.NotFound(), *READ_ERRORS),
        },
    ),
)
document_openai_call(
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
        responses={
            200: response(
                OpenApiTypes.OBJECT,
                "The completion.",
                completion=examples.COMPLETION,
                tool_call=examples.TOOL_CALL_COMPLETION,
            ),
            (200, "text/event-stream"): response(
                OpenApiTypes.ANY, "The chunks.", chunks=examples.COMPLETION_EVENTS
            ),
            **openai_errors(*MODEL_ERRORS),
        },
        examples=requests(
            request=examples.COMPLETION_REQUEST,
            tools=examples.TOOLS_REQUEST,
            tool_results=examples.TOOL_RESULT_REQUEST,
            stream=examples.COMPLETION_STREAM_REQUEST,
        ),
    ),
)
RESPONSE_ID = path_parameter(
    "response_id", "Its id: `resp_` and the id of its record.", f"resp_{examples.ID}"
)
document_openai_call(
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
        responses={
            200: response(
                OpenApiTypes.OBJECT,
                "The response.",
                response=examples.RESPONSE,
                tool_call=examples.TOOL_CALL_RESPONSE,
            ),
            (200, "text/event-stream"): response(
                OpenApiTypes.ANY, "The events.", events=examples.RESPONSE_EVENTS
            ),
            **openai_errors(*MODEL_ERRORS),
        },
        examples=requests(
            text=examples.RESPONSE_REQUEST,
            tools=examples.RESPONSE_TOOLS_REQUEST,
            tool_results=examples.RESPONSE_RESULTS_REQUEST,
            stream=examples.RESPONSE_STREAM_REQUEST,
        ),
    ),
)
document_openai(
    "chat.api.openai.responses.views.ResponseView",
    get=extend_schema(
        operation_id="getResponse",
        summary="One response",
        description="A record in the form of a response; 404 if its texts are not stored.",
        parameters=[RESPONSE_ID],
        responses={
            200: response(OpenApiTypes.OBJECT, "The response.", response=examples.RESPONSE),
            **openai_errors(errors.NotFound(), *OPENAI_READ_ERRORS),
        },
    ),
    delete=extend_schema(
        operation_id="deleteResponse",
        summary="Delete a response",
        description="Deletes its record. Later turns go on without it; usage stays counted.",
        parameters=[RESPONSE_ID],
        responses={
            200: response(OpenApiTypes.OBJECT, "Done.", deleted=examples.DELETED_RESPONSE),
            **openai_errors(errors.NotFound(), *OPENAI_READ_ERRORS),
        },
    ),
)
document_openai(
    "chat.api.openai.responses.views.ResponseItemsView",
    get=extend_schema(
        operation_id="listResponseInputItems",
        summary="The input items of a response",
        description="The items of its own `input`, without those of earlier responses.",
        parameters=[RESPONSE_ID, ItemsQuerySerializer],
        responses={
            200: response(OpenApiTypes.OBJECT, "The items.", items=examples.RESPONSE_ITEMS),
            **openai_errors(errors.ValidationFailed(), errors.NotFound(), *OPENAI_READ_ERRORS),
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
            200: response(OpenApiTypes.OBJECT, "The list.", models=examples.MODELS),
            **openai_errors(*OPENAI_READ_ERRORS),
        },
    ),
)
document_openai(
    "chat.api.openai.views.ModelView",
    get=extend_schema(
        operation_id="getModel",
        summary="One model",
        description="One of the models that this key may use.",
        parameters=[path_parameter("model_id", "Its id, slashes included.", examples.MODEL_ID)],
        responses={
            200: response(OpenApiTypes.OBJECT, "The model.", model=examples.MODEL),
            **openai_errors(errors.NotFound(), *OPENAI_READ_ERRORS),
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
        parameters=[serializers.UsageQuerySerializer],
        responses={
            200: response(
                serializers.UsageReportSerializer,
                "The usage.",
                by_date=examples.USAGE,
                by_user=examples.USERS_USAGE,
            ),
            **problems(errors.ValidationFailed(), *READ_ERRORS),
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
            200: response(
                serializers.HealthSerializer, "The process is up.", healthy=examples.HEALTH
            ),
            **problems(*DRF_ERRORS),
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
            200: response(serializers.ReadySerializer, "Yes.", ready=examples.READY),
            503: response(
                serializers.ReadySerializer,
                "No; `checks` say why.",
                status=503,
                not_ready=examples.NOT_READY,
            ),
            **problems(*DRF_ERRORS),
        },
    ),
)
document_service(
    "chat.api.views.IndexView",
    get=extend_schema(
        operation_id="index",
        summary="Name, version and links",
        description="JSON, or the playground for clients that accept HTML, as browsers do.",
        parameters=READ_HEADERS,
        responses={
            (200, "application/json"): response(
                serializers.IndexSerializer,
                "Name, version and links. A request for text/html gets the playground.",
                index=examples.INDEX,
            ),
            **problems(errors.ServerBusy(), *DRF_ERRORS),
        },
    ),
)
