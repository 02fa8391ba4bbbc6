"""Types and groups of command-line arguments. A type raises ArgumentTypeError for a bad value."""

import re
from argparse import ArgumentParser, ArgumentTypeError
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation

from chat.model_catalog import router
from chat.storage.jsonl import is_valid_owner, is_valid_user_id
from providers.router import UnknownModel

UNITS = {"m": "minutes", "h": "hours", "d": "days"}
MAX_DURATION = timedelta(days=36_500)
MAX_USD = 1_000_000_000
MAX_KEY_NAME = 128
MAX_RATE_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class TimeArgument:
    """A moment and the text that named it: `7d` is a different moment in each run."""

    words: str
    moment: datetime


def parse_time(text: str) -> TimeArgument:
    """Parse `7d` (ago), `2026-01-31` or `2026-01-31T12:00:00Z`; in UTC unless it has an offset."""
    try:
        moment = datetime.fromisoformat(text)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return TimeArgument(text, aware.astimezone(UTC))
    except (ValueError, OverflowError):
        pass
    try:
        return TimeArgument(text, datetime.now(UTC) - parse_duration(text))
    except ArgumentTypeError as exc:
        raise ArgumentTypeError(f"{text!r} is not a time such as 7d or 2026-01-31") from exc


def parse_duration(text: str) -> timedelta:
    """Parse `30m`, `12h` or `90d`."""
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    value = timedelta(**{UNITS[match[2]]: int(match[1])}) if match else None
    if value is None or value > MAX_DURATION:
        raise ArgumentTypeError(f"{text!r} is not a time such as 30m, 12h or 90d")
    return value


def parse_dollars(text: str) -> Decimal:
    """Parse an amount of US dollars with up to 12 decimals."""
    try:
        amount = Decimal(text)
        if 0 <= amount <= MAX_USD and amount == round(amount, 12):
            return amount
    except InvalidOperation:
        pass
    raise ArgumentTypeError(f"{text!r} is not an amount such as 25 or 0.50")


def parse_key_name(text: str) -> str:
    name = text.strip()
    if not 0 < len(name) <= MAX_KEY_NAME or not name.isprintable():
        raise ArgumentTypeError(f"a name has 1 to {MAX_KEY_NAME} printable characters")
    return name


def parse_rate_limit(text: str) -> int:
    """Parse a number of requests per minute."""
    if not re.fullmatch("[0-9]{1,7}", text) or int(text) > MAX_RATE_LIMIT:
        raise ArgumentTypeError(f"a rate limit is 0 to {MAX_RATE_LIMIT} requests per minute")
    return int(text)


def parse_model(text: str) -> str:
    """Parse the name of a model that ALLOWED_MODELS allows."""
    try:
        router().routes(text)
    except UnknownModel as exc:
        raise ArgumentTypeError(f"{text} is not allowed here; see ALLOWED_MODELS") from exc
    return text


def parse_owner(text: str) -> str:
    if not is_valid_owner(text):
        characters = "ASCII letters, digits and . _ : @ | + -"
        raise ArgumentTypeError(f"an owner has 1 to 128 {characters}, and is neither . nor ..")
    return text


def parse_user(text: str) -> str:
    if not is_valid_user_id(text):
        characters = "characters, without / and control characters"
        raise ArgumentTypeError(f"a user id has 1 to 128 {characters}, and is neither . nor ..")
    return text


def add_format(parser: ArgumentParser, default: str = "text") -> None:
    parser.add_argument("--format", choices=[default, "json"], default=default)


def add_selection(parser: ArgumentParser, *, since_required: bool = False) -> None:
    parser.add_argument(
        "--since",
        type=parse_time,
        required=since_required,
        help="created at or after this time: 7d (ago), 2026-01-31, 2026-01-31T12:00Z (in UTC)",
    )
    parser.add_argument("--before", type=parse_time, help="created before this time")
    add_owner_and_user(parser)


def add_owner_and_user(parser: ArgumentParser) -> None:
    parser.add_argument("--owner", type=parse_owner, help="only this owner; default: all owners")
    parser.add_argument(
        "--user", type=parse_user, help="only this user id; fast with --owner, which has an index"
    )
