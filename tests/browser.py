"""Debian's Chromium, driven by Playwright, and the playground in it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)

from tests.not_run import fail_or_skip
from tests.server_process import Server

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
)
SCRIPTED_FETCH = Path(__file__).parent / "fixtures" / "scripted_fetch.js"

TIMEOUT_MS = 60_000  # for a machine busy with other tests
expect.set_options(timeout=TIMEOUT_MS)

Script = dict[str, Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser, per module: while it runs, Django takes the thread for an asyncio one."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if not path:
        fail_or_skip(f"one of {', '.join(NAMES)} must be installed for tests in a browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The product's server with the mock provider."""
    folder = tmp_path_factory.mktemp("playground")
    variables = {"WEB_CONCURRENCY": "1", "RATE_LIMIT_PER_MINUTE": "0"}
    with Server(folder, LLM_PROVIDER="mock", **variables) as running:
        yield running


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., "Playground"]]:
    """A function that opens a server's playground; problems in it fail the test at its end."""
    opened: list[Playground] = []

    def open_page(server: Server, script: Script | None = None, **options: Any) -> Playground:
        context = chromium.new_context(**options)
        context.set_default_timeout(TIMEOUT_MS)
        if script:
            context.add_init_script(f"window.script = {json.dumps(script)}")
            context.add_init_script(path=SCRIPTED_FETCH)
        opened.append(Playground(context, f"http://127.0.0.1:{server.port}"))
        return opened[-1]

    yield open_page
    for playground in opened:
        playground.context.close()
    assert [problem for playground in opened for problem in playground.problems] == []


@pytest.fixture
def playground(visit: Callable[..., "Playground"], server: Server) -> "Playground":
    return visit(server)


class Playground:
    """The page, and the problems in it: console messages, dialogs, requests to other hosts."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.url = url
        self.problems: list[str] = []
        context.on("request", self._request)
        context.on("console", self._message)
        context.on("dialog", lambda dialog: self._problem(f"dialog: {dialog.message}"))
        context.on("weberror", lambda error: self._problem(f"error: {error.error}"))
        self.page = self.tab()

    def tab(self) -> Page:
        page = self.context.new_page()
        page.goto(f"{self.url}/")
        return page

    def ask(self, prompt: str) -> None:
        self.page.get_by_label("Your question").fill(prompt)
        self.page.get_by_label("Your question").press("Enter")

    def asked(self, prompt: str) -> dict[str, Any]:
        """Ask, wait for the end of the answer, and return the request's body."""
        with self.page.expect_request("**/v1/chat") as sent:
            self.ask(prompt)
        self.wait()
        body: dict[str, Any] = sent.value.post_data_json
        return body

    def asked_scripted(self, prompt: str = "hi") -> None:
        """Ask a scripted page, and wait for the end of the answer."""
        self.ask(prompt)
        self.page.get_by_role("button", name="Stop").wait_for(state="hidden")
        self.turn.get_by_role("button", name="Copy as curl").wait_for()

    def wait(self) -> None:
        """Wait for the end of the answer."""
        self.page.get_by_role("button", name="Send").wait_for()

    @property
    def turn(self) -> Any:
        return self.page.get_by_role("article").last

    @property
    def answer(self) -> Any:
        return self.turn.locator(".answer")

    @property
    def note(self) -> str:
        return str(self.turn.locator(".note").inner_text())

    def _request(self, request: Any) -> None:
        if not request.url.startswith((f"{self.url}/", "data:")):
            self._problem(f"request: {request.url}")

    def _message(self, message: ConsoleMessage) -> None:
        """Ignore Chromium's note on an error response of the API: the page reports it."""
        refused = "/v1/" in message.location["url"] and "Failed to load" in message.text
        if message.type in ("error", "warning") and not refused:
            self._problem(f"console: {message.text}")

    def _problem(self, sentence: str) -> None:
        self.problems.append(sentence)
