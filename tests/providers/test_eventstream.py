"""Frames: what botocore's parser reads is read alike, and what it refuses is a BrokenFrame."""

import struct
from typing import Any
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from providers.eventstream import (
    MAX_HEADERS_BYTES,
    MAX_PAYLOAD_BYTES,
    BrokenFrame,
    Frame,
    read_frames,
)
from tests.bedrock_frames import delta, finish, frame, header, raw_frame

names = st.text(min_size=1, max_size=20).filter(lambda name: len(name.encode()) < 256)
strings = st.dictionaries(names, st.text(max_size=50), max_size=4)
payloads = st.binary(max_size=200)
frames = st.builds(frame, strings, payloads)

# The other types of values: true, false, byte, short, integer, long, bytes, timestamp and UUID.
others = st.one_of(
    st.sampled_from([b"\0", b"\1"]),
    st.binary(min_size=1, max_size=1).map(lambda data: b"\2" + data),
    st.binary(min_size=2, max_size=2).map(lambda data: b"\3" + data),
    st.binary(min_size=4, max_size=4).map(lambda data: b"\4" + data),
    st.binary(min_size=8, max_size=8).map(lambda data: b"\5" + data),
    st.binary(max_size=30).map(lambda data: b"\6" + struct.pack(">H", len(data)) + data),
    st.binary(min_size=8, max_size=8).map(lambda data: b"\10" + data),
    st.binary(min_size=16, max_size=16).map(lambda data: b"\11" + data),
)


def theirs(data: bytes) -> list[Frame] | None:
    """The frames that botocore reads; None if it refuses them."""
    buffer = EventStreamBuffer()
    try:
        buffer.add_data(data)
        return [
            Frame(
                {
                    name: value if isinstance(value, str) else ""
                    for name, value in message.headers.items()
                },
                message.payload,
            )
            for message in buffer
        ]
    except Exception:
        return None


def ours(*chunks: bytes) -> tuple[list[Frame], bool]:
    """The frames that are read, and whether the bytes end with the last of them."""
    found: list[Frame] = []
    try:
        for each in read_frames(chunks):
            found.append(each)  # noqa: PERF402  those before an error count
    except BrokenFrame:
        return found, False
    return found, True


@given(st.lists(frames, max_size=4), st.data())
def test_frames_are_read_as_botocore_reads_them_however_they_are_split(
    written: list[bytes], data: st.DataObject
):
    whole = b"".join(written)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert ours(*chunks) == (theirs(whole), True)


@given(st.lists(st.tuples(names, others), max_size=4, unique_by=lambda each: each[0]))
def test_headers_of_other_types_are_ignored(written: list[tuple[str, bytes]]):
    headers = b"".join(bytes([len(n.encode())]) + n.encode() + value for n, value in written)
    data = raw_frame(headers + header(":event-type", "x"), b"{}")
    expected = theirs(data)
    if any(name == ":event-type" for name, _ in written):
        assert ours(data) == ([], False)
    else:
        assert ours(data) == (expected, True)
        assert expected
        assert expected[0].headers[":event-type"] == "x"


@given(st.lists(frames, min_size=1, max_size=3), st.data())
def test_a_changed_byte_breaks_its_frame_and_nothing_before_it(
    written: list[bytes], data: st.DataObject
):
    whole = bytearray(b"".join(written))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    found, complete = ours(bytes(whole))
    before = [each for each in range(len(written)) if sum(map(len, written[: each + 1])) <= at]
    assert not complete
    assert found == theirs(b"".join(written[: len(before)]))


@given(frames, st.data())
def test_a_frame_that_breaks_off_is_broken(written: bytes, data: st.DataObject):
    length = data.draw(st.integers(1, len(written) - 1))
    assert ours(written[:length]) == ([], False)


@given(st.binary(max_size=80))
def test_any_bytes_are_frames_or_a_broken_frame(data: bytes):
    assert ours(data) == ([], data == b"")


@given(st.binary(max_size=60), payloads)
def test_any_headers_are_read_as_botocore_reads_them(headers: bytes, payload: bytes):
    data = raw_frame(headers, payload)
    expected = theirs(data)
    if expected is None:
        assert ours(data) == ([], False)
    elif ours(data) != (expected, True):
        # botocore takes a value that is shorter than its type or its length.
        assert ours(data) == ([], False)


def prelude(length: int, headers_length: int) -> bytes:
    sizes = struct.pack(">II", length, headers_length)
    return sizes + struct.pack(">I", crc32(sizes))


@pytest.mark.parametrize(
    ("length", "headers_length"),
    [
        (0, 0),
        (15, 0),
        (16, 1),
        (2**32 - 1, 0),
        (2**32 - 1, 2**32 - 1),
        (16 + MAX_PAYLOAD_BYTES + 1, 0),
        (16 + MAX_HEADERS_BYTES + 1, MAX_HEADERS_BYTES + 1),
    ],
)
def test_an_impossible_length_is_refused_before_the_rest_arrives(length: int, headers_length: int):
    def chunks() -> Any:
        yield prelude(length, headers_length)
        raise AssertionError("read on")

    with pytest.raises(BrokenFrame, match="length"):
        list(read_frames(chunks()))


def test_a_frame_is_read_when_it_is_complete():
    def chunks() -> Any:
        yield delta(text="Hel")
        raise AssertionError("read on")

    assert next(read_frames(chunks())).headers[":event-type"] == "contentBlockDelta"


def test_the_frames_of_the_stand_in_are_those_that_botocore_reads():
    data = b"".join([delta(text="Hel"), *finish()])
    assert [each.headers[":event-type"] for each in theirs(data) or []] == [
        "contentBlockDelta",
        "messageStop",
        "metadata",
    ]
