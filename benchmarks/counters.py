"""Settle interactions from several processes at once, and compare the counts with the records.

    python -m benchmarks.counters sqlite|dynamodb [--processes 8] [--interactions 10000]

It uses a new database, or new tables on DynamoDB Local or at AWS_ENDPOINT_URL_DYNAMODB. The exit
code is 1 if a count is not the sum over the records.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

# Imported once the environment variables are set.
if TYPE_CHECKING:
    from chat.storage.base import InteractionRecord

ROOT = Path(__file__).parent.parent
OWNERS, USERS, MODELS, DAYS = 2, 20, 3, 40
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("storage", choices=["sqlite", "dynamodb"])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--interactions", type=int, default=10_000)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        _settle_some(options.worker, options.interactions)
        return 0
    with ExitStack() as stack:
        os.environ.update(_environment(options.storage, stack))
        return _run(options)


def _environment(storage: str, stack: ExitStack) -> dict[str, str]:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    variables = {
        "DJANGO_SETTINGS_MODULE": "chatproject.settings",
        "ENV_FILE": os.devnull,
        "SECRET_KEY": "benchmark",
        "STORAGE": storage,
        "DATABASE_PATH": f"{folder}/counters.db",
        "TABLE_NAME": f"counters-{uuid4().hex}",
    }
    if storage == "dynamodb":
        from tests import dynamodb_local

        given = os.environ.get("AWS_ENDPOINT_URL_DYNAMODB")
        url = given or stack.enter_context(dynamodb_local.running())
        variables |= dynamodb_local.variables(url)
    return variables


def _run(options: argparse.Namespace) -> int:
    import django
    from django.core.management import call_command

    django.setup()
    sqlite = options.storage == "sqlite"
    call_command("migrate" if sqlite else "create_tables", verbosity=0)
    share, rest = divmod(options.interactions, options.processes)
    command = [sys.executable, "-m", "benchmarks.counters", options.storage]
    started = time.monotonic()
    workers = [
        subprocess.Popen(
            [*command, "--worker", str(number), "--interactions", str(share + (number < rest))],
            cwd=ROOT,
        )
        for number in range(options.processes)
    ]
    failed = [worker.pid for worker in workers if worker.wait()]
    seconds = time.monotonic() - started
    differences = 0 if failed else _compare(options.interactions)
    per_second = options.interactions / seconds
    print(
        f"{options.storage}: {options.processes} processes, {seconds:.1f} s, {per_second:.0f}/s, "
        f"{len(failed)} failed, {differences} differences"
    )
    return 1 if failed or differences else 0


def _settle_some(worker: int, count: int) -> None:
    """Claim and settle `count` interactions, which depend on the worker's number alone."""
    import django

    django.setup()
    from chat.storage import backend

    chance = random.Random(worker)
    for _ in range(count):
        claim = _claim(chance)
        _persistently(backend().interactions.claim, claim, chance)
        _persistently(backend().interactions.settle, _outcome(claim, chance), chance)


def _claim(chance: random.Random) -> "InteractionRecord":
    from chat.storage.base import InteractionRecord

    interaction_id = str(uuid4())
    return InteractionRecord(
        interaction_id=interaction_id,
        conversation_id=interaction_id,
        owner=f"owner-{chance.randrange(OWNERS)}",
        user_id=f"user-{chance.randrange(USERS)}",
        prompt="Olá!",
        created_at=NOON + timedelta(days=chance.randrange(DAYS)),
        deadline_at=NOON + timedelta(days=DAYS),
        model=f"model-{chance.randrange(MODELS)}",
        provider="mock",
        key_id=f"{chance.randrange(2):016x}",
    )


def _outcome(claim: "InteractionRecord", chance: random.Random) -> "InteractionRecord":
    from chat.storage.base import Status
    from providers.base import Usage

    return replace(
        claim,
        status=chance.choice([Status.OK, Status.OK, Status.ERROR, Status.ABORTED]),
        usage=Usage(
            prompt_tokens=chance.choice([None, chance.randrange(1000)]),
            completion_tokens=chance.randrange(1000),
            total_tokens=chance.randrange(1000),
            cost_usd=chance.choice([None, Decimal(chance.randrange(10**12)).scaleb(-12)]),
        ),
    )


def _persistently(
    write: Callable[["InteractionRecord"], Any], record: "InteractionRecord", chance: random.Random
) -> None:
    """Write, and try again while the storage is unavailable."""
    from chat.storage.errors import StorageUnavailable

    for _ in range(10):
        try:
            write(record)
        except StorageUnavailable:
            time.sleep(chance.uniform(0.1, 1))
        else:
            return
    raise SystemExit("the storage is too slow")


def _compare(expected: int) -> int:
    """Return the number of counts that differ from the sums over the records."""
    from collections import Counter, defaultdict
    from datetime import date

    from chat.storage import backend
    from chat.storage.base import CounterKind, UsageCounts, counters_for

    sums: dict[tuple[str, CounterKind], dict[tuple[date, str], UsageCounts]] = defaultdict(
        lambda: defaultdict(UsageCounts)
    )
    found: Counter[str] = Counter()
    for owner in (f"owner-{number}" for number in range(OWNERS)):
        for user in (f"user-{number}" for number in range(USERS)):
            cursor = None
            while True:
                page = backend().interactions.list_by_user(owner, user, limit=500, cursor=cursor)
                for record in page.records:
                    found[record.status] += 1
                    for by, name in counters_for(record):
                        sums[owner, by][record.created_at.date(), name] += UsageCounts.of(record)
                if not (cursor := page.next_cursor):
                    break
    counts = {
        pair: backend().usage.daily(*pair, date(2026, 1, 1), date(2026, 12, 31)) for pair in sums
    }
    print(f"{found.total()} records, {sum(map(len, counts.values()))} counts")
    differing = [
        (pair, key)
        for pair, expected_counts in sums.items()
        for key in expected_counts.keys() | counts[pair].keys()
        if expected_counts.get(key) != counts[pair].get(key)
    ]
    return len(differing) + abs(expected - found.total())


if __name__ == "__main__":
    sys.exit(main())
