"""One thread runs the work of many streams, and lets each wait without holding up the others."""

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from contextvars import ContextVar, copy_context
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from chat.api.server_context import relay_of
from chatproject.server.relay import ClientRelay, with_relay
from providers.deadline import Waiter
from tests.forked import forked
from tests.stub_vendor import SOON

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the relay needs epoll")

MANY = 200
Work = Callable[[Waiter], None]
Begin = Callable[[Work], "Future[None]"]
Run = Callable[[Work], None]


class Pipe:
    """A pipe, or its file descriptors after `close`."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._open = True

    def write(self) -> None:
        os.write(self.writer, b"x")

    def read(self) -> bytes:
        return os.read(self.reader, 1)

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self.reader)
            os.close(self.writer)


@pytest.fixture
def pipes() -> Iterator[Callable[[], Pipe]]:
    """A function that makes a pipe, which is closed after the test."""
    with ExitStack() as at_end:

        def make() -> Pipe:
            pipe = Pipe()
            at_end.callback(pipe.close)
            return pipe

        yield make


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's connection: our side of it, and the client's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(SOON)
        yield ours, theirs


@pytest.fixture
def impatient(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> ClientRelay:
    """A relay whose client has 0.2 s to take something."""
    monkeypatch.setattr("chatproject.server.relay.CLIENT_SECONDS", 0.2)
    return ClientRelay(pair[0])


@pytest.fixture
def begin(pair: tuple[socket.socket, socket.socket]) -> Begin:
    """A function that gives work to the relay, in a thread that waits for its end."""
    return lambda work: begun(ClientRelay(pair[0]), work)


def begun(relay: ClientRelay, work: Work) -> "Future[None]":
    future: Future[None] = Future()
    context = copy_context()

    def complete() -> None:
        try:
            future.set_result(relay.run(work, context))
        except BaseException as exc:
            future.set_exception(exc)

    threading.Thread(target=complete, daemon=True).start()  # a failed test can end before it
    return future


@pytest.fixture
def run(begin: Begin) -> Run:
    """A function that gives work to the relay, and waits for its end."""
    return lambda work: begin(work).result(SOON)


def goes_on(run: Run) -> bool:
    """Whether the relay still does what it is given."""
    done: list[bool] = []
    run(lambda waiter: done.append(True))
    return done == [True]


# --- Work -----------------------------------------------------------------------------------------


def test_all_work_is_done_in_one_other_thread(run: Run):
    idents: list[int] = []
    for _ in range(3):
        run(lambda waiter: idents.append(threading.get_ident()))
    assert len(set(idents)) == 1
    assert idents[0] != threading.get_ident()


def test_work_has_the_context_of_its_request(begin: Begin):
    variable: ContextVar[str] = ContextVar("variable")
    variable.set("of the request")
    seen: list[str] = []
    begin(lambda waiter: seen.append(variable.get())).result(SOON)
    assert seen == ["of the request"]


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_an_error_of_the_work_is_raised_where_it_was_given(run: Run, error: type[BaseException]):
    def fail(waiter: Waiter) -> None:
        raise error("of the work")

    with pytest.raises(error, match="of the work"):
        run(fail)
    assert goes_on(run)


def test_an_error_after_a_wait_is_raised_where_the_work_was_given(
    run: Run, pipes: Callable[[], Pipe]
):
    pipe = pipes()

    def fail(waiter: Waiter) -> None:
        waiter.wait({pipe.reader: select.POLLIN}, 0.01)
        raise ValueError("of the work")

    with pytest.raises(ValueError, match="of the work"):
        run(fail)
    assert goes_on(run)


def test_much_work_waits_at_once(begin: Begin, pipes: Callable[[], Pipe]):
    waiting, ended = threading.Semaphore(0), []

    def wait(number: int, pipe: Pipe, waiter: Waiter) -> None:
        waiting.release()
        assert waiter.wait({pipe.reader: select.POLLIN}, SOON) == [(pipe.reader, select.POLLIN)]
        assert pipe.read() == b"x"
        ended.append(number)

    made = [pipes() for _ in range(MANY)]
    jobs = [begin(partial(wait, number, pipe)) for number, pipe in enumerate(made)]
    for _ in jobs:
        assert waiting.acquire(timeout=SOON)
    for job, pipe in reversed(list(zip(jobs, made, strict=True))):
        pipe.write()
        job.result(SOON)
    assert ended == list(reversed(range(MANY)))


# --- Waiting --------------------------------------------------------------------------------------


def test_a_wait_ends_after_its_seconds(run: Run, pipes: Callable[[], Pipe]):
    pipe, waited = pipes(), []

    def work(waiter: Waiter) -> None:
        for seconds in (0.2, 0.0, 0.1):
            begun = time.monotonic()
            assert waiter.wait({pipe.reader: select.POLLIN}, seconds) == []
            waited.append(time.monotonic() - begun)

    run(work)
    assert waited[0] >= 0.2
    assert waited[1] < 0.2
    assert waited[2] >= 0.1


def test_the_shortest_wait_ends_first(begin: Begin, pipes: Callable[[], Pipe]):
    ended: list[float] = []

    def wait(seconds: float, waiter: Waiter) -> None:
        assert waiter.wait({pipes().reader: select.POLLIN}, seconds) == []
        ended.append(seconds)

    for job in [begin(partial(wait, seconds)) for seconds in (0.6, 0.1, 0.3)]:
        job.result(SOON)
    assert ended == [0.1, 0.3, 0.6]


def test_the_files_of_a_wait_may_be_others_than_before(run: Run, pipes: Callable[[], Pipe]):
    first, second = pipes(), pipes()
    first.write()
    second.write()

    def work(waiter: Waiter) -> None:
        both = {first.reader: select.POLLIN, second.reader: select.POLLIN}
        assert waiter.wait({first.reader: select.POLLIN}, SOON) == [(first.reader, select.POLLIN)]
        assert waiter.wait({second.reader: select.POLLIN}, SOON) == [(second.reader, select.POLLIN)]
        first.read()
        assert waiter.wait(both, SOON) == [(second.reader, select.POLLIN)]
        assert waiter.wait({second.writer: select.POLLOUT}, SOON) == [
            (second.writer, select.POLLOUT)
        ]

    run(work)


def test_a_file_that_is_closed_during_a_wait_has_no_events(
    begin: Begin, run: Run, pipes: Callable[[], Pipe]
):
    pipe, waiting = pipes(), Event()

    def work(waiter: Waiter) -> None:
        waiting.set()
        assert waiter.wait({pipe.reader: select.POLLIN}, 0.3) == []

    job = begin(work)
    assert waiting.wait(SOON)
    assert goes_on(run)  # so the other work waits
    pipe.close()
    job.result(SOON)
    assert goes_on(run)


def test_a_file_that_cannot_be_watched_is_an_error_of_its_work_alone(
    run: Run, pipes: Callable[[], Pipe], tmp_path: Path
):
    pipe = pipes()

    def work(waiter: Waiter) -> None:
        # epoll refuses files, and all sockets beyond the limit of fs.epoll.max_user_watches.
        with (tmp_path / "file").open("w") as file:
            waiter.wait({file.fileno(): select.POLLIN, pipe.reader: select.POLLIN}, SOON)

    with pytest.raises(PermissionError):
        run(work)
    assert goes_on(run)


def test_new_work_gets_no_events_of_a_file_from_before(begin: Begin, pipes: Callable[[], Pipe]):
    """The vendor's connection of an ended stream, with its files, may serve the next stream."""
    answer, wake_up, holds, gates = pipes(), pipes(), (pipes(), pipes()), (Event(), Event())
    waiting, blocked = threading.Semaphore(0), threading.Semaphore(0)

    def first(waiter: Waiter) -> None:
        waiting.release()
        files = {answer.reader: select.POLLIN, wake_up.reader: select.POLLIN}
        assert waiter.wait(files, SOON) == [(answer.reader, select.POLLIN)]
        wake_up.read()

    def block(hold: Pipe, gate: Event, waiter: Waiter) -> None:
        waiting.release()
        waiter.wait({hold.reader: select.POLLIN}, SOON)
        blocked.release()
        assert gate.wait(SOON)

    def second(waiter: Waiter) -> None:
        assert waiter.wait({wake_up.reader: select.POLLIN}, 0.1) == []

    jobs = [
        begin(first),
        *(begin(partial(block, *each)) for each in zip(holds, gates, strict=True)),
    ]
    for _ in jobs:
        assert waiting.acquire(timeout=SOON)
    holds[0].write()
    assert blocked.acquire(timeout=SOON)
    # The thread gets all these events at once, in this order.
    answer.write()
    holds[1].write()
    jobs.append(begin(lambda waiter: None))
    time.sleep(0.1)
    wake_up.write()
    gates[0].set()
    jobs[0].result(SOON)
    assert blocked.acquire(timeout=SOON)
    jobs.append(begin(second))
    time.sleep(0.1)
    gates[1].set()
    for job in jobs:
        job.result(SOON)


# --- The client -----------------------------------------------------------------------------------


def test_the_client_gets_chunks_at_once(pair: tuple[socket.socket, socket.socket]):
    ours, theirs = pair
    relay, received = ClientRelay(ours), []

    def work(waiter: Waiter) -> None:
        for piece in (b"Hello", b"", b"x" * 16):
            assert relay.send(piece)
            theirs.setblocking(False)
            received.append(theirs.recv(100) if piece else b"")

    begun(relay, work).result(SOON)
    assert received == [b"5\r\nHello\r\n", b"", b"10\r\n%b\r\n" % (b"x" * 16)]


def test_a_slow_client_gets_the_rest_in_order(pair: tuple[socket.socket, socket.socket]):
    ours, theirs = pair
    relay = ClientRelay(ours)
    pieces = [bytes([ord("a") + number]) * 300_000 for number in range(5)]
    expected = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)

    def work(waiter: Waiter) -> None:
        assert [relay.send(piece) for piece in pieces][-1] is False
        assert relay.send(b"") is False

    job = begun(relay, work)
    received = b""
    while len(received) < len(expected):
        received += theirs.recv(65_536)
    job.result(SOON)
    assert received == expected


def test_a_client_that_has_gone_is_an_error_at_the_end(
    pair: tuple[socket.socket, socket.socket],
):
    ours, theirs = pair
    relay = ClientRelay(ours)
    theirs.close()

    def work(waiter: Waiter) -> None:
        assert not relay.send(b"Hello")

    with pytest.raises(BrokenPipeError):
        begun(relay, work).result(SOON)


def test_a_client_that_takes_nothing_for_too_long_times_out(
    impatient: ClientRelay, pair: tuple[socket.socket, socket.socket]
):
    def work(waiter: Waiter) -> None:
        assert impatient.send(b"x" * 1000)
        while impatient.send(b"x" * 1000):
            pass
        for _ in range(3):
            time.sleep(0.15)
            pair[1].recv(100_000)
            assert impatient.send(b"x" * 1_000_000) is False
        time.sleep(0.3)
        with pytest.raises(TimeoutError):
            impatient.send(b"")

    with pytest.raises(TimeoutError):
        begun(impatient, work).result(SOON)


def test_the_time_of_a_slow_client_begins_when_there_is_something_for_it(
    impatient: ClientRelay, pair: tuple[socket.socket, socket.socket]
):
    ours, theirs = pair

    def work(waiter: Waiter) -> None:
        assert impatient.send(b"x" * 1000)
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                ours.send(b"x" * 1000)
        time.sleep(0.3)
        assert impatient.send(b"Hello") is False
        theirs.recv(1_000_000)
        ours.setblocking(True)

    begun(impatient, work).result(SOON)


@pytest.mark.parametrize(("protocol", "has_relay"), [("HTTP/1.1", True), ("HTTP/1.0", False)])
def test_only_a_response_in_chunks_has_a_relay(
    pair: tuple[socket.socket, socket.socket], protocol: str, has_relay: bool
):
    def application(environ: dict[str, Any], start_response: None) -> bool:
        return relay_of(environ) is not None

    environ = {"SERVER_PROTOCOL": protocol, "gunicorn.socket": pair[0]}
    assert with_relay(application)(environ, None) is has_relay


# --- Processes ------------------------------------------------------------------------------------


def test_a_forked_process_has_a_relay_of_its_own(run: Run):
    assert goes_on(run)
    assert forked(wait_in_a_relay) == 0
    assert goes_on(run)


def wait_in_a_relay() -> None:
    pipe, (client, _client) = Pipe(), socket.socketpair()
    pipe.write()
    events: list[tuple[int, int]] = []

    def work(waiter: Waiter) -> None:
        events.extend(waiter.wait({pipe.reader: select.POLLIN}, SOON))

    begun(ClientRelay(client), work).result(SOON)
    assert events == [(pipe.reader, select.POLLIN)]
