"""Store records that were logged while the storage was unavailable."""

import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
from django.core.management.base import CommandError

from chat.errors import StorageFailed
from chat.management.console import ConsoleCommand
from chat.storage import backend
from chat.storage.base import InteractionRecord
from chat.storage.errors import RecordTooLarge, StorageUnavailable
from chat.storage.jsonl import from_json


class Command(ConsoleCommand):
    help = (
        "Store records from the log. If the storage is unavailable when an answer is ready, the "
        "whole record is logged (logger chat.unrecorded). Other log lines are skipped, and stored "
        "records stay as they are, so a file can be replayed any number of times."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="file of log lines")
        parser.add_argument("--dry-run", action="store_true", help="only count the records")

    def handle(self, *args: Any, **options: Any) -> None:
        done: Counter[str] = Counter()
        try:
            with options["file"].open("rb") as lines:
                for number, record in _records(lines):
                    done["found"] += 1
                    if not options["dry_run"]:
                        done["stored"] += _store(number, record)
        except OSError as exc:
            raise CommandError(f"{options['file']} cannot be read: {exc.strerror}.") from exc
        except StorageUnavailable as exc:
            raise CommandError(f"{StorageFailed.title}. {_summary(done)}; run it again.") from exc
        self.stdout.write(f"{_summary(done)}.")


def _summary(done: Counter[str]) -> str:
    return f"{done['found']} records found, {done['stored']} stored"


def _records(lines: Iterable[bytes]) -> Iterator[tuple[int, InteractionRecord]]:
    """Yield the records in a log, each with the number of its line."""
    for number, line in enumerate(lines, 1):
        try:
            data = orjson.loads(line[line.find(b"{") :])  # a log collector may add a prefix
        except orjson.JSONDecodeError:
            continue
        if isinstance(data, dict) and "record" in data:
            try:
                yield number, from_json(data["record"])
            except ValueError as exc:
                sys.stderr.write(f"line {number}: {exc}\n")


def _store(number: int, record: InteractionRecord) -> bool:
    """Write and count a record that is missing or pending; return whether it was."""
    try:
        result = backend().bulk.import_records([record])
    except RecordTooLarge as exc:
        sys.stderr.write(f"line {number}: {exc}\n")
        return False
    return result.new + result.replaced > 0
