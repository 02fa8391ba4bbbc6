"""Create an API key."""

from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import CommandError

from chat import api_keys
from chat.management.api_keys import describe_key
from chat.management.arguments import (
    add_format,
    parse_dollars,
    parse_duration,
    parse_key_name,
    parse_model,
    parse_owner,
    parse_rate_limit,
)
from chat.management.console import ConsoleCommand


class Command(ConsoleCommand):
    help = (
        "Create an API key and show it once: only a keyed hash is stored. The key is the only "
        "line on standard output, for scripts. Keys are checked if REQUIRE_API_KEY is true. All "
        "keys of an owner see the same records."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", type=parse_key_name, help="label for people: 'mobile app'")
        parser.add_argument(
            "--owner", type=parse_owner, default="default", help="owner it acts for (default)"
        )
        parser.add_argument(
            "--expires-in", type=parse_duration, help="30m, 12h, 90d; default: never"
        )
        parser.add_argument(
            "--rate-limit",
            type=parse_rate_limit,
            help="requests per minute of all its users together, instead of "
            "RATE_LIMIT_PER_MINUTE for each; 0: no limit",
        )
        parser.add_argument(
            "--monthly-budget-usd",
            type=parse_dollars,
            help="spending limit per month (UTC), as far as costs are known",
        )
        parser.add_argument(
            "--user-monthly-budget-usd",
            type=parse_dollars,
            help="spending limit per month (UTC) for each user of the key",
        )
        parser.add_argument(
            "--model",
            type=parse_model,
            action="append",
            default=[],
            help="allowed model; may be repeated, the first is the default; without it: all models",
        )
        add_format(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        now = datetime.now(UTC)
        if options["expires_in"] == timedelta(0):
            raise CommandError("--expires-in 0 would make a key that has expired.")
        key, text = api_keys.create(
            owner=options["owner"],
            name=options["name"],
            expires_at=None if options["expires_in"] is None else now + options["expires_in"],
            rate_limit=options["rate_limit"],
            monthly_budget_usd=options["monthly_budget_usd"],
            user_monthly_budget_usd=options["user_monthly_budget_usd"],
            allowed_models=options["model"],
        )
        self.output_lost = f"The key {key.prefix} was made, but could not be shown: rotate it."
        self.write_report(options, text, {"key": text, **describe_key(key, now)}, indent=2)
        if options["format"] != "json":
            self.stderr.write(f"A key of {key.owner}. It is not shown again.")
