"""Export records into a file."""

import fcntl
import gzip
import os
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from django.core.management.base import CommandError

from chat.management.bulk import PAGE, BulkCommand, BulkJob, add_selection
from chat.management.checkpoint import Checkpoint
from chat.management.progress import Progress
from chat.storage import bulk_store
from chat.storage.bulk import Batch
from chat.storage.jsonl import to_line

SAVE_SECONDS = 1.0
NEW: dict[str, Any] = {"cursor": None, "seen": 0, "bytes": 0, "records": 0}


class Command(BulkCommand):
    help = (
        "Export the records as JSON Lines, one record a line, with nothing left out; from SQLite "
        "in the order of their creation, from DynamoDB in none. A file whose name ends in .gz is "
        "compressed. Until it is complete it is called FILE.part, and FILE.part.state has where "
        "it stands: an export that was interrupted, by whatever, goes on when the same command is "
        "given again. What is created while it lasts is left out."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_selection(parser)
        parser.add_argument(
            "--output",
            default="-",
            metavar="FILE",
            help="default: -, which is standard output, uncompressed; then nothing is resumed, and "
            "the summary is on standard error",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        began, task = time.monotonic(), BulkJob(options)
        if options["output"] == "-":
            self.interrupted = "Interrupted. What was written is not complete."
            self.stderr.write(f"{self._to_stdout(task)} records exported.")
            return
        path = Path(options["output"])
        try:
            records = self._to_file(task, path)
            size = path.stat().st_size
        except OSError as exc:
            raise CommandError(f"{path} cannot be written: {exc.strerror}.") from exc
        seconds = round(time.monotonic() - began, 1)
        text = f"{records} records exported into {path}, {size} bytes, in {seconds} s."
        report = {"file": str(path), "records": records, "bytes": size, "seconds": seconds}
        self.finish(options, text, report)

    def _to_stdout(self, task: BulkJob) -> int:
        records = 0
        for batch in self._batches(task, NEW):
            self.stdout.write(_lines(batch).decode(), ending="")
            records += len(batch.records)
        return records

    def _to_file(self, task: BulkJob, path: Path) -> int:
        """Write into the draft, page by page, and give it its name when it is complete."""
        if path.exists():
            raise CommandError(f"{path} is there already; delete it, or name another file.")
        # Each page is compressed for itself: such a file is whole wherever a page ends.
        compress = partial(gzip.compress, compresslevel=6) if path.suffix == ".gz" else bytes
        draft = path.with_name(f"{path.name}.part")
        checkpoint = Checkpoint(path.with_name(f"{path.name}.part.state"))
        with _alone(draft) as file:
            state = self._begin(task, checkpoint, file)
            records, seen, saved = state["records"], state["seen"], time.monotonic()
            for batch in self._batches(task, state):
                if batch.records or not file.tell():
                    file.write(compress(_lines(batch)))
                records += len(batch.records)
                seen += batch.seen
                if batch.cursor and time.monotonic() - saved >= SAVE_SECONDS:
                    _sync(file)
                    place = {"cursor": batch.cursor, "seen": seen, "bytes": file.tell()}
                    checkpoint.save(task.state(**place, records=records))
                    saved = time.monotonic()
            _sync(file)
            draft.rename(path)
        checkpoint.clear()
        return int(records)

    def _begin(self, task: BulkJob, checkpoint: Checkpoint, file: BinaryIO) -> dict[str, Any]:
        """Where to begin: where the draft was saved last, which it is cut back to."""
        state = checkpoint.load()
        if state is not None and state["task"] != task.words:
            raise CommandError(
                f"{checkpoint.path} is of an export with other options: {_told(state['task'])}. "
                "Give the same again, or delete it to begin anew."
            )
        if state is None or file.seek(0, os.SEEK_END) < state["bytes"]:
            state = NEW
        else:
            task.resume(state)
            self.stderr.write(f"Going on after {state['records']} records.")
        file.truncate(file.seek(state["bytes"]))
        return state

    def _batches(self, task: BulkJob, state: dict[str, Any]) -> Iterator[Batch]:
        store, chosen, cursor = bulk_store(), task.selection, state["cursor"]
        total = store.expected(chosen)
        with Progress(
            self.stderr, "Exporting", total=total, unit="records", done=state["seen"]
        ) as progress:
            while True:
                batch = store.scan(chosen, limit=PAGE, cursor=cursor)
                yield batch
                progress.update(batch.seen)
                cursor = batch.cursor
                if cursor is None:
                    return


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """The file, to be read and written by nobody else: neither another export nor another user."""
    with open(path, "ab+", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(f"Another export is writing {path}.") from None
        yield file


def _lines(batch: Batch) -> bytes:
    return b"".join(map(to_line, batch.records))


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _told(words: dict[str, str | None]) -> str:
    return " ".join(f"--{name} {value}" for name, value in words.items() if value) or "none"
