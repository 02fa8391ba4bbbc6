"""Debian's Chromium, driven by Playwright, and the playground in it.

Where there is no Chromium the tests that need it are skipped, which is said at the end, or fail if
the variable CI is set.
"""

import json
import os
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

from tests.server_process import Server

NAMES = ("chromium", "chromium-browser", "google-chrome")
ABSENT = f"one of {', '.join(NAMES)} must be installed"
NOT_RUN = "the tests in a browser were not run"
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
)
SCRIPTED_FETCH = Path(__file__).parent / "fixtures" / "scripted_fetch.js"

PATIENCE_MILLISECONDS = 30_000  # of a machine that is busy with other tests
expect.set_options(timeout=PATIENCE_MILLISECONDS)

Script = dict[str, Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser, for one module: while it runs, Django takes its thread for one of asyncio."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if not path:
        sentence = f"{NOT_RUN}: {ABSENT}."
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The product's server, with the mock to answer."""
    folder = tmp_path_factory.mktemp("playground")
    variables = {"WEB_CONCURRENCY": "1", "RATE_LIMIT_PER_MINUTE": "0"}
    with Server(folder, LLM_PROVIDER="mock", **variables) as running:
        yield running


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., "Playground"]]:
    """Open the playground of a server. At the end, nothing unwelcome may have happened in it."""
    opened: list[Playground] = []

    def open_page(server: Server, script: Script | None = None, **options: Any) -> Playground:
        context = chromium.new_context(**options)
        context.set_default_timeout(PATIENCE_MILLISECONDS)
        if script:
            context.add_init_script(f"window.script = {json.dumps(script)}")
            context.add_init_script(path=SCRIPTED_FETCH)
        opened.append(Playground(context, f"http://127.0.0.1:{server.port}"))
        return opened[-1]

    yield open_page
    for playground in opened:
        playground.context.close()
    assert [trouble for playground in opened for trouble in playground.troubles] == []


@pytest.fixture
def playground(visit: Callable[..., "Playground"], server: Server) -> "Playground":
    return visit(server)


class Playground:
    """The page, and what went wrong in it."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.url = url
        self.troubles: list[str] = []
        context.on("request", self._request)
        context.on("console", self._message)
        context.on("dialog", lambda dialog: self._trouble(f"dialog: {dialog.message}"))
        context.on("weberror", lambda error: self._trouble(f"error: {error.error}"))
        self.page = self.tab()

    def tab(self) -> Page:
        page = self.context.new_page()
        page.goto(f"{self.url}/")
        return page

    def ask(self, prompt: str) -> None:
        self.page.get_by_label("Your question").fill(prompt)
        self.page.get_by_label("Your question").press("Enter")

    def asked(self, prompt: str) -> dict[str, Any]:
        """Ask, wait until it has ended, and return the request's body."""
        with self.page.expect_request("**/v1/chat") as sent:
            self.ask(prompt)
        self.wait()
        body: dict[str, Any] = sent.value.post_data_json
        return body

    def asked_scripted(self, prompt: str = "hi") -> None:
        """Ask where a script answers, and wait until it has ended."""
        self.ask(prompt)
        self.page.get_by_role("button", name="Stop").wait_for(state="hidden")
        self.turn.get_by_role("button", name="Copy as curl").wait_for()

    def wait(self) -> None:
        """Wait until no answer is being written."""
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
            self._trouble(f"request: {request.url}")

    def _message(self, message: ConsoleMessage) -> None:
        """Chromium notes each answer of the API that is an error: that is for the page to tell."""
        refused = "/v1/" in message.location["url"] and "Failed to load" in message.text
        if message.type in ("error", "warning") and not refused:
            self._trouble(f"console: {message.text}")

    def _trouble(self, sentence: str) -> None:
        self.troubles.append(sentence)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say plainly what was not run."""
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if NOT_RUN in str(report.longrepr)
    ]
    if skipped:
        terminalreporter.section("NOT RUN", red=True)
        terminalreporter.line(f"{len(skipped)} tests in a browser: {ABSENT}.")
