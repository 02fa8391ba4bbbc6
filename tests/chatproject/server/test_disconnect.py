"""The deadline of a request is cancelled when its client disconnects, and not before."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chat.api.server_context import CANCEL_ON_DISCONNECT
from chatproject.server.disconnect import cancel_on_disconnect, with_disconnects
from providers.deadline import Deadline
from tests.forked import forked
from tests.stub_vendor import SOON


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def wait_for(deadline: Deadline) -> bool:
    """Whether the deadline is cancelled in time."""
    cancelled = threading.Event()
    with deadline.on_cancel(cancelled.set):
        return cancelled.wait(SOON)


@pytest.mark.parametrize("leave", ["close", "shutdown"])
def test_a_disconnect_cancels_the_deadline(pair: tuple[socket.socket, socket.socket], leave: str):
    ours, theirs = pair
    deadline = Deadline(30)
    part = deadline.part()
    with cancel_on_disconnect(ours, deadline):
        theirs.sendall(b"the next request, sent ahead")
        time.sleep(0.1)
        assert (deadline.cancelled, deadline.remaining() > 0) == (False, True)
        if leave == "close":
            theirs.close()
        else:
            theirs.shutdown(socket.SHUT_WR)
        assert wait_for(deadline)
    assert [part.remaining(), deadline.remaining()] == [0, 0]
    assert deadline.remaining_if_not_cancelled() > 0


def test_an_earlier_disconnect_cancels_the_deadline(pair: tuple[socket.socket, socket.socket]):
    ours, theirs = pair
    theirs.close()
    deadline = Deadline(30)
    with cancel_on_disconnect(ours, deadline):
        assert wait_for(deadline)


def test_a_socket_closed_by_the_server_cancels_the_deadline(
    pair: tuple[socket.socket, socket.socket],
):
    ours, _ = pair
    ours.close()
    deadline = Deadline(30)
    with cancel_on_disconnect(ours, deadline):
        assert deadline.cancelled


def test_a_socket_may_be_closed_before_the_end(pair: tuple[socket.socket, socket.socket]):
    with cancel_on_disconnect(pair[0], Deadline(30)):
        pair[0].close()


def test_a_disconnect_after_the_response_cancels_nothing(
    pair: tuple[socket.socket, socket.socket],
):
    ours, theirs = pair
    first, second = Deadline(30), Deadline(30)
    with cancel_on_disconnect(ours, first):
        pass
    with cancel_on_disconnect(ours, second):
        theirs.close()
        assert wait_for(second)
    assert not first.cancelled


def test_a_failing_callback_does_not_end_the_watch_of_other_clients(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
):
    def fail() -> None:
        raise RuntimeError

    ours, theirs = socket.socketpair()
    first, second = Deadline(30), Deadline(30)
    with (
        ours,
        theirs,
        cancel_on_disconnect(ours, first),
        cancel_on_disconnect(pair[0], second),
        first.on_cancel(fail),
    ):
        theirs.close()
        pair[1].close()
        assert wait_for(second)
    assert first.cancelled
    assert [record.message for record in caplog.records] == ["cancelling a request failed"]


def test_a_client_that_cannot_be_watched_is_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    deadline = Deadline(30)
    # epoll refuses a file, as it refuses sockets beyond the limit of fs.epoll.max_user_watches.
    with (tmp_path / "file").open("w") as file, cancel_on_disconnect(file, deadline):
        assert not deadline.cancelled
    assert [record.message for record in caplog.records] == [
        "client not watched for a disconnect: Operation not permitted"
    ]


def test_the_application_gets_the_watch_of_its_client(pair: tuple[socket.socket, socket.socket]):
    deadline = Deadline(30)

    def application(environ: dict[str, Any], start_response: None) -> bool:
        with environ[CANCEL_ON_DISCONNECT](deadline):
            pair[1].close()
            return wait_for(deadline)

    assert with_disconnects(application)({"gunicorn.socket": pair[0]}, None)


def test_a_forked_process_watches_with_a_thread_of_its_own(
    pair: tuple[socket.socket, socket.socket],
):
    with cancel_on_disconnect(pair[0], Deadline(30)):
        assert forked(watch_another) == 0


def watch_another() -> None:
    ours, theirs = socket.socketpair()
    deadline = Deadline(30)
    with cancel_on_disconnect(ours, deadline):
        theirs.close()
        assert wait_for(deadline)


def switches() -> int:
    """How often the threads of this process went to sleep."""
    states = [path.read_text() for path in Path("/proc/self/task").glob("*/status")]
    names = [line.split() for state in states for line in state.splitlines()]
    return sum(int(words[1]) for words in names if words[0] == "voluntary_ctxt_switches:")


def test_a_thousand_waiting_requests_cause_no_wake_ups():
    waiting = 300  # that have to be descriptors, two each, below the limit of any machine
    with ExitStack() as open_sockets:
        deadlines = []
        for _ in range(waiting):
            ours, theirs = map(open_sockets.enter_context, socket.socketpair())
            deadlines.append(Deadline(60))
            open_sockets.enter_context(cancel_on_disconnect(ours, deadlines[-1]))
        threads = [threading.Thread(target=wait, args=(each,)) for each in deadlines]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        before = switches()
        time.sleep(1.0)
        assert switches() - before < waiting / 10
        theirs.close()
        assert wait_for(deadlines[-1])
        for deadline in deadlines:
            deadline.cancel()
        for thread in threads:
            thread.join()


def wait(deadline: Deadline) -> None:
    deadline.sleep(60)
