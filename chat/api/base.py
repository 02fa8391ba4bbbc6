"""Base classes of the views."""

import re
from collections.abc import Callable
from typing import Any, cast

from django.conf import settings
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from chat import service
from chat.api import ratelimit, streaming
from chat.api.server_context import cancel_on_disconnect, remaining_seconds
from chat.callers import Caller
from chat.conversation import ChatRequest
from chat.errors import MalformedJson, ValidationFailed, field_error
from chat.storage.time_limit import SETTLE_SECONDS, storage_deadline
from chat.telemetry.context import add_log_fields, server_timing
from providers.deadline import Deadline

# Lambda needs this long after the deadline to settle the record and to respond.
LAMBDA_SECONDS = SETTLE_SECONDS + 0.5
IDEMPOTENCY_KEY = re.compile(r"[ -~]{1,255}")


class BaseAPIView(APIView):
    """A view that authenticates first."""

    caller: Caller

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Give storage calls the request's deadline."""
        with storage_deadline(self.deadline()):
            response = super().dispatch(request, *args, **kwargs)
        self._break_cycles(response)
        return response

    def _break_cycles(self, response: HttpResponseBase) -> None:
        """Let the request be freed with its response.

        DRF's view, request and response refer to each other. As garbage they would wait for the
        collector, with their bodies.
        """
        self.request.parser_context.clear()
        if isinstance(response, Response):
            response.add_post_render_callback(lambda rendered: rendered.renderer_context.clear())

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.perform_authentication(request)  # DRF would negotiate the content type before
        super().initial(request, *args, **kwargs)

    def perform_authentication(self, request: Request) -> None:
        self.caller = cast(Caller, request.user)
        add_log_fields(owner=self.caller.owner)

    def validated_body(self, serializer: Serializer[Any]) -> dict[str, Any]:
        """Parse and validate the body. Raises MalformedJson, PayloadTooLarge, DRF's exceptions."""
        # DRF takes an empty body for an empty object, whose errors would name missing fields.
        if self.request.META.get("CONTENT_LENGTH", "") in ("", "0"):
            raise MalformedJson("The body is empty.")
        try:
            validated: dict[str, Any] = serializer.run_validation(self.request.data)
        except RecursionError:  # from the text of a value that an error quotes
            raise ValidationFailed("The body is nested too deeply.") from None
        return validated

    def deadline(self, *, stream: bool = False) -> Deadline:
        """Start the request's deadline."""
        remaining = remaining_seconds(self.request.META) - LAMBDA_SECONDS
        if stream:
            seconds = min(settings.STREAM_TIMEOUT_SECONDS, remaining)
            return Deadline(seconds, idle_seconds=settings.STREAM_IDLE_SECONDS)
        return Deadline(min(settings.REQUEST_TIMEOUT_SECONDS, remaining))


class BaseChatView(BaseAPIView):
    """A view that calls a model."""

    def run_chat(
        self,
        request: Request,
        chat_request: ChatRequest,
        render: Callable[[service.ChatResult], Any],
        stream_format: streaming.StreamFormat | None,
    ) -> HttpResponseBase:
        """Return a stream in `stream_format`; without one, the result as `render` writes it."""
        deadline = self.deadline(stream=stream_format is not None)
        with storage_deadline(deadline):
            with server_timing("storage"):
                user_id = chat_request.user_id
                # Before all else of the chat, so that replays and refused turns count, too.
                self.headers |= ratelimit.check_rate_limit(request, self.caller, user_id)
            arguments: dict[str, Any] = {
                "caller": self.caller,
                "request": chat_request,
                "deadline": deadline,
                "idempotency_key": _idempotency_key(request),
                "use_cache": "no-cache" not in request.META.get("HTTP_CACHE_CONTROL", "").lower(),
            }
            if stream_format:
                return streaming.respond(
                    service.stream(**arguments),
                    deadline=deadline,
                    stream_format=stream_format,
                    environ=request.META,
                )
            with cancel_on_disconnect(request.META, deadline):
                result = service.chat(**arguments)
        headers = {"Idempotency-Replayed": "true"} if result.replayed else None
        return Response(render(result), headers=headers)


def _idempotency_key(request: Request) -> str | None:
    key: str | None = request.META.get("HTTP_IDEMPOTENCY_KEY")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        detail = "1 to 255 printable ASCII characters."
        raise ValidationFailed(errors=[field_error("Idempotency-Key", "invalid", detail)])
    return key
