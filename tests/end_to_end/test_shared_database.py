"""Two servers and commands write to one SQLite file at the same time."""

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.server_process import ROOT, Server, base_environment

CLIENTS = 64
TURNS = 6
RECORDS = 3000


def command(database: Path, *words: str) -> bytes:
    environment = base_environment() | {"ENV_FILE": os.devnull, "DATABASE_PATH": str(database)}
    ran = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), *words],
        env=environment,
        capture_output=True,
        check=True,
    )
    return ran.stdout


def old_records(file: Path, answer: dict[str, Any]) -> Path:
    """Write a file of records of another user, a year old."""
    line = {
        **answer,
        "user_id": "imported",
        "created_at": "2025-01-01T12:00:00Z",
        "deadline_at": "2025-01-01T12:00:25Z",
    }
    with file.open("w") as lines:
        for _ in range(RECORDS):
            id_ = str(uuid4())
            lines.write(json.dumps({**line, "interaction_id": id_, "conversation_id": id_}) + "\n")
    return file


def test_nothing_is_lost_and_nobody_meets_a_locked_database(tmp_path: Path) -> None:
    database = tmp_path / "server.db"
    (tmp_path / "second").mkdir()
    variables = {"LLM_PROVIDER": "mock", "RATE_LIMIT_PER_MINUTE": "1000"}
    first = Server(tmp_path, WEB_CONCURRENCY="1", **variables)
    second = Server(
        tmp_path / "second", WEB_CONCURRENCY="2", DATABASE_PATH=str(database), **variables
    )

    def chats(number: int) -> list[tuple[int, str]]:
        server = (first, second)[number % 2]
        user = f"user-{number}"
        answers = [server.chat(f"{n}", user, stream=n % 2 == 0) for n in range(TURNS)]
        return [(each.status_code, each.text) for each in answers]

    with first, second, ThreadPoolExecutor(CLIENTS + 3) as threads:
        first.chat("before", "user-before")
        exported = json.loads(command(database, "export_interactions"))
        file = old_records(tmp_path / "old.jsonl", exported)
        talking = [threads.submit(chats, number) for number in range(CLIENTS)]
        commands: list[Callable[[], bytes]] = [
            partial(command, database, "import_interactions", str(file)),
            partial(command, database, "export_interactions"),
            partial(command, database, "purge_interactions", "--older-than", "30d", "--yes"),
        ]
        for each in [threads.submit(run) for run in commands]:
            each.result()
        answers = [answer for each in talking for answer in each.result()]
    command(database, "purge_interactions", "--older-than", "30d", "--yes")
    assert Counter(status for status, _ in answers) == {200: CLIENTS * TURNS}
    assert not [body for _, body in answers if '"recorded":false' in body]
    with closing(sqlite3.connect(database)) as connection:
        stored = connection.execute("SELECT status, count(*) FROM chat_interaction GROUP BY status")
        assert stored.fetchall() == [("ok", CLIENTS * TURNS + 1)]
        counted = connection.execute(
            "SELECT sum(requests) FROM chat_usagecount WHERE \"by\" = 'user' AND name LIKE 'user-%'"
        )
        assert counted.fetchall() == [(CLIENTS * TURNS + 1,)]
        imported = connection.execute(
            "SELECT sum(requests) FROM chat_usagecount WHERE \"by\" = 'user' AND name = 'imported'"
        )
        assert imported.fetchall() == [(RECORDS,)]
    for server in (first, second):
        assert "locked" not in server.log.read_text()
