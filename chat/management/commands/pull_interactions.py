"""Copy records from DynamoDB into the local store."""

import time
from argparse import ArgumentParser, ArgumentTypeError
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import connection

from chat.management.bulk import PAGE, BulkCommand, BulkJob, add_selection
from chat.management.checkpoint import Checkpoint
from chat.management.progress import Progress
from chat.storage import bulk_store
from chat.storage.bulk import Batch, Selection


class Pace:
    """What was consumed, held to so many units a second."""

    def __init__(self, limit: float | None) -> None:
        self.units = 0.0
        self._limit = limit
        self._began = time.monotonic()

    @property
    def rate(self) -> float:
        return self.units / max(time.monotonic() - self._began, 0.001)

    def wait(self, units: float) -> None:
        """Wait until these may have been consumed."""
        self.units += units
        if self._limit is not None:
            time.sleep(max(0.0, self._began + self.units / self._limit - time.monotonic()))


class Command(BulkCommand):
    help = (
        "Copy records from the DynamoDB table (TABLE_NAME, and AWS's variables) into the local "
        "SQLite file, for the admin and for reports, and count those that are settled. Nothing is "
        "written to DynamoDB. Records that are here already are left as they are, save those "
        "that were still running when they were copied. A run that was interrupted goes on when "
        "the same command is given again; what is created while it lasts is for the next one."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_selection(parser, since_required=True)
        parser.add_argument(
            "--max-rcu",
            type=_units,
            metavar="UNITS",
            help="read units a second that it may consume, in the mean (a page of 1 MB takes 128 "
            "at once, and then it waits); default: no limit",
        )
        parser.add_argument("--dry-run", action="store_true", help="only read and count them")

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.STORAGE != "sqlite":
            raise CommandError("It copies into the local store: it needs STORAGE=sqlite.")
        began, task = time.monotonic(), BulkJob(options, table=settings.TABLE_NAME)
        pace = Pace(options["max_rcu"])
        done = self._count(task, pace) if options["dry_run"] else self._pull(task, pace)
        report = {**done, "read_units": round(pace.units, 1)}
        report["seconds"] = round(time.monotonic() - began, 1)
        counts = ", ".join(f"{count} {name}" for name, count in done.items())
        text = f"{counts}; {report['read_units']} read units in {report['seconds']} s."
        self.finish(options, text, report)

    def _count(self, task: BulkJob, pace: Pace) -> Counter[str]:
        batches = self._batches(task.selection, pace, None, 0)
        return Counter(read=sum(len(batch.records) for batch in batches))

    def _pull(self, task: BulkJob, pace: Pace) -> Counter[str]:
        """Store page after page, and keep beside the database where that ended."""
        database = Path(connection.settings_dict["NAME"])
        checkpoint = Checkpoint(database.with_name(f"{database.name}.pull"))
        cursor, seen, done = None, 0, Counter(read=0, new=0, replaced=0, unchanged=0)
        state = checkpoint.load()
        if state is not None and state["task"] == task.words:
            task.resume(state)
            cursor, seen, done = state["cursor"], state["seen"], Counter(state["done"])
            self.stderr.write(f"Going on after {done['read']} records.")
        target = bulk_store()
        for batch in self._batches(task.selection, pace, cursor, seen):
            records = list(batch.records)
            added = target.add(records)
            unchanged = len(records) - added.new - added.replaced
            done.update(read=len(records), new=added.new, replaced=added.replaced)
            done.update(unchanged=unchanged)
            seen += batch.seen
            if batch.cursor:
                checkpoint.save(task.state(cursor=batch.cursor, seen=seen, done=done))
        checkpoint.clear()
        return done

    def _batches(
        self, chosen: Selection, pace: Pace, cursor: str | None, seen: int
    ) -> Iterator[Batch]:
        try:
            source = bulk_store("dynamodb")
        except ImproperlyConfigured as exc:
            raise CommandError(str(exc)) from exc
        total = source.expected(chosen)
        with Progress(self.stderr, "Pulling", total=total, unit="records", done=seen) as progress:
            while True:
                batch = source.scan(chosen, limit=PAGE, cursor=cursor)
                yield batch
                pace.wait(batch.units)
                progress.update(batch.seen, f"{pace.rate:.1f} units/s")
                cursor = batch.cursor
                if cursor is None:
                    return


def _units(text: str) -> float:
    try:
        units = float(text)
    except ValueError:
        units = 0.0
    if not 0 < units < 1_000_000:
        raise ArgumentTypeError(f"{text!r} is no number of read units a second such as 25")
    return units
