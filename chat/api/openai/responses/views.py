"""The operations of the Responses API."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from chat import history
from chat.api import fields
from chat.api.base import BaseChatView
from chat.api.openai.responses.events import ResponseEventFormat
from chat.api.openai.responses.ids import RESPONSE_PREFIX
from chat.api.openai.responses.input_items import (
    Paths,
    input_items,
    input_path,
    referenced_records,
    to_messages,
)
from chat.api.openai.responses.parameters import NAMES, unsupported
from chat.api.openai.responses.render import ResponseRenderer
from chat.api.openai.responses.serializers import (
    ItemsQuerySerializer,
    ResponseQuerySerializer,
    ResponseSerializer,
)
from chat.api.openai.views import OpenAIView
from chat.api.serializers import build_once
from chat.callers import Caller
from chat.conversation import ChatRequest
from chat.errors import NotFound, Problem, ValidationFailed, field_error
from chat.storage.base import InteractionRecord
from providers.base import content_text

RESPONSE_REQUEST = build_once(ResponseSerializer)
RESPONSE_QUERY = build_once(ResponseQuerySerializer)
ITEMS_QUERY = build_once(ItemsQuerySerializer)


class ResponsesView(OpenAIView, BaseChatView):
    # For each message of the request.
    paths: Sequence[Paths] = ()

    def handle_exception(self, exc: Exception) -> Response:
        """Let errors name the fields of this operation, and the code that clients look for."""
        for error in exc.errors if isinstance(exc, Problem) else ():
            field = NAMES.get(error["field"], error["field"])
            error["field"] = input_path(field, self.paths)
            if error["field"] == "previous_response_id" and error["code"] == "not_found":
                error["code"] = "previous_response_not_found"
        if isinstance(exc, Problem) and exc.param:
            exc.param = self._own_param(exc.param)
        return super().handle_exception(exc)

    def _own_param(self, param: str) -> str | None:
        """Return the field of this operation for one of chat completions; None for others."""
        own = input_path(NAMES.get(param, param), self.paths)
        known = own in NAMES.values() or own in self.request.data
        return own if known or own.startswith("input[") else None

    def post(self, request: Request) -> HttpResponseBase:
        given = self.validated_body(RESPONSE_REQUEST)
        stream, include = given.pop("stream"), given.pop("include")
        store = settings.STORE_CONTENT and not given["accounting_only"]
        renderer = ResponseRenderer(include=include, store=store)
        chat_request = self._chat_request(given)
        stream_format = ResponseEventFormat(renderer) if stream else None
        return self.run_chat(request, chat_request, renderer.result, stream_format)

    def _chat_request(self, given: dict[str, Any]) -> ChatRequest:
        """Return the request, with the records that its items refer to."""
        items = given.pop("input")
        records = history.get_answers(
            caller=self.caller,
            user_id=given["user_id"],
            interaction_ids=referenced_records(items),
        )
        found = to_messages(items, records)
        messages = [message for message, _ in found]
        self.paths = [paths for _, paths in found]
        if not messages:
            raise ValidationFailed(errors=[field_error("input", "empty", "Must have a message.")])
        if fields.too_deep(messages):
            raise ValidationFailed(errors=[field_error("input", "invalid", "Nested too deeply.")])
        asked = [content_text(each.get("content")) for each in messages if each["role"] == "user"]
        prompt = asked[-1] if asked else ""
        # `prompt` holds it all, so the record needs no `messages`.
        if messages == [{"role": "user", "content": prompt}]:
            return ChatRequest(**given, prompt=prompt)
        if instructions := given["system"]:
            messages = [{"role": "system", "content": instructions}, *messages]
            self.paths = [{"": "instructions"}, *self.paths]
        return ChatRequest(**given, prompt=prompt, messages=messages)


class ResponseView(OpenAIView):
    def get(self, request: Request, response_id: str) -> Response:
        if request.query_params.get("stream") == "true":
            raise unsupported("stream", "A stored response is not streamed again.")
        query = RESPONSE_QUERY.run_validation({"include": _include(request)})
        renderer = ResponseRenderer(**query)
        return Response(renderer.response(_stored_response(self.caller, response_id)))

    def delete(self, request: Request, response_id: str) -> Response:
        history.delete_interaction(_stored_response(self.caller, response_id))
        return Response({"id": response_id, "object": "response", "deleted": True})


class ResponseItemsView(OpenAIView):
    def get(self, request: Request, response_id: str) -> Response:
        query = ITEMS_QUERY.run_validation(request.query_params.dict())
        items = input_items(_stored_response(self.caller, response_id))
        return Response(_page(items, **query))


def _stored_response(caller: Caller, response_id: str) -> InteractionRecord:
    """Return the record of a response whose content is stored. Raises NotFound."""
    id_ = response_id.removeprefix(RESPONSE_PREFIX)
    with suppress(NotFound):
        record = history.get_interaction(caller=caller, interaction_id=id_)
        if not record.lacks_content:
            return record
    raise NotFound(errors=[field_error("response_id", "not_found", "No such response.")])


def _include(request: Request) -> list[str]:
    """Return the query's `include` values. Clients repeat the name, with brackets or without."""
    query = request.query_params
    return [*query.getlist("include"), *query.getlist("include[]")]


def _page(
    items: Sequence[dict[str, Any]], *, limit: int, order: str, after: str | None = None
) -> dict[str, Any]:
    """Return a page of a list of items. Raises ValidationFailed for an unknown `after`."""
    ordered = list(items if order == "asc" else reversed(items))
    ids = [item["id"] for item in ordered]
    if after is not None and after not in ids:
        raise ValidationFailed(errors=[field_error("after", "invalid", "No such item.")])
    start = 0 if after is None else ids.index(after) + 1
    page = ordered[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": start + limit < len(ordered),
    }
