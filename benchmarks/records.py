"""Measure chats and histories while records, users and keys become many.

    python -m benchmarks records

One SQLite file grows from a thousand records to a million. One user has a tenth of them; each other
user has twenty, and counts. Each thousand records bring ten managed keys. At each size the mock
answers chats with a managed key that is read anew each time, and the history of the one user is
read page by page. The floor is /v1/health, which touches no record: it shows the machine's speed.
"""

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import Options, Row, Table, Target, progress, publish

# Imported once the environment variables are set.
if TYPE_CHECKING:
    from django.db.models import Model
    from django.test import Client

SIZES = (1_000, 10_000, 100_000, 1_000_000)
OWNER, USER = "benchmark", "alice"
USER_OF = f"CASE WHEN n % 10 = 0 THEN '{USER}' ELSE 'user-' || (n / 20) END"
ID_OF = "printf('01000000-0000-7000-8000-%012x', n)"  # in the order of time, as ours are
CHATS = 300
EXPORT = "export_interactions"
MAX_GROWTH = 1.5


def measure(options: Options) -> Sequence[Table]:
    with tempfile.TemporaryDirectory() as folder:
        _set_up(folder)
        client = _client()
        for user in ("template", USER):
            _chat(client, user)
        rows = []
        for low, high in zip((0, *SIZES), SIZES, strict=False):
            progress(f"records, {high:,}")
            _grow(low, high)
            rows.append({**_row(client, high), "exported/s": _exported_per_second(folder)})
    return [_table(rows)]


def _set_up(folder: str) -> None:
    os.environ |= {
        "DATABASE_PATH": f"{folder}/records.db",
        "DJANGO_SETTINGS_MODULE": "chatproject.settings",
        "ENV_FILE": os.devnull,
        "LLM_PROVIDER": "mock",
        "LOG_LEVEL": "ERROR",
        "RATE_LIMIT_PER_MINUTE": "1000000",
        "REQUIRE_API_KEY": "true",
        "STORAGE": "sqlite",
    }
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    gc.collect()
    gc.freeze()  # as the server does


def _client() -> "Client":
    """Return a client of the application in this process, with a managed key."""
    from django.test import Client

    from chat import api_keys

    key = api_keys.create(owner=OWNER, name="benchmark")[1]
    return Client(headers={"X-API-Key": key, "Host": "localhost"})


def _chat(client: "Client", user: str) -> None:
    body = {"userId": user, "prompt": "Is 97 a prime?"}
    answer = client.post("/v1/chat", body, content_type="application/json")
    assert answer.status_code == 200, answer.content


def _grow(low: int, high: int) -> None:
    """Copy the rows of a first chat, with the numbers from `low` to before `high`."""
    from django.db import connection

    from chat.models import ApiKey, CacheEntry, Interaction, UsageCount

    chat = Interaction.objects.get(user_id="template")
    moment = "datetime(1767268800 + n, 'unixepoch')"
    ids = {"interaction_id": ID_OF, "conversation_id": ID_OF, "request_id": ID_OF}
    _copy(chat, low, high, **ids, user_id=USER_OF, created_at=moment)
    count = UsageCount.objects.get(by="user", name="template")
    _copy(count, low // 20, high // 20, id="NULL", name="'user-' || n")
    counter = CacheEntry.objects.filter(counter__isnull=False)[0]
    _copy(counter, low // 20, high // 20, key="'counter-' || n")
    key = ApiKey.objects.get(name="benchmark")
    _copy(key, low // 100, high // 100, key_id="printf('%016x', n)", name="'copy'")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _copy(row: "Model", low: int, high: int, **changed: str) -> None:
    """Copy a row; `changed` columns are SQL expressions of the copy's number `n`."""
    from django.db import connection

    table, key = row._meta.db_table, row._meta.pk.column
    columns = [field.column for field in row._meta.concrete_fields]
    values = [changed.get(str(column), f'"{column}"') for column in columns]
    names = ", ".join(f'"{column}"' for column in columns)
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH RECURSIVE numbers(n) AS "
            f"(SELECT {low} UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {high}) "
            f'INSERT INTO "{table}" ({names}) SELECT {", ".join(values)} '
            f'FROM numbers, "{table}" WHERE "{key}" = %s',
            [row.pk],
        )


def _row(client: "Client", size: int) -> Row:
    chats = [_timed(_chat, client, user) for user in _spread(size // 20)]
    of_one, floor = [], []
    for _ in range(CHATS):
        of_one.append(_timed(_chat, client, USER))
        floor.append(_timed(client.get, "/v1/health"))
    pages = list(_pages(client))
    return {
        "records": size,
        "users": size // 20,
        "keys": size // 100,
        "health CPU": statistics.median(cpu for _, cpu, _ in floor),
        "chat CPU": statistics.median(cpu for _, cpu, _ in chats),
        "chat p50": statistics.median(wall for wall, _, _ in chats),
        "chat p99": _p99([wall for wall, _, _ in chats]),
        "of the one CPU": statistics.median(cpu for _, cpu, _ in of_one),
        "pages": len(pages),
        "page p50": statistics.median(pages),
        "page p99": _p99(pages),
    }


def _spread(users: int) -> Iterator[str]:
    """Yield users of the whole range, each time after the cached keys are dropped."""
    from django.core.cache import caches

    for number in range(CHATS):
        caches["keys"].clear()
        yield f"user-{(number * 7919) % users}"


def _pages(client: "Client") -> Iterator[float]:
    """Yield the time of each page of the one user's history, newest first."""
    query: dict[str, str] = {}
    while True:
        wall, _, answer = _timed(client.get, f"/v1/users/{USER}/interactions", query)
        yield wall
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            return
        query = {"cursor": cursor}


def _exported_per_second(folder: str) -> float | None:
    """Return the records per second of an export."""
    from django.core.management import call_command, get_commands

    if EXPORT not in get_commands():
        return None
    file = Path(folder, "export.jsonl")
    wall, _, _ = _timed(lambda: call_command(EXPORT, output=str(file), stdout=StringIO()))
    with file.open("rb") as lines:
        count = sum(1 for _ in lines)
    file.unlink()
    return count * 1000 / wall


def _timed(act: Callable[..., Any], *arguments: object) -> tuple[float, float, Any]:
    """Call a function. Return its wall and CPU time in ms, and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = act(*arguments)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return wall * 1000, cpu * 1000, result


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


def _table(rows: list[Row]) -> Table:
    first, last = rows[0], rows[-1]

    def beside_floor(row: Row, column: str) -> float:
        return float(row[column] or 0) / float(row["health CPU"] or 1)

    def growth(column: str) -> float:
        return beside_floor(last, column) / beside_floor(first, column)

    targets = [
        Target(f"{column} beside the floor, last to first", growth(column), MAX_GROWTH)
        for column in ("chat CPU", "of the one CPU", "page p50")
    ]
    targets.append(Target("a page of a history, p99", float(last["page p99"] or 0), 10, "ms"))
    return Table("Chats and histories as records become many, SQLite; times in ms", rows, targets)


if __name__ == "__main__":
    publish({"records": measure})
