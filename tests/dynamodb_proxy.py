"""A server between the store and DynamoDB Local, for tests of permissions and of failures."""

import contextlib
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.background_server import BackgroundServer

FORWARDED = ("authorization", "content-type", "x-amz-date", "x-amz-target")


class DynamoDBProxy(BackgroundServer):
    """Forward each call to DynamoDB. Subclasses override `answer`."""

    def __init__(self, dynamodb: str) -> None:
        self._dynamodb = dynamodb
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                answer = proxy.answer(self.headers["x-amz-target"], body, self.headers)
                if answer is None:
                    self.close_connection = True
                    return
                with contextlib.suppress(OSError):  # the client may have given up
                    self.send_response(answer[0])
                    self.send_header("content-type", "application/x-amz-json-1.0")
                    self.send_header("content-length", str(len(answer[1])))
                    self.end_headers()
                    self.wfile.write(answer[1])

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(
        self, target: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes] | None:
        """Return the status and the body of the answer; None ends the connection without one."""
        return self.forward(body, headers)

    def forward(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        request = urllib.request.Request(
            self._dynamodb, body, {name: headers[name] for name in FORWARDED}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read()
