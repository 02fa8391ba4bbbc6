"""Running streams are relayed in one thread per process: no client or vendor holds up another."""

import contextlib
import json
import re
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest

from tests.raw_servers import read_request, tls_server
from tests.server_process import Server
from tests.stub_vendor import (
    DONE,
    FINISH,
    OPENAI_ANSWER,
    SOON,
    USAGE,
    Received,
    ScriptedResponse,
    StubVendor,
    Wait,
    chunk,
    json_response,
    stream_response,
)
from tests.tls import Authority

# On an idle machine a piece is late by a millisecond. A stream that waits for another's client or
# vendor in these tests waits for seconds.
LATE = 1.0
# Short timeouts, which the server sets before it starts.
SHORT = """
from struct import pack
from chat.api import streaming
from chatproject.server import relay, worker
streaming.HEARTBEAT_SECONDS = 0.2
relay.CLIENT_SECONDS = 1.0
worker.SEND_TIMEOUT = pack("ll", 1, 0)
"""
# The system allows no threads but those of requests.
NO_THREADS = """
import threading
start = threading.Thread.start
def start_if_allowed(self):
    if self.name in ("relay", "disconnects"):
        raise RuntimeError("can't start new thread")
    start(self)
threading.Thread.start = start_if_allowed
"""
END = [FINISH, USAGE, DONE]
BROKEN = f"data: {json.dumps({'error': {'code': 503, 'message': 'overloaded'}})}\n\n"


@pytest.fixture(scope="module")
def vendor() -> Iterator["Vendor"]:
    with StubVendor() as stub:
        yield Vendor(stub)


@pytest.fixture(scope="module")
def server(vendor: "Vendor", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), **variables(vendor)) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def impatient(vendor: "Vendor", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with short timeouts."""
    folder = tmp_path_factory.mktemp("impatient")
    idle = {"STREAM_IDLE_SECONDS": "1", "DJANGO_SETTINGS_MODULE": "chatproject.settings"}
    with Server(folder, setup=SHORT, **variables(vendor), **idle) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


def variables(vendor: "Vendor") -> dict[str, str]:
    return {
        "OPENAI_BASE_URL": vendor.stub.url,
        "WEB_CONCURRENCY": "1",  # so that all streams are in one relay
        "RATE_LIMIT_PER_MINUTE": "0",
        "CIRCUIT_BREAKER_THRESHOLD": "1000",
    }


class Vendor:
    """A stub that answers each prompt by a script of its own."""

    def __init__(self, stub: StubVendor) -> None:
        self.stub = stub
        self._scripts: dict[str, ScriptedResponse] = {}
        stub.responder = self._respond

    def stream(
        self, prompt: str, pieces: list[str], gap: Wait | list[Wait] = 0.0, *, cut: bool = False
    ) -> None:
        gaps = gap if isinstance(gap, list) else [gap] * len(pieces)
        raw = [piece.encode() for piece in pieces]
        self._scripts[prompt] = stream_response(raw, gaps, cut=cut)

    def _respond(self, request: Received) -> ScriptedResponse:
        if not request.json.get("stream"):
            return json_response(OPENAI_ANSWER)
        return self._scripts[request.json["messages"][-1]["content"]]


class Connection:
    """A client's connection, and what it reads from it. A slow client has a small buffer."""

    def __init__(self, server: Server, *, slow: bool = False) -> None:
        self._socket = socket.socket()
        if slow:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(30)
        self._socket.connect(("127.0.0.1", server.port))
        self._file = self._socket.makefile("rb")
        self.headers: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._socket.close()

    def ask(
        self, prompt: str, *, stream: bool = True, path: str = "/v1/chat", http: str = "1.1"
    ) -> None:
        """Send a request."""
        asked = {
            "/v1/chat": {"userId": "user123", "prompt": prompt},
            "/v1/chat/completions": {
                "model": "default",
                "messages": [{"role": "user", "content": prompt}],
            },
            "/v1/responses": {"model": "default", "input": prompt},
        }
        body = json.dumps(asked[path] | {"stream": stream})
        head = f"POST {path} HTTP/{http}\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._socket.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())

    def head(self) -> int:
        """Read the head of a response, and return its status."""
        status = int(self._file.readline().split()[1])
        lines = iter(lambda: self._file.readline().decode().strip(), "")
        self.headers = {
            name.lower(): value for name, value in (line.split(": ", 1) for line in lines)
        }
        return status

    def chunks(self) -> Iterator[bytes]:
        """Read the body of a response in chunks, up to its last one."""
        while True:
            size = int(self._file.readline(), 16)
            data = self._file.read(size)
            assert len(data) == size
            assert self._file.readline() == b"\r\n"
            if not size:
                return
            yield data

    def body(self) -> bytes:
        """Read a response, and return its body."""
        assert self.head() == 200
        if self.headers.get("transfer-encoding") == "chunked":
            return b"".join(self.chunks())
        length = self.headers.get("content-length")
        return self._file.read(int(length) if length else -1)

    def at_end(self) -> bool:
        """Whether the server has closed the connection."""
        return self._file.read(1) == b""


def streamed(server: Server, prompt: str, **options: Any) -> bytes:
    """Ask on a new connection, and return the body."""
    with Connection(server) as client:
        client.ask(prompt, **options)
        return client.body()


def deltas(*texts: str) -> bytes:
    """Return the events of `/v1/chat` for these pieces."""
    return b"".join(b'event: delta\ndata: {"text":"%b"}\n\n' % text.encode() for text in texts)


def last_event(body: bytes) -> tuple[str, Any]:
    *_, last, _ = body.decode().split("\n\n")
    match = re.fullmatch("event: (.+)\ndata: (.+)", last)
    assert match
    return match[1], json.loads(match[2])


def record(server: Server, prompt: str) -> dict[str, Any]:
    """Return the newest record with this prompt."""
    file = f"file:{server.log.parent / 'server.db'}?mode=ro"
    select = "SELECT * FROM chat_interaction WHERE prompt = ? ORDER BY created_at DESC"
    with contextlib.closing(sqlite3.connect(file, uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return dict(connection.execute(select, [prompt]).fetchone())


def settled(server: Server, prompt: str) -> dict[str, Any]:
    """Wait until the record is settled, and return it."""
    eventually(lambda: record(server, prompt)["status"] != "pending")
    return record(server, prompt)


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


class Others:
    """Streams beside the one that a test is about, with a piece every 20 ms."""

    def __init__(self, server: Server, vendor: Vendor, *, count: int = 4, pieces: int = 30) -> None:
        self._server = server
        self._texts = [f"{number} " for number in range(pieces)]
        self._gaps: list[list[float]] = []  # of each
        vendor.stream("others", [*map(chunk, self._texts), *END], 0.02)
        self._pool = ThreadPoolExecutor(count)
        self._running = [self._pool.submit(self._read) for _ in range(count)]

    def _read(self) -> bytes:
        with Connection(self._server) as client:
            client.ask("others")
            assert client.head() == 200
            gaps: list[float] = []
            self._gaps.append(gaps)
            data, at = [], time.monotonic()
            for piece in client.chunks():
                gaps.append(time.monotonic() - at)
                data.append(piece)
                at = time.monotonic()
        return b"".join(data)

    def wait_until_all_run(self) -> None:
        eventually(lambda: len(self._gaps) == len(self._running) and min(map(len, self._gaps)) > 5)

    def check(self) -> None:
        """Wait for their end. Check that they are whole, and that no piece was late."""
        for each in self._running:
            body = each.result(SOON)
            assert body.startswith(deltas(*self._texts) + b"event: done\n")
        self._pool.shutdown()
        assert max(map(max, self._gaps)) < LATE


# --- The relay ------------------------------------------------------------------------------------


def of_worker(server: Server) -> Path:
    """Return the folder of the worker process in /proc."""
    pid = server.process.pid
    [worker] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return Path("/proc", worker)


def switches(server: Server) -> dict[str, int]:
    """Return how often each thread of the worker process went to sleep."""
    counts = {}
    for thread in (of_worker(server) / "task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            status = (thread / "status").read_text()
            [count] = re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.M)
            counts[thread.name] = int(count)
    return counts


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each thread relays its own stream")
def test_the_pieces_of_many_streams_wake_one_thread(server: Server, vendor: Vendor):
    others = Others(server, vendor, count=8, pieces=60)
    others.wait_until_all_run()
    before = switches(server)
    time.sleep(0.4)
    after = switches(server)
    others.check()
    *rest, most = sorted(after[thread] - before.get(thread, 0) for thread in after)
    assert most >= 10
    assert max(rest) < most / 2


PATHS = ["/v1/chat", "/v1/chat/completions", "/v1/responses"]


@pytest.mark.parametrize("path", PATHS)
def test_a_relayed_stream_has_the_events_of_one_that_is_not(
    server: Server, vendor: Vendor, path: str
):
    call = {"index": 0, "id": "call_1", "type": "function"}
    messages: list[dict[str, Any]] = [
        {"reasoning_content": "Let me"},
        {"reasoning_content": " see."},
        {"content": "Olá"},
        {"content": " \u2028🦆"},
        {"tool_calls": [call | {"function": {"name": "weather", "arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Lisboa"}'}}]},
    ]
    pieces = [
        chunk(choices=[{"index": 0, "delta": each, "finish_reason": None}]) for each in messages
    ]
    vendor.stream("both", [*pieces, *END], 0.02)
    relayed = streamed(server, "both", path=path)
    not_relayed = streamed(server, "both", path=path, http="1.0")
    assert comparable(relayed) == comparable(not_relayed)
    assert "Olá" in relayed.decode()


def comparable(body: bytes) -> str:
    """Return a body without its ids and times."""
    text = re.sub(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", "<id>", body.decode())
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", text)
    return re.sub(r'"(created(_at)?|completed_at|latency_ms)":[\d.]+', r'"\1":0', text)


def test_a_client_without_chunks_gets_the_whole_body(server: Server, vendor: Vendor):
    vendor.stream("old", [chunk("Hel"), chunk("lo."), *END], 0.05)
    with Connection(server) as client:
        client.ask("old", http="1.0")
        body = client.body()
        assert "transfer-encoding" not in client.headers
        assert client.at_end()
    assert body.startswith(deltas("Hel", "lo.") + b"event: done\n")
    assert last_event(body)[1]["response"] == "Hello."


@pytest.mark.skipif(sys.platform != "linux", reason="it looks at /proc")
def test_without_the_relays_thread_a_request_relays_its_own_stream(vendor: Vendor, tmp_path: Path):
    vendor.stream("alone", [chunk("Hel"), chunk("lo."), *END], 0.01)
    with Server(tmp_path, setup=NO_THREADS, **variables(vendor)) as server:
        for _ in range(20):
            assert last_event(streamed(server, "alone"))[1]["response"] == "Hello."
        assert settled(server, "alone")["status"] == "ok"
        files = of_worker(server) / "fd"
        before = len(list(files.iterdir()))
        for _ in range(20):
            streamed(server, "alone")
        assert len(list(files.iterdir())) < before + 10
        assert "Traceback" not in server.log.read_text()


def test_a_connection_serves_more_requests_after_a_relayed_stream(server: Server, vendor: Vendor):
    vendor.stream("kept", [chunk("Hel"), chunk("lo."), *END], 0.05)
    with Connection(server) as client:
        for stream in (True, False, True):
            client.ask("kept", stream=stream)
            body = client.body()
            if stream:
                assert body.startswith(deltas("Hel", "lo.") + b"event: done\n")
            else:
                assert json.loads(body)["response"] == "Hello from the stand-in."


def test_a_request_sent_during_a_stream_is_answered_after_it(server: Server, vendor: Vendor):
    vendor.stream("pipelined", [chunk("Hel"), chunk("lo."), *END], 0.05)
    with Connection(server) as client:
        client.ask("pipelined")
        assert client.head() == 200
        chunks = client.chunks()
        first = next(chunks)
        client.ask("pipelined")
        assert (first + b"".join(chunks)).startswith(deltas("Hel", "lo.") + b"event: done\n")
        assert client.body().startswith(deltas("Hel", "lo.") + b"event: done\n")


# --- Slow clients ---------------------------------------------------------------------------------


def test_a_client_that_stops_reading_holds_up_no_other_and_gets_all_later(
    server: Server, vendor: Vendor
):
    texts = [f"{number} ".ljust(20_000, "x") for number in range(500)]
    vendor.stream("stalled", [*map(chunk, texts), *END])
    with Connection(server, slow=True) as client:
        client.ask("stalled")
        assert client.head() == 200
        Others(server, vendor).check()
        assert record(server, "stalled")["status"] == "pending"
        body = b"".join(client.chunks())
    assert body.startswith(deltas(*texts) + b"event: done\n")
    assert last_event(body)[1]["response"] == "".join(texts)
    kept = settled(server, "stalled")
    assert (kept["status"], kept["response"] == "".join(texts)) == ("ok", True)


def test_many_clients_that_read_slowly_get_all_in_order(server: Server, vendor: Vendor):
    texts = [f"{number} ".ljust(10_000, "x") for number in range(100)]
    vendor.stream("slowly", [*map(chunk, texts), *END], 0.001)

    def read(number: int) -> bytes:
        with Connection(server, slow=True) as client:
            client.ask("slowly")
            assert client.head() == 200
            data = []
            for count, piece in enumerate(client.chunks()):
                data.append(piece)
                if count % 10 == number:
                    time.sleep(0.1)
            return b"".join(data)

    with ThreadPoolExecutor(8) as pool:
        for body in pool.map(read, range(8)):
            assert body.startswith(deltas(*texts) + b"event: done\n")


@pytest.mark.parametrize("pieces", [1, 40], ids=["one piece", "many pieces"])
def test_a_slow_client_gets_all_there_is_while_the_vendor_is_silent(
    server: Server, vendor: Vendor, pieces: int
):
    more = threading.Event()
    texts = ["Hello.", *["x" * (6_000_000 // pieces)] * pieces]
    gaps: list[Wait] = [0.0, 0.1, *[0.0] * (pieces - 1), more, 0.0, 0.0]
    vendor.stream("silent", [*map(chunk, texts), *END], gaps)
    with Connection(server, slow=True) as client:
        client.ask("silent")
        assert client.head() == 200
        time.sleep(0.5)
        begun, expected, received = time.monotonic(), deltas(*texts), b""
        chunks = client.chunks()
        while len(received) < len(expected):
            received += next(chunks)
        assert time.monotonic() - begun < 5
        assert received == expected
        more.set()
        assert b"".join(chunks).startswith(b"event: done\n")


TOO_MUCH = [chunk("Hello."), chunk("x" * 6_000_000)]


@pytest.mark.parametrize(
    ("pieces", "gaps"),
    [
        ([chunk("x" * 20_000)] * 500, [0.0] * 500),
        ([*TOO_MUCH, *[": PROCESSING\n\n"] * 50], [0.0, 0.1, *[0.2] * 50]),
    ],
    ids=["the vendor sends more", "the vendor sends comments"],
)
def test_a_client_that_reads_nothing_for_too_long_is_given_up(
    impatient: Server, vendor: Vendor, pieces: list[str], gaps: list[Wait]
):
    vendor.stream("given up", pieces, gaps)
    begun = time.monotonic()
    with Connection(impatient, slow=True) as client:
        client.ask("given up")
        assert client.head() == 200
        Others(impatient, vendor).check()
        kept = settled(impatient, "given up")
    assert time.monotonic() - begun < 9  # `impatient` gives a client one second instead of ten
    assert kept["status"] == "aborted"
    assert [attempt["outcome"] for attempt in json.loads(kept["attempts"])] == ["aborted"]
    assert 20_000 < len(kept["response"]) < 9_000_000  # the rest was not read from the vendor


def test_a_slow_client_that_disconnects_ends_the_vendor_call(server: Server, vendor: Vendor):
    vendor.stub.client_disconnected.clear()
    # The vendor does not end: all that it sent may be in buffers when the client leaves.
    vendor.stream("left", [chunk("x" * 20_000)] * 500, [*[0.0] * 499, 30.0])
    with Connection(server, slow=True) as client:
        client.ask("left")
        assert client.head() == 200
        time.sleep(0.3)
    assert vendor.stub.client_disconnected.wait(SOON)
    assert settled(server, "left")["status"] == "aborted"


# --- Vendors that fail ----------------------------------------------------------------------------


# The vendor's next piece and the gap before it, and the error that the client gets.
FAILURES: dict[str, tuple[str, float, tuple[int, str]]] = {
    "breaks off": ("", 0.1, (502, "provider_error")),
    "sends an error": (BROKEN, 0.1, (503, "provider_unavailable")),
    "falls silent": (chunk("late"), 30.0, (504, "provider_timeout")),
}


def test_vendors_that_fail_in_mid_stream_end_their_streams_alone(impatient: Server, vendor: Vendor):
    for prompt, (piece, gap, _) in FAILURES.items():
        vendor.stream(prompt, [chunk("Hel"), chunk("lo"), piece], [0.0, 0.1, gap], cut=True)
    prompts = [*FAILURES] * 3
    with ThreadPoolExecutor(len(prompts)) as pool:
        running = [pool.submit(streamed, impatient, prompt) for prompt in prompts]
        Others(impatient, vendor).check()
        bodies = [each.result(SOON) for each in running]
    for prompt, body in zip(prompts, bodies, strict=True):
        assert body.replace(b": waiting\n\n", b"").startswith(deltas("Hel", "lo"))
        name, problem = last_event(body)
        status, code = FAILURES[prompt][2]
        assert (name, problem["status"], problem["code"]) == ("error", status, code)
        kept = settled(impatient, prompt)
        assert (kept["status"], kept["error_code"], kept["response"]) == ("error", code, "Hello")


def test_a_slow_client_gets_all_there_is_before_the_error(server: Server, vendor: Vendor):
    texts = ["Hello.", "x" * 6_000_000]
    vendor.stream("ends early", [*map(chunk, texts), BROKEN], [0.0, 0.1, 0.3])
    with Connection(server, slow=True) as client:
        client.ask("ends early")
        assert client.head() == 200
        time.sleep(0.6)
        body = b"".join(client.chunks())
    assert body.startswith(deltas(*texts) + b"event: error\n")
    kept = settled(server, "ends early")
    assert (kept["status"], kept["response"] == "".join(texts)) == ("error", True)


def test_a_silent_vendor_s_stream_has_heartbeats(impatient: Server, vendor: Vendor):
    vendor.stream("thinks", [chunk("Hel"), chunk("lo."), *END], [0.0, 0.7, 0.0, 0.0, 0.0])
    first, *waiting, rest = streamed(impatient, "thinks").split(b": waiting\n\n")
    assert (first, {*waiting}) == (deltas("Hel"), {b""})
    assert rest.startswith(deltas("lo.") + b"event: done\n")


def test_all_that_a_vendor_sent_over_tls_arrives_before_it_sends_more(
    vendor: Vendor, tmp_path: Path
):
    """libcurl reads a part of what TLS has decrypted, and sets a timer for the rest."""
    authority, more = Authority(tmp_path), threading.Event()
    texts = [f"{number} ".ljust(500, "x") for number in range(200)]
    pieces = [chunk("Hello."), "".join(map(chunk, texts)), "".join(END)]
    response = stream_response([piece.encode() for piece in pieces], [])

    def serve(sock: socket.socket) -> None:
        while read_request(sock):
            sock.sendall(response.head + response.pieces[0])
            time.sleep(0.1)
            sock.sendall(response.pieces[1])
            assert more.wait(SOON)
            sock.sendall(b"".join(response.pieces[2:]))

    with tls_server(authority.server(), serve) as address:
        tls = {"OPENAI_BASE_URL": f"https://{address}", "SSL_CERT_FILE": authority.file}
        with Server(tmp_path, **variables(vendor) | tls) as server, Connection(server) as client:
            client.ask("over TLS")
            assert client.head() == 200
            received, expected, chunks = b"", deltas("Hello.", *texts), client.chunks()
            while len(received) < len(expected):
                received += next(chunks)
            assert received == expected
            more.set()
            assert b"".join(chunks).startswith(b"event: done\n")


# --- The end --------------------------------------------------------------------------------------


def test_a_stopping_server_ends_its_running_streams_whole(vendor: Vendor, tmp_path: Path):
    with Server(tmp_path, **variables(vendor)) as stopping:
        others = Others(stopping, vendor)
        others.wait_until_all_run()
        stopping.client.close()  # the server would wait for its next request
        stopping.signal(signal.SIGTERM)
        others.check()
        assert stopping.process.wait(timeout=SOON) == 0
    assert record(stopping, "others")["status"] == "ok"
