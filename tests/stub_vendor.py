"""A vendor that does as it is told, over real sockets: HTTP/1.1, keep-alive, a thread a connection.

    with StandIn() as vendor:
        vendor.reply({"choices": []})                 # what comes first
        vendor.reply("busy", status=503, delay=0.1)   # what comes then, and from then on
        ...                                           # call vendor.url
        assert vendor.requests[0].json == {...}

A stream is a list of pieces, which come one after the other:

        vendor.stream([chunk("Hel"), chunk("lo."), FINISH, DONE], gap=0.1)
        assert vendor.client_disconnected.wait(SOON)  # by a client that leaves in the middle of it

A delay or a gap is a number of seconds, or an event that the test sets when it has seen enough.

Without a script it answers every chat completion and every generateContent.
"""

import contextlib
import json
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
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
Wait = float | threading.Event
# What follows at once, at the latest: so long may a machine be busy with other things.
SOON = 10.0
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
class ScriptedResponse:
    """What happens to one request: `head` and `body` are sent, then the connection stays or goes.

    `pace` is (bytes, seconds): that much of what it is for is sent at a time. Of `pieces`, each
    comes after its `gap`, and each is a chunk of its own.
    """

    head: bytes = b""
    body: bytes = b""
    delay: Wait = 0.0
    head_pace: tuple[int, float] | None = None
    body_pace: tuple[int, float] | None = None
    pieces: Sequence[bytes] = ()
    gaps: Sequence[Wait] = ()
    close: bool = False
    reset: bool = False


@dataclass
class StubVendor:
    delay: float = 0.0  # of the answers that nobody scripted
    remember: int = 10_000

    client_disconnected: threading.Event = field(default_factory=threading.Event, init=False)
    requests: list[Received] = field(default_factory=list, init=False)
    connections: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._script: deque[ScriptedResponse] = deque()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._live: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
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
        self.close_connections()

    def reply(
        self,
        body: Any = None,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        delay: Wait = 0.0,
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
        self.script(
            ScriptedResponse(
                head="\r\n".join([*lines, "", ""]).encode("latin-1"),
                body=data[: len(data) - cut],
                delay=delay,
                head_pace=head_pace,
                body_pace=body_pace,
                close=cut > 0,
            )
        )

    def stream(
        self,
        pieces: Sequence[str | bytes],
        *,
        gap: float | Sequence[Wait] = 0.0,
        headers: Mapping[str, str] | None = None,
        cut: bool = False,
        chunked: bool = True,
    ) -> None:
        """Send the pieces as they are, each after its gap. With a `cut` the end is not marked.

        A body that is not chunked ends with its connection.
        """
        raw = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
        gaps: list[Wait] = [gap] * len(raw) if isinstance(gap, int | float) else list(gap)
        self.script(_streamed(raw, gaps, headers or {}, cut=cut, chunked=chunked))

    def send(self, data: bytes, *, delay: float = 0.0) -> None:
        """Send bytes that need not be HTTP, and close."""
        self.script(ScriptedResponse(head=data, delay=delay, close=True))

    def reset(self, *, delay: float = 0.0) -> None:
        """Reset the connection before the first byte."""
        self.script(ScriptedResponse(delay=delay, reset=True))

    def script(self, behaviour: ScriptedResponse) -> None:
        """Add to the script, whose last behaviour repeats."""
        with self._lock:
            self._script.append(behaviour)

    def clear(self) -> None:
        """Forget the script and the requests."""
        with self._lock:
            self._script.clear()
            self.requests.clear()
            self.client_disconnected.clear()

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._live)

    def close_connections(self) -> None:
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

    def _next(self, received: Received) -> ScriptedResponse:
        with self._lock:
            if len(self.requests) < self.remember:
                self.requests.append(received)
            if len(self._script) > 1:
                return self._script.popleft()
            if self._script:
                return self._script[0]
        if received.path.endswith("/chat/completions") and received.json.get("stream"):
            return _streamed(TOKENS, [self.delay, *[0.0] * (len(TOKENS) - 1)])
        return _unscripted(received.path, self.delay)

    def _perform(self, connection: socket.socket, behaviour: ScriptedResponse) -> bool:
        """Do it; whether the connection is still open."""
        if isinstance(behaviour.delay, threading.Event):
            while not behaviour.delay.wait(0.01) and not self._closing.is_set():
                pass
        else:
            self._closing.wait(behaviour.delay)
        if behaviour.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if behaviour.head_pace is None and behaviour.body_pace is None:
            connection.sendall(behaviour.head + behaviour.body)
        else:
            self._trickle(connection, behaviour.head, behaviour.head_pace)
            self._trickle(connection, behaviour.body, behaviour.body_pace)
        for piece, gap in zip(behaviour.pieces, behaviour.gaps, strict=False):
            if _has_left(connection, gap):
                self.client_disconnected.set()
                return False
            connection.sendall(piece)
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


def _unscripted(path: str, delay: float) -> ScriptedResponse:
    if path.endswith("/chat/completions"):
        status, answer = b"200 OK", OPENAI_ANSWER
    elif path.endswith(":generateContent"):
        status, answer = b"200 OK", GEMINI_ANSWER
    else:
        status, answer = b"404 Not Found", NOT_FOUND
    body = json.dumps(answer).encode()
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return ScriptedResponse(head=head % (status, len(body)), body=body, delay=delay)


def _streamed(
    pieces: Sequence[bytes],
    gaps: Sequence[Wait],
    headers: Mapping[str, str] | None = None,
    *,
    cut: bool = False,
    chunked: bool = True,
) -> ScriptedResponse:
    fields = {"content-type": "text/event-stream"} | dict(headers or {})
    if chunked:
        fields["transfer-encoding"] = "chunked"
        pieces = [piece and b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
        if not cut:
            pieces, gaps = [*pieces, b"0\r\n\r\n"], [*gaps, 0.0]
    lines = ["HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in fields.items())]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return ScriptedResponse(head=head, pieces=pieces, gaps=gaps, close=cut or not chunked)


def chunk(content: str | None = None, **fields: Any) -> str:
    """An event of a chat completion's stream, with this much of the text."""
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    body = {"object": "chat.completion.chunk", "model": "stand-in-1", "choices": [choice]}
    return f"data: {json.dumps(body | fields)}\n\n"


FINISH = chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
USAGE = chunk(choices=[], usage=OPENAI_ANSWER["usage"])
DONE = "data: [DONE]\n\n"

# The stream that nobody scripted.
TOKENS = [
    *(chunk(f"token {number} ").encode() for number in range(1, 5)),
    "".join([chunk("end"), FINISH, USAGE, DONE]).encode(),
]


def _has_left(connection: socket.socket, gap: Wait) -> bool:
    """Wait; whether the client hangs up meanwhile. A request that waits its turn is no end."""
    begun = time.monotonic()

    def remaining() -> float:
        if isinstance(gap, threading.Event):
            return 0.0 if gap.is_set() else 0.01
        return begun + gap - time.monotonic()

    poll = select.poll()
    poll.register(connection, select.POLLIN)
    while (left := remaining()) > 0:
        if poll.poll(left * 1000):
            if not connection.recv(1, socket.MSG_PEEK):
                return True
            time.sleep(min(left, 0.01))
    return False


def _hang_up(sock: socket.socket) -> None:
    """Wake the thread that waits for the socket, which closes it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
