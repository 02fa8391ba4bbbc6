import gzip
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from providers import http
from providers.base import Deadline, DeadlineReached, ProviderError, ProviderFailed
from tests.standin import StandIn


def post(url: str, seconds: float = 5.0) -> http.Answer:
    return http.post(url, headers={"x-a": "1"}, body={"q": "é"}, deadline=Deadline(seconds))


def test_an_answer_is_given_whatever_its_status(vendor: StandIn):
    vendor.reply({"cost": 0.1}, status=418, headers={"x-b": "2"})
    answer = post(f"{vendor.url}/v1/x")
    assert (answer.status, answer.headers["X-B"], answer.body) == (418, "2", b'{"cost": 0.1}')
    assert str(answer.json()) == "{'cost': Decimal('0.1')}"


def test_a_question_is_sent_as_json(vendor: StandIn):
    post(f"{vendor.url}/v1/x")
    [sent] = vendor.requests
    assert (sent.method, sent.path, sent.headers["x-a"]) == ("POST", "/v1/x", "1")
    assert (sent.headers["content-type"], sent.body) == ("application/json", '{"q":"é"}'.encode())


def test_the_proxy_of_the_machine_is_not_used(vendor: StandIn, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert post(f"{vendor.url}/v1/x").status == 404


def test_an_answer_may_be_compressed_though_nobody_asked(vendor: StandIn):
    body = gzip.compress(json.dumps({"a": 1}).encode())
    vendor.reply(body, headers={"content-encoding": "gzip"})
    assert post(vendor.url).json() == {"a": 1}


def test_an_answer_that_is_compressed_badly_is_broken_off(vendor: StandIn):
    vendor.reply(b"not gzip", headers={"content-encoding": "gzip"})
    with pytest.raises(ProviderFailed) as caught:
        post(vendor.url)
    assert (caught.value.retry, caught.value.reason) == (False, "DecodingError")


def test_a_redirect_is_not_followed(vendor: StandIn):
    vendor.reply({}, status=302, headers={"location": f"{vendor.url}/elsewhere"})
    with pytest.raises(ProviderError) as caught:
        post(vendor.url)
    assert (caught.value.reason, len(vendor.requests)) == ("HTTP 302", 1)


def test_the_deadline_holds_for_the_handshake():
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DeadlineReached):
        post(f"https://127.0.0.1:{silent.getsockname()[1]}", seconds=0.2)


def test_a_server_without_tls_cannot_be_reached_by_https():
    def hang_up(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(connection.recv(9) and b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        thread.submit(hang_up, listener)
        with pytest.raises(ProviderFailed) as caught:
            post(f"https://127.0.0.1:{listener.getsockname()[1]}")
    assert (caught.value.retry, caught.value.reason) == (True, "ConnectError")


def test_a_threads_connections_are_closed_when_it_ends(vendor: StandIn):
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(post, vendor.url).result().status == 404
        assert vendor.open == 1
    for _ in range(100):
        if vendor.open == 0:
            break
        time.sleep(0.01)
    assert vendor.open == 0


def test_a_connection_closed_while_idle_is_replaced(vendor: StandIn):
    vendor.reply({"a": 1})
    for _ in range(2):
        assert post(vendor.url).json() == {"a": 1}
        vendor.drop()
        time.sleep(0.02)
    assert vendor.connections == 2
