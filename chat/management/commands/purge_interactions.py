"""Delete old records."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from functools import partial
from typing import Any

from chat.management.arguments import add_format, add_owner_and_user, parse_duration
from chat.management.bulk_job import pages
from chat.management.console import ConsoleCommand
from chat.management.progress import Progress
from chat.storage import backend
from chat.storage.base import Selection


class Command(ConsoleCommand):
    help = (
        "Delete the records older than an age, whatever their status. Usage counters stay. Asks "
        "for confirmation on a terminal; elsewhere it needs --yes. To let records expire by "
        "themselves, set RETENTION_DAYS."
    )
    interrupted = "Interrupted. Run the same command again to delete the rest."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--older-than", type=parse_duration, required=True, help="30m, 12h, 90d", metavar="AGE"
        )
        add_owner_and_user(parser)
        parser.add_argument("--dry-run", action="store_true", help="only count the records")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        add_format(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        before = datetime.now(UTC) - options["older_than"]
        selection = Selection(before=before, owner=options["owner"], user=options["user"])
        dry_run = options["dry_run"]
        if not dry_run and not options["yes"]:
            self.confirm(_question(selection))
        store, task = backend().bulk, "Counting" if dry_run else "Deleting"
        progress = Progress(self.stderr, task, total=store.estimate(selection))
        purge = partial(store.purge, selection, dry_run=dry_run)
        records = sum(page.records for page in pages(purge, progress))
        done = "would be deleted" if dry_run else "deleted"
        time = f"{before:%Y-%m-%dT%H:%M:%SZ}"
        text = f"{records} records of before {time} {done}."
        self.write_report(options, text, {"before": time, "records": records, "dry_run": dry_run})


def _question(selection: Selection) -> str:
    user = f"user {selection.user} of " if selection.user else ""
    owner = f"owner {selection.owner}" if selection.owner else "all owners"
    before = f"{selection.before:%Y-%m-%d %H:%M:%S} UTC"
    return f"All records of {user}{owner} of before {before} will be deleted permanently."
