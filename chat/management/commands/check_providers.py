"""Ask each configured vendor a one-word question."""

import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from chat.management.arguments import add_format
from chat.management.console import ConsoleCommand, printable, table
from chat.management.provider_checks import describe_error, for_each_provider, hint
from chat.usage import format_usd
from providers.base import Completion, CompletionRequest, Provider
from providers.deadline import Deadline
from providers.errors import ProviderError

QUESTION = "Answer with one word: which animal says meow?"
COLUMNS = ("provider", "model", "status", "latency_ms", "tokens", "cost_usd", "answer")
SHOWN_CHARACTERS = 40
# Leaves room for some reasoning, and limits the cost of a talkative model.
MAX_TOKENS = 64


class Command(ConsoleCommand):
    help = (
        "Ask each configured vendor a one-word question, all at once, without retries or "
        "fallback. Shows the model that answered, the latency, the tokens and the cost, or the "
        "error and a hint. Exits with 1 if one fails. The calls are real and may cost a little; "
        "they leave no record and count towards no key or budget."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_format(parser, "table")

    def handle(self, *args: Any, **options: Any) -> None:
        rows = self._rows()
        failed = [row for row in rows if row["error"]]
        hints = [f"{row['provider']}: {row['error']} Hint: {row['hint']}" for row in failed]
        text = "\n".join([table(rows, COLUMNS), *hints])
        self.write_report(options, text, rows, indent=2, ensure_ascii=False)
        if failed:
            raise CommandError(f"{len(failed)} of {len(rows)} providers failed.")

    def _rows(self) -> list[dict[str, Any]]:
        """Return a row for each provider, in configured order."""
        rows = dict(
            for_each_provider(_ask, settings.REQUEST_TIMEOUT_SECONDS, self.stderr, "Asking")
        )
        return [rows[name] for name in settings.PROVIDERS]


def _ask(provider: Provider, deadline: Deadline) -> dict[str, Any]:
    """Return the row of one provider: its answer, or its error and a hint."""
    request = CompletionRequest(
        model=provider.model,
        messages=({"role": "user", "content": QUESTION},),
        parameters={"max_tokens": MAX_TOKENS},
    )
    row: dict[str, Any] = {"provider": provider.name, "model": provider.model}
    started = time.monotonic()
    try:
        completion = provider.complete(request, deadline)
        outcome = _describe_answer(completion)
    except ProviderError as exc:
        outcome = {
            "status": exc.code,
            "error": describe_error(exc),
            "hint": hint(provider.name, exc),
        }
    return {**row, **outcome, "latency_ms": round((time.monotonic() - started) * 1000)}


def _describe_answer(completion: Completion) -> dict[str, Any]:
    text = " ".join(printable(completion.text).split())
    return {
        "status": "ok",
        "model": printable(completion.model),
        "answer": text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…",
        "tokens": completion.usage.total_tokens,
        "cost_usd": format_usd(completion.usage.cost_usd),
        "error": None,
        "hint": None,
    }
