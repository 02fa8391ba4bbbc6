"""The views: each parses the request, calls a service, and responds."""

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.http.response import HttpResponseBase
from django.utils.decorators import method_decorator
from django.views.decorators.http import conditional_page
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from chat import budgets, history, service, usage
from chat.api import serializers
from chat.api.base import BaseAPIView, BaseChatView
from chat.api.renderers import EventStreamNegotiation, PlaygroundRenderer
from chat.api.serializers import build_once
from chat.api.server_context import is_full
from chat.api.streaming import ChatEventFormat
from chat.conversation import ChatRequest
from chat.errors import ServerBusy, StorageFailed, ValidationFailed
from chat.storage import backend
from chat.storage.base import Page, format_utc
from chat.storage.errors import StorageUnavailable
from chat.storage.time_limit import storage_deadline
from providers.deadline import Deadline

# Shared, and built at import, for the reasons given at `build_once`.
CHAT_REQUEST = build_once(serializers.ChatSerializer)
ANSWER = build_once(serializers.AnswerSerializer)
RECORD = build_once(serializers.RecordSerializer)
WHOLE_RECORD = build_once(serializers.WholeRecordSerializer)
PAGE_QUERY = build_once(serializers.PageQuerySerializer)
USER_ID = build_once(serializers.UserIdSerializer)
USER_QUERY = build_once(serializers.UserQuerySerializer)
USAGE_QUERY = build_once(serializers.UsageQuerySerializer)
BUDGETS = build_once(serializers.BudgetsSerializer)
USAGE_COUNTS = build_once(serializers.UsageCountsSerializer)

# Storage that takes longer than this is not ready.
READY_SECONDS = 3.0

# Content parts that a provider may lack -> fields of a chat request.
FIELD_NAMES = {"image_url": "images", "image_url.url": "images"}


class ChatView(BaseChatView):
    content_negotiation_class = EventStreamNegotiation

    def handle_exception(self, exc: Exception) -> Response:
        """Let errors name the fields of this operation."""
        if isinstance(exc, ValidationFailed):
            for error in exc.errors:
                error["field"] = FIELD_NAMES.get(error["field"], error["field"])
        return super().handle_exception(exc)

    def post(self, request: Request) -> HttpResponseBase:
        fields = self.validated_body(CHAT_REQUEST)
        stream_format = ChatEventFormat(_render_result) if fields.pop("stream", None) else None
        chat_request = ChatRequest(**fields)
        return self.run_chat(request, chat_request, _render_result, stream_format)


def _render_result(result: service.ChatResult) -> dict[str, Any]:
    body: dict[str, Any] = ANSWER.to_representation(result.record)
    return body if result.recorded else {**body, "recorded": False}


class InteractionView(BaseAPIView):
    def get(self, request: Request, interaction_id: str) -> Response:
        record = history.get_interaction(caller=self.caller, interaction_id=interaction_id)
        return Response(WHOLE_RECORD.to_representation(record))


class UserInteractionsView(BaseAPIView):
    def get(self, request: Request, user_id: str) -> Response:
        query = USER_QUERY.run_validation(request.query_params.dict())
        page = history.get_interactions(
            caller=self.caller, user_id=_validated_user_id(user_id), **query
        )
        return Response(_render_page(page))

    def delete(self, request: Request, user_id: str) -> Response:
        deleted = history.erase_user(
            caller=self.caller, user_id=_validated_user_id(user_id), deadline=self.deadline()
        )
        return Response({"deleted": deleted})


class ConversationView(BaseAPIView):
    def get(self, request: Request, conversation_id: str) -> Response:
        query = PAGE_QUERY.run_validation(request.query_params.dict())
        id_ = history.parse_interaction_id(conversation_id)
        page = history.get_conversation(caller=self.caller, conversation_id=id_, **query)
        return Response({"conversation_id": id_, **_render_page(page)})


def _validated_user_id(user_id: str) -> str:
    return str(USER_ID.run_validation({"userId": user_id})["user_id"])


def _render_page(page: Page) -> dict[str, Any]:
    items = [RECORD.to_representation(record) for record in page.records]
    return {"items": items, "next_cursor": page.next_cursor}


class UsageView(BaseAPIView):
    def get(self, request: Request) -> Response:
        query = USAGE_QUERY.run_validation(request.query_params.dict())
        report = usage.report(owner=self.caller.owner, **query)
        items = [
            {query["group_by"].value: name, **USAGE_COUNTS.to_representation(counts)}
            for name, counts in report.groups.items()
        ]
        total = USAGE_COUNTS.to_representation(report.total)
        body = {"items": items, "total": total, "next_cursor": report.next_cursor}
        if of_key := budgets.of_caller(self.caller):
            body["budget"] = BUDGETS.to_representation(of_key)
        return Response(body)


class PublicView(BaseAPIView):
    """A view that needs no API key, and has no `caller`."""

    authentication_classes = ()

    def perform_authentication(self, request: Request) -> None:
        """Do nothing."""


# It answers on a full server as well: a load balancer would take 503 for a dead one.
class HealthView(PublicView):
    answers_when_full = True

    def get(self, request: Request) -> Response:
        return Response({"status": "healthy", "version": settings.VERSION, "timestamp": _now()})


class ReadyView(PublicView):
    answers_when_full = True

    def get(self, request: Request) -> Response:
        # `provider` is always ok: settings refuse to start without a configured one.
        checks = {"storage": "ok", "provider": "ok"}
        try:
            with storage_deadline(Deadline(READY_SECONDS)):
                backend().interactions.check()
        except StorageUnavailable:
            checks["storage"] = StorageFailed.title
        if is_full(request.META):
            checks["server"] = ServerBusy.title
        ready = set(checks.values()) == {"ok"}
        body = {"status": "ready" if ready else "not_ready", "checks": checks, "timestamp": _now()}
        return Response(body, status=200 if ready else 503)


@method_decorator(conditional_page, "dispatch")
class IndexView(PublicView):
    """JSON for programs, and the playground for clients that accept HTML, as browsers do."""

    def get_renderers(self) -> list[BaseRenderer]:
        renderers = super().get_renderers()
        return [*renderers, PlaygroundRenderer()] if settings.ENABLE_PLAYGROUND else renderers

    def get(self, request: Request) -> Response:
        links = {name: reverse(name, request=request) for name in ("docs", "redoc", "openapi")}
        return Response(
            {"name": "Serverless Chat API", "version": settings.VERSION, "links": links},
            headers={
                # JSON and HTML have one address, which caches must keep apart.
                "Vary": "Accept",
                # Browsers ask each time, and mostly get a 304 by the ETag.
                "Cache-Control": "no-cache",
                "Content-Security-Policy": PlaygroundRenderer.SECURITY_POLICY,
            },
        )


def _now() -> str:
    return format_utc(datetime.now(UTC))
