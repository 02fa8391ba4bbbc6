"""The operations of OpenAI's API that are served here."""

from collections.abc import Callable
from typing import Any

from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from chat import service
from chat.api_view import ApiView
from chat.errors import NotFound
from chat.openai_compat import shapes
from chat.openai_compat.errors import exception_handler
from chat.openai_compat.serializers import CompletionSerializer
from chat.renderers import NoNegotiation
from chat.serializers import shared
from chat.views import AskingView

COMPLETION_REQUEST = shared(CompletionSerializer)


class OpenAIView(ApiView):
    """A view that fails in OpenAI's words, and cares for no Accept."""

    content_negotiation_class = NoNegotiation

    def get_exception_handler(self) -> Callable[..., Any]:
        return exception_handler


class CompletionsView(OpenAIView, AskingView):
    def post(self, request: Request) -> HttpResponseBase:
        given = self.body(COMPLETION_REQUEST)
        streamed, include_usage = given.pop("stream"), given.pop("include_usage")
        shape = shapes.Chunks(include_usage=include_usage) if streamed else None
        return self.ask(request, service.Question(**given), shapes.completion, shape)


class NoView(OpenAIView):
    """What OpenAI has at an address, and this service has not."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise NotFound


class ModelsView(OpenAIView):
    def get(self, request: Request) -> Response:
        models = {}
        for route in service.known_models(self.caller):
            id_ = f"{route.provider.name}:{route.model}" if route.model in models else route.model
            models[id_] = shapes.model(id_, route.provider.name)
        return Response({"object": "list", "data": list(models.values())})


class ModelView(OpenAIView):
    def get(self, request: Request, model_id: str) -> Response:
        route = service.routes(self.caller, model_id)[0]
        return Response(shapes.model(model_id, route.provider.name))
