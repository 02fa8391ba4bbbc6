"""Cheap clients: each sends raw requests over a kept connection, the next after each answer.

A request is bytes with `%08d` for a number that differs each time, and so users and prompts differ.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import uvloop

from benchmarks import processes

NUMBERS = itertools.count()
LATE_SECONDS = 60.0


@dataclass(frozen=True)
class Target:
    """A server, the request to send, and the bytes that mark a token in its streams."""

    host: str
    port: int
    request: bytes
    token: bytes = b""


def ours(port: int, *, key: str, stream: bool = False) -> Target:
    """Return the target `POST /v1/chat`."""
    body = {"userId": "user-NUMBER", "prompt": "Is NUMBER a prime?", "stream": stream}
    return _target(f"http://127.0.0.1:{port}/v1/chat", body, key, b'data: {"text"')


def completions(
    url: str, *, key: str, stream: bool = False, headers: Mapping[str, str] | None = None
) -> Target:
    """Return the target `POST /chat/completions` below a base URL, as OpenAI's clients call it."""
    messages = [{"role": "user", "content": "Is NUMBER a prime?"}]
    body = {"model": "m", "messages": messages, "user": "user-NUMBER", "stream": stream}
    return _target(f"{url}/chat/completions", body, key, b"token ", headers)


def _target(
    url: str,
    body: Mapping[str, object],
    key: str,
    token: bytes,
    headers: Mapping[str, str] | None = None,
) -> Target:
    parts = urlsplit(url)
    content = json.dumps(body).replace("NUMBER", "%08d")
    fields = {
        "Host": parts.netloc,
        "Content-Type": "application/json",
        "Authorization": f"Bearer {key}",
        "Content-Length": len(content % (0, 0)),
        **(headers or {}),
    }
    lines = [f"POST {parts.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    request = "\r\n".join([*lines, "", content]).encode()
    assert parts.hostname
    assert parts.port
    return Target(parts.hostname, parts.port, request, token if body["stream"] else b"")


@dataclass(frozen=True)
class Answer:
    """The times of a request, of each token and of the end of its answer, in seconds."""

    sent: float
    tokens: list[float]
    ended: float


@dataclass(frozen=True)
class Outcome:
    """The answers within `seconds`, and the seconds of CPU of each process."""

    seconds: float
    answers: list[Answer]
    cpu: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.answers) / self.seconds

    def latency_ms(self, quantile: float) -> float:
        return _quantile([answer.ended - answer.sent for answer in self.answers], quantile)

    def first_token_ms(self, quantile: float) -> float:
        return _quantile([answer.tokens[0] - answer.sent for answer in self.answers], quantile)

    def cpu_ms(self, process: str) -> float:
        """Return the CPU of one request."""
        return self.cpu[process] * 1000 / len(self.answers)


def _quantile(seconds: list[float], quantile: float) -> float:
    return sorted(seconds)[int(len(seconds) * quantile)] * 1000


def drive(
    target: Target, *, clients: int, seconds: float, warm_up: float, pids: Mapping[str, int]
) -> Outcome:
    """Send requests with `clients` clients at once. Return what was answered after the warm-up."""
    return uvloop.run(_drive(target, clients, seconds, warm_up, pids))


async def _drive(
    target: Target, clients: int, seconds: float, warm_up: float, pids: Mapping[str, int]
) -> Outcome:
    connections = [await _connect(target) for _ in range(clients)]
    for connection in connections:
        connection.ask()
    await _work(connections, warm_up)
    before, began = _cpu(pids), time.perf_counter()
    answers = await _work(connections, seconds)
    after, ended = _cpu(pids), time.perf_counter()
    for connection in connections:
        connection.last = True
    await asyncio.gather(*(connection.over for connection in connections))
    return Outcome(ended - began, answers, {name: after[name] - before[name] for name in after})


def burst(target: Target, *, streams: int, stagger: float) -> list[Answer]:
    """Return the answers to this many requests, each sent `stagger` seconds after the last one."""
    return uvloop.run(_burst(target, streams, stagger))


async def _burst(target: Target, streams: int, stagger: float) -> list[Answer]:
    connections = [await _connect(target) for _ in range(streams)]
    for connection in connections:
        connection.last = True
        connection.ask()
        await asyncio.sleep(stagger)
    await asyncio.gather(*(connection.over for connection in connections))
    return [connection.answers[0] for connection in connections]


async def _connect(target: Target) -> "Connection":
    loop = asyncio.get_running_loop()
    made = await loop.create_connection(lambda: Connection(target), target.host, target.port)
    return made[1]


async def _work(connections: list["Connection"], seconds: float) -> list[Answer]:
    """Return the answers of this time, or of a longer one until each client can have one."""
    for connection in connections:
        connection.answers.clear()
    end = time.perf_counter() + seconds
    while True:
        await _wait(connections, min(seconds, 1.0))
        answers = [answer for connection in connections for answer in connection.answers]
        late = time.perf_counter() - end
        if late > 0 and (len(answers) >= len(connections) or late > LATE_SECONDS):
            break
    if not answers:
        raise RuntimeError(f"no answer within {seconds + late:.0f} s")
    return answers


async def _wait(connections: list["Connection"], seconds: float) -> None:
    """Wait, and raise the error of a connection that ended early."""
    over = [connection.over for connection in connections]
    done, _ = await asyncio.wait(over, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for future in done:
        future.result()


def _cpu(pids: Mapping[str, int]) -> dict[str, float]:
    used = {name: processes.cpu_seconds(pid) for name, pid in pids.items()}
    return {**used, "clients": time.process_time()}


class Connection(asyncio.Protocol):
    """A client that sends a request after each answer, until `last` is set."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.answers: list[Answer] = []
        self.last = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self) -> None:
        number = next(NUMBERS)
        self.buffer = b""
        self.tokens: list[float] = []
        self.sent = time.perf_counter()
        self.transport.write(self.target.request % (number, number))

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.buffer += data
        if self.target.token:
            self.tokens += [now] * data.count(self.target.token)
        if not _complete(self.buffer):
            return
        if not self.buffer.startswith(b"HTTP/1.1 200") or (self.target.token and not self.tokens):
            self._fail(self.buffer[:2000].decode(errors="replace"))
            return
        self.answers.append(Answer(self.sent, self.tokens, now))
        if self.last:
            self._end()
        else:
            self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the connection was closed")

    def _end(self) -> None:
        self.over.set_result(None)
        self.transport.close()

    def _fail(self, reason: str) -> None:
        if not self.over.done():
            self.over.set_exception(RuntimeError(f"no answer: {reason}"))
            self.transport.close()


def _complete(data: bytes) -> bool:
    """Return whether the data holds a whole answer."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return False
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    if found:
        return len(body) >= int(rest.partition(b"\r")[0])
    return body.endswith(b"0\r\n\r\n")
