"""Import records from a file."""

import gzip
import os
import zlib
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from django.core.management.base import CommandError

from chat.errors import PayloadTooLarge
from chat.management.bulk import PAGE, BulkCommand
from chat.management.progress import Progress
from chat.storage import bulk_store
from chat.storage.base import InteractionRecord
from chat.storage.bulk import BulkStore
from chat.storage.jsonl import from_json

GZIP = b"\x1f\x8b"
STORED = ("read", "new", "replaced", "unchanged", "expired")
CHECKED = ("read", "expired", "bad_lines")


class BadLine(Exception):
    """Says which line is no record, and why."""


Page = Sequence[InteractionRecord | BadLine]
Work = Callable[[Page, Counter[str]], None]


class Command(BulkCommand):
    help = (
        "Import records that export_interactions wrote, compressed or not, and count those that "
        "are settled as if that had been here. What is stored already is left as it is, save "
        "claims whose outcome is in the file, so that a file may be imported any number of times. "
        "What has expired is left out. At a line that is no record it ends with 1; what is before "
        "that line is imported then."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("file", type=Path, help="a file, or /dev/stdin")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="write nothing, but read all of the file, and tell each line that is no record",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        dry_run = options["dry_run"]
        done = Counter(dict.fromkeys(CHECKED if dry_run else STORED, 0))
        work = self._check if dry_run else partial(_store, bulk_store())
        try:
            with options["file"].open("rb") as file:
                self._read(file, work, done, keep_on=dry_run)
        except OSError as exc:
            raise CommandError(f"{options['file']} cannot be read: {exc.strerror or exc}.") from exc
        except (BadLine, PayloadTooLarge) as exc:
            again = "Give the same command again when that is corrected."
            raise CommandError(f"{exc} Until there: {_text(done)} {again}") from exc
        self.finish(options, _text(done), done)
        if done["bad_lines"]:
            raise CommandError("Not all lines are records.")

    def _read(self, file: BinaryIO, work: Work, done: Counter[str], *, keep_on: bool) -> None:
        """Work on all of the file, a page at a time."""
        size = os.fstat(file.fileno()).st_size
        reached, lines = 0, _records(file, keep_on=keep_on)
        with Progress(self.stderr, "Importing", total=size or None, unit="bytes") as progress:
            while page := list(islice(lines, PAGE)):
                work(page, done)
                position = file.tell() if file.seekable() else 0
                progress.update(position - reached, f"{done['read']} records")
                reached = position

    def _check(self, page: Page, done: Counter[str]) -> None:
        records, expired, bad = _sorted(page)
        done.update(read=len(records) + expired, expired=expired, bad_lines=len(bad))
        self.stderr.writelines(f"{line}\n" for line in bad)


def _store(store: BulkStore, page: Page, done: Counter[str]) -> None:
    """Store the records up to a line that is none, which is raised then."""
    records, expired, bad = _sorted(page)
    added = store.add(records)
    unchanged = len(records) - added.new - added.replaced
    done.update(read=len(records) + expired, new=added.new, replaced=added.replaced)
    done.update(unchanged=unchanged, expired=expired)
    for line in bad:
        raise line


def _sorted(page: Page) -> tuple[list[InteractionRecord], int, list[BadLine]]:
    """The records that are still good, how many have expired, and the lines that are none."""
    now = datetime.now(UTC)
    records = [each for each in page if isinstance(each, InteractionRecord)]
    living = [each for each in records if each.expires_at is None or each.expires_at > now]
    bad = [each for each in page if isinstance(each, BadLine)]
    return living, len(records) - len(living), bad


def _records(file: BinaryIO, *, keep_on: bool) -> Iterator[InteractionRecord | BadLine]:
    """The records in a file, and the lines that are none; unless to keep on, up to the first."""
    number = 0
    try:
        for number, line in enumerate(_opened(file), 1):
            try:
                if line.strip():
                    yield from_json(orjson.loads(line))
            except ValueError as exc:
                yield BadLine(f"Line {number}: {exc}.")
                if not keep_on:
                    return
    except (EOFError, zlib.error, gzip.BadGzipFile):
        yield BadLine(f"After line {number} the file is cut off, or damaged.")


def _opened(file: BinaryIO) -> Iterable[bytes]:
    """The lines of a file that is compressed, or is not."""
    start = file.peek(len(GZIP))  # type: ignore[attr-defined]  # it is a BufferedReader
    return gzip.open(file) if start.startswith(GZIP) else file


def _text(done: Counter[str]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in done.items()) + "."
