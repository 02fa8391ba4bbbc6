"""The views of OpenAI's chat completions and models."""

from collections.abc import Callable
from typing import Any

from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from chat import model_catalog
from chat.api.base import BaseAPIView, BaseChatView
from chat.api.openai.chat_completions import CompletionChunkFormat, render_model, render_result
from chat.api.openai.errors import exception_handler
from chat.api.openai.serializers import CompletionSerializer
from chat.api.renderers import IgnoreClientContentNegotiation
from chat.api.serializers import build_once
from chat.conversation import ChatRequest
from chat.errors import NotFound

COMPLETION_REQUEST = build_once(CompletionSerializer)


class OpenAIView(BaseAPIView):
    """A view with OpenAI's error shape and without content negotiation."""

    content_negotiation_class = IgnoreClientContentNegotiation

    def get_exception_handler(self) -> Callable[..., Any]:
        return exception_handler


class CompletionsView(OpenAIView, BaseChatView):
    def post(self, request: Request) -> HttpResponseBase:
        fields = self.validated_body(COMPLETION_REQUEST)
        stream, include_usage = fields.pop("stream"), fields.pop("include_usage")
        stream_format = CompletionChunkFormat(include_usage=include_usage) if stream else None
        return self.run_chat(request, ChatRequest(**fields), render_result, stream_format)


class UnsupportedEndpointView(OpenAIView):
    """One of OpenAI's endpoints that this service lacks: 404, after authentication."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise NotFound


class ModelsView(OpenAIView):
    def get(self, request: Request) -> Response:
        models = model_catalog.list_models(self.caller)
        data = [render_model(name, route.provider.name) for name, route in models.items()]
        return Response({"object": "list", "data": data})


class ModelView(OpenAIView):
    def get(self, request: Request, model_id: str) -> Response:
        route = model_catalog.routes_for(self.caller, model_id)[0]
        return Response(render_model(model_id, route.provider.name))
