"""A client of the API for tests, and what its error responses contain."""

import json
from typing import Any

from django.http import HttpResponse
from django.test import Client

from tests.factories import ALICE


class ApiClient:
    """A client of the API. It posts bytes as they are, and anything else as JSON."""

    def __init__(self, handler: Any) -> None:
        self.http = Client()
        self.http.handler = handler
        self.http.raise_request_exception = False

    def chat(
        self,
        prompt: Any = "Olá!",
        user: Any = ALICE,
        headers: dict[str, str] | None = None,
        **fields: Any,
    ) -> HttpResponse:
        body = {"userId": user, "prompt": prompt, **fields}
        return self.post("/v1/chat", body, headers=headers)

    def post(
        self,
        path: str,
        body: Any,
        *,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> HttpResponse:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.generic("POST", path, data, content_type, headers=headers)

    def get(self, path: str, headers: dict[str, str] | None = None) -> HttpResponse:
        return self.http.get(path, headers=headers)

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None
    ) -> HttpResponse:
        return self.http.generic(method, path, headers=headers)


def problem(response: HttpResponse) -> dict[str, Any]:
    """Check that the response is a documented problem; return it without its request id."""
    assert response["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = json.loads(response.content)
    assert body.keys() == {"type", "title", "status", "detail", "code", "request_id", "errors"}
    assert body["type"] == f"urn:problem:{body['code']}"
    assert body["status"] == response.status_code
    assert body.pop("request_id") == response["X-Request-ID"]
    assert body["title"]
    assert body["detail"]
    for error in body["errors"]:
        assert error.keys() == {"field", "code", "detail"}
    return body


def status_and_code(response: HttpResponse) -> tuple[int, str]:
    """Return the status and code of a problem response."""
    return response.status_code, problem(response)["code"]


def field_errors(response: HttpResponse) -> list[tuple[str, str]]:
    """Return the invalid fields of a validation error, with their codes."""
    assert status_and_code(response) == (400, "validation_error")
    return [(error["field"], error["code"]) for error in problem(response)["errors"]]
