"""A vendor that does as it is told, over real sockets: HTTP/1.1, keep-alive, a thread a connection.

    with StandIn() as vendor:
        vendor.reply({"choices": []})                 # what comes first
        vendor.reply("busy", status=503, delay=0.1)   # what comes then, and from then on
        ...                                           # call vendor.url
        assert vendor.requests[0].json == {...}

Without a script it answers every chat completion and every generateContent, so that as a process
it serves load tests: `python -m tests.standin PORT --delay 0.05`.
"""

import argparse
import contextlib
import json
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

OPENAI_ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1795348345,
    "model": "stand-in-1",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Hello from the stand-in."},
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
}
GEMINI_ANSWER: dict[str, Any] = {
    "candidates": [
        {
            "content": {"role": "model", "parts": [{"text": "Hello from the stand-in."}]},
            "finishReason": "STOP",
        }
    ],
    "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14},
    "modelVersion": "stand-in-1",
}
NOT_FOUND: dict[str, Any] = {"error": {"message": "nobody scripted this path"}}


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What happens to one request: `head` and `body` are sent, then the connection stays or goes.

    `pace` is (bytes, seconds): that much of what it is for is sent at a time.
    """

    head: bytes = b""
    body: bytes = b""
    delay: float = 0.0
    head_pace: tuple[int, float] | None = None
    body_pace: tuple[int, float] | None = None
    close: bool = False
    reset: bool = False


@dataclass
class StandIn:
    port: int = 0
    delay: float = 0.0  # of the answers that nobody scripted
    remember: int = 10_000

    requests: list[Received] = field(default_factory=list, init=False)
    connections: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._script: deque[Behaviour] = deque()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._live: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        self.port = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        _hang_up(self._listener)
        self._listener.close()
        self.drop()

    def reply(
        self,
        body: Any = None,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        delay: float = 0.0,
        head_pace: tuple[int, float] | None = None,
        body_pace: tuple[int, float] | None = None,
        chunked: bool = False,
        cut: int = 0,
    ) -> None:
        """Answer with bytes or text as they are, and anything else as JSON.

        `delay` comes before the status line. With a `cut` the connection is closed so many bytes
        before the end that was announced.
        """
        raw = body.encode() if isinstance(body, str) else body
        data = raw if isinstance(raw, bytes) else json.dumps(body).encode()
        fields = {"content-type": "application/json"} | dict(headers or {})
        if chunked:
            fields["transfer-encoding"] = "chunked"
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        else:
            fields["content-length"] = str(len(data))
        lines = [f"HTTP/1.1 {status} Scripted", *(f"{k}: {v}" for k, v in fields.items())]
        self.act(
            Behaviour(
                head="\r\n".join([*lines, "", ""]).encode("latin-1"),
                body=data[: len(data) - cut],
                delay=delay,
                head_pace=head_pace,
                body_pace=body_pace,
                close=cut > 0,
            )
        )

    def send(self, data: bytes, *, delay: float = 0.0) -> None:
        """Send bytes that need not be HTTP, and close."""
        self.act(Behaviour(head=data, delay=delay, close=True))

    def reset(self, *, delay: float = 0.0) -> None:
        """Reset the connection before the first byte."""
        self.act(Behaviour(delay=delay, reset=True))

    def act(self, behaviour: Behaviour) -> None:
        """Add to the script, whose last behaviour repeats."""
        with self._lock:
            self._script.append(behaviour)

    def clear(self) -> None:
        """Forget the script and the requests."""
        with self._lock:
            self._script.clear()
            self.requests.clear()

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._live)

    def drop(self) -> None:
        """Close all the connections, as vendors do with idle ones."""
        with self._lock:
            for connection in self._live:
                _hang_up(connection)

    def serve(self) -> None:
        """Accept connections until closed."""
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self.connections += 1
            self._live.add(connection)
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as stream:
            while received := _read(stream.readline, stream.read):
                if not self._perform(connection, self._next(received)):
                    break
        with self._lock:
            self._live.discard(connection)

    def _next(self, received: Received) -> Behaviour:
        with self._lock:
            if len(self.requests) < self.remember:
                self.requests.append(received)
            if len(self._script) > 1:
                return self._script.popleft()
            if self._script:
                return self._script[0]
        return _unscripted(received.path, self.delay)

    def _perform(self, connection: socket.socket, behaviour: Behaviour) -> bool:
        """Do it; whether the connection is still open."""
        self._closing.wait(behaviour.delay)
        if behaviour.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if behaviour.head_pace is None and behaviour.body_pace is None:
            connection.sendall(behaviour.head + behaviour.body)
        else:
            self._trickle(connection, behaviour.head, behaviour.head_pace)
            self._trickle(connection, behaviour.body, behaviour.body_pace)
        return not behaviour.close

    def _trickle(
        self, connection: socket.socket, data: bytes, pace: tuple[int, float] | None
    ) -> None:
        size, seconds = pace or (len(data) or 1, 0.0)
        for start in range(0, len(data), size):
            connection.sendall(data[start : start + size])
            self._closing.wait(seconds)


def _read(readline: Callable[[], bytes], read: Callable[[int], bytes]) -> Received | None:
    """The next request; None when the client has hung up."""
    words = readline().decode("latin-1").split()
    if len(words) != 3:
        return None
    headers = {}
    while line := readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Received(words[0], words[1], headers, read(int(headers.get("content-length", 0))))


def _unscripted(path: str, delay: float) -> Behaviour:
    if path.endswith("/chat/completions"):
        status, answer = b"200 OK", OPENAI_ANSWER
    elif path.endswith(":generateContent"):
        status, answer = b"200 OK", GEMINI_ANSWER
    else:
        status, answer = b"404 Not Found", NOT_FOUND
    body = json.dumps(answer).encode()
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return Behaviour(head=head % (status, len(body)), body=body, delay=delay)


def _hang_up(sock: socket.socket) -> None:
    """Wake the thread that waits for the socket, which closes it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.standin")
    parser.add_argument("port", type=int)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    options = parser.parse_args()
    vendor = StandIn(port=options.port, delay=options.delay, remember=0)
    sys.stdout.write(f"answering at {vendor.url}\n")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        vendor.serve()


if __name__ == "__main__":
    main()
