"""Revoke an API key."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from chat import api_keys
from chat.management.api_keys import find_key, key_label
from chat.management.console import ConsoleCommand


class Command(ConsoleCommand):
    help = (
        "Revoke an API key permanently. Processes that cached it accept it for up to "
        f"{settings.KEY_CACHE_SECONDS} more seconds. Its owner's records and its usage stay."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("key", help="id or prefix, as shown by list_api_keys")
        parser.add_argument("--dry-run", action="store_true", help="change nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        key = find_key(options["key"])
        label = key_label(key)
        if key.status_at(datetime.now(UTC)) == "revoked":
            self.stdout.write(f"{label} was revoked before.")
        elif options["dry_run"]:
            self.stdout.write(f"{label} would be revoked.")
        else:
            try:
                api_keys.revoke(key)
            except api_keys.KeyChanged as exc:
                raise CommandError("The key was changed meanwhile; run the command again.") from exc
            self.stdout.write(f"{label} is revoked.")
