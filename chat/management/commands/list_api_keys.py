"""List the API keys."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from chat.management.api_keys import describe_key
from chat.management.arguments import add_format, parse_owner
from chat.management.console import ConsoleCommand, table
from chat.storage import backend

COLUMNS = (
    *("prefix", "owner", "name", "status", "created_at", "expires_at", "last_used_at"),
    *("rate_limit", "monthly_budget_usd", "user_monthly_budget_usd", "allowed_models"),
)


class Command(ConsoleCommand):
    help = (
        "List the managed API keys, oldest first, with revoked and expired ones. The time of the "
        "last use is exact to the hour. Keys from API_KEY and API_KEYS are not listed."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--owner", type=parse_owner, help="only this owner")
        add_format(parser, "table")

    def handle(self, *args: Any, **options: Any) -> None:
        now, owner = datetime.now(UTC), options["owner"]
        rows = [
            describe_key(key, now) for key in backend().api_keys.all() if owner in (None, key.owner)
        ]
        if rows or options["format"] == "json":
            self.write_report(options, table(rows, COLUMNS), rows, indent=2)
        else:
            self.stderr.write("No keys. Create one with create_api_key.")
