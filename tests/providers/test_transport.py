import ast
import gzip
import io
import os
import resource
import select
import selectors
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import brotli
import h2.config
import h2.connection
import h2.events
import httpx
import pycurl
import pytest

from providers import transport as transport_module
from providers.deadline import Deadline
from providers.transport import CurlTransport
from tests.raw_servers import WHOLE, answering, hang, read_request, serving, tls_server
from tests.server_process import ROOT
from tests.stub_vendor import SOON, StubVendor
from tests.tls import Authority

LONG = 60.0  # seconds, longer than any test waits


@pytest.fixture
def transport() -> Iterator[CurlTransport]:
    with CurlTransport() as made:
        yield made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def request_to(
    url: str, *, deadline: Deadline | None = None, method: str = "POST", **options: Any
) -> httpx.Request:
    options.setdefault("content", b'{"q": 1}' if method == "POST" else None)
    extensions = {"deadline": deadline or Deadline(LONG)} | options.pop("extensions", {})
    return httpx.Request(method, url, extensions=extensions, **options)


def send(transport: CurlTransport, url: str, **options: Any) -> httpx.Response:
    response = transport.handle_request(request_to(url, **options))
    response.read()
    return response


def failing(
    kind: type[httpx.RequestError], transport: CurlTransport, url: str, **options: Any
) -> str:
    """Why the request fails, in the word for the log."""
    with pytest.raises(kind) as caught:
        send(transport, url, **options)
    return str(caught.value)


def trickle(first: bytes) -> Callable[[socket.socket], None]:
    def serve(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(first)
        while True:
            sock.sendall(b"x")
            time.sleep(0.02)

    return serve


# The deadline holds in every phase


@contextmanager
def hanging_name() -> Iterator[tuple[CurlTransport, str]]:
    """A name whose lookup ends only with the test: glibc reads its aliases from a pipe."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as files:
        directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        pipe = Path(files.enter_context(directory)) / "aliases"
        os.mkfifo(pipe)
        patch.setenv("HOSTALIASES", str(pipe))
        yield CurlTransport(), "http://nowhere/"
        os.close(os.open(pipe, os.O_RDWR))


@contextmanager
def full_backlog() -> Iterator[tuple[CurlTransport, str]]:
    """A server that accepts nobody, and whose system takes no more connections for it."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as waiting:
        for _ in range(3):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield CurlTransport(), f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def silent_proxy() -> Iterator[tuple[CurlTransport, str]]:
    with serving(hang) as address:
        yield CurlTransport(https_proxy=f"http://{address}"), "https://vendor.test/"


@contextmanager
def silent_tls() -> Iterator[tuple[CurlTransport, str]]:
    with serving(hang) as address:
        yield CurlTransport(), f"https://{address}"


@contextmanager
def unread_body() -> Iterator[tuple[CurlTransport, str]]:
    with serving(lambda sock: threading.Event().wait(LONG) and None) as address:
        yield CurlTransport(), f"http://{address}/large"


@contextmanager
def silent_vendor() -> Iterator[tuple[CurlTransport, str]]:
    with serving(hang) as address:
        yield CurlTransport(), f"http://{address}"


@contextmanager
def trickled_head() -> Iterator[tuple[CurlTransport, str]]:
    with serving(trickle(b"HTTP/1.1 200 OK\r\nX: ")) as address:
        yield CurlTransport(), f"http://{address}"


@contextmanager
def trickled_body() -> Iterator[tuple[CurlTransport, str]]:
    with serving(trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")) as address:
        yield CurlTransport(), f"http://{address}"


PHASES = [
    (hanging_name, "connecting"),
    (full_backlog, "connecting"),
    (silent_proxy, "connecting"),
    (silent_tls, "connecting"),
    (unread_body, "waiting"),
    (silent_vendor, "waiting"),
    (trickled_head, "waiting"),
    (trickled_body, "reading"),
]


LIMIT = 0.25  # seconds from the end of a deadline, or its cancellation, to the error
TRIES = 3  # a loaded machine may miss the limit once


def content_for(url: str) -> bytes:
    return b"x" * (20_000_000 if "large" in url else 9)


def timed(call: Callable[[], str]) -> tuple[str, float]:
    """Return the result of a call, and when it came."""
    return call(), time.monotonic()


@pytest.mark.parametrize(("phase", "name"), PHASES)
def test_the_deadline_ends_a_call_in_every_phase(phase: Any, name: str):
    kind = httpx.ConnectTimeout if name == "connecting" else httpx.ReadTimeout

    def late() -> float:
        with phase() as (transport, url):
            content, begun = content_for(url), time.monotonic()
            reason, ended = timed(
                lambda: failing(kind, transport, url, deadline=Deadline(0.3), content=content)
            )
        assert reason == f"timed_out_{name}"
        return ended - begun - 0.3

    lateness = next((each for _ in range(TRIES) if (each := late()) < LIMIT), LIMIT)
    assert -0.01 < lateness < LIMIT


@pytest.mark.parametrize(("phase", "name"), PHASES)
def test_another_thread_ends_a_call_in_every_phase(phase: Any, name: str):
    kind = httpx.ConnectTimeout if name == "connecting" else httpx.ReadTimeout

    def late() -> float:
        deadline = Deadline(LONG).part()
        with phase() as (transport, url), ThreadPoolExecutor(1) as thread:
            options = {"deadline": deadline, "content": content_for(url)}
            call = thread.submit(timed, lambda: failing(kind, transport, url, **options))
            time.sleep(0.3)
            assert call.running()
            cancelled = time.monotonic()
            deadline.cancel()
            reason, ended = call.result(timeout=SOON)
        assert reason == f"cancelled_{name}"
        return ended - cancelled

    assert any(late() < LIMIT for _ in range(TRIES))


def test_a_cancelled_deadline_ends_a_call_before_it_begins(transport: CurlTransport):
    deadline = Deadline(LONG)
    deadline.cancel()
    with serving(hang) as address, pytest.raises(httpx.TimeoutException):
        send(transport, f"http://{address}", deadline=deadline)


def test_connecting_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transport_module, "CONNECT_SECONDS", 0.2)
    with full_backlog() as (transport, url), pytest.raises(httpx.ConnectTimeout) as caught:
        send(transport, url)
    assert str(caught.value) == "timed_out_connecting"


def test_httpx_timeouts_hold_without_a_deadline(transport: CurlTransport):
    timeout = {"connect": 0.1, "read": 0.1, "write": 0.1, "pool": 0.1}
    for phase in (silent_vendor, trickled_head):
        extensions = {"deadline": None, "timeout": timeout}
        with phase() as (_, url):
            assert failing(httpx.ReadTimeout, transport, url, extensions=extensions)


@pytest.mark.parametrize("with_deadline", [False, True])
def test_the_read_timeout_of_httpx_holds_between_pieces_of_a_body(
    vendor: StubVendor, transport: CurlTransport, with_deadline: bool
):
    timeout = {"connect": LONG, "read": 0.3, "write": LONG, "pool": LONG}
    extensions = {"deadline": Deadline(LONG) if with_deadline else None, "timeout": timeout}
    vendor.stream([b"x"] * 20, gap=0.03)
    assert send(transport, vendor.url, extensions=extensions).content == b"x" * 20
    vendor.clear()
    vendor.stream([b"x", b"x"], gap=[0.0, LONG])
    reason = failing(httpx.ReadTimeout, transport, vendor.url, extensions=extensions)
    assert reason == "timed_out_reading"


def test_the_read_timeout_holds_before_the_head_beside_a_deadline():
    extensions = {"deadline": Deadline(LONG), "timeout": {"read": 0.1}}
    with silent_vendor() as (transport, url):
        reason = failing(httpx.ReadTimeout, transport, url, extensions=extensions)
    assert reason == "timed_out_waiting"


class CountingPoll:
    """select.poll, whose calls are counted."""

    calls = 0
    made = select.poll

    def __init__(self) -> None:
        self._poll = CountingPoll.made()
        self.register, self.unregister = self._poll.register, self._poll.unregister

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        CountingPoll.calls += 1
        return self._poll.poll(timeout)


def test_a_waiting_call_is_not_woken(vendor: StubVendor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transport_module.select, "poll", CountingPoll)
    hold = threading.Event()
    vendor.reply({}, delay=hold)
    with CurlTransport() as transport, ThreadPoolExecutor(1) as thread:
        call = thread.submit(send, transport, vendor.url)
        until(lambda: len(vendor.requests) == 1)
        time.sleep(0.1)
        before = CountingPoll.calls
        time.sleep(1.0)
        assert CountingPoll.calls == before
        hold.set()
        assert call.result(timeout=SOON).status_code == 200


def test_descriptors_beyond_1024_are_seen(vendor: StubVendor, transport: CurlTransport):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    with ExitStack() as files:
        for _ in range(1100):
            files.enter_context(Path(os.devnull).open())
        assert send(transport, vendor.url).status_code == 404
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/dev/fd").iterdir()}


def test_idle_connections_are_closed_but_those_used_last(stub_vendor: StubVendor):
    with CurlTransport() as transport:
        asked = [transport.handle_request(request_to(stub_vendor.url)) for _ in range(5)]
        for response in asked:
            response.read()
        all_idle = open_descriptors()
        transport.close_idle(but=1)
        assert len(open_descriptors()) < len(all_idle)
        opened = stub_vendor.connections
        send(transport, stub_vendor.url)
        assert stub_vendor.connections == opened


def run_out_of_descriptors() -> tuple[list[str], list[str]]:
    """Ask with ever more free descriptors. Return the errors, and the descriptors left open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with CurlTransport() as transport, pytest.raises(httpx.RequestError):
        send(transport, "http://127.0.0.1:9")  # imports what the first call imports
    reasons, before = [], open_descriptors()
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as files:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        opened = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (listener.fileno() + 64, hard))
        try:
            with suppress(OSError):
                while True:
                    opened.append(files.enter_context(Path(os.devnull).open()))
            while reasons[-1:] != ["timed_out_waiting"]:
                with CurlTransport() as transport, pytest.raises(httpx.RequestError) as caught:
                    send(transport, url, deadline=Deadline(0.2))
                reasons.append(str(caught.value))
                del caught
                opened.pop().close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return reasons, sorted(open_descriptors() - before)


def test_running_out_of_descriptors_leaves_none_open():
    """In a process of its own: a number that another test frees could hide one left open."""
    program = f"import {__name__} as tests; print(tests.run_out_of_descriptors())"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    reasons, left_open = ast.literal_eval(ran.stdout)
    assert set(reasons) <= {
        "no_descriptors",
        "curl_error_27",
        "not_connected",
        "timed_out_waiting",
    }
    assert (reasons[0], len(reasons) < 12) == ("no_descriptors", True)
    assert not left_open


class FailingMulti(pycurl.CurlMulti):
    """A CurlMulti that fails once it has been called a few times."""

    def __init__(self) -> None:
        self.calls = 0

    def socket_action(self, fd: int, mask: int) -> Any:
        self.calls += 1
        if self.calls > FailingMulti.allowed:
            raise pycurl.error(3, "out of memory")
        return super().socket_action(fd, mask)

    allowed = 0


@pytest.mark.parametrize("allowed", [0, 2, 6])
def test_a_failure_inside_curl_is_an_error_of_httpx(
    vendor: StubVendor, monkeypatch: pytest.MonkeyPatch, allowed: int
):
    monkeypatch.setattr(FailingMulti, "allowed", allowed)
    monkeypatch.setattr(pycurl, "CurlMulti", FailingMulti)
    vendor.stream([b"a"] * 20, gap=0.01)
    with CurlTransport() as transport:
        assert failing(httpx.NetworkError, transport, vendor.url) == "curl_failed"


def test_an_option_that_curl_refuses_is_an_error_of_httpx(transport: CurlTransport):
    method = "X" * 8_000_001  # more than libcurl takes in any option
    reason = failing(httpx.NetworkError, transport, "http://127.0.0.1", method=method)
    assert reason == "curl_failed"


# Connections are kept and shared


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_connection_goes_from_thread_to_thread(vendor: StubVendor, transport: CurlTransport):
    for _ in range(3):
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(send, transport, vendor.url).result().status_code == 404
    assert vendor.connections == 1


def test_the_connection_that_was_used_last_is_used_first(
    vendor: StubVendor, transport: CurlTransport
):
    vendor.stream([b"a", b"b"])
    first, second = (transport.handle_request(request_to(vendor.url)) for _ in range(2))
    first.read()
    second.read()
    assert send(transport, vendor.url).content == b"ab"
    assert vendor.connections == 2


def test_expired_connections_are_closed(
    vendor: StubVendor, transport: CurlTransport, monkeypatch: pytest.MonkeyPatch
):
    hold = threading.Event()
    vendor.reply({}, delay=hold)
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(send, transport, vendor.url) for _ in range(4)]
        until(lambda: len(vendor.requests) == 4)
        hold.set()
        assert [call.result().status_code for call in calls] == [200] * 4
    assert vendor.open == 4
    monkeypatch.setattr(transport_module, "KEEP_ALIVE_SECONDS", 0.1)
    time.sleep(0.2)
    send(transport, vendor.url)
    until(lambda: vendor.open == 1)


def test_no_more_connections_are_kept_than_the_limit(
    vendor: StubVendor, transport: CurlTransport, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(transport_module, "MAX_IDLE_HANDLES", 1)
    vendor.stream([b"a", b"b"])
    responses = [transport.handle_request(request_to(vendor.url)) for _ in range(3)]
    for response in responses:
        response.read()
    until(lambda: vendor.open == 1)


@pytest.mark.parametrize("method", ["POST", "GET", "HEAD"])
def test_an_idle_connection_holds_nothing_of_its_last_request(
    vendor: StubVendor, transport: CurlTransport, method: str
):
    content, deadline = os.urandom(100_000), Deadline(LONG)
    held = sys.getrefcount(content), sys.getrefcount(deadline)
    send(transport, vendor.url, content=content, deadline=deadline)
    assert (sys.getrefcount(content), sys.getrefcount(deadline)) == held
    send(transport, vendor.url, method=method)
    first, second = vendor.requests
    body = b'{"q": 1}' if method == "POST" else b""
    assert (first.body, second.method, second.body) == (content, method, body)
    assert vendor.connections == 1


def test_a_fresh_connection_can_be_asked_for(vendor: StubVendor, transport: CurlTransport):
    for _ in range(2):
        send(transport, vendor.url, extensions={"fresh": True})
    assert vendor.connections == 2


def test_closing_a_transport_closes_its_connections(vendor: StubVendor):
    with CurlTransport() as transport:
        send(transport, vendor.url)
        assert vendor.open == 1
    until(lambda: vendor.open == 0)


@pytest.mark.parametrize("leave", ["close", "forget"])
def test_an_abandoned_stream_closes_its_connection(
    vendor: StubVendor, transport: CurlTransport, leave: str
):
    vendor.stream([b"a", b"b"], gap=[0.0, LONG])
    response = transport.handle_request(request_to(vendor.url))
    pieces = response.iter_raw()
    assert next(pieces) == b"a"
    if leave == "close":
        response.close()
    del response, pieces
    assert vendor.client_disconnected.wait(SOON)
    assert vendor.open == 0 or until(lambda: vendor.open == 0) is None


FORKING = """
import os, sys
import httpx
from providers.deadline import Deadline
from providers.transport import CurlTransport

def ask():
    request = httpx.Request("POST", sys.argv[1], extensions={"deadline": Deadline(30)})
    return transport.handle_request(request)

transport = CurlTransport(ca_file=sys.argv[2])
in_use, idle = ask(), ask()
idle.read()
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
    assert in_use.read() == b"{}"
    both = ask(), ask()
    assert [each.read() for each in both] == [b"{}"] * 2
else:
    assert ask().read() == b"{}"
    in_use.close()
"""


def test_a_forked_process_leaves_the_connections_alone(authority: Authority):
    """Not even a TLS alert may be sent over them, also at the end of the forked process."""
    requests: list[list[bytes]] = []

    def serve(tls: ssl.SSLSocket) -> None:
        own: list[bytes] = []
        requests.append(own)
        first = len(requests) == 1
        while request := read_request(tls):
            own.append(request)
            tls.sendall(WHOLE[:-2])
            until(lambda: not first or len(requests) == 3)
            tls.sendall(WHOLE[-2:])

    with tls_server(authority.server(), serve) as address:
        command = [sys.executable, "-c", FORKING, f"https://{address}", authority.file]
        subprocess.run(command, check=True, timeout=LONG)
    assert [len(of_connection) for of_connection in requests] == [2, 2, 1]


def test_a_connection_that_was_closed_while_idle_is_replaced(
    vendor: StubVendor, transport: CurlTransport
):
    vendor.reply({"a": 1})
    for _ in range(2):
        assert send(transport, vendor.url).json() == {"a": 1}
        vendor.close_connections()
        until(lambda: vendor.open == 0)
    assert vendor.connections == 2


def closing_at_the_second(
    requests: list[bytes], last_words: bytes = b""
) -> Callable[[socket.socket], None]:
    """A server that answers the first request of a connection, and closes on the second."""

    def serve(sock: socket.socket) -> None:
        requests.append(read_request(sock))
        sock.sendall(WHOLE)
        requests.append(read_request(sock))
        sock.sendall(last_words)

    return serve


@pytest.mark.parametrize("size", [9, 5_000_000])
def test_a_kept_connection_that_closes_without_a_byte_is_replaced(
    transport: CurlTransport, size: int
):
    requests: list[bytes] = []
    with serving(closing_at_the_second(requests)) as address:
        for number in range(2):
            content = bytes([48 + number]) * size
            assert send(transport, f"http://{address}", content=content).content == b"{}"
        assert [request[-1:] for request in requests] == [b"0", b"1", b"1"]


def test_a_request_is_not_repeated_once_a_byte_has_come(transport: CurlTransport):
    requests: list[bytes] = []
    with serving(closing_at_the_second(requests, b"HTTP/1.1 200 OK\r\n")) as address:
        send(transport, f"http://{address}")
        with pytest.raises(httpx.RemoteProtocolError):
            send(transport, f"http://{address}")
        assert len(requests) == 2


def test_a_request_is_not_repeated_on_a_new_connection(transport: CurlTransport):
    requests: list[bytes] = []
    with serving(answering(b"", requests=requests)) as address:
        with pytest.raises(httpx.ReadError) as caught:
            send(transport, f"http://{address}")
        assert (len(requests), str(caught.value)) == (1, "connection_closed")


def test_many_threads_share_the_connections(vendor: StubVendor, transport: CurlTransport):
    def ask(number: int) -> bool:
        content = str(number).encode()
        return send(transport, f"{vendor.url}/{number}", content=content).status_code == 404

    with ThreadPoolExecutor(32) as threads:
        assert all(threads.map(ask, range(1000)))
    assert vendor.connections <= 32
    assert {(sent.path, sent.body) for sent in vendor.requests} == {
        (f"/{number}", str(number).encode()) for number in range(1000)
    }


# What is sent


def test_only_the_given_headers_are_sent(transport: CurlTransport):
    requests: list[bytes] = []
    with serving(answering(WHOLE, WHOLE, requests=requests)) as address:
        send(transport, f"http://{address}/a:b/../c%2F?q=1", headers={"x-empty": ""})
        send(transport, f"http://{address}", method="GET", headers={"accept-encoding": "identity"})
    assert requests == [
        b"POST /c%2F?q=1 HTTP/1.1\r\nHost: HOST\r\nAccept-Encoding: deflate, gzip, br\r\n"
        b'x-empty:\r\nContent-Length: 8\r\n\r\n{"q": 1}'.replace(b"HOST", address.encode()),
        b"GET / HTTP/1.1\r\nHost: HOST\r\naccept-encoding: identity\r\n\r\n".replace(
            b"HOST", address.encode()
        ),
    ]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT", "PATCH", "POST", "OPTIONS"])
def test_every_method_may_follow_every_other(transport: CurlTransport, method: str):
    requests: list[bytes] = []
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with serving(answering(*[head] * 3, requests=requests)) as address:
        for each, content in [("POST", b"a"), (method, b""), ("POST", b"b")]:
            send(transport, f"http://{address}", method=each, content=content)
        assert [request.split()[0].decode() for request in requests] == ["POST", method, "POST"]
        assert [request[-1:] for request in requests] == [b"a", b"\n", b"b"]


def test_a_body_of_unknown_length_is_sent_with_its_length(
    vendor: StubVendor, transport: CurlTransport
):
    send(transport, vendor.url, content=iter([b"a", b"b"]))
    assert (vendor.requests[0].body, vendor.requests[0].headers["content-length"]) == (b"ab", "2")


def test_a_header_cannot_bring_another(vendor: StubVendor, transport: CurlTransport):
    with pytest.raises(httpx.LocalProtocolError):
        send(transport, vendor.url, headers={"x-a": "1\r\nx-b: 2"})


def test_a_large_body_is_sent_whole(vendor: StubVendor, transport: CurlTransport):
    content = os.urandom(10 * 1024 * 1024)
    send(transport, vendor.url, content=content)
    [sent] = vendor.requests
    assert sent.body == content
    assert "expect" not in sent.headers


@pytest.mark.parametrize("kept", [False, True])
def test_an_answer_that_comes_before_the_whole_body_is_sent_is_read(
    transport: CurlTransport, kept: bool
):
    def refuse(sock: socket.socket) -> None:
        while b"Content-Length: 8\r\n" in sock.recv(150):
            sock.sendall(WHOLE)
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")

    with serving(refuse) as address:
        for _ in range(20):
            if kept:
                send(transport, f"http://{address}")
            answer = send(transport, f"http://{address}", content=b"x" * 10_000_000)
            assert (answer.status_code, answer.content) == (413, b"{}")


def test_only_http_is_spoken(transport: CurlTransport):
    with pytest.raises(httpx.UnsupportedProtocol):
        send(transport, "file:///etc/passwd")


# What is read


def test_redirects_are_not_followed(vendor: StubVendor, transport: CurlTransport):
    vendor.reply({}, status=302, headers={"location": f"{vendor.url}/elsewhere"})
    assert send(transport, vendor.url).status_code == 302
    assert len(vendor.requests) == 1


def test_interim_answers_and_trailers_are_ignored(transport: CurlTransport):
    early = b"HTTP/1.1 103 Early\r\nX-Early: 1\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"2\r\n{}\r\n0\r\nX-Late: 1\r\n\r\n"
    with serving(answering(*[early + head + body] * 2)) as address:
        for _ in range(2):
            answer = send(transport, f"http://{address}")
            headers = [(b"X-A", b"1"), (b"Transfer-Encoding", b"chunked")]
            assert (answer.headers.raw, answer.content) == (headers, b"{}")


MALFORMED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", "connection_closed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}", "connection_closed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n", "connection_closed"),
        (MALFORMED, "malformed_answer"),
        (b"HTTP/1.1 200OK\r\nContent-Length: 0\r\n\r\n", "malformed_answer"),
        (b"HTTP/1.1 000 No\r\n\r\n", "malformed_answer"),
        (b"220 smtp.example.org ESMTP\r\n", "malformed_answer"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "connection_closed"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 15_000 + b"\r\n", "head_too_large"),
        (b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"x" * 40_000 + b"\r\n") * 2, "head_too_large"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "connection_closed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "head_too_large"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 34_000_000, "answer_too_large"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 34000000\r\n\r\n", "answer_too_large"),
    ],
)
def test_malformed_responses_raise(transport: CurlTransport, answer: bytes, reason: str):
    with serving(answering(answer)) as address:
        for _ in range(2):
            assert failing(httpx.RemoteProtocolError, transport, f"http://{address}") == reason


def test_a_header_may_look_like_a_status_line(transport: CurlTransport):
    answer = b"HTTP/1.1 200 OK\r\nHTTP/x: y\r\nHTTP/1.1 404: z\r\nContent-Length: 2\r\n\r\n{}"
    with serving(answering(answer)) as address:
        response = send(transport, f"http://{address}")
    assert (response.status_code, response.content) == (200, b"{}")
    assert (response.headers["http/x"], response.headers["http/1.1 404"]) == ("y", "z")


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda body: brotli.compress(body, quality=1),
}


@pytest.mark.parametrize("encoding", ENCODERS)
@pytest.mark.parametrize("asked", ["identity", "gzip"])
def test_a_compressed_body_is_decoded(
    vendor: StubVendor, transport: CurlTransport, encoding: str, asked: str
):
    vendor.reply(ENCODERS[encoding](b"{}" * 999), headers={"content-encoding": encoding})
    answer = send(transport, vendor.url, headers={"accept-encoding": asked})
    assert answer.content == b"{}" * 999
    assert not {"content-encoding", "content-length"} & set(answer.headers)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_badly_compressed_body_is_an_error(
    vendor: StubVendor, transport: CurlTransport, encoding: str
):
    vendor.reply(b"not compressed at all", headers={"content-encoding": encoding})
    reason = failing(httpx.DecodingError, transport, vendor.url)
    assert reason == "bad_encoding"


@pytest.mark.parametrize("encoding", ENCODERS)
def test_the_limit_is_of_what_was_decoded(
    vendor: StubVendor, transport: CurlTransport, encoding: str
):
    body = ENCODERS[encoding](bytes(50_000_000))
    vendor.reply(body, headers={"content-encoding": encoding})
    reason = failing(httpx.RemoteProtocolError, transport, vendor.url)
    assert reason == "answer_too_large"


@pytest.mark.parametrize("cancelled", [False, True])
def test_pieces_at_hand_are_not_read_after_the_deadline(
    vendor: StubVendor, transport: CurlTransport, cancelled: bool
):
    vendor.reply(gzip.compress(bytes(1_000_000)), headers={"content-encoding": "gzip"})
    deadline = Deadline(LONG if cancelled else 0.5)
    response = transport.handle_request(request_to(vendor.url, deadline=deadline))
    pieces = iter(response.stream)
    next(pieces)
    if cancelled:
        deadline.cancel()
    else:
        time.sleep(0.5)
    with pytest.raises(httpx.ReadTimeout):
        next(pieces)
    response.close()


def test_pieces_at_hand_are_read_after_an_earlier_end(vendor: StubVendor, transport: CurlTransport):
    vendor.reply(gzip.compress(bytes(100_000)), headers={"content-encoding": "gzip"})
    deadline = Deadline(LONG)
    response = transport.handle_request(request_to(vendor.url, deadline=deadline))
    pieces = iter(response.stream)
    next(pieces)
    deadline.end_in(0)
    assert next(pieces)
    response.close()


def flushing(encoding: str) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    """Compress a piece whole, and end."""
    if encoding == "br":
        compressor = brotli.Compressor()
        return lambda piece: compressor.process(piece) + compressor.flush(), compressor.finish
    deflate = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
    return lambda piece: deflate.compress(piece) + deflate.flush(zlib.Z_SYNC_FLUSH), deflate.flush


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate", "br"])
def test_pieces_reach_the_reader_as_they_come(
    vendor: StubVendor, transport: CurlTransport, encoding: str | None
):
    pieces = [b"one", b"two", b"three"]
    sent, headers = pieces, {}
    if encoding:
        compress, end = flushing(encoding)
        sent = [*map(compress, pieces), end()]
        headers = {"content-encoding": encoding}
    gaps = [threading.Event() for _ in sent]
    vendor.stream(sent, gap=gaps, headers=headers)
    gaps[0].set()
    response = transport.handle_request(request_to(vendor.url))
    read = response.iter_raw()
    for piece, next_gap in zip(pieces, [*gaps[1:], None], strict=False):
        assert next(read) == piece  # before the next one is sent
        if next_gap:
            next_gap.set()
    assert list(read) == []
    assert vendor.connections == 1


# Proxies, TLS and names


def test_a_plain_request_goes_to_its_proxy(vendor: StubVendor):
    proxy = vendor.url.replace("//", "//user:p%40ss@")
    with CurlTransport(http_proxy=proxy, https_proxy="http://127.0.0.1:1") as transport:
        send(transport, "http://vendor.test/v1", headers={"x-a": "1"})
    [sent] = vendor.requests
    assert (sent.path, sent.headers["host"]) == ("http://vendor.test/v1", "vendor.test")
    assert sent.headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"


def test_a_host_may_bypass_the_proxy(vendor: StubVendor):
    options = {"http_proxy": "http://127.0.0.1:1", "no_proxy": "example.org,127.0.0.1"}
    with CurlTransport(**options) as transport:
        assert send(transport, vendor.url).status_code == 404


def test_the_environment_is_not_read(
    vendor: StubVendor, transport: CurlTransport, monkeypatch: pytest.MonkeyPatch
):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert send(transport, vendor.url).status_code == 404


@contextmanager
def tunnel(target: str, refusal: bytes = b"") -> Iterator[tuple[str, list[bytes]]]:
    """A proxy whose every tunnel leads to the target."""
    requests: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        requests.append(read_request(sock))
        if refusal:
            sock.sendall(refusal)
            return
        host, port = target.split(":")
        with socket.create_connection((host, int(port))) as onward, ExitStack() as files:
            sock.sendall(b"HTTP/1.1 200 Established\r\nX-Proxy: 1\r\n\r\n")
            ends: dict[Any, socket.socket] = {sock: onward, onward: sock}
            readable = files.enter_context(selectors.DefaultSelector())
            for end in ends:
                readable.register(end, selectors.EVENT_READ)
            while True:
                for key, _ in readable.select():
                    end = key.fileobj
                    if not (data := end.recv(65536)):
                        return
                    ends[end].sendall(data)

    with serving(serve) as address:
        yield address, requests


def test_tls_goes_through_a_tunnel_of_the_proxy(authority: Authority):
    with (
        tls_server(authority.server("DNS:vendor.test")) as target,
        tunnel(target) as (proxy, requests),
        CurlTransport(https_proxy=f"http://u:p@{proxy}", ca_file=authority.file) as transport,
    ):
        answer = send(transport, "https://vendor.test/v1", headers={"authorization": "Bearer key"})
        assert send(transport, "https://vendor.test/v1").content == b"{}"
    assert (answer.content, "x-proxy" in answer.headers) == (b"{}", False)
    [request] = requests
    assert request.startswith(b"CONNECT vendor.test:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic dTpw\r\n" in request
    assert b"Bearer" not in request


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([b""], httpx.ReadError),
        ([b"HTTP/1.1 200 OK\r\n"], httpx.RemoteProtocolError),
        ([WHOLE, b"HTTP/1.1 200 OK\r\n"], httpx.RemoteProtocolError),
    ],
)
def test_a_tunnel_closed_by_the_vendor_is_no_proxy_error(
    authority: Authority, answers: list[bytes], kind: type[httpx.RequestError]
):
    """Only the vendor's bytes count as the begin of an answer, after which nothing is retried."""
    with (
        tls_server(authority.server("DNS:vendor.test"), answering(*answers)) as target,
        tunnel(target) as (proxy, requests),
        CurlTransport(https_proxy=f"http://{proxy}", ca_file=authority.file) as transport,
    ):
        for _ in answers[1:]:
            send(transport, "https://vendor.test/v1")
        assert failing(kind, transport, "https://vendor.test/v1") == "connection_closed"
        assert len(requests) == 1


def test_a_proxy_that_closes_instead_of_a_tunnel_is_reported():
    with serving(answering(b"")) as proxy:
        transport = CurlTransport(https_proxy=f"http://{proxy}")
        reason = failing(httpx.ProxyError, transport, "https://vendor.test/v1")
    assert reason == "proxy_connection_closed"


@pytest.mark.parametrize("url", ["https://vendor.test", "http://vendor.test"])
@pytest.mark.parametrize(
    ("name", "days", "known", "reason"),
    [
        ("IP:127.0.0.1", 9, False, "proxy_certificate_unknown_ca"),
        ("IP:127.0.0.1", -1, True, "proxy_certificate_expired"),
        ("IP:127.0.0.2", 9, True, "proxy_certificate_wrong_host"),
    ],
)
def test_a_bad_certificate_of_a_proxy_is_refused(
    authority: Authority, name: str, days: int, known: bool, reason: str, url: str
):
    with tls_server(authority.server(name, days=days)) as address:
        proxy, ca_file = f"https://{address}", authority.file if known else ""
        with CurlTransport(http_proxy=proxy, https_proxy=proxy, ca_file=ca_file) as transport:
            assert failing(httpx.ProxyError, transport, url) == reason


@pytest.mark.parametrize("status", [407, 403, 502])
def test_a_refusal_of_the_proxy_is_reported_with_its_status(status: int):
    refusal = b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status
    with tunnel("", refusal) as (proxy, _):
        transport = CurlTransport(https_proxy=f"http://{proxy}")
        with transport, pytest.raises(httpx.ProxyError) as caught:
            send(transport, "https://vendor.test/v1")
    assert str(caught.value) == f"proxy_refused_{status}"


@pytest.mark.parametrize(
    ("name", "days", "known", "reason"),
    [
        ("IP:127.0.0.1", 9, False, "certificate_unknown_ca"),
        ("IP:127.0.0.1", -1, True, "certificate_expired"),
        ("IP:127.0.0.2", 9, True, "certificate_wrong_host"),
        ("DNS:vendor.test", 9, True, "certificate_wrong_host"),
    ],
)
def test_a_bad_certificate_is_refused(
    authority: Authority, name: str, days: int, known: bool, reason: str
):
    with tls_server(authority.server(name, days=days)) as address:
        transport = CurlTransport(ca_file=authority.file if known else "")
        with transport, pytest.raises(httpx.ConnectError) as caught:
            send(transport, f"https://{address}")
    assert str(caught.value) == reason


def test_unreadable_ca_file_is_reported(tmp_path: Path):
    with serving(hang) as address, CurlTransport(ca_file=str(tmp_path / "missing")) as transport:
        reason = failing(httpx.ConnectError, transport, f"https://{address}")
    assert reason == "ca_file_unreadable"


def test_a_ca_file_may_have_a_name_that_is_not_ascii(authority: Authority, tmp_path: Path):
    ca_file = tmp_path / "Zertifikate für \udce4" / "ca.pem"
    ca_file.parent.mkdir()
    ca_file.write_bytes(Path(authority.file).read_bytes())
    with (
        tls_server(authority.server()) as address,
        CurlTransport(ca_file=str(ca_file)) as transport,
    ):
        assert send(transport, f"https://{address}").content == b"{}"


def test_a_server_without_tls_is_reported(transport: CurlTransport):
    with serving(lambda sock: sock.sendall(sock.recv(9) and WHOLE)) as address:
        reason = failing(httpx.ConnectError, transport, f"https://{address}")
    assert reason == "tls_handshake_failed"


def test_a_hang_up_during_the_handshake_is_reported(transport: CurlTransport):
    with serving(lambda sock: sock.recv(9) and None) as address:
        reason = failing(httpx.ConnectError, transport, f"https://{address}")
    assert reason == "tls_handshake_failed"


def test_a_refused_connection_is_reported(transport: CurlTransport):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    reason = failing(httpx.ConnectError, transport, f"http://127.0.0.1:{port}")
    assert reason == "connection_refused"
    with CurlTransport(http_proxy=f"http://127.0.0.1:{port}") as proxied:
        reason = failing(httpx.ProxyError, proxied, "http://vendor.test")
    assert reason == "proxy_connection_refused"


def test_an_unknown_name_is_reported_without_another_thread(
    transport: CurlTransport, monkeypatch: pytest.MonkeyPatch
):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = open_descriptors()
    assert failing(httpx.ConnectError, transport, "http://vendor.invalid/") == "name_not_found"
    assert open_descriptors() == before


def test_an_unknown_name_is_reported(transport: CurlTransport):
    reason = failing(httpx.ConnectError, transport, "http://vendor.invalid/")
    assert reason == "name_not_found"
    with CurlTransport(http_proxy="http://proxy.invalid:1") as proxied:
        reason = failing(httpx.ProxyError, proxied, "http://vendor.test")
    assert reason == "proxy_name_not_found"


def test_ipv4_is_used_where_ipv6_is_refused(vendor: StubVendor, transport: CurlTransport):
    assert send(transport, f"http://localhost:{vendor.port}").status_code == 404


def test_an_ipv6_address_is_used(transport: CurlTransport):
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                answering(WHOLE)(sock)

        with ThreadPoolExecutor(1) as thread:
            served = thread.submit(serve)
            port = listener.getsockname()[1]
            assert send(transport, f"http://[::1]:{port}/").content == b"{}"
            served.result()


# HTTP/2


class HTTP2Server:
    """Answers each request with its method, path and body, in two pieces; /reset breaks off."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[tuple[dict[bytes, bytes], bytes]] = []

    def serve(self, tls: ssl.SSLSocket) -> None:
        self.connections += 1
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        tls.sendall(connection.data_to_send())
        streams: dict[int, tuple[dict[bytes, bytes], io.BytesIO]] = {}
        while data := tls.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    streams[event.stream_id] = (dict(event.headers), io.BytesIO())
                elif isinstance(event, h2.events.DataReceived):
                    streams[event.stream_id][1].write(event.data)
                    length = event.flow_controlled_length
                    connection.acknowledge_received_data(length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    headers, body = streams.pop(event.stream_id)
                    self._answer(connection, event.stream_id, headers, body.getvalue())
            tls.sendall(connection.data_to_send())

    def _answer(
        self, connection: Any, stream: int, headers: dict[bytes, bytes], body: bytes
    ) -> None:
        self.requests.append((headers, body))
        connection.send_headers(stream, [(":status", "200"), ("x-a", "1")])
        if headers[b":path"] == b"/reset":
            connection.reset_stream(stream, error_code=2)
            return
        connection.send_data(stream, headers[b":method"] + headers[b":path"])
        connection.send_data(stream, b" %d" % len(body), end_stream=True)


@pytest.fixture
def http2(authority: Authority) -> Iterator[tuple[HTTP2Server, str]]:
    server, context = HTTP2Server(), authority.server()
    context.set_alpn_protocols(["h2"])
    with tls_server(context, server.serve) as address:
        yield server, f"https://{address}"


def test_http2_is_spoken_where_it_is_offered(http2: tuple[HTTP2Server, str], authority: Authority):
    server, url = http2
    with CurlTransport(ca_file=authority.file) as transport:
        for size in (1, 300_000):
            answer = send(transport, f"{url}/v1", content=b"x" * size)
            assert (answer.http_version, answer.headers["x-a"]) == ("HTTP/2", "1")
            assert answer.content == b"POST/v1 %d" % size
        assert send(transport, f"{url}/v1", method="GET").content == b"GET/v1 0"
    assert server.connections == 1
    assert b"user-agent" not in server.requests[0][0]


def test_a_reset_http2_stream_is_an_error(http2: tuple[HTTP2Server, str], authority: Authority):
    with CurlTransport(ca_file=authority.file) as transport:
        reason = failing(httpx.RemoteProtocolError, transport, f"{http2[1]}/reset")
    assert reason == "http2_error"


def test_http2_ends_at_the_deadline(authority: Authority):
    context = authority.server()
    context.set_alpn_protocols(["h2"])
    with tls_server(context, hang) as url, CurlTransport(ca_file=authority.file) as transport:
        reason = failing(httpx.ReadTimeout, transport, f"https://{url}", deadline=Deadline(0.3))
    assert reason == "timed_out_waiting"


# As a part of httpx


def test_an_httpx_client_can_use_the_transport(vendor: StubVendor, transport: CurlTransport):
    body = gzip.compress(b'{"a": 1}')
    vendor.reply(body, headers={"content-encoding": "gzip"})
    with httpx.Client(transport=transport) as client:
        assert client.post(vendor.url, json={"q": 1}).json() == {"a": 1}
        with client.stream("POST", vendor.url) as response:
            assert b"".join(response.iter_bytes()) == b'{"a": 1}'
    assert vendor.connections == 1
