"""Limit the concurrent requests of a process, and refuse more at once.

More threads would not help, because each request also needs files and memory.
"""

import threading
from collections.abc import Callable
from typing import Any

from chat.api.server_context import SERVER_FULL

HAS_PLACE = "chatproject.has_place"

Application = Callable[..., Any]


class Capacity:
    """Places for `requests` requests at a time."""

    def __init__(self, requests: int) -> None:
        self._free = requests
        self._lock = threading.Lock()

    def limit(self, application: Application) -> Application:
        """Wrap a WSGI application; its environment says whether the server is full.

        The server calls `release` when the request is over.
        """

        def wrapped(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            environ[HAS_PLACE] = self._take()
            environ[SERVER_FULL] = not environ[HAS_PLACE]
            return application(environ, start_response)

        return wrapped

    def release(self, environ: dict[str, Any]) -> None:
        """Free the place of a request."""
        if environ.get(HAS_PLACE):
            with self._lock:
                self._free += 1

    def _take(self) -> bool:
        with self._lock:
            taken = self._free > 0
            self._free -= taken
        return taken
