"""Health, readiness, index and documentation; headers that all answers have."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any
from unittest.mock import ANY
from urllib.parse import urljoin

import pytest
from django.conf import settings

from chat import api_keys
from chat.storage.orm.cache import OrmCache
from chat.storage.orm.usage import OrmUsageStore
from tests.client import ApiClient, problem
from tests.factories import TIMESTAMP, UUID, FakeProvider
from tests.stub_vendor import StubVendor

# --- Health and readiness -------------------------------------------------------------------------


def test_a_server_that_is_up_is_healthy(api: ApiClient) -> None:
    response = api.get("/v1/health")
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert response.json() == {
        "status": "healthy",
        "version": settings.VERSION,
        "timestamp": ANY,
    }
    timestamp = response.json()["timestamp"]
    assert re.fullmatch(TIMESTAMP, timestamp)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(timestamp)) < timedelta(seconds=5)


def test_health_touches_no_storage(handler: Any, forbid_database: None) -> None:
    assert ApiClient(handler).get("/v1/health").status_code == 200


def test_health_ignores_unreachable_storage(handler: Any, unreachable_database: None) -> None:
    assert ApiClient(handler).get("/v1/health").status_code == 200


def test_a_server_that_can_serve_requests_is_ready(api: ApiClient, vendor: StubVendor) -> None:
    response = api.get("/v1/ready")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "checks": {"storage": "ok", "provider": "ok"},
        "timestamp": ANY,
    }
    assert re.fullmatch(TIMESTAMP, response.json()["timestamp"])
    assert vendor.requests == []


def test_a_server_without_its_storage_is_not_ready(
    handler: Any, unreachable_database: None
) -> None:
    response = ApiClient(handler).get("/v1/ready")
    assert response.status_code == 503
    assert response["Content-Type"] == "application/json"
    assert response.json() == {
        "status": "not_ready",
        "checks": {"storage": "The storage is unreachable", "provider": "ok"},
        "timestamp": ANY,
    }


@pytest.mark.parametrize("path", ["/", "/v1/health", "/v1/ready"])
def test_head_is_answered_without_a_body(api: ApiClient, path: str) -> None:
    response = api.request("HEAD", path)
    assert (response.status_code, response.content) == (200, b"")


def test_the_index_has_name_version_and_links(api: ApiClient) -> None:
    response = api.get("/")
    assert response.json() == {
        "name": "Serverless Chat API",
        "version": settings.VERSION,
        "links": {
            "docs": "http://testserver/docs",
            "redoc": "http://testserver/redoc",
            "openapi": "http://testserver/openapi.json",
        },
    }
    for link in response.json()["links"].values():
        assert api.get(link.removeprefix("http://testserver")).status_code == 200


# --- Documentation --------------------------------------------------------------------------------


class Resources(HTMLParser):
    """The URLs that a browser loads for a page, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"link": "href", "script": "src", "img": "src", "iframe": "src"}
        if address := dict(attrs).get(names.get(tag, "")):
            self.found.append(address)


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_shows_the_schema(api: ApiClient, path: str) -> None:
    response = api.get(path)
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/html")
    assert "/openapi.json" in response.content.decode()


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_loads_nothing_from_other_hosts(api: ApiClient, path: str) -> None:
    page = api.get(path).content.decode()
    addresses = Resources(page).found
    assert [address for address in addresses if re.match(r"(?i)(\w+:)?//", address)] == []
    assert not re.search(r"cdn|googleapis|gstatic|unpkg|jsdelivr", page)


@pytest.mark.parametrize(
    ("path", "kinds"),
    [("/docs", {"text/css", "text/javascript", "image/png"}), ("/redoc", {"text/javascript"})],
)
def test_the_documentation_s_assets_are_served(api: ApiClient, path: str, kinds: set[str]) -> None:
    addresses = Resources(api.get(path).content.decode()).found
    ours = [urljoin(path, each) for each in addresses if not re.match(r"(\w+:)?//", each)]
    assert ours
    found = set()
    for address in ours:
        response = api.get(address)
        found.add(response["Content-Type"].split(";")[0])
        assert response.status_code == 200
        assert len(b"".join(response.streaming_content)) > 100
        response.close()
    assert found == kinds


# --- Request ids ----------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a", "0" * 128, "A-Z.a_z-09", "01998a6e-6f4c", "..", "-"])
def test_a_request_s_id_is_kept(api: ApiClient, given: str) -> None:
    assert api.get("/v1/health", headers={"X-Request-ID": given})["X-Request-ID"] == given


@pytest.mark.parametrize(
    "given",
    ["", "0" * 129, "a b", "a/b", "a\n", "a\r\nSet-Cookie: x", "é", "a:b", "a,b", "\0", "<"],
)
def test_an_invalid_request_id_is_replaced(api: ApiClient, given: str) -> None:
    response = api.get("/v1/health", headers={"X-Request-ID": given})
    assert re.fullmatch(UUID, response["X-Request-ID"])


def test_a_request_without_an_id_gets_a_new_one(api: ApiClient) -> None:
    ids = [api.get("/v1/health")["X-Request-ID"] for _ in range(5)]
    assert ids == sorted(set(ids))


EVERYTHING: dict[str, Callable[[ApiClient], Any]] = {
    "an answer": lambda api: api.chat(headers={"X-Request-ID": "mine"}),
    "a failure": lambda api: api.chat("mock:fail", headers={"X-Request-ID": "mine"}),
    "a refusal": lambda api: api.chat(7, headers={"X-Request-ID": "mine"}),
    "nothing": lambda api: api.get("/nowhere", headers={"X-Request-ID": "mine"}),
    "another host": lambda api: api.get("/", headers={"Host": "evil", "X-Request-ID": "mine"}),
    "a page": lambda api: api.get("/docs", headers={"X-Request-ID": "mine"}),
    "the schema": lambda api: api.get("/openapi.json", headers={"X-Request-ID": "mine"}),
    "the admin": lambda api: api.get("/admin/", headers={"X-Request-ID": "mine"}),
    "options": lambda api: api.request("OPTIONS", "/v1/chat", {"X-Request-ID": "mine"}),
}


@pytest.mark.parametrize("ask", EVERYTHING.values(), ids=EVERYTHING)
def test_every_answer_has_a_request_id_and_server_timing(
    api: ApiClient, ask: Callable[[ApiClient], Any]
) -> None:
    response = ask(api)
    assert response["X-Request-ID"] == "mine"
    assert re.search(r"(^|, )total;dur=\d+\.\d$", response["Server-Timing"])


# --- Timing ---------------------------------------------------------------------------------------


def parts(response: Any) -> dict[str, float]:
    timing = (entry.split(";dur=") for entry in response["Server-Timing"].split(", "))
    return {name: float(milliseconds) for name, milliseconds in timing}


def test_server_timing_has_the_parts_of_an_answer(api: ApiClient) -> None:
    spent = parts(api.chat("mock:delay=0.05"))
    assert spent.keys() == {"storage", "provider", "total"}
    assert 50 <= spent["provider"] < 5000
    assert spent["storage"] > 0
    assert spent["total"] >= spent["provider"] + spent["storage"] - 0.2


def test_server_timing_has_the_reads_of_the_cache_and_of_budgets(
    api: ApiClient, change_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_first(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: time.sleep(0.1) or function(*args, **options)

    change_settings(ENABLE_CACHE=True, REQUIRE_API_KEY=True)
    _, key = api_keys.create(owner="default", name="app", monthly_budget_usd=Decimal(1))
    headers = {"X-API-Key": key}
    assert api.chat(headers=headers).json()["cached"] is False
    monkeypatch.setattr(OrmCache, "get", wait_first(OrmCache.get))
    monkeypatch.setattr(OrmUsageStore, "month", wait_first(OrmUsageStore.month))
    cached = api.chat(headers=headers)
    assert cached.json()["cached"] is True
    assert parts(cached)["storage"] >= 100
    assert parts(api.get("/v1/usage", headers=headers))["storage"] >= 100


@pytest.mark.parametrize("prompt", ["mock:fail", "mock:filter"])
def test_server_timing_has_the_parts_of_a_failure(api: ApiClient, prompt: str) -> None:
    assert parts(api.chat(prompt)).keys() == {"storage", "provider", "total"}


def test_server_timing_has_the_parts_of_an_exception(
    api: ApiClient, use_provider: Callable[[Any], None]
) -> None:
    use_provider(FakeProvider(RuntimeError("boom")))
    assert parts(api.chat()).keys() == {"storage", "provider", "total"}


def test_server_timing_omits_unused_parts(api: ApiClient) -> None:
    assert parts(api.get("/v1/health")).keys() == {"total"}
    assert parts(api.chat(7)).keys() == {"total"}


# --- Cross-site -----------------------------------------------------------------------------------


def test_other_origins_may_not_read_answers(api: ApiClient) -> None:
    response = api.chat(headers={"Origin": "https://evil.example"})
    assert not any(name.lower().startswith("access-control-") for name in response.headers)
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["X-Frame-Options"] == "DENY"


def test_no_cookies_are_set_or_needed(api: ApiClient) -> None:
    for response in (api.chat(), api.get("/v1/health"), api.get("/nowhere"), api.chat(7)):
        assert not response.cookies


def test_cross_site_forms_are_refused(api: ApiClient) -> None:
    """Browsers send these content types to other origins without a preflight."""
    body = b'{"userId": "alice", "prompt": "hi"}'
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        response = api.post("/v1/chat", body, content_type=content_type)
        assert problem(response)["status"] == 415
