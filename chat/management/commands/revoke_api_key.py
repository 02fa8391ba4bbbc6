"""Revoke an API key."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from chat import api_keys
from chat.management.console import StorageCommand, find_key


class Command(StorageCommand):
    help = (
        "Revoke an API key for good. Processes that have just seen it go on taking it for up to "
        f"{settings.KEY_CACHE_SECONDS} seconds. Its owner's records and its usage stay."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("key", help="its id or prefix, as list_api_keys shows it")
        parser.add_argument("--dry-run", action="store_true", help="only say what it would do")

    def handle(self, *args: Any, **options: Any) -> None:
        key = find_key(options["key"])
        said = f"{key.prefix} ({key.name}, of {key.owner})"
        if key.status_at(datetime.now(UTC)) == "revoked":
            self.stdout.write(f"{said} was revoked before.")
        elif options["dry_run"]:
            self.stdout.write(f"{said} would be revoked.")
        else:
            try:
                api_keys.revoke(key)
            except api_keys.KeyChanged as exc:
                raise CommandError("Somebody changed the key meanwhile; run it again.") from exc
            self.stdout.write(f"{said} is revoked.")
