"""Store the records that could not be written in their time."""

import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
from django.core.management.base import CommandError

from chat.errors import StorageUnavailable
from chat.management import console
from chat.storage import store
from chat.storage.base import InteractionRecord, Status
from chat.storage.jsonl import from_json


class Command(console.ConsoleCommand):
    help = (
        "Store records from the log. When the storage is out of reach, an answer that was given is "
        "logged whole (logger chat.unrecorded). Give the log, or such lines of it: lines of other "
        "kinds are passed over, and what is stored already is left as it is, so that a file may be "
        "replayed any number of times."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="a file of log lines")
        parser.add_argument("--dry-run", action="store_true", help="only say what there is")

    def handle(self, *args: Any, **options: Any) -> None:
        done: Counter[str] = Counter()
        try:
            with options["file"].open("rb") as lines:
                for record in _records(lines):
                    done["found"] += 1
                    if not options["dry_run"]:
                        done["stored"] += _store(record)
        except OSError as exc:
            raise CommandError(f"{options['file']} cannot be read: {exc.strerror}.") from exc
        except StorageUnavailable as exc:
            raise CommandError(f"{exc.title}. {_told(done)}; run it again.") from exc
        self.stdout.write(f"{_told(done)}.")


def _told(done: Counter[str]) -> str:
    return f"{done['found']} records found, {done['stored']} stored"


def _records(lines: Iterable[bytes]) -> Iterator[InteractionRecord]:
    for number, line in enumerate(lines, 1):
        try:
            data = orjson.loads(line[line.find(b"{") :])  # what collects logs may put a prefix
        except orjson.JSONDecodeError:
            continue
        if isinstance(data, dict) and "record" in data:
            try:
                yield from_json(data["record"])
            except ValueError as exc:
                sys.stderr.write(f"line {number}: {exc}\n")


def _store(record: InteractionRecord) -> bool:
    """Whether there was anything to do: an unknown record is written, its own claim settled."""
    holder = store().claim(record)
    if holder is None:
        return True
    return holder.status is Status.PENDING and store().settle(record)
