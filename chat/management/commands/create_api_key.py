"""Make an API key."""

import json
from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError

from chat import api_keys
from chat.management.console import StorageCommand, dollars, duration, owner, told
from chat.service import router
from providers.router import UnknownModel


class Command(StorageCommand):
    help = (
        "Make an API key and show it, this once: only a keyed hash of it is kept. It is the one "
        "line on standard output, so that a script can take it from there. Keys count where "
        "REQUIRE_API_KEY is true. All keys of an owner see the same records."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="what it is for, for people to read: 'mobile app'")
        parser.add_argument(
            "--owner", type=owner, default="default", help="for whom it acts (default: default)"
        )
        parser.add_argument("--expires-in", type=duration, help="30m, 12h, 90d; default: never")
        parser.add_argument(
            "--rate-limit",
            type=int,
            help="requests per minute for each of its users, instead of RATE_LIMIT_PER_MINUTE; "
            "0: no limit",
        )
        parser.add_argument(
            "--monthly-budget-usd",
            type=dollars,
            help="what it may spend in a month (UTC), as far as costs are known",
        )
        parser.add_argument(
            "--model",
            action="append",
            default=[],
            help="a model that it may ask, and no other; may be repeated, the first is its default",
        )
        parser.add_argument("--format", choices=["text", "json"], default="text")

    def handle(self, *args: Any, **options: Any) -> None:
        now = datetime.now(UTC)
        name = options["name"].strip()
        if not 0 < len(name) <= 128 or not name.isprintable():
            raise CommandError("A name has 1 to 128 printable characters.")
        if not 0 <= (options["rate_limit"] or 0) <= 1_000_000:
            raise CommandError("A rate limit is 0 to 1000000 requests per minute.")
        for model in options["model"]:
            _must_be_known(model)
        key, text = api_keys.create(
            owner=options["owner"],
            name=name,
            expires_at=None if options["expires_in"] is None else now + options["expires_in"],
            rate_limit=options["rate_limit"],
            monthly_budget_usd=options["monthly_budget_usd"],
            allowed_models=options["model"],
        )
        if options["format"] == "json":
            self.stdout.write(json.dumps({"key": text, **told(key, now)}, indent=2))
        else:
            self.stdout.write(text)
            self.stderr.write(f"A key of {key.owner}. It is not shown again.")


def _must_be_known(model: str) -> None:
    try:
        router().routes(model)
    except UnknownModel as exc:
        raise CommandError(f"{model} may not be asked here; see ALLOWED_MODELS.") from exc
