"""One thin view per operation: parse, call the service, respond."""

import re
from datetime import UTC, datetime

from django.conf import settings
from django.utils.decorators import method_decorator
from django.views.decorators.http import conditional_page
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from chat import service
from chat.api_view import ApiView
from chat.errors import StorageUnavailable, ValidationFailed
from chat.renderers import PlaygroundRenderer
from chat.serializers import AnswerSerializer, ChatSerializer, RecordSerializer, utc
from chat.storage import store

# One instance serves all requests: making one copies each of its fields.
CHAT_REQUEST = ChatSerializer()
ANSWER = AnswerSerializer()
RECORD = RecordSerializer()

IDEMPOTENCY_KEY = re.compile(r"[ -~]{1,255}")


class ChatView(ApiView):
    def post(self, request: Request) -> Response:
        question = service.Question(**self.body(CHAT_REQUEST))
        deadline = self.deadline()
        self.count(question.user_id)
        answer = service.chat(
            caller=self.caller,
            question=question,
            deadline=deadline,
            idempotency_key=_idempotency_key(request),
            use_cache="no-cache" not in request.headers.get("Cache-Control", "").lower(),
        )
        body = ANSWER.to_representation(answer.record)
        if not answer.recorded:
            body["recorded"] = False
        headers = {"Idempotency-Replayed": "true"} if answer.replayed else None
        return Response(body, headers=headers)


class InteractionView(ApiView):
    def get(self, request: Request, interaction_id: str) -> Response:
        record = service.get_interaction(caller=self.caller, interaction_id=interaction_id)
        return Response(RECORD.to_representation(record))


class PublicView(ApiView):
    """Open to all, keys or not."""

    authentication_classes = ()


class HealthView(PublicView):
    def get(self, request: Request) -> Response:
        return Response({"status": "healthy", "version": settings.VERSION, "timestamp": _now()})


class ReadyView(PublicView):
    def get(self, request: Request) -> Response:
        checks = {"storage": "ok", "provider": "ok"}
        try:
            store().ping()
        except StorageUnavailable as exc:
            checks["storage"] = exc.title
        ready = set(checks.values()) == {"ok"}
        body = {"status": "ready" if ready else "not_ready", "checks": checks, "timestamp": _now()}
        return Response(body, status=200 if ready else 503)


@method_decorator(conditional_page, "dispatch")
class IndexView(PublicView):
    """JSON for programs; for who asks for HTML, as browsers do, the playground."""

    def get_renderers(self) -> list[BaseRenderer]:
        renderers = super().get_renderers()
        return [*renderers, PlaygroundRenderer()] if settings.ENABLE_PLAYGROUND else renderers

    def get(self, request: Request) -> Response:
        links = {name: reverse(name, request=request) for name in ("docs", "redoc", "openapi")}
        return Response(
            {"name": "Serverless Chat API", "version": settings.VERSION, "links": links},
            headers={
                "Vary": "Accept",
                "Cache-Control": "no-cache",
                "Content-Security-Policy": PlaygroundRenderer.SECURITY_POLICY,
            },
        )


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        error = {
            "field": "Idempotency-Key",
            "code": "invalid",
            "detail": "1 to 255 printable ASCII characters.",
        }
        raise ValidationFailed(errors=[error])
    return key


def _now() -> str:
    return utc(datetime.now(UTC))
