"""Read facts about the server from the WSGI environment."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from typing import Any, Protocol

from providers.deadline import Deadline, Waiter

# apig-wsgi puts Lambda's context object here; other servers have no such key.
LAMBDA_CONTEXT = "apig_wsgi.context"
# The runtime loop, which sends a body in pieces, puts true here.
STREAMS_ON_LAMBDA = "chat.streams_on_lambda"
# A server that can watch its client puts a function here. It takes a deadline, and returns a
# context in which a disconnect cancels the deadline.
CANCEL_ON_DISCONNECT = "chat.cancel_on_disconnect"
# A server at its capacity sets this to True for the requests beyond it.
SERVER_FULL = "chat.server_full"
# A server with a thread that relays many streams puts a Relay here.
RELAY = "chat.relay"


class Relay(Protocol):
    """Relays the stream of one request, in a thread that does so for many."""

    def run(self, work: Callable[[Waiter], None], context: Context) -> None:
        """Run `work` in the relay's thread, and wait for its end.

        `work` must wait by its waiter only. Afterwards everything has been sent to the client.
        Raises the client's OSError.
        """

    def send(self, data: bytes) -> bool:
        """Send a piece of the body within `work`. Return False if the client has not taken all.

        The next call sends the rest; it may have no data. Raises TimeoutError if the client has
        taken nothing for too long; `run` then raises it, too.
        """


def relay_of(environ: Mapping[str, Any]) -> Relay | None:
    """Return the relay of a request, if its server has one."""
    found: Relay | None = environ.get(RELAY)
    return found


def remaining_seconds(environ: Mapping[str, Any]) -> float:
    """Return the seconds until Lambda stops this invocation; infinity without such a limit."""
    context = environ.get(LAMBDA_CONTEXT)
    return context.get_remaining_time_in_millis() / 1000 if context else math.inf


def is_full(environ: Mapping[str, Any]) -> bool:
    """Return whether this request is beyond the server's capacity."""
    return bool(environ.get(SERVER_FULL))


def can_stream(environ: Mapping[str, Any]) -> bool:
    """Return whether parts of a response leave at once: apig-wsgi sends the body as a whole."""
    return LAMBDA_CONTEXT not in environ or STREAMS_ON_LAMBDA in environ


def cancel_on_disconnect(
    environ: Mapping[str, Any], deadline: Deadline
) -> AbstractContextManager[None]:
    """Return a context in which a disconnect cancels the deadline, if the server can watch it."""
    watch: Callable[[Deadline], AbstractContextManager[None]] | None
    watch = environ.get(CANCEL_ON_DISCONNECT)
    return nullcontext() if watch is None else watch(deadline)
