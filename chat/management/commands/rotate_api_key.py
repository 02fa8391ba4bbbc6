"""Give an API key a new secret."""

import json
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from chat import api_keys
from chat.management.console import StorageCommand, duration, find_key, told


class Command(StorageCommand):
    help = (
        "Give an API key a new secret and show it, this once. The key stays the same: its id, its "
        "owner and so its records, its limits, what it has spent. The old secret ends after "
        f"--grace, or else within {settings.KEY_CACHE_SECONDS} seconds; one from a rotation before "
        "that ends now."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("key", help="its id or prefix, as list_api_keys shows it")
        parser.add_argument(
            "--grace",
            type=duration,
            default=timedelta(0),
            help="how long the old secret stays good: 30m, 12h, 7d; default: not at all",
        )
        parser.add_argument("--dry-run", action="store_true", help="only say what it would do")
        parser.add_argument("--format", choices=["text", "json"], default="text")

    def handle(self, *args: Any, **options: Any) -> None:
        now, key = datetime.now(UTC), find_key(options["key"])
        said = f"{key.prefix} ({key.name}, of {key.owner})"
        if (status := key.status_at(now)) != "active":
            raise CommandError(f"{said} is {status}; make a new one with create_api_key.")
        if options["dry_run"]:
            self.stderr.write(f"{said} would get a new secret.")
            return
        try:
            key, text = api_keys.rotate(key, grace=options["grace"])
        except api_keys.KeyChanged as exc:
            raise CommandError("Somebody changed the key meanwhile; run it again.") from exc
        if options["format"] == "json":
            self.stdout.write(json.dumps({"key": text, **told(key, now)}, indent=2))
        else:
            self.stdout.write(text)
            self.stderr.write(f"{said} has a new secret. It is not shown again.")
