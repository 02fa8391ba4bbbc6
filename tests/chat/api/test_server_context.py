"""The HTTP layer works on servers that cannot watch their clients."""

from chat.api.server_context import cancel_on_disconnect
from providers.deadline import Deadline


def test_no_disconnect_is_seen_without_a_watch():
    deadline = Deadline(30)
    with cancel_on_disconnect({}, deadline):
        assert not deadline.cancelled
