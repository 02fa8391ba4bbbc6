"""Streams through the server: nothing is buffered, and disconnects are noticed."""

import contextlib
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatproject import lambda_handler
from tests.lambda_events import Context, function_url, load_balancer, v1, v2
from tests.server_process import Server
from tests.stub_vendor import DONE, FINISH, USAGE, StubVendor, chunk

MANY = 50
GAP = 3.0
# We promise one second; a machine busy with other tests may take longer. Without detection, only
# the heartbeat after ten seconds would notice the disconnect.
DISCONNECT_SECONDS = 5.0

HELLO = [chunk("Hel"), chunk("lo "), chunk("there."), FINISH, USAGE, DONE]


@pytest.fixture(scope="module")
def vendor() -> Iterator[StubVendor]:
    with StubVendor() as stub_vendor:
        yield stub_vendor


@pytest.fixture(scope="module")
def server(vendor: StubVendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    variables = {
        "OPENAI_BASE_URL": vendor.url,
        "WEB_CONCURRENCY": "2",
        "RATE_LIMIT_PER_MINUTE": "0",
    }
    with Server(folder, **variables) as running:
        yield running


@pytest.fixture(autouse=True)
def anew(vendor: StubVendor) -> None:
    vendor.clear()


@contextlib.contextmanager
def asked(server: Server, prompt: str = "Olá!") -> Iterator[Iterator[str]]:
    """Open a streamed answer of /v1/chat on a new connection, and return its lines."""
    with opened(server, "/v1/chat", {"userId": "user123", "prompt": prompt}) as lines:
        yield lines


@contextlib.contextmanager
def opened(server: Server, path: str, body: dict[str, Any]) -> Iterator[Iterator[str]]:
    url, body = f"http://127.0.0.1:{server.port}{path}", {**body, "stream": True}
    with (
        # To read the certificates of the web takes each client tens of milliseconds of CPU.
        httpx.Client(timeout=60, trust_env=False, verify=False) as client,
        client.stream("POST", url, json=body) as response,
    ):
        assert response.status_code == 200
        yield response.iter_lines()


def text_of(lines: Iterator[str]) -> str:
    """Return the text of the `done` event; check that it is that of the deltas."""
    data = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    done = data.pop()
    assert "".join(delta["text"] for delta in data) == done["response"]
    return str(done["response"])


def records(server: Server) -> list[dict[str, Any]]:
    file = f"file:{server.log.parent / 'server.db'}?mode=ro"
    with contextlib.closing(sqlite3.connect(file, uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM chat_interaction ORDER BY created_at")
        return [dict(row) for row in rows]


def settled(server: Server) -> dict[str, Any]:
    """Wait until the newest record is settled, and return it."""
    end = time.monotonic() + 20
    while (record := records(server)[-1])["status"] == "pending":
        assert time.monotonic() < end, server.log.read_text()
        time.sleep(0.02)
    return record


def test_the_first_token_arrives_while_the_vendor_still_sends(server: Server, vendor: StubVendor):
    vendor.stream([chunk("Hel"), chunk("lo"), FINISH, DONE], gap=[0, 30, 0, 0])
    with asked(server) as lines:
        assert [next(lines), next(lines)] == ["event: delta", 'data: {"text":"Hel"}']
        assert not vendor.client_disconnected.is_set()


def piece(**message: Any) -> str:
    return chunk(choices=[{"index": 0, "delta": message, "finish_reason": None}])


def call_piece(arguments: str, **begun: str) -> dict[str, Any]:
    function = {**begun, "arguments": arguments}
    rest = {"id": "call_1", "type": "function"} if begun else {}
    return {"index": 0, **rest, "function": function}


def test_thoughts_and_pieces_of_calls_arrive_before_the_vendor_sends_more(
    server: Server, vendor: StubVendor
):
    pieces = [
        {"reasoning_content": "Let me"},
        {"reasoning_content": " see."},
        {"tool_calls": [call_piece("", name="weather")]},
        {"tool_calls": [call_piece('{"city":')]},
        {"tool_calls": [call_piece('"Lisboa"}')]},
        {"content": "Wait."},
    ]
    gates = [threading.Event() for _ in pieces]
    vendor.stream([*(piece(**each) for each in pieces), FINISH, DONE], gap=[*gates, 0, 0])
    body = {"model": "default", "messages": [{"role": "user", "content": "Olá!"}]}
    gates[0].set()
    with opened(server, "/v1/chat/completions", body) as lines:
        data = (json.loads(line[6:]) for line in lines if line.startswith("data: {"))
        assert next(data)["choices"][0]["delta"]["role"] == "assistant"
        for sent, gate in zip(pieces, [*gates[1:], gates[0]], strict=True):
            assert next(data)["choices"][0]["delta"] == sent
            gate.set()


def test_a_thought_is_an_event_of_its_own_at_once(server: Server, vendor: StubVendor):
    more = threading.Event()
    pieces = [piece(reasoning="Let me see."), piece(content="18 °C."), FINISH, DONE]
    vendor.stream(pieces, gap=[0, more, 0, 0])
    with asked(server) as lines:
        assert [next(lines), next(lines)] == ["event: reasoning", 'data: {"text":"Let me see."}']
        more.set()
        named = [line for line in lines if line.startswith("event: ")]
    assert named == ["event: delta", "event: done"]
    assert settled(server)["response"] == "18 °C."


def test_a_stream_is_chunked_and_its_connection_is_kept(server: Server, vendor: StubVendor):
    vendor.stream(HELLO)
    body = {"userId": "user123", "prompt": "Olá!", "stream": True}
    headers = {"Accept-Encoding": "gzip, br, zstd", "Accept": "text/event-stream"}
    for _ in range(2):
        response = server.client.post("/v1/chat", json=body, headers=headers)
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert not {"Content-Encoding", "Content-Length", "Connection"} & {
            name.title() for name, value in response.headers.items() if value != "keep-alive"
        }
        assert text_of(iter(response.text.splitlines())) == "Hello there."


def test_many_streams_at_once_flow_and_are_complete(server: Server, vendor: StubVendor):
    pieces = [chunk(f"{number} ") for number in range(10)]
    ends = [FINISH, USAGE, DONE]
    vendor.stream([*pieces, *ends], gap=[0, GAP, *[0.02] * (len(pieces) - 2), *[0] * len(ends)])

    def read(number: int) -> tuple[str, float]:
        """Return the text, and how long before its end the first token came."""
        with asked(server, f"question {number}") as lines:
            first = [next(lines), next(lines)]
            begun = time.monotonic()
            return text_of(iter([*first, *lines])), time.monotonic() - begun

    before = len(records(server))
    with ThreadPoolExecutor(MANY) as pool:
        answers = list(pool.map(read, range(MANY)))
    text = "".join(f"{number} " for number in range(10))
    assert {answer for answer, _ in answers} == {text}
    # The others follow the first after a while: who is given all at once does not wait for them.
    assert min(flowed for _, flowed in answers) > GAP / 3
    kept = records(server)[before:]
    assert [(record["status"], record["response"]) for record in kept] == [("ok", text)] * MANY


def test_a_disconnect_during_a_stream_ends_the_vendor_call(server: Server, vendor: StubVendor):
    vendor.stream([chunk(f"{number} ") for number in range(600)], gap=0.05)
    with asked(server) as lines:
        for _ in range(8):
            next(lines)
        left = time.monotonic()
    assert vendor.client_disconnected.wait(DISCONNECT_SECONDS), time.monotonic() - left
    record = settled(server)
    assert (record["status"], record["error_code"]) == ("aborted", None)
    assert record["response"].startswith("0 1 2 ")
    assert [attempt["outcome"] for attempt in json.loads(record["attempts"])] == ["aborted"]


def test_a_disconnect_while_the_vendor_is_silent_ends_the_vendor_call(
    server: Server, vendor: StubVendor
):
    vendor.stream([chunk("Hel"), chunk("lo")], gap=[0, 30])
    with asked(server) as lines:
        next(lines)
    assert vendor.client_disconnected.wait(DISCONNECT_SECONDS)
    record = settled(server)
    assert (record["status"], record["response"]) == ("aborted", "Hel")


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnect_before_the_first_token_ends_the_vendor_call(
    server: Server, vendor: StubVendor, stream: bool
):
    vendor.stream([chunk("Hel")], gap=30)
    body = json.dumps({"userId": "user123", "prompt": "Olá!", "stream": stream})
    head = "POST /v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        end = time.monotonic() + 20
        while not vendor.requests:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert vendor.client_disconnected.wait(DISCONNECT_SECONDS)
    record = settled(server)
    assert (record["status"], record["response"]) == ("aborted", None)
    [attempt] = json.loads(record["attempts"])
    assert attempt["outcome"] == "aborted"
    [line] = logged(server, record["interaction_id"])
    assert (line["status"], line["code"]) == (499, "aborted")


def test_an_aborted_stream_is_logged(server: Server, vendor: StubVendor):
    vendor.stream([chunk("Hel"), chunk("lo")], gap=[0, 30])
    with asked(server) as lines:
        next(lines)
    [line] = logged(server, settled(server)["interaction_id"])
    assert (line["status"], line["code"], line["route"]) == (200, "aborted", "/v1/chat")


def logged(server: Server, interaction_id: str) -> list[dict[str, Any]]:
    """Wait for the log lines of a request, and return them."""
    end = time.monotonic() + 20
    while not (found := _lines(server.log, interaction_id)):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def _lines(log: Path, interaction_id: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in log.read_text().splitlines()
        if interaction_id.replace("-", "") in line.replace("-", "") and line.startswith("{")
    ]


def test_the_server_keeps_answering_after_many_disconnects(server: Server, vendor: StubVendor):
    vendor.stream([chunk("Hel"), chunk("lo")], gap=[0, 30])

    def leave(_: int) -> None:
        with asked(server) as lines:
            next(lines)

    with ThreadPoolExecutor(MANY) as pool:
        list(pool.map(leave, range(3 * MANY)))
    vendor.clear()
    vendor.stream(HELLO)
    with asked(server) as lines:
        assert text_of(lines) == "Hello there."
    assert "Traceback" not in server.log.read_text()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("front", [v1, v2, function_url, load_balancer])
def test_on_lambda_the_same_body_arrives_at_once(front: Any, settings: Any):
    settings.ALLOWED_HOSTS = ["*"]
    question = {"userId": "user123", "prompt": "Olá! 🦆", "stream": True}
    answer = lambda_handler.handler(front(body=question), Context())
    assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, False)
    assert text_of(iter(answer["body"].splitlines())) == "You said: Olá! 🦆"
    assert answer["body"].startswith('event: delta\ndata: {"text":"You"}\n\nevent: delta\n')


@pytest.mark.django_db(transaction=True)
def test_on_lambda_a_late_failure_has_its_own_status(monkeypatch: Any, settings: Any):
    settings.ALLOWED_HOSTS = ["*"]
    monkeypatch.setattr("chat.api.streaming.HEARTBEAT_SECONDS", 0.05)
    question = {"userId": "user123", "prompt": "mock:delay=0.3 mock:fail", "stream": True}
    answer = lambda_handler.handler(v2(body=question), Context())
    assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (502, "provider_error")
