"""Swagger UI in a browser: an operation is tried with a key."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import TIMEOUT_MS
from tests.server_process import Server

KEY = "key-of-the-caller"
RESPONSE = "#operations-chat-chat .live-responses-table"


@pytest.fixture
def page(chromium: Browser, tmp_path: Path) -> Iterator[Page]:
    """Swagger UI of a server that requires a key."""
    variables = {"REQUIRE_API_KEY": "true", "API_KEY": KEY, "WEB_CONCURRENCY": "1"}
    with Server(tmp_path, LLM_PROVIDER="mock", **variables) as server:
        context = chromium.new_context(viewport={"width": 1280, "height": 1000})
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/docs#/chat/chat")
        yield page
        context.close()


def execute(page: Page, operation: str) -> None:
    block = page.locator(f"#operations-{operation}")
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute", exact=True).click()


def test_an_operation_is_tried_with_a_key(page: Page) -> None:
    page.get_by_role("button", name="Authorize", exact=True).first.click()
    page.locator("#api_key_value").fill(KEY)
    page.get_by_role("button", name="Apply credentials").first.click()
    page.get_by_role("button", name="Close", exact=True).first.click()
    execute(page, "chat-chat")
    expect(page.locator(RESPONSE)).to_contain_text("You said: Olá!")

    page.reload()  # the browser keeps the key
    execute(page, "chat-chat")
    expect(page.locator(RESPONSE)).to_contain_text("You said: Olá!")


def test_an_operation_without_a_key_is_refused(page: Page) -> None:
    execute(page, "chat-chat")
    expect(page.locator(RESPONSE)).to_contain_text("missing_api_key")
