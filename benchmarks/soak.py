"""Send many chats through one server process while its vendor fails at random.

    python -m benchmarks.soak [CHATS]

10% of the vendor's answers are resets, 5% come after the deadline, 5% are 429. The exit code is 1
unless each accepted request has one final record, each call that the vendor saw has one recorded
attempt, and the server's memory stays flat.
"""

import argparse
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from benchmarks import processes
from tests.server_process import Server
from tests.stub_vendor import OPENAI_ANSWER, ScriptedResponse, StubVendor

CLIENTS = 16
DEADLINE_SECONDS = 2.0
MAX_GROWTH_MB = 5.0


class UnreliableVendor(StubVendor):
    """A stub vendor that fails at random."""

    def plan(self, seed: int, calls: int) -> None:
        draw = random.Random(seed)
        for _ in range(calls):
            mood = draw.random()
            if mood < 0.10:
                self.reset()
            elif mood < 0.15:
                self.script(ScriptedResponse(delay=DEADLINE_SECONDS + 1, close=True))
            elif mood < 0.20:
                self.reply({"error": {"message": "busy"}}, status=429)
            else:
                self.reply(OPENAI_ANSWER)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chats", type=int, nargs="?", default=10_000)
    chats = parser.parse_args().chats
    with tempfile.TemporaryDirectory() as name, UnreliableVendor() as vendor:
        vendor.plan(seed=1, calls=3 * chats)
        vendor.max_requests = 3 * chats
        folder = Path(name)
        settings = {
            "OPENAI_BASE_URL": vendor.url,
            "REQUEST_TIMEOUT_SECONDS": str(DEADLINE_SECONDS),
            "CIRCUIT_BREAKER_TIMEOUT": "0.1",
            "RATE_LIMIT_PER_MINUTE": "0",
            "WEB_CONCURRENCY": "1",
        }
        with Server(folder, **settings) as server:
            statuses, memory = _run(server, chats)
        return _report(folder / "server.db", statuses, len(vendor.requests), memory)


def _run(server: Server, chats: int) -> tuple[Counter[int], list[float]]:
    """Return the count of each status, and the server's memory in MB at half and at the end."""
    statuses: Counter[int] = Counter()
    memory = []
    url = f"http://127.0.0.1:{server.port}/v1/chat"
    limits = httpx.Limits(max_connections=CLIENTS)
    with httpx.Client(timeout=60, limits=limits) as client, ThreadPoolExecutor(CLIENTS) as pool:

        def ask(number: int) -> int:
            body = {"userId": f"user{number % 100}", "prompt": f"question {number}"}
            return client.post(url, json=body).status_code

        for half in (range(chats // 2), range(chats // 2, chats)):
            for count, status in enumerate(pool.map(ask, half), 1):
                statuses[status] += 1
                if count % 1000 == 0:
                    sys.stderr.write(f"{half.start + count} of {chats} chats\n")
            time.sleep(1)
            memory.append(processes.resident_mb(processes.children(server.process.pid)[0]))
    return statuses, memory


def _report(database: Path, statuses: Counter[int], calls: int, memory: list[float]) -> int:
    connection = sqlite3.connect(database)
    rows = connection.execute("SELECT status, attempts FROM chat_interaction").fetchall()
    connection.close()
    records = Counter(status for status, _ in rows)
    attempts = sum(len(json.loads(attempts)) for _, attempts in rows)
    checks = {
        f"accepted {statuses.total()}, final records {records['ok'] + records['error']}": (
            statuses.total() == records["ok"] + records["error"] == len(rows)
        ),
        f"vendor calls {calls}, recorded attempts {attempts}": calls == attempts,
        f"memory {memory[0]:.1f} MB at half, {memory[1]:.1f} MB at the end": (
            memory[1] - memory[0] < MAX_GROWTH_MB
        ),
    }
    print(f"answers {dict(statuses)}, records {dict(records)}")
    for check, held in checks.items():
        print(f"{'ok  ' if held else 'FAIL'} {check}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
