import errno
import gzip
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from providers import transport
from providers.deadline import Deadline
from providers.errors import DeadlineExceeded, ProviderError, ProviderFailed
from providers.transport import CurlTransport
from providers.vendor_http import VendorClient, peek, read_events, read_json
from tests.forked import forked
from tests.raw_servers import tls_server
from tests.stub_vendor import DONE, SOON, StubVendor
from tests.tls import Authority

CLIENT = VendorClient()


def post(url: str, seconds: float = 20.0, client: VendorClient = CLIENT) -> httpx.Response:
    body = {"q": "é"}
    with client.open(url, headers={"x-a": "1"}, body=body, deadline=Deadline(seconds)) as response:
        response.read()
        return response


def post_for_json(url: str, client: VendorClient = CLIENT) -> Any:
    with client.open(url, headers={}, body={}, deadline=Deadline(20)) as response:
        return read_json(response)


def get(url: str, deadline: Deadline) -> None:
    with CLIENT.open(url, headers={}, body=None, deadline=deadline):
        pass


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


class Pieces(httpx.SyncByteStream):
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)


def test_a_response_is_returned_whatever_its_status(stub_vendor: StubVendor):
    stub_vendor.reply({"cost": 0.1}, status=418, headers={"x-b": "2"})
    answer = post(f"{stub_vendor.url}/v1/x")
    assert (answer.status_code, answer.headers["X-B"], answer.content) == (
        418,
        "2",
        b'{"cost": 0.1}',
    )
    assert str(post_for_json(f"{stub_vendor.url}/v1/x")) == "{'cost': Decimal('0.1')}"


def test_a_question_is_sent_as_json(stub_vendor: StubVendor):
    post(f"{stub_vendor.url}/v1/x")
    [sent] = stub_vendor.requests
    assert (sent.method, sent.path, sent.headers["x-a"]) == ("POST", "/v1/x", "1")
    assert (sent.headers["content-type"], sent.body) == ("application/json", '{"q":"é"}'.encode())


def test_the_proxy_of_the_transport_is_used(stub_vendor: StubVendor):
    proxied = VendorClient(CurlTransport(http_proxy=stub_vendor.url))
    assert post("http://vendor.test/v1/x", client=proxied).status_code == 404
    assert stub_vendor.requests[0].path == "http://vendor.test/v1/x"


def test_the_environment_is_not_read(stub_vendor: StubVendor, monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert post(f"{stub_vendor.url}/v1/x", client=VendorClient(CurlTransport())).status_code == 404


@pytest.mark.parametrize("make", [httpx.HTTPTransport, CurlTransport])
def test_any_transport_of_httpx_will_do(
    stub_vendor: StubVendor, make: Callable[[], httpx.BaseTransport]
):
    with make() as transport:
        client = VendorClient(transport)
        stub_vendor.reply({"a": 1})
        assert post_for_json(stub_vendor.url, client) == {"a": 1}
        stub_vendor.clear()
        stub_vendor.stream([DONE])
        with client.open(stub_vendor.url, headers={}, body={}, deadline=Deadline(20)) as response:
            assert list(read_events(response)) == ["[DONE]"]
        stub_vendor.clear()
        stub_vendor.reply({}, delay=20.0)
        with pytest.raises(ProviderError):
            post(stub_vendor.url, seconds=0.2, client=client)


def test_an_unrequested_compression_is_decoded(stub_vendor: StubVendor):
    body = gzip.compress(json.dumps({"a": 1}).encode())
    stub_vendor.reply(body, headers={"content-encoding": "gzip"})
    assert post_for_json(stub_vendor.url) == {"a": 1}


def test_an_answer_that_is_compressed_badly_is_broken_off(stub_vendor: StubVendor):
    stub_vendor.reply(b"not gzip", headers={"content-encoding": "gzip"})
    with pytest.raises(ProviderFailed) as caught:
        post(stub_vendor.url)
    assert (caught.value.retry, caught.value.reason) == (False, "bad_encoding")


def test_running_out_of_descriptors_is_a_retryable_error(
    monkeypatch: pytest.MonkeyPatch,
):
    def fail() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pipe", fail)
    with pytest.raises(ProviderFailed) as caught:
        post("http://127.0.0.1:1", client=VendorClient(CurlTransport()))
    assert (caught.value.retry, caught.value.reason) == (True, "no_descriptors")


def test_a_redirect_is_not_followed(stub_vendor: StubVendor):
    stub_vendor.reply({}, status=302, headers={"location": f"{stub_vendor.url}/elsewhere"})
    with pytest.raises(ProviderError) as caught:
        post(stub_vendor.url)
    assert (caught.value.reason, len(stub_vendor.requests)) == ("HTTP 302", 1)


def test_the_deadline_holds_for_the_handshake():
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DeadlineExceeded):
        post(f"https://127.0.0.1:{silent.getsockname()[1]}", seconds=0.2)


@contextmanager
def listening(scheme: str) -> Iterator[str]:
    """The address of a server that gets no further than to listen."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as waiting:
        address = listener.getsockname()
        if scheme == "http":  # so many connect that the system answers no more of them
            for _ in range(3):
                sock = waiting.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex(address)
        yield f"{scheme}://127.0.0.1:{address[1]}"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_another_thread_ends_the_wait_for_a_connection(scheme: str):
    deadline = Deadline(30)
    with listening(scheme) as url, ThreadPoolExecutor(1) as thread:
        call = thread.submit(get, url, deadline)
        time.sleep(0.3)
        assert call.running()
        deadline.cancel()
        assert isinstance(call.exception(timeout=1.5), DeadlineExceeded)


def test_a_server_that_does_not_accept_cannot_be_reached(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.3)
    with listening("http") as url, pytest.raises(ProviderFailed) as caught:
        post(url)
    assert (caught.value.retry, caught.value.reason) == (True, "timed_out_connecting")


def test_a_server_without_tls_cannot_be_reached_by_https():
    def hang_up(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(connection.recv(9) and b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        thread.submit(hang_up, listener)
        with pytest.raises(ProviderFailed) as caught:
            post(f"https://127.0.0.1:{listener.getsockname()[1]}")
    assert (caught.value.retry, caught.value.reason) == (True, "tls_handshake_failed")


def test_a_vendor_with_a_private_ca_needs_that_ca(tmp_path: Path):
    authority = Authority(tmp_path)
    with tls_server(authority.server()) as address:
        with pytest.raises(ProviderFailed) as caught:
            post(f"https://{address}")
        assert (caught.value.retry, caught.value.reason) == (True, "certificate_unknown_ca")
        trusting = VendorClient(CurlTransport(ca_file=authority.file))
        assert post(f"https://{address}", client=trusting).content == b"{}"


def test_threads_share_the_connections(stub_vendor: StubVendor):
    for _ in range(3):
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(post, stub_vendor.url).result().status_code == 404
    assert stub_vendor.connections == 1


def test_a_connection_closed_while_idle_is_replaced(stub_vendor: StubVendor):
    stub_vendor.reply({"a": 1})
    for _ in range(2):
        assert post_for_json(stub_vendor.url) == {"a": 1}
        stub_vendor.close_connections()
        time.sleep(0.02)
    assert stub_vendor.connections == 2


def answered_by(
    *parts: bytes, then: str = "close"
) -> tuple[list[httpx.Response | ProviderError], int]:
    """What two calls make of a server that sends these bytes, and how often it was connected to."""
    connections = 0

    def serve(listener: socket.socket) -> None:
        nonlocal connections
        for _ in range(2):
            if connections == 0 or then == "close":
                sock, _ = listener.accept()
                connections += 1
            while b"\r\n\r\n" not in sock.recv(65536):
                pass
            with suppress(OSError):
                sock.sendall(b"".join(parts))
            if then == "close":
                sock.close()
        sock.close()

    given: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        serving = thread.submit(serve, listener)
        for _ in range(2):
            try:
                given.append(post(f"http://127.0.0.1:{listener.getsockname()[1]}"))
            except ProviderError as exc:
                given.append(exc)
        serving.result()
    return given, connections


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def test_an_interim_answer_is_ignored():
    given, connections = answered_by(b"HTTP/1.1 103 Early\r\nX-A: 1\r\n\r\n", WHOLE, then="keep")
    assert [(each.status_code, "x-a" in each.headers, each.content) for each in given] == [
        (200, False, b"{}")
    ] * 2
    assert connections == 1


def test_an_answer_without_a_length_ends_with_its_connection():
    given, _ = answered_by(b"HTTP/1.0 200 OK\r\n\r\n", b"{", b"}")
    assert [each.content for each in given] == [b"{}"] * 2


def test_trailing_bytes_are_ignored():
    given, connections = answered_by(WHOLE + WHOLE)
    assert [each.content for each in given] == [b"{}"] * 2
    assert connections == 2


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}"], "connection_closed"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}"], "connection_closed"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n"], "connection_closed"),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"],
            "malformed_answer",
        ),
        ([b"220 smtp.example.org ESMTP\r\n"], "malformed_answer"),
        ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"], "connection_closed"),
        ([b"HTTP/1.1 200 OK\r\nX: ", *[b"x" * 10_000] * 20], "head_too_large"),
        ([], "connection_closed"),
    ],
)
def test_malformed_responses_raise(parts: list[bytes], reason: str):
    given, _ = answered_by(*parts)
    assert [type(each) for each in given] == [ProviderFailed] * 2
    assert {each.reason for each in given} == {reason}
    assert [each.retry for each in given] == [not parts] * 2


def test_connections_that_were_idle_for_long_are_closed(
    stub_vendor: StubVendor, monkeypatch: pytest.MonkeyPatch
):
    hold = threading.Event()
    stub_vendor.reply({}, delay=hold)
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(post, stub_vendor.url) for _ in range(4)]
        until(lambda: len(stub_vendor.requests) == 4)  # each on a connection of its own
        hold.set()
        assert [each.result().status_code for each in asked] == [200] * 4
    assert stub_vendor.open == 4
    monkeypatch.setattr("providers.transport.KEEP_ALIVE_SECONDS", 0.1)
    time.sleep(0.2)
    post(stub_vendor.url)
    until(lambda: stub_vendor.open == 1)


def test_an_answer_that_comes_before_the_whole_question_is_sent_is_read():
    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        thread.submit(refuse, listener)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with CLIENT.open(url, headers={}, body="x" * 8_000_000, deadline=Deadline(20)) as answer:
            answer.read()
    assert (answer.status_code, answer.content) == (413, b"{}")


def test_a_process_that_was_forked_has_connections_of_its_own(stub_vendor: StubVendor):
    assert post(stub_vendor.url).status_code == 404
    assert (forked(partial(post, stub_vendor.url)), stub_vendor.connections) == (0, 2)
    assert post(stub_vendor.url).status_code == 404
    assert stub_vendor.connections == 2


def test_trailers_are_not_headers():
    body = b"2\r\n{}\r\n0\r\nX-Late: 1\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    given, connections = answered_by(head + body, then="keep")
    assert [(each.content, "x-late" in each.headers) for each in given] == [(b"{}", False)] * 2
    assert connections == 1


def test_a_chunk_with_an_unterminated_header_is_no_answer():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;"
    given, _ = answered_by(head, *[b"x" * 10_000] * 20)
    assert [type(each) for each in given] == [ProviderFailed] * 2


def test_white_space_before_an_answer_is_skipped_in_linear_time():
    pieces = [*([b" " * 4096] * 4000), b"da", b"ta: {}\n\n"]
    response = httpx.Response(200, stream=Pieces(pieces))
    begun = time.monotonic()
    assert peek(response) == b"data: {}\n\n"
    assert time.monotonic() - begun < SOON
    assert list(response.stream) == pieces
