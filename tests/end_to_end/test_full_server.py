"""A server with as many requests as it can serve answers the others at once."""

import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from chatproject.server.worker import SPARE_THREADS
from tests.server_process import Server
from tests.stub_vendor import OPENAI_ANSWER, SOON, StubVendor

PLACES = 4


@pytest.fixture(scope="module")
def vendor() -> Iterator[StubVendor]:
    with StubVendor() as stub_vendor:
        yield stub_vendor


@pytest.fixture
def server(vendor: StubVendor, tmp_path: Path) -> Iterator[Server]:
    variables = {
        "OPENAI_BASE_URL": vendor.url,
        "WEB_CONCURRENCY": "1",
        "WEB_THREADS": str(PLACES),
        "CORS_ALLOWED_ORIGINS": "*",
        "RATE_LIMIT_PER_MINUTE": "0",
    }
    with Server(tmp_path, **variables) as running:
        yield running


@pytest.fixture
def full(server: Server, vendor: StubVendor) -> Iterator[None]:
    """Fill the server with chats that last until the fixture's end."""
    end = threading.Event()
    vendor.clear()
    vendor.reply(OPENAI_ANSWER, delay=end)
    with ThreadPoolExecutor(PLACES) as pool:
        running = [pool.submit(server.chat) for _ in range(PLACES)]
        eventually(lambda: len(vendor.requests) == PLACES)
        try:
            yield
        finally:
            end.set()
        assert [call.result().status_code for call in running] == [200] * PLACES
    eventually(lambda: server.client.get("/v1/ready").status_code == 200)
    assert server.chat().status_code == 200


def eventually(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.usefixtures("full")
def test_a_chat_that_does_not_fit_is_refused_at_once(server: Server, vendor: StubVendor):
    refused = server.chat(headers={"Origin": "https://app.example"})
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["code"] == "server_busy"
    assert refused.headers["X-Request-ID"] == refused.json()["request_id"]
    assert refused.headers["Access-Control-Allow-Origin"] == "*"
    assert len(vendor.requests) == PLACES
    [line] = [json.loads(each) for each in server.log.read_text().splitlines() if "busy" in each]
    assert (line["status"], line["code"]) == (503, "server_busy")
    with closing(sqlite3.connect(server.log.parent / "server.db")) as connection:
        assert connection.execute("SELECT count(*) FROM chat_interaction").fetchone() == (PLACES,)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("stream", [False, True])
def test_openai_clients_get_their_own_shape(server: Server, stream: bool):
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": "Olá!"}],
        "stream": stream,
    }
    refused = server.client.post("/v1/chat/completions", json=body)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json() == {
        "error": {
            "message": "The server has as many requests as it can serve. Try again.",
            "type": "server_error",
            "param": None,
            "code": "server_is_overloaded",
        }
    }


@pytest.mark.usefixtures("full")
def test_health_and_readiness_are_answered(server: Server):
    assert server.client.get("/v1/health").status_code == 200
    ready = server.client.get("/v1/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
    assert ready.json()["checks"] == {
        "storage": "ok",
        "provider": "ok",
        "server": "The server is busy",
    }
    for path in ("/", "/openapi.json", "/admin/", "/v1/users/alice/interactions"):
        assert server.client.get(path).status_code == 503


@pytest.mark.usefixtures("full")
def test_many_clients_that_send_slowly_leave_threads_for_others(server: Server):
    head = b"POST /v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n"
    with ExitStack() as clients:
        for _ in range(3 * SPARE_THREADS):
            address = ("127.0.0.1", server.port)
            client = clients.enter_context(socket.create_connection(address, timeout=30))
            client.sendall(head)
        assert server.client.get("/v1/health").status_code == 200


def test_a_refused_request_has_its_place_until_its_body_has_come(server: Server):
    with ExitStack() as clients:
        for _ in range(PLACES):
            client = HTTPConnection("127.0.0.1", server.port, timeout=30)
            clients.enter_context(closing(client))
            client.request("POST", "/nowhere", headers={"Content-Length": "10"})
            refused = client.getresponse()
            assert (refused.status, refused.read(1)) == (404, b"{")
        assert server.chat().json()["code"] == "server_busy"
        refused.read()
        client.send(b"0123456789")
        eventually(lambda: server.chat().status_code == 200)
        client.request("GET", "/v1/health")
        assert client.getresponse().status == 200
