"""One thin view per operation: parse, call the service, respond."""

import re
from collections.abc import Callable
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

from chat import service, usage
from chat.api import streaming
from chat.api.base import BaseAPIView
from chat.api.disconnect import disconnect_check
from chat.api.playground import PlaygroundRenderer
from chat.api.renderers import EventStreamNegotiation
from chat.api.serializers import (
    AnswerSerializer,
    ChatSerializer,
    PageQuerySerializer,
    RecordSerializer,
    UsageCountsSerializer,
    UsageQuerySerializer,
    UserIdSerializer,
    UserQuerySerializer,
    build_once,
    utc,
)
from chat.errors import StorageUnavailable, ValidationFailed
from chat.storage import store
from chat.storage.base import Page

CHAT_REQUEST = build_once(ChatSerializer)
ANSWER = build_once(AnswerSerializer)
RECORD = build_once(RecordSerializer)
PAGE_QUERY = build_once(PageQuerySerializer)
USER = build_once(UserIdSerializer)
USER_QUERY = build_once(UserQuerySerializer)
USAGE_QUERY = build_once(UsageQuerySerializer)
COUNTS = build_once(UsageCountsSerializer)

IDEMPOTENCY_KEY = re.compile(r"[ -~]{1,255}")


class BaseChatView(BaseAPIView):
    """A view that has a model asked."""

    def ask(
        self,
        request: Request,
        question: service.ChatRequest,
        whole: Callable[[service.ChatResult], Any],
        shape: streaming.StreamFormat | None,
    ) -> HttpResponseBase:
        """The answer, written by `whole`; or as it comes, if there is a `shape` for that."""
        deadline = self.deadline(disconnect_check(request.META))
        self.count(question.user_id)
        asked: dict[str, Any] = {
            "caller": self.caller,
            "question": question,
            "deadline": deadline,
            "idempotency_key": _idempotency_key(request),
            "use_cache": "no-cache" not in request.headers.get("Cache-Control", "").lower(),
        }
        if shape:
            events = service.stream(**asked)
            return streaming.respond(events, deadline=deadline, shape=shape, environ=request.META)
        answer = service.chat(**asked)
        headers = {"Idempotency-Replayed": "true"} if answer.replayed else None
        return Response(whole(answer), headers=headers)


class ChatView(BaseChatView):
    content_negotiation_class = EventStreamNegotiation

    def post(self, request: Request) -> HttpResponseBase:
        given = self.body(CHAT_REQUEST)
        shape = streaming.ChatEventFormat(_answer) if given.pop("stream", None) else None
        return self.ask(request, service.ChatRequest(**given), _answer, shape)


def _answer(answer: service.ChatResult) -> dict[str, Any]:
    body: dict[str, Any] = ANSWER.to_representation(answer.record)
    return body if answer.recorded else {**body, "recorded": False}


class InteractionView(BaseAPIView):
    def get(self, request: Request, interaction_id: str) -> Response:
        record = service.get_interaction(caller=self.caller, interaction_id=interaction_id)
        return Response(RECORD.to_representation(record))


class UserInteractionsView(BaseAPIView):
    def get(self, request: Request, user_id: str) -> Response:
        query = USER_QUERY.run_validation(request.query_params.dict())
        page = service.get_interactions(caller=self.caller, user_id=_user(user_id), **query)
        return Response(_page(page))

    def delete(self, request: Request, user_id: str) -> Response:
        deleted = service.erase_user(
            caller=self.caller, user_id=_user(user_id), deadline=self.deadline()
        )
        return Response({"deleted": deleted})


class ConversationView(BaseAPIView):
    def get(self, request: Request, conversation_id: str) -> Response:
        query = PAGE_QUERY.run_validation(request.query_params.dict())
        id_ = service.parse_interaction_id(conversation_id)
        page = service.get_conversation(caller=self.caller, conversation_id=id_, **query)
        return Response({"conversation_id": id_, **_page(page)})


def _user(user_id: str) -> str:
    return str(USER.run_validation({"userId": user_id})["user_id"])


def _page(page: Page) -> dict[str, Any]:
    items = [RECORD.to_representation(record) for record in page.records]
    return {"items": items, "next_cursor": page.next_cursor}


class UsageView(BaseAPIView):
    def get(self, request: Request) -> Response:
        asked = USAGE_QUERY.run_validation(request.query_params.dict())
        report = usage.report(owner=self.caller.owner, **asked)
        items = [
            {asked["group_by"].value: name, **COUNTS.to_representation(counts)}
            for name, counts in report.groups.items()
        ]
        total = COUNTS.to_representation(report.total)
        return Response({"items": items, "total": total, "next_cursor": report.next_cursor})


class PublicView(BaseAPIView):
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
