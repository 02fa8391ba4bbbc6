"""Check that a server survives rude clients, a killed worker and a stop at full load.

    python -m benchmarks.abuse [--clients 2000] [--seconds 60]

So many clients come and go at random: they wait for an answer, leave before it, leave a stream, or
send half a request. Half way one worker is killed (kill -9). When the last client has left, the
memory is compared with the start. Then 1,000 chats are running when the server gets a SIGTERM.

The exit code is 1 unless each request that reached the vendor or was answered has exactly one
record, nobody waits for ever, and the memory comes back to within 20 % of its start.
"""

import argparse
import asyncio
import os
import random
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import uvloop

from benchmarks import crowd, load, processes, server, vendor
from benchmarks.crowd import Reply, Size
from benchmarks.load import Target
from benchmarks.report import progress
from tests.server_process import Server

PACE = vendor.Pace(delay=4.0, tokens=20, gap=0.1)
DEADLINE_SECONDS = 20.0
# A client that stays this long has been forgotten.
HANG_SECONDS = DEADLINE_SECONDS + 10
# The seconds for which a client is away between two visits, at most.
AWAY_SECONDS = 16.0
LEAVE_SECONDS = 6.0
HEALTH_SECONDS = 1.0
WARM_UP = Size(100)
STOP_CLIENTS, STOP_AFTER_SECONDS, STOP_SECONDS = 1_000, 2.5, DEADLINE_SECONDS
MEMORY_RATIO = 1.2
REST_SECONDS = 60.0
NUMBER = re.compile(r"Is (\d{8}) a prime")
HEADERS = {"Authorization": f"Bearer {server.KEY}"}


@dataclass
class Seen:
    """What the clients saw, and what the server did meanwhile."""

    stayed: list[Reply] = field(default_factory=list)
    left: list[Reply] = field(default_factory=list)
    halves: int = 0
    health: list[float] = field(default_factory=list)  # seconds
    unhealthy: int = 0
    killed_at: datetime | None = None


@dataclass(frozen=True)
class Record:
    interaction_id: str
    status: str
    created_at: datetime


@dataclass(frozen=True)
class Check:
    """A sentence with its figures, and whether it holds."""

    held: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.held else 'FAIL'} {self.text}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checks = []
        for check in run(Path(folder), given.clients, given.seconds):
            print(check, flush=True)
            checks.append(check)
    return 0 if all(check.held for check in checks) else 1


def run(folder: Path, clients: int, seconds: float) -> Iterator[Check]:
    log, database = folder / "vendor.log", folder / "server.db"
    variables = {
        **server.VARIABLES,
        "OPENAI_MODEL": "m",
        "REQUEST_TIMEOUT_SECONDS": str(DEADLINE_SECONDS),
        "STREAM_TIMEOUT_SECONDS": str(DEADLINE_SECONDS),
    }
    with (
        vendor.running(PACE, log) as upstream,
        Server(folder, OPENAI_BASE_URL=upstream.url, **variables) as running,
    ):
        pid = running.process.pid
        plain, _ = targets = _targets(running.port)
        warm = crowd.ask(plain, WARM_UP, limit=HANG_SECONDS)
        processes.wait_until_idle(pid)
        start = processes.memory_mb(pid)
        progress(f"{clients:,} clients come and go for {seconds:.0f} s")
        seen = uvloop.run(_come_and_go(targets, clients, seconds, running))
        yield from _visits(seen)
        progress("the server rests")
        yield _memory(pid, start)
        _sleep_past_deadlines(seen)
        yield from _records(seen, warm.whole, _read(database), _asked(log), running.client)
        yield from _stop(running, plain, database, log)


def _targets(port: int) -> tuple[Target, Target]:
    url = f"http://127.0.0.1:{port}/v1"
    return load.completions(url, key=server.KEY), load.completions(url, key=server.KEY, stream=True)


# The clients


async def _come_and_go(
    targets: Sequence[Target], clients: int, seconds: float, running: Server
) -> Seen:
    seen, end = Seen(), time.monotonic() + seconds
    await asyncio.gather(
        _kill_a_worker(seen, seconds / 2, running.process.pid),
        _ask_for_health(seen, end, running.port),
        *(_client(seen, targets, end, random.Random(number)) for number in range(clients)),
    )
    return seen


async def _client(seen: Seen, targets: Sequence[Target], end: float, draw: random.Random) -> None:
    while True:
        await asyncio.sleep(draw.uniform(0, AWAY_SECONDS))
        if time.monotonic() > end:
            return
        target, mood = draw.choice(targets), draw.random()
        if mood < 0.5:
            seen.stayed.append(await crowd.one(target, HANG_SECONDS))
        elif mood < 0.9:
            seen.left.append(await crowd.one(target, draw.uniform(0, LEAVE_SECONDS)))
        else:
            await _send_half(target, draw.uniform(0, LEAVE_SECONDS))
            seen.halves += 1


async def _send_half(target: Target, stay: float) -> None:
    try:
        _, writer = await asyncio.open_connection(target.host, target.port)
    except OSError:
        return
    writer.write(target.request[: len(target.request) // 2])
    await asyncio.sleep(stay)
    writer.transport.abort()


async def _kill_a_worker(seen: Seen, after: float, pid: int) -> None:
    await asyncio.sleep(after)
    seen.killed_at = datetime.now(UTC)
    os.kill(processes.children(pid)[0], signal.SIGKILL)


async def _ask_for_health(seen: Seen, end: float, port: int) -> None:
    """Ask on a new connection each time, as load balancers do."""
    while time.monotonic() < end:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(HANG_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                healthy = b" 200 " in await reader.readline()
                writer.transport.abort()
        except OSError:
            healthy = False
        seen.health.append(time.perf_counter() - began)
        seen.unhealthy += not healthy
        await asyncio.sleep(0.25)


# What came of it


def _visits(seen: Seen) -> Iterator[Check]:
    statuses = Counter(reply.status or "closed" for reply in seen.stayed)
    longest = max(reply.seconds for reply in seen.stayed)
    print(
        f"     {len(seen.stayed):,} stayed {dict(statuses)}, {len(seen.left):,} left, "
        f"{seen.halves:,} sent half a request"
    )
    yield Check(
        longest < HANG_SECONDS, f"nobody waits for ever: {longest:.1f} s at most of {HANG_SECONDS}"
    )
    cut = sum(reply.status == 200 and not reply.whole for reply in seen.stayed)
    closed = statuses["closed"]
    print(f"     {closed + cut} stayed and lost their connection, to the killed worker")
    known = {200, 503, 504, "closed"}  # 504: the deadline, on a busy machine
    yield Check(set(statuses) <= known, f"answers are 200, 503 or 504: {dict(statuses)}")
    worst = max(seen.health)
    # One may be on its way to the worker that is killed.
    yield Check(
        worst <= HEALTH_SECONDS and seen.unhealthy <= 1,
        f"/v1/health: {len(seen.health)} times, {worst:.2f} s at most, {seen.unhealthy} failed",
    )


def _memory(pid: int, start: float) -> Check:
    began, now = time.monotonic(), processes.memory_mb(pid)
    while now > start * MEMORY_RATIO and time.monotonic() - began < REST_SECONDS:
        time.sleep(1)
        now = processes.memory_mb(pid)
    after = time.monotonic() - began
    text = f"memory: {start:.0f} MB at the start, {now:.0f} MB {after:.0f} s after the last client"
    return Check(now <= start * MEMORY_RATIO, text)


def _sleep_past_deadlines(seen: Seen) -> None:
    """Wait until records that the killed worker left are read as aborted."""
    assert seen.killed_at
    over = seen.killed_at.timestamp() + DEADLINE_SECONDS + 6
    time.sleep(max(0.0, over - time.time()))


def _records(
    seen: Seen,
    warm: Sequence[Reply],
    records: dict[int, list[Record]],
    asked: set[int],
    client: httpx.Client,
) -> Iterator[Check]:
    answers = [reply for reply in (*warm, *seen.stayed, *seen.left) if reply.whole]
    answered = [reply.number for reply in answers if reply.status != 503]
    refused = [reply.number for reply in answers if reply.status == 503]
    yield exactly_one(f"{len(answered):,} answered", answered, records, {"ok", "error"})
    yield exactly_one(f"{len(asked):,} reached the vendor", asked, records)
    yield _at_most_one(f"{len(refused):,} refused", refused, records)
    left = Counter(record.status for reply in seen.left for record in records[reply.number])
    print(f"     records of those who left: {dict(left)}")
    yield _pending(seen, records, client)


def exactly_one(
    text: str,
    numbers: Sequence[int] | set[int],
    records: dict[int, list[Record]],
    statuses: set[str] | None = None,
) -> Check:
    counts = Counter(len(records[number]) for number in numbers)
    found = {record.status for number in numbers for record in records[number]}
    held = set(counts) <= {1} and (statuses is None or found <= statuses)
    several = len(numbers) - counts[0] - counts[1]
    text += f": {counts[1]:,} with one record, {counts[0]} without, {several} with several"
    return Check(held, f"{text}; {', '.join(sorted(found))}")


def _at_most_one(text: str, numbers: Sequence[int], records: dict[int, list[Record]]) -> Check:
    """Check requests that got 503: of a full server without a record, of a vendor with one."""
    counts = Counter(len(records[number]) for number in numbers)
    return Check(
        set(counts) <= {0, 1}, f"{text}: {counts[0]:,} without a record, {counts[1]:,} with one"
    )


def _pending(seen: Seen, records: dict[int, list[Record]], client: httpx.Client) -> Check:
    """Check that only the killed worker left records open, and how they are read."""
    assert seen.killed_at
    left_open = [
        record for found in records.values() for record in found if record.status == "pending"
    ]
    late = sum(record.created_at > seen.killed_at for record in left_open)
    read = Counter(
        client.get(f"/v1/interactions/{record.interaction_id}", headers=HEADERS).json()["status"]
        for record in left_open
    )
    return Check(
        not late and set(read) <= {"aborted"},
        f"{len(left_open)} records were open at kill -9 and are read as {dict(read)}, {late} later",
    )


def _read(database: Path) -> dict[int, list[Record]]:
    """Return the records of each request, by the number in its prompt."""
    found: dict[int, list[Record]] = defaultdict(list)
    query = "SELECT prompt, interaction_id, status, created_at FROM chat_interaction"
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        for prompt, interaction_id, status, created_at in connection.execute(query):
            moment = datetime.fromisoformat(created_at).replace(tzinfo=UTC)
            if named := NUMBER.search(prompt):
                found[int(named[1])].append(Record(interaction_id, status, moment))
    return found


def _asked(log: Path) -> set[int]:
    """Return the numbers of the requests that the vendor got."""
    return {int(number) for number in NUMBER.findall(log.read_text())}


# SIGTERM


def _stop(running: Server, target: Target, database: Path, log: Path) -> Iterator[Check]:
    progress(f"SIGTERM while {STOP_CLIENTS:,} chats run")
    replies, ended = uvloop.run(_stop_at_full_load(running, target))
    records, numbers = _read(database), [reply.number for reply in replies]
    answered = [reply.number for reply in replies if reply.whole and reply.status == 200]
    asked = _asked(log) & set(numbers)
    yield Check(ended < STOP_SECONDS, f"SIGTERM: the server ended after {ended:.1f} s")
    yield exactly_one(
        f"SIGTERM, {len(answered):,} of {STOP_CLIENTS:,} answered", answered, records, {"ok"}
    )
    yield exactly_one(f"SIGTERM, {len(asked):,} reached the vendor", asked, records)
    open_records = sum(
        record.status == "pending" for number in numbers for record in records[number]
    )
    yield Check(not open_records, f"SIGTERM: {open_records} records are left open")


async def _stop_at_full_load(running: Server, target: Target) -> tuple[list[Reply], float]:
    """Return the replies, and the seconds from the signal to the end of the server."""
    tasks = [asyncio.create_task(crowd.one(target, HANG_SECONDS)) for _ in range(STOP_CLIENTS)]
    await asyncio.sleep(STOP_AFTER_SECONDS)
    running.signal(signal.SIGTERM)
    began = time.monotonic()
    ended = asyncio.to_thread(running.process.wait, HANG_SECONDS)
    await asyncio.gather(ended, *tasks)
    return [task.result() for task in tasks], time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
