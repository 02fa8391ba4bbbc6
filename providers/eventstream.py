"""Read the frames of `application/vnd.amazon.eventstream`, in which AWS streams its answers.

A frame is a prelude (the frame's length, the headers' length, a CRC-32 of these two), the headers,
the payload, and a CRC-32 of everything before it. Numbers are big-endian.

Source: "Amazon Event Stream Specification" in Smithy's documentation.
"""

import functools
import io
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple
from zlib import crc32

CONTENT_TYPE = "application/vnd.amazon.eventstream"
# The limits that botocore has, too.
MAX_HEADERS_BYTES = 128 * 1024
MAX_PAYLOAD_BYTES = 24 * 1024 * 1024

_PRELUDE = struct.Struct(">III")
_CRC = struct.Struct(">I")
_BYTES, _STRING = 6, 7
# The sizes of other values: true, false, byte, short, integer, long, timestamp and UUID.
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


class BrokenFrame(ValueError):
    """The bytes are not whole frames."""


class Frame(NamedTuple):
    """A frame. A header whose value is not a string is empty."""

    headers: Mapping[str, str]
    payload: bytes


def read_frames(chunks: Iterable[bytes]) -> Iterator[Frame]:
    """Yield each frame when it is complete. Raises BrokenFrame, and what `chunks` raises."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= (length := _frame_length(buffer)):
            yield _parsed(bytes(buffer[:length]))
            del buffer[:length]
    if buffer:
        raise BrokenFrame("truncated")


def _frame_length(buffer: bytearray) -> int:
    """Return the length of the first frame; while that is unknown, the length of a prelude."""
    if len(buffer) < _PRELUDE.size:
        return _PRELUDE.size
    length, headers_length, checksum = _PRELUDE.unpack_from(buffer)
    if crc32(buffer[: _PRELUDE.size - _CRC.size]) != checksum:
        raise BrokenFrame("prelude")
    payload_length = length - headers_length - _PRELUDE.size - _CRC.size
    if headers_length > MAX_HEADERS_BYTES or not 0 <= payload_length <= MAX_PAYLOAD_BYTES:
        raise BrokenFrame("length")
    return int(length)


def _parsed(frame: bytes) -> Frame:
    content, (checksum,) = frame[: -_CRC.size], _CRC.unpack(frame[-_CRC.size :])
    if crc32(content) != checksum:
        raise BrokenFrame("checksum")
    _, headers_length, _ = _PRELUDE.unpack_from(frame)
    end = _PRELUDE.size + headers_length
    return Frame(_headers(content[_PRELUDE.size : end]), content[end:])


@functools.lru_cache(maxsize=64)  # a stream repeats a few
def _headers(data: bytes) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    unread = io.BytesIO(data)
    while unread.tell() < len(data):
        name = _text(_take(unread, _number(unread, 1)))
        kind = _number(unread, 1)
        if name in headers or kind not in (_BYTES, _STRING, *_SIZES):
            raise BrokenFrame("headers")
        value = _take(unread, _SIZES[kind] if kind in _SIZES else _number(unread, 2))
        headers[name] = _text(value) if kind == _STRING else ""
    return headers


def _number(unread: io.BytesIO, size: int) -> int:
    return int.from_bytes(_take(unread, size), "big")


def _take(unread: io.BytesIO, size: int) -> bytes:
    data = unread.read(size)
    if len(data) < size:
        raise BrokenFrame("headers")
    return data


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise BrokenFrame("headers") from exc
