"""A scripted vendor over real sockets: HTTP/1.1, keep-alive, a thread per connection.

    with StubVendor() as vendor:
        vendor.reply({"choices": []})                 # the first response
        vendor.reply("busy", status=503, delay=0.1)   # the second, and all after it
        ...                                           # call vendor.url
        assert vendor.requests[0].json == {...}

A stream is a list of pieces, sent one after the other:

        vendor.stream([chunk("Hel"), chunk("lo."), FINISH, DONE], gap=0.1)
        assert vendor.client_disconnected.wait(SOON)  # the client left during the stream

A delay or a gap is a number of seconds, or an event that the test sets.

Without a script `responder` answers, a function of the request. Without that one, every chat
completion and every generateContent is answered alike.
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
# The longest wait for something immediate, on a machine that is busy with other tests.
SOON = 10.0
NOT_FOUND: dict[str, Any] = {"error": {"message": "no script for this path"}}


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
    """The response to one request: `head`, `body` and `pieces`, each piece after its gap.

    A pace is (bytes, seconds): send so many bytes at a time, with this pause after each. `reset`
    resets the connection instead, and `close` closes it afterwards.
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
    delay: float = 0.0  # of unscripted answers
    max_requests: int = 10_000  # stored in `requests`
    responder: Callable[[Received], ScriptedResponse] | None = None

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
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        _shut_down(self._listener)
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
        """Respond with bytes or text as they are, and anything else as JSON.

        `delay` comes before the status line. `cut` closes the connection this many bytes before
        the announced end.
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
        """Send the pieces as they are, each after its gap. `cut` omits the final chunk.

        A body that is not chunked ends with its connection.
        """
        raw = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
        gaps: list[Wait] = [gap] * len(raw) if isinstance(gap, int | float) else list(gap)
        self.script(stream_response(raw, gaps, headers or {}, cut=cut, chunked=chunked))

    def send(self, data: bytes, *, delay: float = 0.0) -> None:
        """Send bytes, HTTP or not, and close."""
        self.script(ScriptedResponse(head=data, delay=delay, close=True))

    def reset(self, *, delay: float = 0.0) -> None:
        """Reset the connection before the first byte."""
        self.script(ScriptedResponse(delay=delay, reset=True))

    def script(self, response: ScriptedResponse) -> None:
        """Append to the script, whose last response repeats."""
        with self._lock:
            self._script.append(response)

    def clear(self) -> None:
        """Clear the script and the requests."""
        with self._lock:
            self._script.clear()
            self.requests.clear()
            self.client_disconnected.clear()

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self._live)

    def close_connections(self) -> None:
        """Close all connections, as vendors do with idle ones."""
        with self._lock:
            for connection in self._live:
                _shut_down(connection)

    def _accept(self) -> None:
        """Accept connections until the context ends."""
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self.connections += 1
            self._live.add(connection)
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as stream:
            while received := _read(stream.readline, stream.read):
                if not self._respond(connection, self._next(received)):
                    break
        with self._lock:
            self._live.discard(connection)

    def _next(self, received: Received) -> ScriptedResponse:
        with self._lock:
            if len(self.requests) < self.max_requests:
                self.requests.append(received)
            if len(self._script) > 1:
                return self._script.popleft()
            if self._script:
                return self._script[0]
        if self.responder:
            return self.responder(received)
        if received.path.endswith("/chat/completions") and received.json.get("stream"):
            return stream_response(TOKENS, [self.delay, *[0.0] * (len(TOKENS) - 1)])
        return _default_response(received.path, self.delay)

    def _respond(self, connection: socket.socket, response: ScriptedResponse) -> bool:
        """Send the response; return whether the connection stays open."""
        if isinstance(response.delay, threading.Event):
            while not response.delay.wait(0.01) and not self._closing.is_set():
                pass
        else:
            self._closing.wait(response.delay)
        if response.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if response.head_pace is None and response.body_pace is None:
            connection.sendall(response.head + response.body)
        else:
            self._trickle(connection, response.head, response.head_pace)
            self._trickle(connection, response.body, response.body_pace)
        try:
            for piece, gap in zip(response.pieces, response.gaps, strict=False):
                if _disconnects(connection, gap):
                    raise ConnectionAbortedError
                connection.sendall(piece)
        except ConnectionError:  # the client closed, or reset with bytes of ours unread
            self.client_disconnected.set()
            return False
        return not response.close

    def _trickle(
        self, connection: socket.socket, data: bytes, pace: tuple[int, float] | None
    ) -> None:
        size, seconds = pace or (len(data) or 1, 0.0)
        for start in range(0, len(data), size):
            connection.sendall(data[start : start + size])
            self._closing.wait(seconds)


def _read(readline: Callable[[], bytes], read: Callable[[int], bytes]) -> Received | None:
    """Return the next request; None if the client has disconnected."""
    words = readline().decode("latin-1").split()
    if len(words) != 3:
        return None
    headers = {}
    while line := readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Received(words[0], words[1], headers, read(int(headers.get("content-length", 0))))


def _default_response(path: str, delay: float) -> ScriptedResponse:
    if path.endswith("/chat/completions"):
        return json_response(OPENAI_ANSWER, delay=delay)
    if path.endswith(":generateContent"):
        return json_response(GEMINI_ANSWER, delay=delay)
    return json_response(NOT_FOUND, status=404, delay=delay)


def json_response(body: Any, *, status: int = 200, delay: Wait = 0.0) -> ScriptedResponse:
    data = json.dumps(body).encode()
    head = b"HTTP/1.1 %d Scripted\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return ScriptedResponse(head=head % (status, len(data)), body=data, delay=delay)


def stream_response(
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
    """Return an event of a chat completion's stream with this text."""
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    body = {"object": "chat.completion.chunk", "model": "stand-in-1", "choices": [choice]}
    return f"data: {json.dumps(body | fields)}\n\n"


FINISH = chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
USAGE = chunk(choices=[], usage=OPENAI_ANSWER["usage"])
DONE = "data: [DONE]\n\n"

# The unscripted stream.
TOKENS = [
    *(chunk(f"token {number} ").encode() for number in range(1, 5)),
    "".join([chunk("end"), FINISH, USAGE, DONE]).encode(),
]


def _disconnects(connection: socket.socket, gap: Wait) -> bool:
    """Wait for the gap; return whether the client disconnects meanwhile (pipelining does not)."""
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


def _shut_down(sock: socket.socket) -> None:
    """Wake the thread that reads from the socket, so that it closes it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
