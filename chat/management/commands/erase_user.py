"""Erase all records of a user."""

from argparse import ArgumentParser
from functools import partial
from typing import Any

from django.core.management.base import CommandError

from chat.history import ERASED_AT_ONCE
from chat.management.arguments import add_format, parse_owner, parse_user
from chat.management.bulk_job import pages
from chat.management.console import INTERRUPTED, ConsoleCommand, describe_storage_failure
from chat.management.progress import Progress
from chat.storage import backend
from chat.storage.base import Selection
from chat.storage.errors import StorageUnavailable


class Command(ConsoleCommand):
    help = (
        "Erase all records of a user, whatever their status, and the usage counters of that user, "
        "as DELETE /v1/users/{userId}/interactions does. Other counters stay: they contain no "
        "user ids. Asks for confirmation on a terminal; elsewhere it needs --yes. If interrupted, "
        "run it again to erase the rest. docs/privacy.md lists what it does not erase."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", type=parse_user, help="user id, as clients send it")
        parser.add_argument(
            "--owner", type=parse_owner, default="default", help="owner of the user (default)"
        )
        parser.add_argument("--dry-run", action="store_true", help="only count the records")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        add_format(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        user, owner, dry_run = options["user"], options["owner"], options["dry_run"]
        if not dry_run and not options["yes"]:
            self.confirm(f"Erase all records of user {user} of owner {owner} permanently?")
        records = self._count(user, owner) if dry_run else self._erase(user, owner)
        done = "would be erased" if dry_run else "erased"
        text = f"{records} records of user {user} of owner {owner} {done}."
        data = {"user": user, "owner": owner, "records": records, "dry_run": dry_run}
        self.write_report(options, text, data)

    def _count(self, user: str, owner: str) -> int:
        selection = Selection(owner=owner, user=user)
        purge = partial(backend().bulk.purge, selection, dry_run=True)
        return sum(page.records for page in pages(purge, Progress(self.stderr, "Counting")))

    def _erase(self, user: str, owner: str) -> int:
        records = 0
        with Progress(self.stderr, "Erasing") as progress:
            try:
                while erased := backend().interactions.delete_by_user(
                    owner, user, limit=ERASED_AT_ONCE
                ):
                    records += erased
                    progress.update(erased)
            except StorageUnavailable as exc:
                raise _incomplete(describe_storage_failure(exc), records) from exc
            except KeyboardInterrupt as exc:
                raise _incomplete("Interrupted.", records, returncode=INTERRUPTED) from exc
        return records


def _incomplete(reason: str, records: int, returncode: int = 1) -> CommandError:
    text = f"{reason} {records} records were erased; run the command again to erase the rest."
    return CommandError(text, returncode=returncode)
