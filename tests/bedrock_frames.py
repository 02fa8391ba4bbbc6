"""Frames of `application/vnd.amazon.eventstream`, as AWS streams them."""

import json
import struct
from collections.abc import Mapping
from typing import Any
from zlib import crc32

EVENT_STREAM = {"content-type": "application/vnd.amazon.eventstream"}


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Return a frame with headers of the type string."""
    return raw_frame(b"".join(header(*each) for each in headers.items()), payload)


def header(name: str, value: str) -> bytes:
    data = value.encode()
    return bytes([len(name.encode())]) + name.encode() + b"\7" + struct.pack(">H", len(data)) + data


def raw_frame(headers: bytes, payload: bytes) -> bytes:
    sizes = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    content = sizes + struct.pack(">I", crc32(sizes)) + headers + payload
    return content + struct.pack(">I", crc32(content))


def event(kind: str, **fields: Any) -> bytes:
    """Return an event of ConverseStream, padded as AWS pads it."""
    headers = {
        ":event-type": kind,
        ":content-type": "application/json",
        ":message-type": "event",
    }
    return frame(headers, json.dumps({**fields, "p": "abcdefgh"}).encode())


def exception(kind: str, message: str = "no", **fields: Any) -> bytes:
    """Return an exception inside a stream."""
    headers = {
        ":exception-type": kind,
        ":content-type": "application/json",
        ":message-type": "exception",
    }
    return frame(headers, json.dumps({"message": message, **fields}).encode())


def delta(number: int = 0, **piece: Any) -> bytes:
    return event("contentBlockDelta", contentBlockIndex=number, delta=piece)


def start(number: int, **block: Any) -> bytes:
    return event("contentBlockStart", contentBlockIndex=number, start=block)


def stop(number: int) -> bytes:
    return event("contentBlockStop", contentBlockIndex=number)


def finish(reason: str = "end_turn", **usage: int) -> list[bytes]:
    """Return the end of a stream."""
    counted = {"inputTokens": 9, "outputTokens": 5, "totalTokens": 14, **usage}
    return [
        event("messageStop", stopReason=reason),
        event("metadata", usage=counted, metrics={"latencyMs": 7}),
    ]


def text_stream(*texts: str, reason: str = "end_turn", **usage: int) -> list[bytes]:
    """Return a whole stream of text."""
    begin = event("messageStart", role="assistant")
    return [begin, *(delta(0, text=text) for text in texts), stop(0), *finish(reason, **usage)]
