"""The operations of OpenAI's API that are served here."""

from collections.abc import Callable
from typing import Any

from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from chat import service
from chat.api.base import BaseAPIView
from chat.api.openai import chat_completions
from chat.api.openai.errors import exception_handler
from chat.api.openai.serializers import CompletionSerializer
from chat.api.renderers import IgnoreClientContentNegotiation
from chat.api.serializers import build_once
from chat.api.views import BaseChatView
from chat.errors import NotFound

COMPLETION_REQUEST = build_once(CompletionSerializer)


class OpenAIView(BaseAPIView):
    """A view that fails in OpenAI's words, and cares for no Accept."""

    content_negotiation_class = IgnoreClientContentNegotiation

    def get_exception_handler(self) -> Callable[..., Any]:
        return exception_handler


class CompletionsView(OpenAIView, BaseChatView):
    def post(self, request: Request) -> HttpResponseBase:
        given = self.body(COMPLETION_REQUEST)
        streamed, include_usage = given.pop("stream"), given.pop("include_usage")
        shape = (
            chat_completions.CompletionChunkFormat(include_usage=include_usage)
            if streamed
            else None
        )
        return self.ask(
            request, service.ChatRequest(**given), chat_completions.render_result, shape
        )


class UnsupportedEndpointView(OpenAIView):
    """What OpenAI has at an address, and this service has not."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise NotFound


class ModelsView(OpenAIView):
    def get(self, request: Request) -> Response:
        models = {}
        for route in service.list_models(self.caller):
            id_ = f"{route.provider.name}:{route.model}" if route.model in models else route.model
            models[id_] = chat_completions.model(id_, route.provider.name)
        return Response({"object": "list", "data": list(models.values())})


class ModelView(OpenAIView):
    def get(self, request: Request, model_id: str) -> Response:
        route = service.routes_for(self.caller, model_id)[0]
        return Response(chat_completions.model(model_id, route.provider.name))
