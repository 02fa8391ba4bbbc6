"""The function behind a REST API that streams, as clients see it."""

import threading
from collections.abc import Iterator

import openai
import pytest
from playwright.sync_api import Browser, expect

from tests.browser import Playground
from tests.runtime_api import Function, RestApi, RuntimeApi
from tests.stub_vendor import DONE, FINISH, StubVendor, chunk


@pytest.fixture(scope="module")
def vendor() -> Iterator[StubVendor]:
    with StubVendor() as running:
        yield running


@pytest.fixture(scope="module")
def url(vendor: StubVendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a REST API's stage."""
    folder = tmp_path_factory.mktemp("function")
    with (
        RuntimeApi() as api,
        Function(api, folder, OPENAI_BASE_URL=vendor.url),
        RestApi(api) as rest_api,
    ):
        yield rest_api.url


@pytest.fixture
def go_on(vendor: StubVendor) -> threading.Event:
    """Let the vendor go on after the first piece of its answer."""
    event = threading.Event()
    vendor.clear()
    vendor.stream([chunk("Hel"), chunk("lo."), FINISH, DONE], gap=[0, event, 0, 0])
    return event


def test_openais_client_reads_a_stream(url: str, go_on: threading.Event) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    stream = client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    texts = []
    for piece in stream:
        texts.append(piece.choices[0].delta.content or "")
        if texts[-1] == "Hel":
            go_on.set()
    assert "".join(texts) == "Hello."


def test_the_playgrounds_text_grows(chromium: Browser, url: str, go_on: threading.Event) -> None:
    context = chromium.new_context()
    playground = Playground(context, url)
    playground.ask("hi")
    expect(playground.answer).to_have_text("Hel")
    go_on.set()
    expect(playground.answer).to_have_text("Hello.")
    playground.wait()
    context.close()
    assert playground.problems == []


@pytest.mark.parametrize("page", ["docs", "redoc"])
def test_the_documentations_pages_find_their_files(chromium: Browser, url: str, page: str) -> None:
    context = chromium.new_context()
    playground = Playground(context, url)
    playground.page.goto(f"{url}/{page}")
    expect(playground.page.get_by_text("Serverless Chat API").first).to_be_visible()
    context.close()
