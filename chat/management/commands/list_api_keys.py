"""List the API keys."""

import json
from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from chat.management.console import StorageCommand, owner, table, told
from chat.storage import key_store

COLUMNS = (
    "prefix",
    "owner",
    "name",
    "status",
    "created_at",
    "expires_at",
    "last_used_at",
    "rate_limit",
    "monthly_budget_usd",
    "allowed_models",
)


class Command(StorageCommand):
    help = (
        "List the managed API keys, the oldest first, revoked and expired ones too. When a key was "
        "last used is known to the hour. Keys from API_KEY and API_KEYS are not among them."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--owner", type=owner, help="only those of this owner")
        parser.add_argument("--format", choices=["table", "json"], default="table")

    def handle(self, *args: Any, **options: Any) -> None:
        now, wanted = datetime.now(UTC), options["owner"]
        rows = [told(key, now) for key in key_store().all() if wanted in (None, key.owner)]
        if options["format"] == "json":
            self.stdout.write(json.dumps(rows, indent=2))
        elif rows:
            self.stdout.write(table(rows, COLUMNS))
        else:
            self.stderr.write("There are no keys; create_api_key makes one.")
