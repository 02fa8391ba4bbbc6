"""The admin in a real browser, on the product's server, from the login to a new key.

tests/browser.py fails a test on console errors and requests to other hosts: so the pages comply
with their Content-Security-Policy.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser import Playground
from tests.server_process import ROOT, Server, base_environment

PASSWORD = "only for this test"
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def admin(visit: Callable[..., Playground], server: Server) -> Page:
    """The admin's index, as an administrator sees it, with a conversation on record."""
    command = [sys.executable, str(ROOT / "manage.py"), "createsuperuser", "--noinput"]
    variables = {
        "DATABASE_PATH": str(server.log.parent / "server.db"),
        "ENV_FILE": os.devnull,
        "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
    }
    options = ["--username=root", "--email=root@example.org"]
    subprocess.run([*command, *options], env={**base_environment(), **variables}, check=True)
    first = server.chat("What is a ledger?").json()
    server.chat(f"And {EVIL}?", previous_interaction_id=first["interaction_id"])
    server.chat("mock:fail=429", user="bob")
    page = visit(server).page
    page.goto(f"http://127.0.0.1:{server.port}/admin/")
    page.get_by_label("Username").fill("root")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    return page


def accessible(page: Page) -> None:
    """Check our part of the page for serious accessibility problems."""
    found = Axe().run(page, context="#content-main")
    serious = [
        each for each in found.response["violations"] if each["impact"] in ("serious", "critical")
    ]
    assert [(each["id"], each["nodes"][0]["html"]) for each in serious] == []


def test_support_finds_a_record_and_creates_a_key(admin: Page) -> None:
    page = admin
    page.get_by_role("link", name="Interactions", exact=True).click()
    rows = page.locator("#result_list tbody tr")
    expect(rows).to_have_count(3)
    # All columns fit into Playwright's 1280 pixels.
    assert page.locator(".results").evaluate(
        "results => results.scrollWidth <= results.clientWidth"
    )
    page.get_by_role("link", name="provider_unavailable").click()
    expect(rows).to_have_count(1)
    page.get_by_label("From").fill("2026-01-01")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_label("From")).to_have_value("2026-01-01")
    expect(rows).to_have_count(1)
    page.get_by_role("link", name="Clear all filters").click()
    page.locator("#searchbar").fill("ledger")
    page.locator("#searchbar").press("Enter")
    expect(rows).to_have_count(1)
    page.locator("#searchbar").fill("user123")
    page.locator("#searchbar").press("Enter")
    expect(page.get_by_text("Records of the user user123.")).to_be_visible()

    rows.last.get_by_role("link").first.click()
    page.get_by_role("link", name="Read it as a page").click()
    expect(page.get_by_role("article")).to_have_count(2)
    expect(page.get_by_role("article").last).to_contain_text(f"And {EVIL}?")
    accessible(page)

    page.get_by_role("link", name="Home").click()
    page.get_by_role("link", name="Usage", exact=True).click()
    expect(page.locator("canvas")).to_have_count(6)
    wait_until_painted(page, 6)
    accessible(page)

    page.get_by_role("link", name="Home").click()
    page.get_by_role("link", name="API keys", exact=True).click()
    page.get_by_role("link", name=re.compile("Add API key", re.IGNORECASE)).click()
    page.get_by_label("Name:").fill("mobile app")
    page.get_by_role("button", name="Save", exact=True).click()
    secret = page.locator(".secret").inner_text()
    assert re.fullmatch(r"sca_[0-9a-f]{16}_[0-9a-f]{64}", secret)
    page.get_by_role("link", name="I have copied it").click()
    expect(page.get_by_role("cell", name="mobile app", exact=True)).to_be_visible()
    assert secret not in page.content()
    page.get_by_role("link", name=secret[:20]).click()
    page.get_by_role("button", name="Revoke…").click()
    page.get_by_role("button", name="Yes, revoke").click()
    expect(page.get_by_text(f"Revoked: {secret[:20]} (mobile app).")).to_be_visible()


def wait_until_painted(page: Page, count: int) -> None:
    """Wait until this many charts are drawn, which their script does."""
    end = time.monotonic() + 15
    while (found := painted(page)) != count:
        assert time.monotonic() < end, found
        page.wait_for_timeout(50)


def painted(page: Page) -> int:
    script = """canvases => canvases.filter(canvas => canvas.getContext("2d")
        .getImageData(0, 0, canvas.width, canvas.height).data.some(byte => byte)).length"""
    return int(page.locator("canvas").evaluate_all(script))
