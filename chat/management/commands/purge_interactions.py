"""Delete old records."""

import sys
from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError

from chat.management.bulk import PAGE, BulkCommand, add_owner_and_user
from chat.management.console import duration
from chat.management.progress import Progress
from chat.storage import bulk_store
from chat.storage.bulk import Selection


class Command(BulkCommand):
    help = (
        "Delete the records that were created so long ago, whatever became of them. Counts of "
        "usage stay: what was spent was spent. On a terminal it asks first; anywhere else it needs "
        "--yes. To have records expire by themselves, set RETENTION_DAYS."
    )
    interrupted = (
        "Interrupted. What was deleted is gone; give the same command again to delete the rest."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--older-than", type=duration, required=True, help="30m, 12h, 90d", metavar="AGE"
        )
        add_owner_and_user(parser)
        parser.add_argument("--dry-run", action="store_true", help="only count them")
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *args: Any, **options: Any) -> None:
        before = datetime.now(UTC) - options["older_than"]
        chosen = Selection(before=before, owner=options["owner"], user=options["user"])
        dry_run = options["dry_run"]
        if not dry_run and not options["yes"]:
            self._confirm(chosen)
        records = self._purge(chosen, dry_run=dry_run)
        done = "would be deleted" if dry_run else "deleted"
        moment = f"{before:%Y-%m-%dT%H:%M:%SZ}"
        text = f"{records} records of before {moment} {done}."
        self.finish(options, text, {"before": moment, "records": records, "dry_run": dry_run})

    def _confirm(self, chosen: Selection) -> None:
        if not sys.stdin.isatty():
            raise CommandError("Deleting needs --yes, where nobody can be asked; or see --dry-run.")
        of = f"user {chosen.user} of " if chosen.user else ""
        whose = of + (f"owner {chosen.owner}" if chosen.owner else "all owners")
        records = f"All records of {whose} of before {chosen.before:%Y-%m-%d %H:%M:%S} UTC"
        self.stderr.write(f"{records} will be deleted for good. Type yes to go on: ", ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip().lower() != "yes":
            raise CommandError("Nothing was deleted.")

    def _purge(self, chosen: Selection, *, dry_run: bool) -> int:
        store, records, cursor = bulk_store(), 0, None
        total, task = store.expected(chosen), "Counting" if dry_run else "Deleting"
        with Progress(self.stderr, task, total=total, unit="records") as progress:
            while True:
                done = store.purge(chosen, limit=PAGE, cursor=cursor, dry_run=dry_run)
                records += done.records
                progress.update(done.seen)
                cursor = done.cursor
                if cursor is None:
                    return records
