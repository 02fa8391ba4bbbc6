"""A stand-in of Lambda's Runtime API, and the function's process beside it.

    with RuntimeApi() as api, Function(api, folder, LLM_PROVIDER="mock"):
        invocation = api.invoke(v2())
        invocation.piece()             # the first chunk of the answer, when it comes
        answer = invocation.answer()   # when it is whole

Protocol: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

import base64
import contextlib
import functools
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.background_server import BackgroundServer
from tests.lambda_events import v1
from tests.server_process import ROOT, base_environment

PREFIX = "/2018-06-01/runtime"
STREAM_TYPE = "application/vnd.awslambda.http-integration-response"
SECRET_KEY = "a-secret-key-of-fifty-characters-0123456789-abcdef"
TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
WAIT_SECONDS = 60.0  # on a machine that is busy with other tests


@dataclass
class Answer:
    """What the function answered. `head` has status, headers and cookies; of a whole answer, all.

    `error` is an invocation's error, or that in the trailers of a stream.
    """

    streamed: bool
    head: dict[str, Any]
    body: bytes
    error: dict[str, Any] | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Invocation:
    """An event, and the answer as it arrives. `break_after`: reset the connection after chunks."""

    event: Any
    seconds: float = 60.0
    break_after: int | None = None
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    headers: dict[str, str] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    chunks: SimpleQueue[bytes | None] = field(default_factory=SimpleQueue)
    reset: threading.Event = field(default_factory=threading.Event)

    def piece(self) -> bytes | None:
        """Wait for a chunk; None at the end."""
        return self.chunks.get(timeout=WAIT_SECONDS)

    def answer(self) -> Answer:
        """Wait for the end. Return what `piece` has not returned."""
        content = b"".join(iter(self.piece, None))
        if self.headers.get("content-type") != STREAM_TYPE:
            whole = json.loads(content) if content else {}
            return Answer(False, whole, str(whole.get("body")).encode(), self.error)
        prelude, _, body = content.partition(bytes(8))
        return Answer(True, json.loads(prelude or b"{}"), body, self.error)


class _Server(ThreadingHTTPServer):
    def __init__(self, handler: "type[_Handler]", api: "RuntimeApi") -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.api = api

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore that a client has ended, also in the middle."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    @property
    def api(self) -> "RuntimeApi":
        return self.server.api

    def log_message(self, *args: Any) -> None:
        pass

    def content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))


class RuntimeApi(BackgroundServer):
    def __init__(self) -> None:
        self.init_errors: list[dict[str, Any]] = []
        self.connections = 0
        self.closing = False
        self.pending: SimpleQueue[Invocation] = SimpleQueue()
        self.running: dict[str, Invocation] = {}
        self._server = _Server(_RuntimeHandler, self)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __exit__(self, *exc: object) -> None:
        self.close()
        super().__exit__(*exc)

    def close(self) -> None:
        """Refuse to hand out events: the loop ends."""
        self.closing = True

    def invoke(self, event: Any, **options: Any) -> Invocation:
        invocation = Invocation(event, **options)
        self.pending.put(invocation)
        return invocation

    def ask(self, event: Any, **options: Any) -> Answer:
        return self.invoke(event, **options).answer()

    def next(self) -> Invocation | None:
        while not self.closing:
            try:
                return self.pending.get(timeout=0.05)
            except Empty:
                continue
        return None


class _RuntimeHandler(_Handler):
    def setup(self) -> None:
        super().setup()
        self.api.connections += 1

    def do_GET(self) -> None:
        invocation = self.api.next()
        if invocation is None:
            self._respond(410)
            return
        self.api.running[invocation.request_id] = invocation
        event = invocation.event
        content = event if isinstance(event, bytes) else json.dumps(event).encode()
        deadline = int((time.time() + invocation.seconds) * 1000)
        self._respond(
            200,
            content,
            {
                "Content-Type": "application/json",
                "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
                "Lambda-Runtime-Deadline-Ms": str(deadline),
                "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:example",
                "Lambda-Runtime-Trace-Id": TRACE,
            },
        )

    def do_POST(self) -> None:
        step = self.path.removeprefix(f"{PREFIX}/")
        if step == "init/error":
            self.api.init_errors.append(json.loads(self.content()))
            self._respond(202)
            return
        _, request_id, kind = step.split("/")
        invocation = self.api.running.pop(request_id)
        invocation.headers = {name.lower(): value for name, value in self.headers.items()}
        if kind == "error":
            invocation.error = json.loads(self.content())
        elif "chunked" in self.headers.get("Transfer-Encoding", ""):
            if not self._chunks(invocation):
                return
        else:
            invocation.chunks.put(self.content())
        invocation.chunks.put(None)
        self._respond(202)

    def _chunks(self, invocation: Invocation) -> bool:
        """Read chunks and trailers; False if the connection is reset."""
        count = 0
        while size := int(self.rfile.readline(), 16):
            invocation.chunks.put(self.rfile.read(size))
            self.rfile.readline()
            count += 1
            if count == invocation.break_after:
                self._reset(invocation)
                return False
        while line := self.rfile.readline().strip():
            name, _, value = line.decode().partition(": ")
            if name == "Lambda-Runtime-Function-Error-Body":
                invocation.error = json.loads(base64.b64decode(value))
        return True

    def _reset(self, invocation: Invocation) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        self.close_connection = True
        invocation.chunks.put(None)
        invocation.reset.set()

    def _respond(
        self, status: int, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        with contextlib.suppress(ConnectionError):  # the function has ended
            self.end_headers()
            self.wfile.write(content)


class RestApi(BackgroundServer):
    """A REST API with the stage `prod`, in a context manager: HTTP in, events out, streams back."""

    def __init__(self, api: RuntimeApi) -> None:
        self._server = _Server(_RestHandler, api)
        self.url = f"http://127.0.0.1:{self._server.server_port}/prod"


class _RestHandler(_Handler):
    def do_GET(self) -> None:
        invocation = self.api.invoke(self._event())
        prelude, _, first = (invocation.piece() or b"").partition(bytes(8))
        head = json.loads(prelude)
        self.send_response(head["statusCode"])
        for name, value in head["headers"].items():
            if name != "Content-Length":
                self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in itertools.chain([first], iter(invocation.piece, None)):
            if piece:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    do_POST = do_GET

    def _event(self) -> dict[str, Any]:
        address = urlsplit(self.path)
        content = self.content()
        event = v1(
            path=address.path.removeprefix("/prod"),
            method=self.command,
            body=content.decode(),
            headers={name.lower(): value for name, value in self.headers.items()},
        )
        return event | {"multiValueQueryStringParameters": parse_qs(address.query)}


@functools.cache
def _migrated_database() -> bytes:
    """Return an SQLite file with our tables. A process starts for it, so it is made once."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "migrated.db"
        variables = {"ENV_FILE": os.devnull, "DATABASE_PATH": str(database)}
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
            env={**base_environment(), "SECRET_KEY": SECRET_KEY, **variables},
            cwd=ROOT,
            check=True,
            timeout=WAIT_SECONDS,
        )
        return database.read_bytes()


class Function:
    """The function's process, in a context manager; `variables` are its environment."""

    def __init__(
        self,
        api: RuntimeApi,
        folder: Path,
        *command: str,
        **variables: str,
    ) -> None:
        self._command = command or ("-m", "chatproject.lambda_runtime")
        self.log = folder / "function.log"
        self._environment = {
            **base_environment(),
            "ENV_FILE": os.devnull,
            "AWS_LAMBDA_RUNTIME_API": api.address,
            "AWS_LAMBDA_FUNCTION_NAME": "chat",
            "AWS_REGION": "us-east-1",
            "STORAGE": "sqlite",
            "DATABASE_PATH": str(folder / "function.db"),
            "SECRET_KEY": SECRET_KEY,
            "RATE_LIMIT_PER_MINUTE": "0",
            **variables,
        }

    def __enter__(self) -> Self:
        database = Path(self._environment["DATABASE_PATH"])
        if self._environment["STORAGE"] == "sqlite" and not database.exists():
            database.write_bytes(_migrated_database())
        self.process = self._run(*self._command)
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=WAIT_SECONDS)

    def _run(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            command = [sys.executable, *arguments]
            return subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, cwd=ROOT
            )
