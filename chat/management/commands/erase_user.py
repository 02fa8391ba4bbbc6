"""Erase all that is recorded of a user."""

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from chat.errors import StorageUnavailable
from chat.management.console import StorageCommand, owner, user
from chat.management.progress import Progress
from chat.service import ERASED_AT_ONCE
from chat.storage import bulk_store, store
from chat.storage.bulk import Selection


class Command(StorageCommand):
    help = (
        "Erase all records of a user, whatever became of them, and the counts of usage by that "
        "user, as DELETE /v1/users/{userId}/interactions does. Other counts stay: they name "
        "nobody. On a terminal it asks first; anywhere else it needs --yes. What does not reach "
        "the end is given again: what was erased is gone. docs/privacy.md says what it does not "
        "reach."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", type=user, help="the user's id, as clients send it")
        parser.add_argument(
            "--owner", type=owner, default="default", help="whose user (default: default)"
        )
        parser.add_argument("--dry-run", action="store_true", help="only count the records")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument("--format", choices=["text", "json"], default="text")

    def handle(self, *args: Any, **options: Any) -> None:
        user, owner, dry_run = options["user"], options["owner"], options["dry_run"]
        if not dry_run and not options["yes"]:
            _confirm(user, owner)
        records = self._count(user, owner) if dry_run else self._erase(user, owner)
        if options["format"] == "json":
            told = {"user": user, "owner": owner, "records": records, "dry_run": dry_run}
            self.stdout.write(json.dumps(told))
        else:
            done = "would be erased" if dry_run else "erased"
            self.stdout.write(f"{records} records of user {user} of owner {owner} {done}.")

    def _count(self, user: str, owner: str) -> int:
        chosen, records, cursor = Selection(owner=owner, user=user), 0, None
        with Progress(self.stderr, "Counting", total=None, unit="records") as progress:
            while True:
                found = bulk_store().purge(
                    chosen, limit=ERASED_AT_ONCE, cursor=cursor, dry_run=True
                )
                records += found.records
                progress.update(found.records)
                cursor = found.cursor
                if cursor is None:
                    return records

    def _erase(self, user: str, owner: str) -> int:
        records = 0
        with Progress(self.stderr, "Erasing", total=None, unit="records") as progress:
            try:
                while erased := store().erase(owner, user, limit=ERASED_AT_ONCE):
                    records += erased
                    progress.update(erased)
            except StorageUnavailable as exc:
                raise _broken_off(exc.title, records) from exc
            except KeyboardInterrupt as exc:
                raise _broken_off("Interrupted", records, returncode=130) from exc
        return records


def _confirm(user: str, owner: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError("Erasing needs --yes, where nobody can be asked; or see --dry-run.")
    question = f"Erase all records of user {user} of owner {owner} for good? Type yes to go on: "
    if input(question).strip().lower() != "yes":
        raise CommandError("Nothing was erased.")


def _broken_off(why: str, records: int, returncode: int = 1) -> CommandError:
    text = f"{why}. {records} records were erased; give the command again."
    return CommandError(text, returncode=returncode)
