"""Time to the first token through the server, beside the stand-in's own when it is asked directly.

    python -m benchmarks.streaming [ROUNDS]

The stand-in sends a token every 100 ms, the first of them 100 ms after the request. Streams run
alone, 50 at once of which one begins every 20 ms, and 50 that begin in the same instant. Each round
asks both in turn; the table has the median and the worst of the differences, and how late the
later tokens came. Exits with 1 where the median of a first token is over its budget.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.running import Server, free_port

GAP = 0.1
TOKENS = 20
MANY = 50
STAGGER = 0.02
BUDGET_MS = 30.0
ENDS = (b"data: [DONE]", b"event: done")


@dataclass(frozen=True)
class Target:
    """What is asked for a stream, and what tells the lines of its answer with a token."""

    url: str
    body: bytes
    token: bytes


@dataclass(frozen=True)
class Load:
    name: str
    streams: int
    stagger: float


LOADS = [
    Load("alone", 1, 0.0),
    Load(f"{MANY}, one every {STAGGER * 1000:.0f} ms", MANY, STAGGER),
    Load(f"{MANY} in one instant", MANY, 0.0),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rounds", type=int, nargs="?", default=5)
    rounds = parser.parse_args().rounds
    with (
        tempfile.TemporaryDirectory() as folder,
        _stand_in() as vendor,
        Server(Path(folder), OPENAI_BASE_URL=vendor, RATE_LIMIT_PER_MINUTE="0") as server,
    ):
        targets = [_direct(vendor), _through(f"http://127.0.0.1:{server.port}")]
        asyncio.run(_many(targets[1], MANY, 0.0))  # the first requests make what the others share
        return _report(rounds, targets)


@contextmanager
def _stand_in() -> Iterator[str]:
    """The address of a stand-in in a process of its own."""
    options = [str(free_port()), "--gap", str(GAP), "--tokens", str(TOKENS)]
    command = [sys.executable, "-m", "tests.standin", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()


def _report(rounds: int, targets: list[Target]) -> int:
    print(f"{'streams':22} {'first token':>24} {'later tokens':>24}")
    print(f"{'':22} {'median':>11} {'worst':>9} ms {'median':>11} {'worst':>9} ms")
    within = True
    for load in LOADS:
        first: list[float] = []
        later: list[float] = []
        for _ in range(rounds if load.streams > 1 else 4 * rounds):
            direct, through = (
                asyncio.run(_many(target, load.streams, load.stagger)) for target in targets
            )
            own = statistics.median(arrivals[0] for arrivals in direct)
            first += [(arrivals[0] - own) * 1000 for arrivals in through]
            later += [ms for arrivals in through for ms in _lateness(arrivals)]
        within &= statistics.median(first) <= BUDGET_MS
        row = [f"{statistics.median(ms):11.1f} {max(ms):9.1f}   " for ms in (first, later)]
        print(f"{load.name:22} {' '.join(row)}".rstrip())
    return 0 if within else 1


def _lateness(arrivals: list[float]) -> Iterable[float]:
    """By how much more than the gap each token came after the one before, in ms."""
    return [(after - before - GAP) * 1000 for before, after in itertools.pairwise(arrivals)]


def _direct(url: str) -> Target:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Olá!"}]}
    return Target(f"{url}/chat/completions", json.dumps(body).encode(), b'{"content": "')


def _through(url: str) -> Target:
    body = {"userId": "user123", "prompt": "Olá!", "stream": True}
    return Target(f"{url}/v1/chat", json.dumps(body).encode(), b'data: {"text"')


async def _many(target: Target, streams: int, stagger: float) -> list[list[float]]:
    """When the tokens of each stream came, in seconds after its request."""
    tasks = []
    for _ in range(streams):
        tasks.append(asyncio.create_task(_stream(target)))
        await asyncio.sleep(stagger)
    return await asyncio.gather(*tasks)


async def _stream(target: Target) -> list[float]:
    parts = urlsplit(target.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(target.body)}\r\n\r\n"
    )
    started = time.perf_counter()
    writer.write(head.encode() + target.body)
    arrivals = []
    while line := await reader.readline():
        if target.token in line:
            arrivals.append(time.perf_counter() - started)
        elif line.startswith(ENDS):
            break
    writer.close()
    if len(arrivals) != TOKENS:
        raise RuntimeError(f"{len(arrivals)} tokens of {TOKENS}")
    return arrivals


if __name__ == "__main__":
    sys.exit(main())
