"""`manage.py serve`: its processes, its signals and its database file."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server_process import base_environment, reserve_port, user_in_fresh_window

ROOT = Path(__file__).parents[2]
MANY = 100


@dataclass
class Server:
    """A running server and its output."""

    process: subprocess.Popen[str]
    held: socket.socket
    folder: Path

    @property
    def port(self) -> int:
        return int(self.held.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=30)

    def chat(self, prompt: str = "Olá!", user: str = "alice") -> httpx.Response:
        body = {"userId": user, "prompt": prompt}
        return httpx.post(f"{self.url}/v1/chat", json=body, timeout=30)

    def chats_at_once(self, count: int, user: Callable[[int], str]) -> list[httpx.Response]:
        with (
            httpx.Client(timeout=60, limits=httpx.Limits(max_connections=count)) as client,
            ThreadPoolExecutor(count) as pool,
        ):

            def chat(number: int) -> httpx.Response:
                body = {"userId": user(number), "prompt": f"request {number}"}
                return client.post(f"{self.url}/v1/chat", json=body)

            return list(pool.map(chat, range(count)))

    def records(self, where: str = "true") -> list[tuple[str, str, str]]:
        """Return id, status and prompt of the stored records."""
        file = f"file:{self.folder / 'chat.db'}?mode=ro"
        select = f"SELECT interaction_id, status, prompt FROM chat_interaction WHERE {where}"
        with closing(sqlite3.connect(file, uri=True)) as connection:
            return connection.execute(select).fetchall()

    def wait_for_records(self, count: int) -> list[str]:
        """Wait for so many records, and return their ids."""
        end = time.monotonic() + 60
        while len(found := self.records()) < count:
            assert time.monotonic() < end, self.output
            time.sleep(0.02)
        return [row[0] for row in found]

    def children(self) -> list[str]:
        """Return the ids of the worker processes."""
        pid = self.process.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    def sockets(self) -> list[int]:
        """Return the number of open sockets of each worker."""
        return [
            sum("socket:" in os.path.realpath(file) for file in files.iterdir())
            for files in (Path(f"/proc/{child}/fd") for child in self.children())
        ]

    def end(self, number: int) -> int:
        """Send a signal to all processes of the server, and wait for its end."""
        os.killpg(self.process.pid, number)
        return self.process.wait(timeout=60)


Serve = Callable[..., Server]


RUN = "import runpy; runpy.run_path('manage.py', run_name='__main__')"


def spawn(folder: Path, setup: str = "", **variables: str) -> Server:
    """Start a server, after the Python statements of `setup`."""
    program = ["-c", f"{setup}\n{RUN}"] if setup else ["manage.py"]
    held = reserve_port()
    environment = {
        **base_environment(),
        "ENV_FILE": os.devnull,
        "SECRET_KEY": "secret",
        "LLM_PROVIDER": "mock",
        "DATABASE_PATH": str(folder / "chat.db"),
        "API_PORT": str(held.getsockname()[1]),
        "WEB_CONCURRENCY": "2",
        **variables,
    }
    with (folder / "output").open("a") as output:
        process = subprocess.Popen(
            [sys.executable, *program, "serve"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        )
    return Server(process, held, folder)


def start(folder: Path, setup: str = "", **variables: str) -> Server:
    """Start a server, and wait until it answers."""
    server = spawn(folder, setup, **variables)
    try:
        wait_until_it_answers(server)
    except BaseException:
        # What it leaves open would fail the tests that follow.
        if server.process.poll() is None:
            server.end(signal.SIGKILL)
        server.held.close()
        raise
    return server


def wait_until_it_answers(server: Server) -> None:
    end = time.monotonic() + 120
    while True:
        assert server.process.poll() is None, server.output
        try:
            if server.get("/v1/health").status_code == 200:
                return
        except httpx.TransportError:
            assert time.monotonic() < end, server.output
            time.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server that most tests share."""
    folder = tmp_path_factory.mktemp("server")
    running = start(folder, MOCK_DIRECTIVES="mock:delay=0.05")
    yield running
    assert running.end(signal.SIGTERM) == 0
    running.held.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Return a function that starts a server for one test, always on the same database file."""
    started: list[Server] = []

    def run(setup: str = "", **variables: str) -> Server:
        started.append(start(tmp_path, setup, **variables))
        return started[-1]

    yield run
    for running in started:
        if running.process.poll() is None:
            running.end(signal.SIGKILL)
        running.held.close()


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def raw(server: Server, data: bytes) -> bytes:
    """Send bytes on a new connection, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


# --- The start ------------------------------------------------------------------------------------


def refusal(folder: Path, **variables: str) -> str:
    """Return the only line of output of a server that does not start."""
    server = spawn(folder, **variables)
    with server.held:
        assert server.process.wait(timeout=40) == 1
    [line] = server.output.splitlines()
    return line


def test_an_unusable_database_is_named(tmp_path: Path) -> None:
    no_database = tmp_path / "letter.txt"
    no_database.write_text("Dear Ann, " * 100)
    line = refusal(tmp_path, DATABASE_PATH=str(no_database))
    assert line.startswith(f"CommandError: DATABASE_PATH: {no_database} cannot be used: ")
    assert no_database.read_text() == "Dear Ann, " * 100


def test_a_taken_address_is_named(server: Server, tmp_path: Path) -> None:
    line = refusal(tmp_path, API_PORT=str(server.port))
    at = f"CommandError: API_HOST and API_PORT: 127.0.0.1:{server.port} cannot be used: "
    assert line == f"{at}Address already in use."


# --- One request ----------------------------------------------------------------------------------


def test_the_banner_names_the_url_and_the_provider(server: Server) -> None:
    assert f"http://127.0.0.1:{server.port}/docs" in server.output
    assert "Provider  mock" in server.output
    assert str(server.folder / "chat.db") in server.output


def test_the_server_answers(server: Server) -> None:
    assert server.get("/v1/health").json()["status"] == "healthy"
    assert server.get("/v1/ready").json()["status"] == "ready"
    assert server.get("/docs").status_code == 200
    assert server.get("/static/admin/css/base.css").status_code == 200
    answer = server.chat("  Olá! 🦆 \n").json()
    assert answer["prompt"] == "  Olá! 🦆 \n"
    record = server.get(f"/v1/interactions/{answer['interaction_id']}").json()
    assert record == answer | {
        "status": "ok",
        "error": None,
        "attempts": record["attempts"],
    }


def test_the_server_reads_a_chunked_body(server: Server) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"userId": "alice", '
        yield '"prompt": "Olá!"}'.encode()

    headers = {"content-type": "application/json"}
    response = httpx.post(f"{server.url}/v1/chat", content=chunks(), headers=headers, timeout=30)
    assert response.request.headers["transfer-encoding"] == "chunked"
    assert response.json()["prompt"] == "Olá!"


@pytest.mark.parametrize("is_chunked", [False, True], ids=["of known length", "chunked"])
def test_the_server_survives_a_refused_large_body(server: Server, is_chunked: bool) -> None:
    large = b'{"userId": "alice", "prompt": "' + b"x" * 11_000_000 + b'"}'
    content: Any = iter([large[:2_000_000], large[2_000_000:]]) if is_chunked else large
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{server.url}/v1/chat", content=content, headers=headers, timeout=30)
    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")
    assert server.get("/v1/health").status_code == 200


HEAD = b"POST /v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
NO_HTTP = {
    "empty lines": b"\r\n\r\n",
    "words": b"nonsense\r\n\r\n",
    "another version": b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a long header": HEAD + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
    "half a header": HEAD[:-10],
    "half a body": HEAD + b'Content-Length: 100\r\n\r\n{"userId":',
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "a length and chunks": HEAD + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "no chunk": HEAD + CHUNKED + b"\r\nzz\r\n",
    "half a chunk": HEAD + CHUNKED + b"\r\nff\r\n{",
}


@pytest.mark.parametrize("request_", NO_HTTP.values(), ids=NO_HTTP)
def test_malformed_requests_do_not_harm_the_server(server: Server, request_: bytes) -> None:
    answer = raw(server, request_)
    assert b" 500 " not in answer.split(b"\r\n")[0]
    assert b"Traceback" not in answer
    assert server.get("/v1/health").status_code == 200


# Patience that a test can outlive.
SHORT = """
from chatproject.server import worker
worker.CLIENT_SECONDS, worker.REQUEST_SECONDS = 3.0, 1.5
"""
GET = b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHAT = b'{"userId": "alice", "prompt": "Hi"}'


def status(connection: socket.socket) -> int:
    """Return the status of the next answer."""
    response = HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


@pytest.fixture
def kept(serve: Serve) -> Iterator[socket.socket]:
    """Return a connection with one answered request, of a server with short timeouts."""
    server = serve(SHORT, DJANGO_SETTINGS_MODULE="chatproject.settings")
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(GET)
        assert status(connection) == 200
        yield connection


def test_a_stalled_later_request_of_a_connection_times_out(kept: socket.socket) -> None:
    kept.sendall(HEAD + b'Content-Length: 100\r\n\r\n{"userId":')
    assert status(kept) == 400


def test_each_request_of_a_connection_has_its_own_timeout(kept: socket.socket) -> None:
    for _ in range(4):
        time.sleep(0.5)
        kept.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(CHAT))
        time.sleep(0.1)
        kept.sendall(CHAT)
        assert status(kept) == 200


# --- Many requests --------------------------------------------------------------------------------


def test_many_requests_at_once_are_all_answered_and_recorded(server: Server) -> None:
    before = len(server.records())
    responses = server.chats_at_once(MANY, lambda number: f"many-{number % 10}")
    assert Counter(response.status_code for response in responses) == {200: MANY}
    answers = [response.json() for response in responses]
    assert [answer["response"] for answer in answers] == [
        f"You said: request {number}" for number in range(MANY)
    ]
    assert not any("recorded" in answer for answer in answers)
    kept = {id_: (status, prompt) for id_, status, prompt in server.records()}
    assert len(kept) - before == MANY
    for answer in answers:
        assert kept[answer["interaction_id"]] == ("ok", answer["prompt"])


# Long enough for a process to take its connection on a busy machine too.
LONG_ACCEPT_BACKOFF = """
from chatproject.server import tuning
tuning.ACCEPT_BACKOFF = tuning.MAX_ACCEPT_BACKOFF = 0.1
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it counts sockets in Linux's /proc")
@pytest.mark.parametrize("reloaded", [False, True])
def test_connections_are_balanced_among_the_processes(serve: Serve, reloaded: bool) -> None:
    server = serve(LONG_ACCEPT_BACKOFF, DJANGO_SETTINGS_MODULE="chatproject.settings")
    eventually(lambda: len(server.children()) == 2)
    if reloaded:
        first = set(server.children())
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: not first.intersection(server.children()))
    # The processes inherit the same sockets; those of earlier requests are being closed.
    eventually(lambda: len(server.sockets()) == 2 and len(set(server.sockets())) == 1)
    before = server.sockets()
    with ExitStack() as connections:

        def open_connection() -> None:
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
            connections.enter_context(connection)
            connection.sendall(GET)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")

        def kept() -> list[int]:
            return [after - held for after, held in zip(server.sockets(), before, strict=True)]

        def both_accept() -> bool:
            open_connection()
            return min(kept()) > 0

        eventually(both_accept)  # on a busy machine one begins long after the other
        for _ in range(40):
            open_connection()
        assert max(kept()) - min(kept()) <= 2
        assert sum(kept()) > 40


def test_the_rate_limit_is_exact_for_concurrent_requests(server: Server) -> None:
    user = user_in_fresh_window()
    responses = server.chats_at_once(MANY, lambda number: user)
    assert Counter(response.status_code for response in responses) == {200: 60, 429: 40}
    assert len(server.records(f"user_id = '{user}'")) == 60
    left = [r.headers["X-RateLimit-Remaining"] for r in responses if r.status_code == 200]
    assert sorted(map(int, left)) == list(range(60))


def test_every_line_that_the_server_writes_is_json_after_its_banner(server: Server) -> None:
    server.chat("swordfish")
    lines = server.output.strip().splitlines()
    ours = [line for line in lines if line.startswith("{")]
    assert any('"route":"/v1/chat"' in line for line in ours)
    assert "swordfish" not in server.output
    assert "Traceback" not in server.output


# --- The end --------------------------------------------------------------------------------------


def test_a_stopping_server_finishes_running_requests(serve: Serve) -> None:
    server = serve()
    with ThreadPoolExecutor(5) as pool:
        running = [pool.submit(server.chat, "mock:delay=1.5") for _ in range(5)]
        server.wait_for_records(5)  # on a busy machine the first may have ended by now
        server.process.send_signal(signal.SIGTERM)
        assert [call.result().status_code for call in running] == [200] * 5
    assert server.process.wait(timeout=40) == 0
    assert [status for _, status, _ in server.records()] == ["ok"] * 5
    with pytest.raises(httpx.ConnectError):
        server.chat()


SLOW_TO_BEGIN = "import os, time; os.register_at_fork(after_in_child=lambda: time.sleep(2))"


@pytest.mark.skipif(sys.platform != "linux", reason="it sees processes in Linux's /proc")
def test_a_worker_that_is_still_starting_stops_too(tmp_path: Path) -> None:
    server = spawn(tmp_path, SLOW_TO_BEGIN)
    try:
        eventually(lambda: len(server.children()) == 2)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=30) == 0  # gunicorn would kill them after 35 seconds
    finally:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)
        server.held.close()


def test_connections_without_a_request_do_not_hold_up_a_stop(serve: Serve) -> None:
    server = serve()
    with ExitStack() as connections:
        for _ in range(4):
            address = ("127.0.0.1", server.port)
            connections.enter_context(socket.create_connection(address, timeout=30))
        server.get("/v1/health")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=8) == 0


def test_calls_that_die_with_the_server_read_as_aborted_later(serve: Serve) -> None:
    settings = {"REQUEST_TIMEOUT_SECONDS": "4"}  # in which the calls begin, and their server dies
    server = serve(**settings)
    with ThreadPoolExecutor(5) as pool:
        lost = [pool.submit(server.chat, "mock:delay=60") for _ in range(5)]
        ids = server.wait_for_records(5)
        server.end(signal.SIGKILL)
        assert all(isinstance(call.exception(), httpx.TransportError) for call in lost)

    server = serve(**settings)
    assert server.chat().status_code == 200

    def statuses() -> set[str]:
        return {server.get(f"/v1/interactions/{id_}").json()["status"] for id_ in ids}

    seen = statuses()
    end = time.monotonic() + 60
    while statuses() != {"aborted"}:
        assert time.monotonic() < end
        time.sleep(0.2)
    assert seen <= {"pending", "aborted"}
    assert len(server.records()) == 6


def test_a_restart_keeps_records_counts_and_sessions(serve: Serve) -> None:
    user = user_in_fresh_window()
    server = serve(SECRET_KEY="")
    interaction_id = server.chat(user=user).json()["interaction_id"]
    key = (server.folder / ".secret_key").read_text()
    assert server.end(signal.SIGTERM) == 0

    server = serve(SECRET_KEY="")
    assert server.get(f"/v1/interactions/{interaction_id}").json()["status"] == "ok"
    assert server.chat(user=user).headers["X-RateLimit-Remaining"] == "58"
    assert (server.folder / ".secret_key").read_text() == key
