"""Requests that the server handles before Django, over raw sockets."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import repeat
from uuid import UUID

import httpx
import pytest

from tests.server_process import Server
from tests.stub_vendor import OPENAI_ANSWER, StubVendor


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    variables = {"WEB_CONCURRENCY": "1", "WEB_THREADS": "2", "REQUIRE_API_KEY": "true"}
    with Server(tmp_path_factory.mktemp("server"), API_KEYS="key", **variables) as server:
        yield server


def exchange(server, data):
    """Send bytes on a new connection, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return received(sock)


def received(sock):
    """Return all that comes until the server closes its side of the connection."""
    return b"".join(iter(lambda: sock.recv(65_536), b""))


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nNo colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: %s\r\n\r\n" % (b"a" * 10_000), 431),
        (b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"a" * 5_000), 414),
        (b"POST /v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /v1/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: bogus\r\n\r\n", 400),
    ],
    ids=["header", "long header", "long path", "length", "coding"],
)
def test_malformed_requests_are_refused_as_a_problem(server, request_bytes, status):
    head, _, body = exchange(server, request_bytes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in head.lower()
    problem = json.loads(body)
    assert problem["status"] == status
    assert UUID(problem["request_id"])
    assert b"x-request-id: %s\r\n" % problem["request_id"].encode() in head.lower() + b"\r\n"


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server, expect):
    head = b"POST /v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"X-API-Key: key\r\nContent-Length: 11000000\r\n%s\r\n" % expect
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(head)
        refused = client.recv(65_536)
    assert refused.startswith(b"HTTP/1.1 413 ")
    assert (b"connection: close" in refused.lower()) == bool(expect)


def test_a_body_of_an_allowed_length_is_asked_for(server):
    body = b'{"userId": "user123", "prompt": "hi"}'
    head = b"POST /v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"X-API-Key: key\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(head)
        assert client.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("size", "key", "status"), [(100_000, "", 401), (11_000_000, "key", 413)])
def test_after_a_refused_body_the_connection_serves_the_next_request(server, size, key, status):
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        for _ in range(3):
            headers = {"content-type": "application/json", "x-api-key": key}
            refused = client.post("/v1/chat", content=b"x" * size, headers=headers)
            assert refused.status_code == status
            assert client.get("/v1/health").status_code == 200


def test_a_truncated_body_is_refused(server):
    body = b'{"userId": "user123", "prompt": "hi"}'
    head = b"POST /v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"X-API-Key: key\r\nContent-Length: 5000\r\n\r\n"
    assert b"malformed_json" in exchange(server, head + body)


def test_a_server_whose_database_file_is_removed_is_not_ready(tmp_path):
    """Connections to the removed file would take records that nobody can read."""
    database = tmp_path / "server.db"
    with Server(tmp_path, WEB_CONCURRENCY="1") as server, ThreadPoolExecutor(4) as pool:

        def statuses():
            chats = [each.status_code for each in pool.map(server.chat, map(str, range(8)))]
            return {*chats, *(server.client.get("/v1/ready").status_code for _ in range(4))}

        assert statuses() == {200}
        database.rename(tmp_path / "moved.db")
        assert statuses() == {503}
        (tmp_path / "moved.db").replace(database)
        assert statuses() == {200}


def test_clients_that_stop_sending_do_not_stop_the_server(server):
    stalled = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
    for sock in stalled:
        sock.sendall(b"GET /v1/health HTTP/1.1\r\nHost: local")
    time.sleep(0.5)
    started = time.monotonic()
    assert httpx.get(f"http://127.0.0.1:{server.port}/v1/health", timeout=60).status_code == 200
    assert time.monotonic() - started < 40
    for sock in stalled:
        sock.close()


def health_seconds(server):
    """Return how long another client waits for an answer."""
    started = time.monotonic()
    assert httpx.get(f"http://127.0.0.1:{server.port}/v1/health", timeout=60).status_code == 200
    return time.monotonic() - started


GET_AND_CLOSE = b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def test_clients_that_are_slow_to_close_delay_no_other_client(server):
    started = time.monotonic()
    with ExitStack() as clients:
        for _ in range(10):
            address = ("127.0.0.1", server.port)
            client = clients.enter_context(socket.create_connection(address, timeout=30))
            client.sendall(GET_AND_CLOSE)
            assert received(client).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - started < 10  # gunicorn waits two seconds for each of them


def test_unread_data_does_not_cut_the_answer_off(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(GET_AND_CLOSE + b"x" * 1_000_000)
        assert received(client).startswith(b"HTTP/1.1 200")


# A client has a second for each of its reads.
HURRIED = """
from struct import pack
from chatproject.server import worker
worker.CLIENT_SECONDS = 1.0
worker.SEND_TIMEOUT = pack("ll", 1, 0)
"""


@pytest.fixture(scope="module")
def hurried(tmp_path_factory):
    """A server whose vendor gives an answer of 8 MB."""
    folder, choice = tmp_path_factory.mktemp("hurried"), OPENAI_ANSWER["choices"][0]
    message = {**choice["message"], "content": "x" * 8_000_000}
    with StubVendor() as vendor:
        vendor.reply({**OPENAI_ANSWER, "choices": [{**choice, "message": message}]})
        variables = {"WEB_CONCURRENCY": "1", "OPENAI_BASE_URL": vendor.url}
        settings = {"DJANGO_SETTINGS_MODULE": "chatproject.settings"}
        with Server(folder, setup=HURRIED, **variables, **settings) as server:
            yield server
            assert "Traceback" not in server.log.read_text()


def read_slowly(server, pauses):
    """Ask for the answer, read it in pieces of 200 KB with these pauses, and return it."""
    body = b'{"userId": "u", "prompt": "All of it, please."}'
    head = b"POST /v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.settimeout(30)
        client.connect(("127.0.0.1", server.port))
        client.sendall(head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        data = b""
        while piece := client.recv(200_000, socket.MSG_WAITALL):
            data += piece
            time.sleep(next(pauses, 0))
        return data


def test_a_client_that_reads_a_plain_answer_steadily_gets_all_of_it(hurried):
    assert read_slowly(hurried, repeat(0.06)).count(b"x") == 8_000_000


def test_a_client_that_stops_reading_a_plain_answer_is_given_up(hurried):
    assert read_slowly(hurried, iter([4.0])).count(b"x") < 8_000_000
    assert hurried.chat().status_code == 200


def test_connections_without_a_request_take_no_thread(server):
    address = ("127.0.0.1", server.port)
    with ExitStack() as clients:
        silent = [
            clients.enter_context(socket.create_connection(address, timeout=30)) for _ in range(10)
        ]
        assert health_seconds(server) < 10  # gunicorn gives each of them five seconds of a thread
        silent[0].sendall(GET_AND_CLOSE)
        assert received(silent[0]).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS"])
def test_pages_refuse_writing_methods(server, path, method):
    answer = server.client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
