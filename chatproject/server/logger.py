"""gunicorn's log, through Django's LOGGING."""

import sys
from typing import Any

from gunicorn.glogging import Logger

# gunicorn logs this and the exception of a client's socket. Its other messages may report a
# TimeoutError of the application.
SOCKET_ERROR = "Socket error processing request."


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Leave handlers and levels to LOGGING, and the access log to chat.telemetry."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log a timeout of a client without a traceback: it is not a fault of the server."""
        if msg == SOCKET_ERROR and isinstance(sys.exception(), TimeoutError | BlockingIOError):
            self.info("client timed out")
        else:
            super().exception(msg, *args, **kwargs)
