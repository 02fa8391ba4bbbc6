"""Who has gone, and whom the deadline of a request hears it from."""

import socket
import time

from chat.api.disconnect import disconnect_check
from providers.base import LOOK_SECONDS
from providers.deadline import Deadline


def test_a_client_has_gone_when_its_side_or_ours_is_closed() -> None:
    ours, theirs = socket.socketpair()
    gone = disconnect_check({"gunicorn.socket": ours})
    assert gone
    assert not gone()
    theirs.sendall(b"\r\n")
    assert not gone()
    ours.recv(2)
    theirs.close()
    assert gone()
    ours.close()
    assert gone()


def test_where_no_socket_is_shown_nobody_goes() -> None:
    assert disconnect_check({}) is None


def test_a_deadline_is_cancelled_by_who_goes_and_looks_no_more() -> None:
    looks: list[bool] = []
    deadline = Deadline(30, abandoned=lambda: looks.append(True) or len(looks) == 2)
    part = deadline.capped(20)
    assert (deadline.remaining() > 0, looks) == (True, [])
    while not deadline.cancelled:
        time.sleep(LOOK_SECONDS / 4)
    assert [part.remaining(), deadline.remaining(), len(looks)] == [0, 0, 2]
    assert deadline.remaining_if_not_cancelled() > 0
