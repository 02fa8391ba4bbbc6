"""How long a page of a user's history takes, from the newest records to the oldest.

    python -m benchmarks.history FILE [--records 100000] [--others 1000000] [--limit 100]

The records, and those of others beside them, are put into the SQLite file FILE, unless it is there
already: that takes minutes, and the file may serve again. All pages are read, of up to `--limit`
records, and the median and the p99 of each tenth of them are printed, in milliseconds.
"""

import argparse
import gc
import os
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

OWNER, USER = "default", "alice"
BATCH = 5_000
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--others", type=int, default=1_000_000)
    parser.add_argument("--limit", type=int, default=100)
    options = parser.parse_args()
    made = options.file.exists()
    _set_up(options.file)
    if not made:
        _fill(lambda _: USER, options.records)
        _fill(lambda number: f"user-{number % 5_000}", options.others)
    times = list(_pages(options.limit))
    tenth = max(1, len(times) // 10)
    print(f"{'pages':>12} {'median':>7} {'p99':>7} ms")
    for start in range(0, len(times), tenth):
        part = sorted(times[start : start + tenth])
        p99 = part[int(len(part) * 0.99)]
        print(f"{start:>5} to {start + len(part):>4} {statistics.median(part):7.2f} {p99:7.2f}")


def _set_up(file: Path) -> None:
    os.environ |= {
        "DATABASE_PATH": str(file.resolve()),
        "DJANGO_SETTINGS_MODULE": "chatproject.settings",
        "ENV_FILE": os.devnull,
        "STORAGE": "sqlite",
    }
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    gc.collect()
    gc.freeze()  # as the server does


def _fill(user: Any, count: int) -> None:
    from chat.models import Interaction

    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        rows = [_row(user(number), number) for number in numbers]
        Interaction.objects.bulk_create(rows, batch_size=500)
        print(f"\r{start + len(rows):,} of {count:,} records", end="", flush=True)
    print()


def _row(user: str, number: int) -> Any:
    from chat.models import Interaction
    from chat.storage.base import Record, Status
    from chat.storage.rows import row

    interaction_id = str(uuid4())
    record = Record(
        interaction_id=interaction_id,
        conversation_id=interaction_id,
        owner=OWNER,
        user_id=user,
        prompt="What is the capital of France?",
        response="Paris.",
        created_at=NOON + timedelta(seconds=number),
        deadline_at=NOON + timedelta(seconds=number + 25),
        model="mock-1",
        provider="mock",
        status=Status.OK,
        finish_reason="stop",
    )
    return Interaction(**row(record))


def _pages(limit: int) -> Iterator[float]:
    """Milliseconds of each page."""
    from chat.storage import store

    cursor = None
    while True:
        started = time.perf_counter()
        page = store().page(OWNER, USER, limit=limit, cursor=cursor)
        yield (time.perf_counter() - started) * 1000
        cursor = page.next_cursor
        if cursor is None:
            return


if __name__ == "__main__":
    main()
