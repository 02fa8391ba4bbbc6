"""Lines of files that people give to a command."""

import codecs
import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

# The first bytes of a gzip file (RFC 1952).
GZIP = b"\x1f\x8b"


class BadLine(Exception):
    """A line that cannot be used; the message has its number and the reason."""


def parse_input(text: str) -> Path:
    """Return the path of a file, or of standard input for `-`."""
    return Path("/dev/stdin" if text == "-" else text)


def numbered_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file, compressed or not, from number 1. Raises BadLine at its damage."""
    number = 0
    try:
        for number, line in enumerate(_decompressed(file), 1):
            yield number, line.removeprefix(codecs.BOM_UTF8)
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise BadLine(f"The file is truncated or damaged after line {number}.") from exc


def _decompressed(file: BinaryIO) -> Iterable[bytes]:
    # By its first bytes, because standard input has no name.
    start = file.peek(len(GZIP))  # type: ignore[attr-defined]  # it is a BufferedReader
    return gzip.open(file) if start.startswith(GZIP) else file
