"""Give an API key a new secret."""

from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from chat import api_keys
from chat.management.api_keys import describe_key, find_key, key_label
from chat.management.arguments import add_format, parse_duration
from chat.management.console import ConsoleCommand


class Command(ConsoleCommand):
    help = (
        "Give an API key a new secret and show it once. The key keeps its id, owner, limits and "
        "spending. The old secret ends after --grace, or within "
        f"{settings.KEY_CACHE_SECONDS} seconds without it; the secret before that ends now."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("key", help="id or prefix, as shown by list_api_keys")
        parser.add_argument(
            "--grace",
            type=parse_duration,
            default=timedelta(0),
            help="how long the old secret stays valid: 30m, 12h, 7d; default: not at all",
        )
        parser.add_argument("--dry-run", action="store_true", help="change nothing")
        add_format(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        now, key = datetime.now(UTC), find_key(options["key"])
        label = key_label(key)
        if (status := key.status_at(now)) != "active":
            raise CommandError(f"{label} is {status}; make a new one with create_api_key.")
        if options["dry_run"]:
            self.stderr.write(f"{label} would get a new secret.")
            return
        try:
            key, text = api_keys.rotate(key, grace=options["grace"])
        except api_keys.KeyChanged as exc:
            raise CommandError("The key was changed meanwhile; run the command again.") from exc
        self.output_lost = f"{label} has a new secret that could not be shown: rotate it again."
        self.write_report(options, text, {"key": text, **describe_key(key, now)}, indent=2)
        if options["format"] != "json":
            self.stderr.write(f"{label} has a new secret. It is not shown again.")
