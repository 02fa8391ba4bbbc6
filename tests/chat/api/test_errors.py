"""Errors: their shape, and that they reveal no internals."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User

from tests.client import ApiClient, problem, status_and_code
from tests.factories import FakeProvider
from tests.stub_vendor import StubVendor


def test_a_problem_has_the_documented_shape(api: ApiClient) -> None:
    response = api.get("/nowhere", headers={"X-Request-ID": "mine"})
    assert response.status_code == 404
    assert response["Content-Type"] == "application/problem+json"
    assert response["X-Request-ID"] == "mine"
    assert response.json() == {
        "type": "urn:problem:not_found",
        "title": "Not found",
        "status": 404,
        "detail": "Not found, or not accessible with this key.",
        "code": "not_found",
        "request_id": "mine",
        "errors": [],
    }


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/v1",
        "/v1/",
        "/v1/chat/",
        "/v1/Chat",
        "/v2/chat",
        "//v1/chat",
        "/v1/interactions",
        "/v1/interactions/",
        "/v1/interactions/a/b",
        "/docs/",
        "/static/nothing.js",
        "/static/../manage.py",
        "/static/%2e%2e/%2e%2e/manage.py",
        "/.env",
        "/%00",
        "/%ff%fe",
        "/" + "a" * 5000,
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_not_found(api: ApiClient, method: str, path: str) -> None:
    assert status_and_code(api.request(method, path)) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/chat", {"POST", "OPTIONS"}),
        ("/v1/interactions/01998a6e-6f4c-7c3e-9d57-3f1a2b4c5d6e", {"GET", "HEAD", "OPTIONS"}),
        ("/v1/health", {"GET", "HEAD", "OPTIONS"}),
        ("/v1/ready", {"GET", "HEAD", "OPTIONS"}),
        ("/", {"GET", "HEAD", "OPTIONS"}),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"])
def test_a_wrong_method_is_refused_and_the_allowed_ones_named(
    api: ApiClient, method: str, path: str, allowed: set[str]
) -> None:
    response = api.request(method, path)
    if method in allowed:
        assert response.status_code != 405
        return
    assert status_and_code(response) == (405, "method_not_allowed")
    assert set(response["Allow"].split(", ")) == allowed
    assert problem(response)["title"] == "Method Not Allowed"


@pytest.mark.parametrize("path", ["/", "/v1/health", "/v1/ready", "/v1/interactions/x"])
@pytest.mark.parametrize("accept", ["text/html", "text/event-stream", "application/xml", "*", "x"])
def test_other_media_types_are_not_acceptable(
    api: ApiClient, change_settings: Callable[..., None], path: str, accept: str
) -> None:
    change_settings(ENABLE_PLAYGROUND=False)
    assert status_and_code(api.get(path, headers={"Accept": accept})) == (406, "not_acceptable")


@pytest.mark.parametrize(
    "accept", ["application/json", "application/*", "*/*", "text/html, */*;q=0.1", ""]
)
def test_clients_that_accept_json_get_json(api: ApiClient, accept: str) -> None:
    response = api.chat(headers={"Accept": accept})
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"


def test_a_format_query_parameter_is_ignored(api: ApiClient) -> None:
    assert api.get("/v1/health?format=xml").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "a b", "[", "127.0.0.1:x", "\xe9", "a/b"]
)
@pytest.mark.parametrize("path", ["/v1/health", "/v1/chat", "/", "/docs", "/nowhere"])
def test_an_unknown_host_is_refused(api: ApiClient, path: str, host: str) -> None:
    response = api.get(path, headers={"Host": host})
    assert problem(response) == {
        "type": "urn:problem:validation_error",
        "title": "The request is not valid",
        "status": 400,
        "detail": "The request is malformed, or not for this host.",
        "code": "validation_error",
        "errors": [],
    }


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_the_machine_s_own_names_are_accepted_hosts(api: ApiClient, host: str) -> None:
    assert api.get("/v1/health", headers={"Host": host}).status_code == 200


def test_a_failure_outside_the_api_returns_problem_details(
    handler: Any, unreachable_database: None, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    api = ApiClient(handler)
    api.http.cookies["sessionid"] = "a" * 32
    response = api.get("/admin/")
    assert problem(response) == {
        "type": "urn:problem:internal_error",
        "title": "Internal error",
        "status": 500,
        "detail": "Internal error. Report the `request_id` to the operator.",
        "code": "internal_error",
        "errors": [],
    }
    assert "OperationalError" not in response.content.decode()
    assert ["OperationalError" in line.get("exc_info", "") for line in log_lines()].count(True) == 1


def test_an_admin_404_returns_problem_details(api: ApiClient, administrator: User) -> None:
    api.http.force_login(administrator)
    assert status_and_code(api.get("/admin/chat/nowhere/")) == (404, "not_found")


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, OSError, RecursionError, MemoryError])
def test_all_unexpected_exceptions_give_the_same_problem(
    api: ApiClient, use_provider: Callable[[Any], None], kind: type[Exception]
) -> None:
    use_provider(FakeProvider(kind("/etc/passwd")))
    response = api.chat()
    assert status_and_code(response) == (500, "internal_error")
    assert "/etc/passwd" not in response.content.decode()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_of_the_request_has_the_vendor_s_sentence(
    transactional_db: None, api: ApiClient, vendor: StubVendor, status: int, stream: bool
) -> None:
    message = "messages[3]: no such role.\nYour key: sk-of-the-vendor"
    vendor.reply({"error": {"message": message}, "user_id": "u-1"}, status=status)
    detail = problem(api.chat(stream=stream))["detail"]
    assert detail.startswith("The provider rejected the request")
    assert detail.endswith("The vendor's message: messages[3]: no such role. Your key: [KEY]")


def test_the_vendor_s_sentence_is_cut(api: ApiClient, vendor: StubVendor) -> None:
    vendor.reply({"error": {"message": "word " * 1000}}, status=400)
    said = problem(api.chat())["detail"].partition("The vendor's message: ")[2]
    assert (len(said), said[-1]) == (500, "…")


@pytest.mark.parametrize("status", [401, 402, 403, 404, 408, 429, 500, 503])
def test_other_failures_show_nothing_of_the_vendor_s_body(
    api: ApiClient, vendor: StubVendor, status: int
) -> None:
    headers = {"retry-after": "0"}
    vendor.reply({"error": {"message": "Hello.", "param": "Hello"}}, status=status, headers=headers)
    response = api.chat()
    assert response.status_code in (502, 503)
    assert "Hello" not in response.content.decode()


def test_each_answer_has_its_own_request_id(api: ApiClient) -> None:
    ids = {api.get("/nowhere").json()["request_id"] for _ in range(5)}
    assert len(ids) == 5
