"""GET /: JSON for programs, the playground for browsers."""

import re
from collections.abc import Callable

import pytest

from chatproject import lambda_handler
from tests.client import ApiClient, status_and_code
from tests.lambda_events import Context, v2

HTML = {"Accept": "text/html"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self' data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
}


@pytest.mark.parametrize("headers", [HTML, BROWSER])
def test_clients_that_accept_html_get_the_playground(
    api: ApiClient, headers: dict[str, str]
) -> None:
    response = api.get("/", headers=headers)
    assert response.status_code == 200
    assert response["Content-Type"] == "text/html; charset=utf-8"
    assert b"<title>Playground" in response.content


@pytest.mark.parametrize("headers", [{}, {"Accept": "*/*"}, {"Accept": "application/json"}])
def test_other_clients_get_the_json_index(api: ApiClient, headers: dict[str, str]) -> None:
    assert api.get("/", headers=headers).json()["name"] == "Serverless Chat API"


@pytest.mark.parametrize("headers", [HTML, {}])
def test_caches_vary_by_accept_and_revalidate(api: ApiClient, headers: dict[str, str]) -> None:
    response = api.get("/", headers=headers)
    assert (response["Vary"], response["Cache-Control"]) == ("Accept", "no-cache")
    known = {**headers, "If-None-Match": response["ETag"]}
    assert api.get("/", headers=known).status_code == 304


def test_the_playground_s_policy_allows_this_server_only(api: ApiClient) -> None:
    response = api.get("/", headers=HTML)
    assert set(response["Content-Security-Policy"].split("; ")) >= POLICY
    page = response.content.decode()
    assert not re.search(
        r"<style|<script(?![^>]* src=)|\s(style|on[a-z]+)=|https?://(?!www.w3)", page
    )


def test_the_playground_needs_no_key(api: ApiClient, require_api_key: list[str]) -> None:
    assert api.get("/", headers=HTML).status_code == 200


@pytest.mark.parametrize("headers", [BROWSER, {}])
def test_the_playground_can_be_turned_off(
    api: ApiClient, change_settings: Callable[..., None], headers: dict[str, str]
) -> None:
    change_settings(ENABLE_PLAYGROUND=False)
    assert api.get("/", headers=headers).json()["name"] == "Serverless Chat API"
    assert status_and_code(api.get("/", headers=HTML)) == (406, "not_acceptable")


def test_the_playground_s_files_are_found_behind_each_lambda_front(
    transactional_db: None, change_settings: Callable[..., None]
) -> None:
    """A function can be reached at URLs with and without a stage in the path."""
    change_settings(ALLOWED_HOSTS=["*"])
    for path, stage, root in [("/prod/", "prod", "/prod/"), ("/", "$default", "/")]:
        event = v2(path=path, method="GET", stage=stage, headers={"accept": "text/html"})
        page = lambda_handler.handler(event, Context())["body"]
        assert f'data-root="{root}"' in page
        assert f'src="{root}static/chat/playground/playground.js' in page
