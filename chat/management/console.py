"""The base of our management commands, and how they print."""

import errno
import io
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from chat.errors import StorageFailed
from chat.storage.errors import StorageUnavailable

# Control characters except tabs and line ends, and characters that change the direction of text.
# A model's text could otherwise control the operator's terminal.
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
INTERRUPTED = 130  # 128 plus the number of SIGINT, as in shells
EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."
RESUMABLE = "Interrupted. Run the same command again to resume."
# Of a pipe, a disk, a terminal, or a closed file.
OUTPUT_ERRORS = {errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF}


class ConsoleCommand(BaseCommand):
    """A command that reports interrupts, failed output and unavailable storage in one sentence."""

    interrupted = "Interrupted."
    # What to say instead of the reason if the output cannot be written.
    output_lost = ""

    def create_parser(self, prog_name: str, subcommand: str, **options: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=EXIT_CODES, **options)

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            output = super().execute(*args, **options)
            self.stdout.flush()
        except KeyboardInterrupt:
            self.stderr.write(self.interrupted)
            sys.exit(INTERRUPTED)
        except OSError as exc:
            if exc.filename is None:
                _discard_output()
            raise CommandError(self.output_lost or _describe_os_error(exc)) from exc
        except ImproperlyConfigured as exc:
            raise CommandError(str(exc)) from exc
        except StorageUnavailable as exc:
            raise CommandError(describe_storage_failure(exc)) from exc
        return output

    def confirm(self, question: str) -> None:
        """Ask on the terminal. Raises CommandError without one, or for any answer but yes."""
        if not sys.stdin.isatty():
            raise CommandError("Without a terminal, this needs --yes (or try --dry-run).")
        # Not to standard output, which may be a file or a pipe.
        self.stderr.write(f"{question} Type yes to continue: ", ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip().lower() != "yes":
            raise CommandError("Cancelled. Nothing was changed.")

    def write_report(self, options: Mapping[str, Any], text: str, data: Any, **layout: Any) -> None:
        """Write the outcome in the format chosen with --format: the text, or the data as JSON."""
        self.stdout.write(json.dumps(data, **layout) if options["format"] == "json" else text)
        self.stdout.flush()


def describe_storage_failure(exc: BaseException | None) -> str:
    """Return what happened, what to look for, and the database's own words."""
    cause = exc and exc.__cause__
    # Not by STORAGE alone: pull_interactions uses both.
    on_sqlite = isinstance(cause, DatabaseError) if cause else settings.STORAGE == "sqlite"
    tables = "migrate" if on_sqlite else "create_tables"
    reason = f" ({cause})" if cause else ""
    return f"{StorageFailed.title}: is it up, and are its tables there ({tables})?{reason}"


def _describe_os_error(exc: OSError) -> str:
    reason = f"{exc.strerror or exc}."
    if exc.filename:
        return f"{exc.filename} cannot be used: {reason}"
    return f"The output cannot be written: {reason}" if exc.errno in OUTPUT_ERRORS else reason


def _discard_output() -> None:
    """Open standard output anew: Python flushes it once more at exit, and would fail."""
    with suppress(io.UnsupportedOperation):  # on Lambda it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows under column names, numbers aligned right; None is a dash."""
    heads = [column.replace("_", " ") for column in columns]
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    aligned = [_align(column) for column in zip(heads, *cells, strict=True)]
    return "\n".join("  ".join(line).rstrip() for line in zip(*aligned, strict=True))


def printable(text: str) -> str:
    """Remove terminal escapes and direction overrides from a model's text."""
    return UNSAFE.sub("", text)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return printable(", ".join(value)) or "-"
    return "-" if value is None else printable(str(value))


def _align(column: Sequence[str]) -> list[str]:
    """Return a head and its cells in one width."""
    width = max(map(len, column))
    is_numeric = all(re.fullmatch(r"[\d.]+|-", cell) for cell in column[1:])
    return [cell.rjust(width) if is_numeric else cell.ljust(width) for cell in column]
