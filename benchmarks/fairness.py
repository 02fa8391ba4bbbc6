"""Measure whether one heavy request holds up the others, as gaps between the tokens of streams.

    python -m benchmarks.fairness

100 streams of 10 s run, with a token every 50 ms, while one client does what is heavy, again and
again: it reads and sends slowly, asks for a huge page of a history, exports all records in the
admin, or sends a long text to be masked. The first second of the streams does not count.
"""

import itertools
import os
import random
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks import crowd, load, server, vendor
from benchmarks.crowd import Crowd, Size
from benchmarks.report import Options, Row, Table, Target, progress, publish
from tests.server_process import ROOT, Server, base_environment

STREAMS = 100
PACE = vendor.Pace(delay=0.05, tokens=200, gap=0.05)
LIMIT_SECONDS = 60.0
START_SECONDS = 1.0
GAP_MS = 250
HEADERS = {"Authorization": f"Bearer {server.KEY}"}
READER = "reader"  # the user with long records
LONG_RECORDS, LONG_CHARACTERS = 100, 100_000
RECORDS = 20_000
NAME, PASSWORD = "benchmark", "of no use elsewhere"


@dataclass(frozen=True)
class Scene:
    """A server with a history, its administrator's client, and a text that is slow to mask."""

    port: int
    client: httpx.Client
    text: str


def measure(options: Options) -> list[Table]:
    variables = {**server.VARIABLES, "MASK_PII": "true"}
    with (
        tempfile.TemporaryDirectory() as folder,
        vendor.running(PACE) as upstream,
        Server(
            Path(folder), OPENAI_BASE_URL=upstream.url, OPENAI_MODEL="m", **variables
        ) as running,
        httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=LIMIT_SECONDS) as client,
    ):
        progress("fairness: making records")
        scene = _prepare(Path(folder), running, client)
        rows = [_row("vendor alone", _streams(f"{upstream.url}"), 0)]
        url = f"http://127.0.0.1:{running.port}/v1"
        _streams(url)  # warms up
        for name, disturb in DISTURBANCES.items():
            progress(f"fairness: {name}")
            rows.append(_row(name, *_disturbed(url, scene, disturb)))
    targets = [
        Target(f"{row['meanwhile']}, worst gap", float(row["worst gap"] or 0), GAP_MS, "ms")
        for row in rows[1:]
    ]
    title = f"Gaps between two tokens of {STREAMS} streams, ms; the vendor's are 50"
    return [Table(title, rows, targets)]


def _row(name: str, streams: Crowd, times: int) -> Row:
    gaps = sorted(gap * 1000 for reply in streams.replies for gap in _gaps(reply))
    return {
        "meanwhile": name,
        "times": times,
        "p50": gaps[len(gaps) // 2],
        "p99.9": gaps[int(len(gaps) * 0.999)],
        "worst gap": gaps[-1],
        "errors": streams.failures.total(),
    }


def _gaps(reply: crowd.Reply) -> Sequence[float]:
    return [
        after - before
        for before, after in itertools.pairwise(reply.tokens)
        if before - reply.began > START_SECONDS
    ]


def _streams(url: str) -> Crowd:
    target = load.completions(url, key=server.KEY, stream=True)
    return crowd.ask(target, Size(STREAMS), tokens=PACE.tokens, limit=LIMIT_SECONDS)


def _disturbed(url: str, scene: Scene, disturb: Callable[[Scene], object]) -> tuple[Crowd, int]:
    """Return the streams, and how many times the other client was served meanwhile."""
    over = threading.Event()

    def repeat() -> int:
        times = 0
        over.wait(START_SECONDS)
        while not over.is_set():
            disturb(scene)
            times += 1
        return times

    with ThreadPoolExecutor(1) as pool:
        times = pool.submit(repeat)
        try:
            streams = _streams(url)
        finally:
            over.set()
    return streams, times.result()


# What the other client does


def _nothing(scene: Scene) -> None:
    time.sleep(0.1)


def _slow_client(scene: Scene) -> None:
    """Read a page and send a request, some bytes at a time."""
    address = ("127.0.0.1", scene.port)
    with socket.create_connection(address) as reading, socket.create_connection(address) as sending:
        fields = f"Host: localhost\r\nAuthorization: Bearer {server.KEY}\r\n"
        page = f"GET {_page()} HTTP/1.1\r\n{fields}\r\n"
        reading.sendall(page.encode())
        for byte in page.encode()[:40]:
            sending.sendall(bytes([byte]))
            reading.recv(1024)
            time.sleep(0.05)


def _huge_page(scene: Scene) -> None:
    scene.client.get(_page(), headers=HEADERS).raise_for_status()


def _export(scene: Scene) -> None:
    with scene.client.stream("GET", "/admin/chat/interaction/export/csv/") as answer:
        answer.raise_for_status()
        for _ in answer.iter_raw(1024 * 1024):
            pass


def _masked_text(scene: Scene) -> None:
    body = {"userId": "masked", "prompt": scene.text}
    scene.client.post("/v1/chat", json=body, headers=HEADERS).raise_for_status()


DISTURBANCES: dict[str, Callable[[Scene], None]] = {
    "nothing": _nothing,
    "a slow client": _slow_client,
    "a huge page": _huge_page,
    "an export in the admin": _export,
    "a masked text": _masked_text,
}


def _page() -> str:
    return f"/v1/users/{READER}/interactions?limit=100"


# Records and an administrator


def _prepare(folder: Path, running: Server, client: httpx.Client) -> Scene:
    draw = random.Random(1)
    text = " ".join(str(draw.randrange(10**9, 10**10)) for _ in range(18_000))
    for user, prompt in (("template", "Is 97 a prime?"), (READER, "é" * LONG_CHARACTERS)):
        body = {"userId": user, "prompt": prompt}
        client.post("/v1/chat", json=body, headers=HEADERS).raise_for_status()
    _copy(folder / "server.db", "template", RECORDS)
    _copy(folder / "server.db", READER, LONG_RECORDS)
    _make_administrator(folder / "server.db")
    _log_in(client)
    return Scene(running.port, client, text)


def _copy(database: Path, user: str, times: int) -> None:
    """Copy a user's record this many times."""
    with closing(sqlite3.connect(database, timeout=LIMIT_SECONDS)) as connection, connection:
        table = "chat_interaction"
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        new = {"interaction_id": "lower(hex(randomblob(18)))", "user_id": "user_id"}
        values = ", ".join(new.get(column, column) for column in columns)
        connection.execute(
            f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers "
            f"WHERE n < {times}) INSERT INTO {table} ({', '.join(columns)}) "
            f"SELECT {values} FROM {table}, numbers WHERE user_id = ?",
            [user],
        )


def _make_administrator(database: Path) -> None:
    command = [sys.executable, str(ROOT / "manage.py"), "createsuperuser", "--noinput"]
    options = [f"--username={NAME}", "--email=benchmark@example.org"]
    variables = {
        "DATABASE_PATH": str(database),
        "ENV_FILE": os.devnull,
        "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
    }
    environment = {**base_environment(), **variables}
    subprocess.run(
        [*command, *options], env=environment, check=True, cwd=ROOT, stdout=subprocess.DEVNULL
    )


def _log_in(client: httpx.Client) -> None:
    path = "/admin/login/"
    [token] = set(re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', client.get(path).text))
    form = {"username": NAME, "password": PASSWORD, "csrfmiddlewaretoken": token}
    assert client.post(path, data=form).status_code == 302


if __name__ == "__main__":
    publish({"fairness": measure})
