"""The OpenAPI document: valid, complete, and true."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.urls import URLPattern
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator

from chat.api import urls
from chat.api.server_context import SERVER_FULL
from chat.errors import InternalError
from tests.client import ApiClient
from tests.factories import ANSWERED, FAILED, KEY, FakeProvider, store_record

KEYS = {"missing_api_key", "invalid_api_key"}
RECORD = f"/v1/interactions/{ANSWERED.interaction_id}"
LISTS: dict[int, set[str]] = {
    400: {"validation_error"},
    401: KEYS,
    405: {"method_not_allowed"},
    406: {"not_acceptable"},
    500: {"internal_error"},
    503: {"storage_unavailable", "server_busy"},
}
ERRORS: dict[tuple[str, str], dict[int, set[str]]] = {
    ("/v1/chat", "post"): {
        400: {"malformed_json", "validation_error", "provider_rejected"},
        401: KEYS,
        402: {"budget_exceeded"},
        405: {"method_not_allowed"},
        404: {"not_found", "model_not_found"},
        406: {"not_acceptable"},
        409: {"idempotency_in_flight", "conversation_conflict", "answer_not_kept"},
        413: {"payload_too_large"},
        415: {"unsupported_media_type"},
        422: {"content_filtered", "idempotency_mismatch"},
        429: {"rate_limited"},
        500: {"internal_error"},
        502: {"provider_error"},
        503: {"provider_unavailable", "storage_unavailable", "server_busy"},
        504: {"provider_timeout"},
    },
    ("/v1/interactions/{interaction_id}", "get"): {
        401: KEYS,
        404: {"not_found"},
        405: {"method_not_allowed"},
        406: {"not_acceptable"},
        500: {"internal_error"},
        503: {"storage_unavailable", "server_busy"},
    },
    ("/v1/users/{user_id}/interactions", "get"): LISTS,
    ("/v1/users/{user_id}/interactions", "delete"): LISTS,
    ("/v1/conversations/{conversation_id}", "get"): {**LISTS, 404: {"not_found"}},
    # These have OpenAI's error shape, which tests/chat/api/openai checks.
    ("/v1/chat/completions", "post"): {},
    ("/v1/responses", "post"): {},
    ("/v1/responses/{response_id}", "get"): {},
    ("/v1/responses/{response_id}", "delete"): {},
    ("/v1/responses/{response_id}/input_items", "get"): {},
    ("/v1/models", "get"): {},
    ("/v1/models/{model_id}", "get"): {},
    ("/v1/usage", "get"): {
        400: {"validation_error"},
        401: KEYS,
        405: {"method_not_allowed"},
        406: {"not_acceptable"},
        500: {"internal_error"},
        503: {"storage_unavailable", "server_busy"},
    },
    ("/v1/health", "get"): {405: {"method_not_allowed"}, 406: {"not_acceptable"}},
    ("/v1/ready", "get"): {405: {"method_not_allowed"}, 406: {"not_acceptable"}},
    ("/", "get"): {
        405: {"method_not_allowed"},
        406: {"not_acceptable"},
        503: {"server_busy"},
    },
}


@pytest.fixture(scope="module")
def document(handler: WSGIHandler) -> dict[str, Any]:
    """The document, generated once for all tests."""
    response = ApiClient(handler).get("/openapi.json")
    assert response.status_code == 200
    parsed: dict[str, Any] = response.json()
    return parsed


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    whole = {**schema, "components": document["components"]}
    Draft202012Validator(whole, format_checker=FormatChecker()).validate(value)


def content_of(answer: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the content type and the media object of a documented JSON answer."""
    [(content_type, media)] = [
        (kind, media) for kind, media in answer["content"].items() if kind != "text/event-stream"
    ]
    return content_type, media


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_the_document_is_json(api: ApiClient) -> None:
    response = api.get("/openapi.json")
    assert re.fullmatch(r"application/(vnd\.oai\.openapi\+)?json", response["Content-Type"])
    assert api.get("/openapi.json", headers={"Accept": "application/json"}).status_code == 200


def test_every_url_is_documented(document: dict[str, Any]) -> None:
    assert document["paths"].keys() == {
        "/" + re.sub(r"<\w+:(\w+)>", r"{\1}", route)
        for route, name in routes(urls.urlpatterns)
        if name  # unnamed routes are OpenAI's unsupported endpoints
    }


def routes(patterns: list[Any]) -> Iterator[tuple[str, str | None]]:
    """Yield the whole route and the name of each URL."""
    for pattern in patterns:
        if isinstance(pattern, URLPattern):
            yield str(pattern.pattern), pattern.name
        else:
            for route, name in routes(pattern.url_patterns):
                yield f"{pattern.pattern}{route}", name


def test_every_operation_has_an_id_and_a_summary(document: dict[str, Any]) -> None:
    described = [operation for _, _, operation in operations(document)]
    assert all(operation["summary"] for operation in described)
    assert {operation["operationId"] for operation in described} == {
        "chat",
        "getInteraction",
        "listUserInteractions",
        "eraseUserInteractions",
        "getConversation",
        "createChatCompletion",
        "createResponse",
        "getResponse",
        "deleteResponse",
        "listResponseInputItems",
        "listModels",
        "getModel",
        "getUsage",
        "health",
        "ready",
        "index",
    }


def test_every_error_that_an_operation_gives_is_documented_with_an_example(
    document: dict[str, Any],
) -> None:
    documented: dict[tuple[str, str], dict[int, set[str]]] = {}
    for path, method, operation in operations(document):
        found = documented.setdefault((path, method), {})
        for status, answer in operation["responses"].items():
            content_type, media = content_of(answer)
            if content_type != "application/problem+json":
                continue
            examples = [example["value"] for example in media["examples"].values()]
            for example in examples:
                check(document, media["schema"], example)
                assert example["status"] == int(status)
                assert (example["detail"] == InternalError.default_detail) == (status == "500")
            found[int(status)] = {example["code"] for example in examples}
    assert documented == ERRORS


def test_every_operation_has_examples(document: dict[str, Any]) -> None:
    for _, _, operation in operations(document):
        for media in operation["responses"]["200"]["content"].values():
            assert media["examples"]
        assert all(each["examples"] for each in operation["parameters"] if each["in"] == "path")
        for media in operation.get("requestBody", {"content": {}})["content"].values():
            assert len(media["examples"]) >= 3


def test_examples_of_parameters_match_their_schemas(document: dict[str, Any]) -> None:
    for _, _, operation in operations(document):
        for parameter in operation["parameters"]:
            for example in parameter.get("examples", {}).values():
                check(document, parameter["schema"], example["value"])


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/chat/completions", "/v1/responses"])
def test_examples_of_requests_are_answered(
    api: ApiClient, document: dict[str, Any], path: str
) -> None:
    body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    requests = [example["value"] for example in body["examples"].values()]
    first_turns = [
        each for each in requests if not any(name.startswith("previous_") for name in each)
    ]
    assert len(first_turns) >= 3
    for request in first_turns:
        assert api.post(path, request).status_code == 200


def test_every_example_matches_its_schema(document: dict[str, Any]) -> None:
    media = [
        content_of(answer)[1]
        for _, _, operation in operations(document)
        for answer in [*operation["responses"].values(), operation.get("requestBody")]
        if answer
    ]
    examples = [
        (each["schema"], example["value"])
        for each in media
        for example in each.get("examples", {}).values()
    ]
    assert len(examples) > 20
    for schema, example in examples:
        check(document, schema, example)


def test_answers_are_linked_to_the_operations_that_take_their_ids(
    document: dict[str, Any],
) -> None:
    operations = {
        operation["operationId"]: operation
        for path in document["paths"].values()
        for operation in path.values()
    }
    linked = set()
    for operation in operations.values():
        for link in operation["responses"]["200"].get("links", {}).values():
            target = operations[link["operationId"]]
            linked.add(link["operationId"])
            required = {each["name"] for each in target["parameters"] if each.get("required")}
            assert link["parameters"].keys() == required
    taking = {
        id_
        for id_, each in operations.items()
        if any(p["in"] == "path" for p in each["parameters"])
    }
    assert linked == taking


def test_either_header_carries_the_key(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"] == {
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    needed = {path: operation.get("security") for path, _, operation in operations(document)}
    either = [{"apiKey": []}, {"bearer": []}, {}]  # the last: no key, where none is required
    assert needed["/v1/chat"] == either
    assert needed["/v1/interactions/{interaction_id}"] == either
    assert not any(needed[path] for path in ("/", "/v1/health", "/v1/ready"))


def test_the_limits_of_a_request_are_documented(document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["ChatRequest"]
    properties = schema["properties"]
    assert set(schema["required"]) == {"userId", "prompt"}
    assert list(properties) == [
        "userId",
        "prompt",
        "system",
        "previous_interaction_id",
        "model",
        "temperature",
        "top_p",
        "max_tokens",
        "stop",
        "metadata",
        "stream",
        "images",
        "response_format",
        "reasoning_effort",
        "seed",
    ]
    assert properties["userId"]["maxLength"] == 128
    assert properties["prompt"]["maxLength"] == 200_000
    assert properties["max_tokens"]["minimum"] == 1
    assert (properties["temperature"]["minimum"], properties["temperature"]["maximum"]) == (0, 2)


@pytest.mark.parametrize(
    "request_",
    [
        {"userId": "auth0|5f7c8ec7", "prompt": "Olá!"},
        {"userId": "a", "prompt": "hi", "stop": ["END"], "metadata": {"ticket": "7"}},
        {"userId": "a", "prompt": "hi", "stop": "END"},
        {"userId": "a", "prompt": "hi", "stop": None, "temperature": None, "metadata": None},
        {"userId": "a", "prompt": "hi", "images": ["https://a.example/b.png"], "seed": -1},
        {
            "userId": "a",
            "prompt": "hi",
            "reasoning_effort": "low",
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
        },
    ],
    ids=["least", "more", "one stop", "nulls", "an image", "structured output"],
)
def test_accepted_requests_match_the_document(
    api: ApiClient, document: dict[str, Any], request_: dict[str, Any]
) -> None:
    assert api.post("/v1/chat", request_).status_code == 200
    check(document, {"$ref": "#/components/schemas/ChatRequest"}, request_)


COMPLETION_REQUEST = {"model": "default", "messages": [{"role": "user", "content": "hi"}]}
ANSWERS: dict[str, tuple[str, str, Callable[[ApiClient], Any]]] = {
    "chat": ("/v1/chat", "post", lambda api: api.chat(metadata={"ticket": "7"})),
    "an empty answer": ("/v1/chat", "post", lambda api: api.chat("mock:length")),
    "malformed": ("/v1/chat", "post", lambda api: api.post("/v1/chat", b"{")),
    "invalid": ("/v1/chat", "post", lambda api: api.chat(7, user="")),
    "no object": ("/v1/chat", "post", lambda api: api.post("/v1/chat", [])),
    "rejected": ("/v1/chat", "post", lambda api: api.chat("mock:fail=400")),
    "not acceptable": ("/v1/chat", "post", lambda api: api.chat(headers={"Accept": "text/html"})),
    "too large": ("/v1/chat", "post", lambda api: api.post("/v1/chat", b" " * 1_100_000)),
    "not JSON": (
        "/v1/chat",
        "post",
        lambda api: api.post("/v1/chat", b"{}", content_type="text/plain"),
    ),
    "filtered": ("/v1/chat", "post", lambda api: api.chat("mock:filter")),
    "failed": ("/v1/chat", "post", lambda api: api.chat("mock:fail")),
    "unavailable": ("/v1/chat", "post", lambda api: api.chat("mock:fail=429")),
    "too slow": ("/v1/chat", "post", lambda api: api.chat("mock:fail=timeout")),
    "a record": ("/v1/interactions/{interaction_id}", "get", lambda api: api.get(RECORD)),
    "no record": (
        "/v1/interactions/{interaction_id}",
        "get",
        lambda api: api.get("/v1/interactions/x"),
    ),
    "a page": (
        "/v1/users/{user_id}/interactions",
        "get",
        lambda api: api.get(f"/v1/users/{ANSWERED.user_id}/interactions?limit=1"),
    ),
    "no page": (
        "/v1/users/{user_id}/interactions",
        "get",
        lambda api: api.get("/v1/users/a/interactions?limit=0"),
    ),
    "an erasure": (
        "/v1/users/{user_id}/interactions",
        "delete",
        lambda api: api.request("DELETE", f"/v1/users/{ANSWERED.user_id}/interactions"),
    ),
    "a conversation": (
        "/v1/conversations/{conversation_id}",
        "get",
        lambda api: api.get(f"/v1/conversations/{ANSWERED.conversation_id}"),
    ),
    "no conversation": (
        "/v1/conversations/{conversation_id}",
        "get",
        lambda api: api.get("/v1/conversations/x"),
    ),
    "a completion": (
        "/v1/chat/completions",
        "post",
        lambda api: api.post("/v1/chat/completions", COMPLETION_REQUEST),
    ),
    "no completion": (
        "/v1/chat/completions",
        "post",
        lambda api: api.post("/v1/chat/completions", {"model": "default"}),
    ),
    "models": ("/v1/models", "get", lambda api: api.get("/v1/models")),
    "no model": ("/v1/models/{model_id}", "get", lambda api: api.get("/v1/models/x")),
    "usage by date": (
        "/v1/usage",
        "get",
        lambda api: api.get("/v1/usage?from=2026-01-01&to=2026-01-02"),
    ),
    "usage by user": (
        "/v1/usage",
        "get",
        lambda api: api.get("/v1/usage?from=2026-01-01&to=2026-01-02&group_by=user&limit=1"),
    ),
    "usage of no period": ("/v1/usage", "get", lambda api: api.get("/v1/usage?from=x")),
    "health": ("/v1/health", "get", lambda api: api.get("/v1/health")),
    "readiness": ("/v1/ready", "get", lambda api: api.get("/v1/ready")),
    "the index": ("/", "get", lambda api: api.get("/")),
}


def is_documented(document: dict[str, Any], path: str, method: str, response: Any) -> bool:
    """Check the content type, headers and body of an answer against the document."""
    answer = document["paths"][path][method]["responses"][str(response.status_code)]
    content_type, media = content_of(answer)
    assert response["Content-Type"] == content_type
    check(document, media["schema"], response.json())
    for name in ("X-Request-ID", "Server-Timing", "X-RateLimit-Remaining", "Retry-After"):
        if name in response:
            assert name in answer["headers"]
    return True


@pytest.mark.parametrize(("path", "method", "ask"), ANSWERS.values(), ids=ANSWERS)
def test_answers_match_the_document(
    api: ApiClient,
    document: dict[str, Any],
    path: str,
    method: str,
    ask: Callable[[ApiClient], Any],
) -> None:
    store_record(ANSWERED)
    assert is_documented(document, path, method, ask(api))


@pytest.mark.parametrize(
    ("status", "ask"),
    [
        (405, lambda api: api.request("PUT", "/v1/chat")),
        (406, lambda api: api.chat(headers={"Accept": "text/html"})),
        (415, lambda api: api.post("/v1/chat", b"{}", content_type="text/plain")),
    ],
)
def test_the_documented_refusal_of_an_operation_is_that_of_the_server(
    api: ApiClient, document: dict[str, Any], status: int, ask: Callable[[ApiClient], Any]
) -> None:
    _, media = content_of(document["paths"]["/v1/chat"]["post"]["responses"][str(status)])
    [example] = [each["value"] for each in media["examples"].values()]
    assert {**ask(api).json(), "request_id": example["request_id"]} == example


def test_the_answers_of_a_full_server_match_the_document(
    api: ApiClient, document: dict[str, Any]
) -> None:
    for path, method, _ in operations(document):
        response = api.http.generic(method.upper(), path, **{SERVER_FULL: True})
        assert response.status_code == (200 if path == "/v1/health" else 503)
        assert is_documented(document, path, method, response)
    checks = document["components"]["schemas"]["Checks"]
    assert checks["properties"].keys() == {"storage", "provider", "server"}


def test_a_failure_s_record_matches_the_document(api: ApiClient, document: dict[str, Any]) -> None:
    store_record(FAILED)
    response = api.get(RECORD)
    assert is_documented(document, "/v1/interactions/{interaction_id}", "get", response)


def test_a_rate_limited_answer_matches_the_document(
    api: ApiClient, document: dict[str, Any], change_settings: Callable[..., None]
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=1)
    api.chat()
    assert is_documented(document, "/v1/chat", "post", api.chat())


def test_a_refused_key_s_answer_matches_the_document(
    api: ApiClient, document: dict[str, Any], require_api_key: list[str]
) -> None:
    assert is_documented(document, "/v1/chat", "post", api.chat())
    assert is_documented(document, "/v1/chat", "post", api.chat(headers={"X-API-Key": KEY.upper()}))


def test_an_internal_error_matches_the_document(
    api: ApiClient, document: dict[str, Any], use_provider: Callable[[Any], None]
) -> None:
    use_provider(FakeProvider(RuntimeError("boom")))
    assert is_documented(document, "/v1/chat", "post", api.chat())


def test_answers_without_storage_match_the_document(
    handler: Any, unreachable_database: None
) -> None:
    api = ApiClient(handler)
    document = api.get("/openapi.json").json()
    assert is_documented(document, "/v1/chat", "post", api.chat())
    assert is_documented(document, "/v1/ready", "get", api.get("/v1/ready"))
    assert is_documented(document, "/v1/interactions/{interaction_id}", "get", api.get(RECORD))
