"""Export records to a file."""

import gzip
import os
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from django.conf import settings
from django.core.management.base import CommandError

from chat.management.arguments import add_format, add_selection
from chat.management.bulk_job import BulkJob, JobState, pages
from chat.management.checkpoint import Checkpoint, locked
from chat.management.console import RESUMABLE, ConsoleCommand
from chat.management.progress import Progress
from chat.storage import backend
from chat.storage.base import Batch
from chat.storage.jsonl import to_line

# So much of the work is done again after a crash.
SAVE_SECONDS = 1.0
CHUNK_BYTES = 4_000_000
NEW: dict[str, Any] = {"cursor": None, "seen": 0, "bytes": 0, "records": 0}


class State(JobState):
    """What a checkpoint saves of an export."""

    bytes: int
    records: int


class Command(ConsoleCommand):
    help = (
        "Export records as JSON Lines, one complete record per line; from SQLite in order of "
        "creation, from DynamoDB in no order. A file name ending in .gz compresses. Until the "
        "export is complete, the file is FILE.part, and FILE.part.state has its progress: the same "
        "command resumes an interrupted export. Records created meanwhile are left out."
    )
    interrupted = RESUMABLE

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_selection(parser)
        parser.add_argument(
            "--output",
            default="-",
            metavar="FILE",
            help="default: -, standard output, uncompressed; cannot be resumed, and the summary "
            "goes to standard error",
        )
        add_format(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        began, job = time.monotonic(), BulkJob(options, settings.STORAGE)
        if options["output"] in ("-", "/dev/stdout"):
            self.interrupted = "Interrupted. The output is incomplete."
            self.stderr.write(f"{self._to_stdout(job)} records exported.")
            return
        path = Path(options["output"])
        try:
            records = self._to_file(job, path)
            size = path.stat().st_size
        except OSError as exc:
            raise CommandError(f"{path} cannot be written: {exc.strerror}.") from exc
        seconds = round(time.monotonic() - began, 1)
        text = f"{records} records exported into {path}, {size} bytes, in {seconds} s."
        report = {"file": str(path), "records": records, "bytes": size, "seconds": seconds}
        self.write_report(options, text, report)

    def _to_stdout(self, job: BulkJob) -> int:
        records = 0
        for batch in self._batches(job, NEW):
            for lines in _lines(batch):
                self.stdout.write(lines.decode(), ending="")
            records += len(batch.records)
        return records

    def _to_file(self, job: BulkJob, path: Path) -> int:
        """Append page by page to a draft, and rename it when it is complete."""
        if path.exists() and not path.is_file():
            raise CommandError(f"{path} is not a file; for standard output, name -.")
        if path.exists():
            raise CommandError(f"{path} already exists; delete it, or name another file.")
        # Each chunk is a gzip member of its own, so that the file can be cut after any page.
        compress = partial(gzip.compress, compresslevel=6) if path.suffix == ".gz" else bytes
        draft = path.with_name(f"{path.name}.part")
        checkpoint = Checkpoint(path.with_name(f"{path.name}.part.state"))
        with locked(draft) as file:
            state = self._begin(job, checkpoint, file)
            records, seen, saved = state["records"], state["seen"], time.monotonic()
            for batch in self._batches(job, state):
                if batch.records or not file.tell():
                    file.writelines(map(compress, _lines(batch)))
                records += len(batch.records)
                seen += batch.scanned
                if batch.cursor and time.monotonic() - saved >= SAVE_SECONDS:
                    _sync(file)
                    place = {"cursor": batch.cursor, "seen": seen, "bytes": file.tell()}
                    checkpoint.save(job.state(**place, records=records))
                    saved = time.monotonic()
            _sync(file)
            draft.rename(path)
        checkpoint.clear()
        return int(records)

    def _begin(self, job: BulkJob, checkpoint: Checkpoint, file: BinaryIO) -> Mapping[str, Any]:
        """Return the last saved state, with the draft truncated to it."""
        state = checkpoint.load(State)
        if state is not None and state["task"] != job.words:
            raise CommandError(
                f"{checkpoint.path} belongs to another export: {_describe(state['task'])}. "
                "Repeat that one, or delete it to start over."
            )
        # A file shorter than its checkpoint was written anew by hand, or lost its end.
        if state is None or file.seek(0, os.SEEK_END) < state["bytes"]:
            file.truncate(file.seek(0))
            return NEW
        job.resume(state)
        self.stderr.write(f"Resuming after {state['records']} records.")
        file.truncate(file.seek(state["bytes"]))
        return state

    def _batches(self, job: BulkJob, state: Mapping[str, Any]) -> Iterator[Batch]:
        store, selection, seen = backend().bulk, job.selection, state["seen"]
        progress = Progress(self.stderr, "Exporting", total=store.estimate(selection), done=seen)
        return pages(partial(store.scan, selection), progress, cursor=state["cursor"])


def _lines(batch: Batch) -> Iterator[bytes]:
    """Yield the lines of a page, some megabytes at a time: records of one conversation are long."""
    lines: list[bytes] = []
    size = 0
    for record in batch.records:
        lines.append(to_line(record))
        size += len(lines[-1])
        if size >= CHUNK_BYTES:
            yield b"".join(lines)
            lines, size = [], 0
    yield b"".join(lines)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _describe(words: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {value}" for name, value in words.items() if value)
