"""One thin view per operation: parse, call the service, respond."""

import re
from datetime import UTC, datetime

from django.conf import settings
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from chat import service, usage
from chat.api_view import ApiView
from chat.errors import StorageUnavailable, ValidationFailed
from chat.serializers import (
    AnswerSerializer,
    ChatSerializer,
    CountsSerializer,
    RecordSerializer,
    UsageQuery,
    utc,
)
from chat.storage import store

# One instance serves all requests: making one copies each of its fields.
CHAT_REQUEST = ChatSerializer()
ANSWER = AnswerSerializer()
RECORD = RecordSerializer()
USAGE_QUERY = UsageQuery()
COUNTS = CountsSerializer()

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


class UsageView(ApiView):
    def get(self, request: Request) -> Response:
        asked = USAGE_QUERY.run_validation(request.query_params.dict())
        report = usage.report(owner=self.caller.owner, **asked)
        items = [
            {asked["group_by"].value: name, **COUNTS.to_representation(counts)}
            for name, counts in report.groups.items()
        ]
        total = COUNTS.to_representation(report.total)
        return Response({"items": items, "total": total, "next_cursor": report.next_cursor})


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


class IndexView(PublicView):
    def get(self, request: Request) -> Response:
        links = {name: reverse(name, request=request) for name in ("docs", "redoc", "openapi")}
        return Response(
            {"name": "Serverless Chat API", "version": settings.VERSION, "links": links}
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
