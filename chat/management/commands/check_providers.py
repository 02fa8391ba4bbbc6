"""Ask each configured vendor for a word."""

import json
import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from chat.management import console, vendors
from chat.management.console import printable, table
from chat.management.progress import Progress
from providers.base import Completion, CompletionRequest, Deadline, Message, Provider
from providers.errors import ProviderError

QUESTION = "Answer with one word: which animal says meow?"
COLUMNS = ("provider", "model", "status", "latency_ms", "tokens", "cost_usd", "answer")
SHOWN_CHARACTERS = 40
# Enough for a model that thinks before it says a word, and an end for one that says too many.
MAX_TOKENS = 64


class Command(console.ConsoleCommand):
    help = (
        "Ask each configured vendor a question that takes one word, all at the same time, each "
        "once: no retries, and no other vendor in its place. It tells the model that answered, the "
        "time, the tokens and the cost, or why there is no answer and where to look. It ends with "
        "1 if one fails. The calls are real and may cost a little; they leave no record in the "
        "ledger and count for nobody."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--format", choices=["table", "json"], default="table")

    def handle(self, *args: Any, **options: Any) -> None:
        found = {}
        with Progress(
            self.stderr, "Asking", total=len(settings.PROVIDERS), unit="providers"
        ) as progress:
            for name, row in vendors.for_each_provider(_ask):
                found[name] = row
                progress.update(1)
        rows = [found[name] for name in settings.PROVIDERS]
        failed = [row for row in rows if row["error"]]
        if options["format"] == "json":
            self.stdout.write(json.dumps(rows, indent=2, ensure_ascii=False))
        else:
            self.stdout.write(table(rows, COLUMNS))
            for row in failed:
                self.stdout.write(f"{row['provider']}: {row['error']} Hint: {row['hint']}")
        if failed:
            raise CommandError(f"{len(failed)} of {len(rows)} providers failed.")


def _ask(provider: Provider) -> dict[str, Any]:
    """A row: what the vendor answered, or why it did not."""
    request = CompletionRequest(
        model=provider.model,
        messages=(Message(role="user", content=QUESTION),),
        max_tokens=MAX_TOKENS,
    )
    row: dict[str, Any] = {"provider": provider.name, "model": provider.model}
    started = time.monotonic()
    try:
        completion = provider.complete(request, Deadline(settings.REQUEST_TIMEOUT_SECONDS))
        outcome = _answer(completion)
    except ProviderError as exc:
        hint = vendors.hint(provider.name, exc)
        outcome = {"status": exc.code, "error": vendors.describe_error(exc), "hint": hint}
    return {**row, **outcome, "latency_ms": round((time.monotonic() - started) * 1000)}


def _answer(completion: Completion) -> dict[str, Any]:
    cost = completion.usage.cost_usd
    text = " ".join(printable(completion.text).split())
    return {
        "status": "ok",
        "model": printable(completion.model),
        "answer": text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…",
        "tokens": completion.usage.total_tokens,
        "cost_usd": None if cost is None else f"{cost.normalize():f}",
        "error": None,
        "hint": None,
    }
