"""API keys: when one is required, how it is sent, and that it never appears in output."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.client import ApiClient, problem, status_and_code
from tests.factories import ANSWERED, KEY, OTHER_KEY, all_records, store_record

Configure = Callable[..., None]
RECORD = f"/v1/interactions/{ANSWERED.interaction_id}"


@pytest.mark.parametrize(
    "headers", [{}, {"X-API-Key": "anything"}, {"Authorization": "Bearer anything"}]
)
def test_keys_are_ignored_unless_required(api: ApiClient, headers: dict[str, str]) -> None:
    assert api.chat(headers=headers).status_code == 200
    assert [record.owner for record in all_records()] == ["default"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": KEY},
        {"X-API-Key": f"  {KEY} "},
        {"X-API-Key": OTHER_KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer {OTHER_KEY}"},
        {"Authorization": f"BEARER   {KEY}"},
        {"X-API-Key": "", "Authorization": f"Bearer {KEY}"},
        {"X-API-Key": KEY, "Authorization": "Bearer wrong"},
        {"X-API-Key": KEY, "Authorization": "Basic YWxpY2U6c2VjcmV0"},
    ],
)
def test_a_key_may_come_in_either_header(
    api: ApiClient, require_api_key: list[str], headers: dict[str, str]
) -> None:
    assert api.chat(headers=headers).status_code == 200
    assert [record.owner for record in all_records()] == ["default"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "   "},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer   "},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": f"Token {KEY}"},
        {"Cookie": f"X-API-Key={KEY}"},
    ],
)
def test_a_missing_key_is_refused(
    api: ApiClient, require_api_key: list[str], headers: dict[str, str]
) -> None:
    response = api.chat(headers=headers)
    assert problem(response) == {
        "type": "urn:problem:missing_api_key",
        "title": "An API key is needed",
        "status": 401,
        "detail": "Send your key as `X-API-Key: …` or `Authorization: Bearer …`.",
        "code": "missing_api_key",
        "errors": [],
    }
    assert response["WWW-Authenticate"] == "Bearer"


WRONG = {
    "another": "sk-unknown",
    "the beginning of one": KEY[:-1],
    "one and more": f"{KEY}0",
    "in capitals": KEY.upper(),
    "two at once": f"{KEY},{OTHER_KEY}",
    "quoted": f'"{KEY}"',
    "a comma": ",",
    "Latin-1": "chave-é",
    "UTF-8": "ключ🦆".encode().decode("latin-1"),
    "control characters": "\x01\x7f\x80",
    "very long": "k" * 100_000,
}


@pytest.mark.parametrize("key", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
def test_a_wrong_key_is_refused(
    api: ApiClient, require_api_key: list[str], header: str, key: str
) -> None:
    value = key if header == "X-API-Key" else f"Bearer {key}"
    response = api.chat(headers={header: value})
    assert problem(response) == {
        "type": "urn:problem:invalid_api_key",
        "title": "The API key is not valid",
        "status": 401,
        "detail": "The key is unknown, revoked or expired.",
        "code": "invalid_api_key",
        "errors": [],
    }
    assert response["WWW-Authenticate"] == "Bearer"
    assert all_records() == []


def test_a_key_in_the_url_is_ignored(api: ApiClient, require_api_key: list[str]) -> None:
    response = api.post(f"/v1/chat?api_key={KEY}&X-API-Key={KEY}", {"userId": "a", "prompt": "b"})
    assert status_and_code(response) == (401, "missing_api_key")


def test_every_request_is_refused_if_no_key_exists(
    api: ApiClient, change_settings: Configure
) -> None:
    change_settings(REQUIRE_API_KEY=True, API_KEYS=[])
    assert status_and_code(api.chat(headers={"X-API-Key": ""})) == (401, "missing_api_key")
    assert status_and_code(api.chat(headers={"X-API-Key": KEY})) == (401, "invalid_api_key")


@pytest.mark.parametrize("key", ["ключ", "chave-ção", "鍵", "🔑", "voilà", "Å", "naïve key"])
def test_a_key_may_have_any_characters(
    api: ApiClient, change_settings: Configure, key: str
) -> None:
    change_settings(REQUIRE_API_KEY=True, API_KEYS=[KEY, key])
    sent = key.encode().decode("latin-1")  # WSGI decodes headers as Latin-1
    assert api.chat(headers={"X-API-Key": sent}).status_code == 200
    assert api.chat(headers={"Authorization": f"Bearer {sent}"}).status_code == 200


# --- Before anything else -------------------------------------------------------------------------

LATER_FAULTS: dict[str, Callable[[ApiClient, dict[str, str]], Any]] = {
    "a malformed body": lambda api, key: api.post("/v1/chat", b"{", headers=key),
    "no body": lambda api, key: api.post("/v1/chat", b"", headers=key),
    "a wrong field": lambda api, key: api.chat(7, headers=key),
    "a large body": lambda api, key: api.post("/v1/chat", b"x" * 1_100_000, headers=key),
    "a wrong content type": lambda api, key: api.post(
        "/v1/chat", b"x", content_type="text/plain", headers=key
    ),
    "a wrong method": lambda api, key: api.request("GET", "/v1/chat", key),
    "no method at all": lambda api, key: api.request("BREW", "/v1/chat", key),
    "options": lambda api, key: api.request("OPTIONS", "/v1/chat", key),
    "a wrong Accept": lambda api, key: api.chat(headers={**key, "Accept": "text/html"}),
    "an unknown model": lambda api, key: api.chat(model="unknown", headers=key),
    "an unknown record": lambda api, key: api.get("/v1/interactions/x", headers=key),
    "a known record": lambda api, key: api.get(RECORD, headers=key),
    "a wrong method for a record": lambda api, key: api.request("DELETE", RECORD, key),
    "a wrong Accept for a record": lambda api, key: api.get(
        RECORD, headers={**key, "Accept": "text/html"}
    ),
}


@pytest.mark.parametrize("ask", LATER_FAULTS.values(), ids=LATER_FAULTS)
def test_authentication_comes_before_validation(
    api: ApiClient, require_api_key: list[str], ask: Callable[[ApiClient, dict[str, str]], Any]
) -> None:
    store_record(ANSWERED)
    assert status_and_code(ask(api, {})) == (401, "missing_api_key")
    assert status_and_code(ask(api, {"X-API-Key": "wrong"})) == (401, "invalid_api_key")
    assert ask(api, {"X-API-Key": KEY}).status_code != 401


def test_configured_keys_are_checked_without_storage(
    handler: Any, require_api_key: list[str], unreachable_database: None
) -> None:
    assert status_and_code(ApiClient(handler).chat()) == (401, "missing_api_key")


@pytest.mark.parametrize(
    "path", ["/", "/v1/health", "/v1/ready", "/docs", "/redoc", "/openapi.json"]
)
@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}])
def test_public_pages_need_no_key(
    api: ApiClient, require_api_key: list[str], path: str, headers: dict[str, str]
) -> None:
    assert api.get(path, headers=headers).status_code == 200


# --- What becomes of a key ------------------------------------------------------------------------


def test_keys_appear_neither_in_responses_nor_in_logs(
    api: ApiClient, require_api_key: list[str], log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    wrong = "sk-wrong-key-5550123"
    answers = [
        api.chat(headers={"X-API-Key": KEY}),
        api.chat("mock:fail", headers={"Authorization": f"Bearer {KEY}"}),
        api.chat(7, headers={"X-API-Key": OTHER_KEY}),
        api.chat(headers={"X-API-Key": wrong}),
        api.chat(headers={"Authorization": f"Bearer {wrong}"}),
        api.get("/v1/interactions/x", headers={"X-API-Key": KEY}),
        api.get("/nowhere", headers={"X-API-Key": KEY}),
        api.get("/openapi.json", headers={"X-API-Key": KEY}),
    ]
    told = [answer.content.decode() + str(answer.headers) for answer in answers]
    told += [str(log_lines()), str(all_records())]
    assert len(log_lines()) == len(answers)
    assert not [text for text in told for key in (KEY, OTHER_KEY, wrong) if key in text]
