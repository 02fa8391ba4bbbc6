"""What the commands have in common: how they read words, and how they print."""

import os
import re
import sys
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from chat.errors import StorageUnavailable
from chat.storage import key_store
from chat.storage.api_keys import PREFIX, ApiKey
from chat.storage.jsonl import ID

UNITS = {"m": "minutes", "h": "hours", "d": "days"}
LONGEST = timedelta(days=36_500)
MAX_USD = 1_000_000_000
# Control characters but for tabs and line ends, and what turns the direction of text.
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it
EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."


class ConsoleCommand(BaseCommand):
    """A command that ends with a sentence when it is interrupted, or nobody reads on."""

    interrupted = "Interrupted."

    def create_parser(self, prog_name: str, subcommand: str, **options: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=EXIT_CODES, **options)

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            output = super().execute(*args, **options)
            self.stdout.flush()
        except KeyboardInterrupt:
            self.stderr.write(self.interrupted)
            sys.exit(INTERRUPTED)
        except BrokenPipeError:  # Python is not to try it again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise CommandError("Nobody reads on.") from None
        return output


class StorageCommand(ConsoleCommand):
    """A command on the storage: when that is out of reach, it says so and ends with 1."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except StorageUnavailable as exc:
            hint = "is it up, and are its tables there (migrate, create_tables)?"
            reason = f" ({exc.__cause__})" if exc.__cause__ else ""
            raise CommandError(f"{exc.title}: {hint}{reason}") from exc


def duration(text: str) -> timedelta:
    """`30m`, `12h` or `90d`."""
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    value = timedelta(**{UNITS[match[2]]: int(match[1])}) if match else None
    if value is None or value > LONGEST:
        raise ArgumentTypeError(f"{text!r} is no time such as 30m, 12h or 90d")
    return value


def dollars(text: str) -> Decimal:
    """An amount of US dollars, down to 10**-12."""
    try:
        amount = Decimal(text)
        if 0 <= amount <= MAX_USD and amount == round(amount, 12):
            return amount
    except InvalidOperation:
        pass
    raise ArgumentTypeError(f"{text!r} is no amount such as 25 or 0.50")


def owner(text: str) -> str:
    return _id(text, "an owner")


def user(text: str) -> str:
    return _id(text, "a user id")


def _id(text: str, kind: str) -> str:
    """What may stand in a record as its owner or its user."""
    if not ID.fullmatch(text):
        characters = "ASCII letters, digits and . _ : @ | + -"
        raise ArgumentTypeError(f"{kind} has 1 to 128 {characters}, and is neither . nor ..")
    return text


def find_key(text: str) -> ApiKey:
    """The key of this id or prefix, or of a whole key. Raises CommandError, StorageUnavailable."""
    match = re.fullmatch(rf"(?:{PREFIX}_)?([0-9a-f]{{16}})(?:_[0-9a-f]*)?", text)
    key = key_store().get(match[1]) if match else None
    if key is None:
        raise CommandError("There is no such key; list_api_keys shows those that there are.")
    return key


def told(key: ApiKey, now: datetime) -> dict[str, Any]:
    """What may be told of a key, in JSON's types; None is nothing."""
    budget = key.monthly_budget_usd
    return {
        "key_id": key.key_id,
        "prefix": key.prefix,
        "owner": key.owner,
        "name": key.name,
        "status": key.status_at(now),
        "created_at": _iso(key.created_at),
        "expires_at": _iso(key.expires_at),
        "revoked_at": _iso(key.revoked_at),
        "last_used_at": _iso(key.last_used_at),
        "rate_limit": key.rate_limit,
        "monthly_budget_usd": None if budget is None else f"{budget.normalize():f}",
        "allowed_models": list(key.allowed_models),
    }


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows under the names of their columns, numbers to the right; None is a dash."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    heads = [column.replace("_", " ") for column in columns]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    numeric = [
        all(re.fullmatch(r"[\d.]+|-", cell) for cell in column)
        for column in zip(*cells, strict=True)
    ]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in [heads, *cells]
    ]
    return "\n".join(lines)


def printable(text: str) -> str:
    """A model's text without what a terminal obeys or is deceived by: escapes, overrides."""
    return UNSAFE.sub("", text)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return printable(", ".join(value)) or "-"
    return "-" if value is None else printable(str(value))


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")
