"""Store records that were logged while the storage was unavailable."""

import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson
from django.core.management.base import CommandError

from chat.errors import StorageFailed
from chat.management.console import ConsoleCommand
from chat.management.lines import BadLine, numbered_lines, parse_input
from chat.storage import backend
from chat.storage.base import InteractionRecord
from chat.storage.errors import RecordTooLarge, StorageUnavailable
from chat.storage.jsonl import from_json

# The start of our log lines (chat/telemetry/logs.py), and how many pieces of 16 kB one may have.
OUR_START = '{"level"'
MAX_PIECES = 1000


class Command(ConsoleCommand):
    help = (
        "Store records from the log. If the storage is unavailable when an answer is ready, the "
        "whole record is logged (logger chat.unrecorded). Reads compressed files, and lines that a "
        "collector has put into JSON, under `log` or `message`. Other lines are skipped, and "
        "stored records stay as they are, so a file can be replayed any number of times."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=parse_input, help="log; -: standard input")
        parser.add_argument("--dry-run", action="store_true", help="only count the records")

    def handle(self, *args: Any, **options: Any) -> None:
        done: Counter[str] = Counter()
        try:
            with options["file"].open("rb") as file:
                for number, record in _records(file):
                    done["found"] += 1
                    if not options["dry_run"]:
                        done["stored"] += _store(number, record)
        except OSError as exc:
            raise CommandError(f"{options['file']} cannot be read: {exc.strerror}.") from exc
        except BadLine as exc:
            raise CommandError(f"{exc} Before it: {_summary(done)}.") from exc
        except StorageUnavailable as exc:
            raise CommandError(f"{StorageFailed.title}. {_summary(done)}; run it again.") from exc
        self.stdout.write(f"{_summary(done)}.")
        if not done["found"]:
            self.stderr.write("No line has a record; see those of the logger chat.unrecorded.")


def _summary(done: Counter[str]) -> str:
    return f"{done['found']} records found, {done['stored']} stored"


def _records(file: BinaryIO) -> Iterator[tuple[int, InteractionRecord]]:
    """Yield the records in a log, each with the number of its line."""
    pieces: list[str] = []
    for number, line in numbered_lines(file):
        data = _parse(line[line.find(b"{") :])  # a log collector may add a prefix
        if "record" not in data:
            texts = (data.get(name) for name in ("log", "message"))
            wrapped = next((each for each in texts if isinstance(each, str)), "")
            data = _unwrapped(wrapped, pieces)
        if "record" in data:
            try:
                yield number, from_json(data["record"])
            except ValueError as exc:
                sys.stderr.write(f"line {number}: {exc}\n")


def _unwrapped(text: str, pieces: list[str]) -> dict[str, Any]:
    """Return the object of a collector's text; an empty one if there is none yet.

    Docker splits lines of more than 16 kB: `pieces` are those of the line so far.
    """
    if text.startswith(OUR_START):
        pieces[:] = [text]
    elif pieces:
        pieces.append(text)
    is_end = len(pieces) > 1 and text.rstrip().endswith("}")
    data = _parse(text) or (_parse("".join(pieces)) if is_end else {})
    if data or len(pieces) > MAX_PIECES:
        pieces.clear()
    return data


def _parse(text: bytes | str) -> dict[str, Any]:
    """Return the object of a line; an empty one if the line is anything else."""
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return data if isinstance(data, dict) else {}


def _store(number: int, record: InteractionRecord) -> bool:
    """Write and count a record that is missing or pending; return whether it was."""
    try:
        result = backend().bulk.import_records([record])
    except RecordTooLarge as exc:
        sys.stderr.write(f"line {number}: {exc}\n")
        return False
    return result.new + result.replaced > 0
