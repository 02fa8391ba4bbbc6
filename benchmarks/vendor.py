"""A cheap vendor, as it shares the cores with what is measured.

    python -m benchmarks.vendor [--delay 0.05] [--tokens 20] [--gap 0.01] [--log FILE]

Every request is a chat completion, or a plain call of Gemini's or Bedrock's API. Its answer or the
first token of its stream comes after `--delay` seconds, and each further token after `--gap`
seconds. The log has a line for each request: its body. The tests' vendor, which can fail, is in
tests/stub_vendor.py and gives the same answers.
"""

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import uvloop

from tests.stub_vendor import DONE, FINISH, GEMINI_ANSWER, OPENAI_ANSWER, USAGE, chunk

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)

# The answers, by the ends of paths. OpenRouter's has the price.
ANSWERS: dict[bytes, dict[str, Any]] = {
    b"/api/v1/chat/completions": {
        **OPENAI_ANSWER,
        "usage": {**OPENAI_ANSWER["usage"], "cost": 0.00001},
    },
    b"/chat/completions": OPENAI_ANSWER,
    b":generateContent": GEMINI_ANSWER,
    b"/converse": {
        "output": {"message": {"role": "assistant", "content": [{"text": "Hello."}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 9, "outputTokens": 5, "totalTokens": 14},
        "metrics": {"latencyMs": 7},
    },
}


@dataclass(frozen=True)
class Pace:
    """The seconds until an answer, a stream's number of tokens, and the seconds between them."""

    delay: float = 0.0
    tokens: int = 20
    gap: float = 0.0


@dataclass(frozen=True)
class Running:
    url: str
    pid: int


@contextmanager
def running(pace: Pace, log: Path | None = None) -> Iterator[Running]:
    """Run a vendor in a new process. Its url is a base URL, as OpenAI's is."""
    options = [f"--{name}={value}" for name, value in vars(pace).items()]
    options += [f"--log={log}"] if log else []
    command = [sys.executable, "-m", "benchmarks.vendor", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout
            yield Running(url=process.stdout.readline().split()[-1], pid=process.pid)
        finally:
            process.terminate()


class Connection(asyncio.Protocol):
    """Answer the requests of one connection, one after the other."""

    def __init__(
        self, pace: Pace, answers: dict[bytes, bytes], pieces: list[bytes], log: IO[bytes] | None
    ):
        self.pace, self.answers, self.pieces, self.log = pace, answers, pieces, log
        self.loop = asyncio.get_running_loop()
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        length = _content_length(head)
        if not end or len(rest) < length:
            return
        body, self.buffer = rest[:length], rest[length:]
        if self.log:
            self.log.write(body + b"\n")
        if b'"stream":true' in body or b'"stream": true' in body:
            self.began = self.loop.time() + self.pace.delay
            self._after(self.pace.delay, self._send, 0)
        else:
            path = head.split(b" ", 2)[1]
            found = (data for end, data in self.answers.items() if path.endswith(end))
            answer = next(found, self.answers[b"/chat/completions"])
            self._after(self.pace.delay, self._write, answer)

    def _send(self, number: int) -> None:
        """Send a piece and schedule the next one, or send all pieces if there is no gap."""
        if not self.pace.gap:
            self._write(b"".join(self.pieces))
            return
        self._write(self.pieces[number])
        if number + 1 < len(self.pieces):
            # At a time of its own, so that delays do not add up.
            at = self.began + (number + 1) * self.pace.gap
            self.loop.call_at(at, self._send, number + 1)

    def _write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def _after(self, seconds: float, act: Callable[[T], None], argument: T) -> None:
        if seconds:
            self.loop.call_later(seconds, act, argument)
        else:
            act(argument)


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r")[0]) if found else 0


def _response(answer: dict[str, Any]) -> bytes:
    body = json.dumps(answer).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def _pieces(tokens: int) -> list[bytes]:
    """Return a stream's pieces: the head comes with the first token, the end with the last."""
    texts = [chunk(f"token {number} ") for number in range(tokens)]
    texts[-1] += f"{FINISH}{USAGE}{DONE}"
    pieces = [b"%x\r\n%b\r\n" % (len(text), text.encode()) for text in texts]
    return [STREAM_HEAD + pieces[0], *pieces[1:-1], pieces[-1] + b"0\r\n\r\n"]


async def _serve(pace: Pace, log: IO[bytes] | None) -> None:
    answers = {end: _response(answer) for end, answer in ANSWERS.items()}
    pieces = _pieces(pace.tokens)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(pace, answers, pieces, log), "127.0.0.1", 0, backlog=4096
    )
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"answering at http://127.0.0.1:{port}/v1\n")
    sys.stdout.flush()
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vendor")
    parser.add_argument("--delay", type=float, default=Pace.delay, help="seconds until an answer")
    parser.add_argument(
        "--tokens", type=int, default=Pace.tokens, help="tokens of a stream, at least two"
    )
    parser.add_argument("--gap", type=float, default=Pace.gap, help="seconds between two tokens")
    parser.add_argument("--log", type=Path, help="file for the bodies of requests")
    given = parser.parse_args()
    log = given.log.open("wb", buffering=0) if given.log else None
    uvloop.run(_serve(Pace(given.delay, given.tokens, given.gap), log))


if __name__ == "__main__":
    main()
