"""Copy records from DynamoDB into the local store."""

import time
from argparse import ArgumentParser, ArgumentTypeError
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db import connection

from chat.management.arguments import add_format, add_selection
from chat.management.bulk_job import BulkJob, JobState, import_page, pages
from chat.management.checkpoint import Checkpoint, locked
from chat.management.console import RESUMABLE, ConsoleCommand
from chat.management.progress import Progress
from chat.storage import backend
from chat.storage.base import Batch, Selection


class State(JobState):
    """What a checkpoint saves of a pull."""

    done: dict[str, int]


class ReadLimiter:
    """Count read units, and keep them below a mean rate; None: no limit."""

    def __init__(self, limit: float | None) -> None:
        self.units = 0.0
        self._limit = limit
        self._began = time.monotonic()

    def describe(self) -> str:
        """Return the mean rate in words."""
        return f"{self.units / max(time.monotonic() - self._began, 0.001):.1f} units/s"

    def wait(self, units: float) -> None:
        """Add these units, and wait until the mean rate is within the limit."""
        self.units += units
        if self._limit is not None:
            time.sleep(max(0.0, self._began + self.units / self._limit - time.monotonic()))


class Command(ConsoleCommand):
    help = (
        "Copy records from the DynamoDB table (TABLE_NAME and the AWS variables) into the local "
        "SQLite file, for the admin and for reports, and count settled ones in the usage "
        "counters. Writes nothing to DynamoDB. Local records stay as they are, except those that "
        "were pending when they were copied. The same command resumes an interrupted run. Records "
        "created meanwhile belong to the next run."
    )
    interrupted = RESUMABLE

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_selection(parser, since_required=True)
        parser.add_argument(
            "--max-rcu",
            type=_parse_units,
            metavar="UNITS",
            help="mean read units per second (a page of 1 MB takes 128 at once, then it waits); "
            "default: no limit",
        )
        parser.add_argument("--dry-run", action="store_true", help="only read and count records")
        add_format(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.STORAGE != "sqlite":
            raise CommandError("Records are copied into the local store: set STORAGE=sqlite.")
        began, job = time.monotonic(), BulkJob(options, "dynamodb")
        limiter = ReadLimiter(options["max_rcu"])
        done = self._count(job, limiter) if options["dry_run"] else self._pull_alone(job, limiter)
        report = {**done, "read_units": round(limiter.units, 1)}
        report["seconds"] = round(time.monotonic() - began, 1)
        counts = ", ".join(f"{count} {name}" for name, count in done.items())
        text = f"{counts}; {report['read_units']} read units in {report['seconds']} s."
        self.write_report(options, text, report)

    def _count(self, job: BulkJob, limiter: ReadLimiter) -> Counter[str]:
        batches = self._batches(job.selection, limiter, None, 0)
        return Counter(read=sum(len(batch.records) for batch in batches))

    def _pull_alone(self, job: BulkJob, limiter: ReadLimiter) -> Counter[str]:
        """Pull with a checkpoint beside the database, unless another process does."""
        path = f"{connection.settings_dict['NAME']}.pull"
        with locked(Path(f"{path}.lock")):
            return self._pull(job, limiter, Checkpoint(Path(path)))

    def _pull(self, job: BulkJob, limiter: ReadLimiter, checkpoint: Checkpoint) -> Counter[str]:
        """Store page by page."""
        cursor, seen, done = None, 0, Counter(read=0, new=0, replaced=0, unchanged=0)
        state = checkpoint.load(State)
        if state is not None and state["task"] == job.words:
            job.resume(state)
            cursor, seen, done = state["cursor"], state["seen"], Counter(state["done"])
            self.stderr.write(f"Resuming after {done['read']} records.")
        target = backend().bulk
        for batch in self._batches(job.selection, limiter, cursor, seen):
            import_page(target, list(batch.records), done)
            seen += batch.scanned
            # A checkpoint without a cursor would start over; `clear` follows the last page.
            if batch.cursor:
                checkpoint.save(job.state(cursor=batch.cursor, seen=seen, done=done))
        checkpoint.clear()
        return done

    def _batches(
        self, selection: Selection, limiter: ReadLimiter, cursor: str | None, seen: int
    ) -> Iterator[Batch]:
        source = backend("dynamodb").bulk
        progress = Progress(self.stderr, "Pulling", total=source.estimate(selection), done=seen)
        read = partial(source.scan, selection)
        for batch in pages(read, progress, cursor=cursor, note=limiter.describe):
            yield batch
            limiter.wait(batch.read_units)


def _parse_units(text: str) -> float:
    try:
        units = float(text)
    except ValueError:
        units = 0.0
    if not 0 < units < 1_000_000:
        raise ArgumentTypeError(f"{text!r} is not a number of read units per second such as 25")
    return units
