"""What the servers that tests start beside the product have in common."""

import threading
from http.server import ThreadingHTTPServer
from typing import Self


class BackgroundServer:
    """Serve in a thread of its own while the context lasts."""

    _server: ThreadingHTTPServer

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
