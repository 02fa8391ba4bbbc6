"""gunicorn still has what chatproject/server overrides."""

import inspect
import logging
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from gunicorn.arbiter import Arbiter as GunicornArbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http.unreader import SocketUnreader
from gunicorn.http.wsgi import create
from gunicorn.workers import gthread
from gunicorn.workers.gthread import ThreadWorker

from chat.api.server_context import relay_of
from chatproject.server import memory
from chatproject.server.logger import GunicornLogger
from chatproject.server.relay import with_relay
from chatproject.server.tuning import HOOKS, TunedWorker
from chatproject.server.worker import Arbiter, Connection, DeadlineUnreader, Worker

ROOT = Path(__file__).parents[3]
# Our class, gunicorn's, and the methods that are ours alone.
CLASSES: list[tuple[type, type, set[str]]] = [
    (Arbiter, GunicornArbiter, set()),
    (Worker, ThreadWorker, {"_close", "_drain", "_error_response", "_has_grown"}),
    (TunedWorker, ThreadWorker, {"_next_request_comes"}),
    (Connection, Connection.__base__, {"drained"}),
    (DeadlineUnreader, SocketUnreader, set()),
    (GunicornLogger, Logger, set()),
]
NAMES = [ours.__name__ for ours, _, _ in CLASSES]


@pytest.mark.parametrize(("ours", "theirs", "added"), CLASSES, ids=NAMES)
def test_gunicorn_has_the_methods_that_are_overridden(
    ours: type, theirs: type, added: set[str]
) -> None:
    methods = {name for name, value in vars(ours).items() if inspect.isfunction(value)}
    assert methods - set(dir(theirs)) == added
    for name in methods - added:
        parameters = inspect.signature(getattr(ours, name)).parameters
        assert list(parameters) == list(inspect.signature(getattr(theirs, name)).parameters), name


def test_gunicorn_is_pinned_to_the_version_that_is_overridden() -> None:
    assert f"gunicorn=={version('gunicorn')} " in (ROOT / "requirements/local.in").read_text()


def test_gunicorn_has_the_hooks() -> None:
    config = Config()
    for name, hook in HOOKS.items():
        config.set(name, hook)


@pytest.fixture
def worker() -> Iterator[Any]:
    config = Config()
    made = Worker(1, 1, [], None, 30, config, GunicornLogger(config))
    yield made
    made.tmp.close()


def test_a_worker_makes_connections_of_our_class(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(worker, "enqueue_req", made.append)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        worker.accept(listener)
        made[0].close()
    assert [type(connection) for connection in made] == [Connection]
    assert worker.nr_conns == 1


def test_each_request_of_a_connection_gets_timeouts(worker: Any) -> None:
    ours, client = socket.socketpair()
    with ours, client:
        connection = Connection(worker.cfg, ours, ("127.0.0.1", 1), ("127.0.0.1", 2))
        for _ in range(2):
            connection.init()
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert next(connection.parser).method == "GET"
            assert ours.gettimeout() == 10
        connection.parser.unreader.deadline = 0
        with pytest.raises(TimeoutError):
            next(connection.parser)


def test_a_connection_that_its_client_does_not_close_is_closed_after_two_seconds(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.cfg.set("keepalive", 10)
    ours, client = socket.socketpair()
    without_request, _client = socket.socketpair()
    worker.poller, worker.lingering = selectors.DefaultSelector(), deque()
    with worker.poller, client, without_request, _client:
        for sock, result in ((without_request, gthread._DEFER), (ours, False)):
            served: Future[Any] = Future()
            served.set_result(result)
            worker.nr_conns += 1
            connection = Connection(worker.cfg, sock, ("127.0.0.1", 1), ("127.0.0.1", 2))
            worker.finish_request(connection, served)
        now = time.monotonic()
        for seconds, open_connections in ((1.5, 2), (2.5, 1)):
            monkeypatch.setattr(time, "monotonic", lambda at=now + seconds: at)
            worker.murder_pending()
            assert worker.nr_conns == open_connections
        assert ours.fileno() == -1
        assert [key.fileobj for key in worker.poller.get_map().values()] == [without_request]


@pytest.mark.parametrize(("version", "in_chunks"), [("1.1", True), ("1.0", False)])
def test_gunicorn_writes_a_stream_as_the_relay_does(
    worker: Any, version: str, in_chunks: bool
) -> None:
    """The relay writes chunks of the same response."""
    ours, client = socket.socketpair()
    with ours, client:
        connection = Connection(worker.cfg, ours, ("127.0.0.1", 1), ("127.0.0.1", 2))
        connection.init()
        client.sendall(b"GET / HTTP/%b\r\nHost: localhost\r\n\r\n" % version.encode())
        address = ("127.0.0.1", 1)
        response, environ = create(next(connection.parser), ours, address, address, worker.cfg)
        assert environ["gunicorn.socket"] is ours
        response.start_response("200 OK", [])
        response.write(b"Hello")
        received = client.recv(1000)
        relay = with_relay(lambda environ, _: relay_of(environ))(environ, None)
        assert response.chunked is in_chunks
        assert (relay is not None) is (in_chunks and sys.platform == "linux")
        if relay:
            relay.send(b"Hello")
            assert received.endswith(b"\r\n\r\n" + client.recv(1000))


@pytest.mark.parametrize(
    ("connections", "seconds", "grown_mb", "stays"),
    [(0, 11, 25, False), (1, 11, 25, True), (0, 9, 25, True), (0, 11, 23, True)],
    ids=["quiet and grown", "connected", "just left", "small"],
)
def test_a_quiet_worker_ends_if_it_has_grown(
    worker: Any,
    monkeypatch: pytest.MonkeyPatch,
    connections: int,
    seconds: int,
    grown_mb: int,
    stays: bool,
) -> None:
    worker.alive, worker.bytes_at_start, worker.busy_at = True, 50 * 2**20, 0.0
    worker.nr_conns = connections
    monkeypatch.setattr(time, "monotonic", lambda: seconds)
    monkeypatch.setattr(memory, "resident_bytes", lambda: (50 + grown_mb) * 2**20)
    worker.notify()
    assert worker.alive is stays


def test_a_client_that_times_out_is_logged_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "gunicorn.error")
    logger = GunicornLogger(Config())
    for error, message in (
        (TimeoutError(), "Socket error processing request."),
        (OSError(), "Socket error processing request."),
        (TimeoutError(), "Error handling request"),  # of the application
    ):
        try:
            raise error
        except OSError:
            logger.exception(message)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "client timed out"),
        ("ERROR", "Socket error processing request."),
        ("ERROR", "Error handling request"),
    ]
