"""Import records from a file."""

import os
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

import orjson
from django.core.management.base import CommandError

from chat.management.arguments import add_format
from chat.management.bulk_job import PAGE, import_page
from chat.management.console import RESUMABLE, ConsoleCommand
from chat.management.lines import BadLine, numbered_lines, parse_input
from chat.management.progress import Progress
from chat.storage import backend
from chat.storage.base import InteractionRecord, unexpired
from chat.storage.errors import RecordTooLarge
from chat.storage.jsonl import from_json

STORED = ("read", "new", "replaced", "unchanged", "expired")
CHECKED = ("read", "expired", "bad_lines")

Page = Sequence[InteractionRecord | BadLine]


class Command(ConsoleCommand):
    help = (
        "Import records written by export_interactions, compressed or not, and count settled ones "
        "in the usage counters. Stored records stay as they are, except pending ones whose outcome "
        "is in the file, so a file can be imported any number of times. Expired records are "
        "skipped. A line that is not a record ends the import with 1; the lines before it are "
        "imported."
    )
    interrupted = RESUMABLE

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=parse_input, help="file; -: standard input")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="write nothing; read the whole file and report each line that is not a record",
        )
        add_format(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        dry_run = options["dry_run"]
        done = Counter(dict.fromkeys(CHECKED if dry_run else STORED, 0))
        try:
            with options["file"].open("rb") as file:
                for page in self._pages(file, done, keep_on=dry_run):
                    self._take(page, done, dry_run=dry_run)
        except OSError as exc:
            raise CommandError(f"{options['file']} cannot be read: {exc.strerror or exc}.") from exc
        except (BadLine, RecordTooLarge) as exc:
            again = "Correct it and run the same command again."
            raise CommandError(f"{exc} Before it: {_summary(done)} {again}") from exc
        self.write_report(options, _summary(done), done)
        if done["bad_lines"]:
            raise CommandError("Not all lines are records.")

    def _pages(self, file: BinaryIO, done: Counter[str], *, keep_on: bool) -> Iterator[Page]:
        size = os.fstat(file.fileno()).st_size
        reached, lines = 0, _records(file, keep_on=keep_on)
        with Progress(self.stderr, "Importing", total=size or None, unit="bytes") as progress:
            while page := list(islice(lines, PAGE)):
                yield page
                position = file.tell() if file.seekable() else 0
                progress.update(position - reached, f"{done['read']} records")
                reached = position

    def _take(self, page: Page, done: Counter[str], *, dry_run: bool) -> None:
        """Import the records that have not expired, or only count them, and report bad lines."""
        records = [each for each in page if isinstance(each, InteractionRecord)]
        bad = [each for each in page if isinstance(each, BadLine)]
        live = unexpired(records)
        if dry_run:
            done.update(read=len(live), bad_lines=len(bad))
            self.stderr.writelines(f"{line}\n" for line in bad)
        else:
            import_page(backend().bulk, live, done)
        expired = len(records) - len(live)
        done.update(read=expired, expired=expired)
        if bad and not dry_run:
            raise bad[0]


def _records(file: BinaryIO, *, keep_on: bool) -> Iterator[InteractionRecord | BadLine]:
    """Yield the records and bad lines of a file; stop at the first bad line unless `keep_on`."""
    try:
        for number, line in numbered_lines(file):
            try:
                if line.strip():
                    yield from_json(orjson.loads(line))
            except ValueError as exc:
                yield BadLine(f"Line {number}: {_reason(exc)}.")
                if not keep_on:
                    return
    except BadLine as exc:
        yield exc


def _reason(exc: ValueError) -> str:
    # orjson counts lines too, and would call each of them line 1.
    if isinstance(exc, orjson.JSONDecodeError):
        return f"this is not JSON ({exc.msg}, column {exc.colno})"
    return str(exc)


def _summary(done: Counter[str]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in done.items()) + "."
