"""What the commands on many records have in common."""

import json
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError

from chat.management.console import StorageCommand, duration, owner, user
from chat.storage.bulk import Selection

PAGE = 500


@dataclass(frozen=True, slots=True)
class TimeArgument:
    """A moment, and the words for it, which mean another one the next time."""

    words: str
    moment: datetime


def when(text: str) -> TimeArgument:
    """`7d` (ago), `2026-01-31`, or `2026-01-31T12:00:00Z`; in UTC, unless it says otherwise."""
    try:
        moment = datetime.fromisoformat(text)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return TimeArgument(text, aware.astimezone(UTC))
    except (ValueError, OverflowError):
        pass
    try:
        return TimeArgument(text, datetime.now(UTC) - duration(text))
    except ArgumentTypeError as exc:
        raise ArgumentTypeError(f"{text!r} is no time such as 7d or 2026-01-31") from exc


class BulkCommand(StorageCommand):
    """A command that takes long, and may be interrupted."""

    interrupted = "Interrupted. Give the same command again to go on."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--format", choices=["text", "json"], default="text")

    def finish(self, options: Mapping[str, Any], text: str, report: Mapping[str, Any]) -> None:
        """Say what was done, in the form that was asked for."""
        self.stdout.write(json.dumps(report) if options["format"] == "json" else text)


def add_selection(parser: ArgumentParser, *, since_required: bool = False) -> None:
    parser.add_argument(
        "--since",
        type=when,
        required=since_required,
        help="created from then on: 7d (ago), 2026-01-31, 2026-01-31T12:00Z (in UTC)",
    )
    parser.add_argument("--before", type=when, help="created before then")
    add_owner_and_user(parser)


def add_owner_and_user(parser: ArgumentParser) -> None:
    parser.add_argument("--owner", type=owner, help="only of this owner; default: of all")
    parser.add_argument("--user", type=user, help="only of this user id; with --owner by an index")


class BulkJob:
    """A selection in the words of the command line, by which a later run knows that it goes on.

    It ends where it began: what is created while it lasts is for the next one.
    """

    def __init__(self, options: Mapping[str, Any], **more: str) -> None:
        since, before = options["since"], options["before"]
        self.words = {
            **more,
            "since": since and since.words,
            "before": before and before.words,
            "owner": options["owner"],
            "user": options["user"],
        }
        self.since = since and since.moment
        self.before = before.moment if before else datetime.now(UTC)
        if self.since and self.since >= self.before:
            raise CommandError("There is nothing between --since and --before.")

    @property
    def selection(self) -> Selection:
        return Selection(
            since=self.since,
            before=self.before,
            owner=self.words["owner"],
            user=self.words["user"],
        )

    def state(self, **more: Any) -> dict[str, Any]:
        """What a checkpoint has to know of it."""
        since = self.since and self.since.isoformat()
        return {"task": self.words, "since": since, "before": self.before.isoformat(), **more}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Mean what the run meant that was interrupted."""
        self.since = state["since"] and datetime.fromisoformat(state["since"])
        self.before = datetime.fromisoformat(state["before"])
