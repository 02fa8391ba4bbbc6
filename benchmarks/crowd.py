"""Many clients at once, each with one request on a connection of its own.

Unlike those of benchmarks.load they go on when a request fails: each has a reply, whatever came.
"""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import uvloop

from benchmarks.load import NUMBERS, Target

LAST_CHUNK = b"0\r\n\r\n"
# Clients that connect before the others' answers are looked at.
BATCH = 50


@dataclass(frozen=True)
class Size:
    """How many clients come, and the seconds until the last one has come."""

    clients: int
    within: float = 0.0

    def of(self, kind: str) -> str:
        return f"{self.clients:,} {kind}" + (f" within {self.within:.0f} s" if self.within else "")


@dataclass
class Reply:
    """What a client got. Times are seconds of `time.perf_counter`.

    The status is 0 without an answer, and `whole` says whether the answer came to its end.
    """

    began: float = field(default_factory=time.perf_counter)
    number: int = 0
    status: int = 0
    tokens: list[float] = field(default_factory=list)
    ended: float = 0.0
    whole: bool = False

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True)
class Crowd:
    """The replies to a crowd; `tokens` are those of a whole stream, 0 of a plain answer."""

    replies: Sequence[Reply]
    tokens: int = 0

    @property
    def whole(self) -> list[Reply]:
        return [reply for reply in self.replies if self._failure(reply) is None]

    @property
    def failures(self) -> Counter[str]:
        """The count of each kind of failure: a status, or what is wrong with a 200."""
        found = map(self._failure, self.replies)
        return Counter(failure for failure in found if failure is not None)

    def seconds(self, quantile: float) -> float | None:
        return _quantile([reply.seconds for reply in self.whole], quantile)

    def first_token(self, quantile: float) -> float | None:
        """Return the seconds until the first token."""
        waits = [reply.tokens[0] - reply.began for reply in self.whole if reply.tokens]
        return _quantile(waits, quantile)

    @property
    def came_in(self) -> float:
        """The seconds until the last client came, which are more if the machine is busy."""
        began = [reply.began for reply in self.replies]
        return max(began) - min(began)

    def slowest_failure(self) -> float | None:
        """Return the most seconds that a client waited for a failure."""
        failed = [reply for reply in self.replies if self._failure(reply) is not None]
        return max((reply.seconds for reply in failed), default=None)

    def _failure(self, reply: Reply) -> str | None:
        if reply.status != 200:
            return str(reply.status or "no answer")
        return None if reply.whole and len(reply.tokens) >= self.tokens else "cut"


def ask(target: Target, size: Size, *, tokens: int = 0, limit: float) -> Crowd:
    """Return the replies to a crowd, of which each client waits for `limit` seconds at most."""
    return Crowd(uvloop.run(_ask(target, size, limit)), tokens)


async def _ask(target: Target, size: Size, limit: float) -> list[Reply]:
    asked, began = [], time.perf_counter()
    for number in range(size.clients):
        asked.append(asyncio.create_task(one(target, limit)))
        early = began + size.within * number / size.clients - time.perf_counter()
        if early > 0 or number % BATCH == 0:
            await asyncio.sleep(max(early, 0))
    return await asyncio.gather(*asked)


async def one(target: Target, limit: float) -> Reply:
    """Send one request; give up and disconnect after `limit` seconds."""
    client = Client(target)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(limit):
            await loop.create_connection(lambda: client, target.host, target.port)
            await client.over
    except (TimeoutError, OSError):
        client.leave()
    return client.reply


class Client(asyncio.Protocol):
    """Sends one request and records its reply. `over` is set when nothing more can come."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.reply = Reply()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._left = 0  # bytes of a body with a content-length
        self._end = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.reply.number = next(NUMBERS)
        number = self.reply.number
        self._transport.write(self.target.request % (number, number))

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.reply.status:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self.reply.status = int(head[9:12])
            self._left = _content_length(head)
        if token := self.target.token:
            # A piece may end within a token; what is kept of it is too short to be one.
            text = self._end[1 - len(token) :] + data
            self.reply.tokens += [now] * text.count(token)
        self._end = (self._end + data)[-16:]
        self._left -= len(data)
        if self._left == 0 or (self._left < 0 and self._end.endswith(LAST_CHUNK)):
            self.reply.whole = True
            self.leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()

    def leave(self) -> None:
        """Disconnect, whatever has come."""
        if self._transport:
            self._transport.abort()
        self.reply.ended = self.reply.ended or time.perf_counter()
        if not self.over.done():
            self.over.set_result(None)


def _content_length(head: bytes) -> int:
    """Return the length of the body, -1 if it comes in chunks."""
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r")[0]) if found else -1


def _quantile(values: list[float], quantile: float) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return statistics.quantiles(values, n=1000, method="inclusive")[round(quantile * 1000) - 1]
