"""Whether the client of a request is still there."""

import select
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any


def disconnect_check(environ: Mapping[str, Any]) -> Callable[[], bool] | None:
    """Tells whether the client has closed its connection; None where the server does not show it.

    Who has only finished sending has closed it as well: nobody can tell the two apart.
    """
    client: socket.socket | None = environ.get("gunicorn.socket")
    if client is None or isinstance(client, ssl.SSLSocket):  # which cannot be looked into
        return None

    def gone() -> bool:
        poll = select.poll()  # one for each call, as threads may not share it
        try:
            poll.register(client, select.POLLIN)
            return bool(poll.poll(0)) and not client.recv(1, socket.MSG_PEEK)
        except (OSError, ValueError):  # it is closed on our side
            return True

    return gone
