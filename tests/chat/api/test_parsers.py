"""Request bodies: whatever is sent, the answer is never a 500."""

import gzip
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat.models import Interaction
from tests.client import ApiClient, field_errors, problem, status_and_code
from tests.factories import ALICE, all_records

GOOD = b'{"userId": "alice", "prompt": "hi"}'

MALFORMED = {
    "nothing": b"",
    "white space": b"  \n",
    "words": b"hello",
    "half an object": b'{"userId": "alice", "prompt":',
    "two objects": GOOD + GOOD,
    "an object and more": GOOD + b";",
    "a comma too many": b'{"userId": "alice", "prompt": "hi",}',
    "single quotes": b"{'userId': 'alice', 'prompt': 'hi'}",
    "a comment": b'{"userId": "alice", /* who */ "prompt": "hi"}',
    "a form": b"userId=alice&prompt=hi",
    "XML": b"<chat><prompt>hi</prompt></chat>",
    "binary": bytes(range(256)),
    "compressed": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
    "NULs": b"\0" * 64,
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "Latin-1": '{"userId": "alice", "prompt": "olá"}'.encode("latin-1"),
    "overlong UTF-8": b'{"userId": "alice", "prompt": "\xc0\xaf"}',
    "NaN": b'{"userId": "alice", "prompt": "hi", "temperature": NaN}',
    "Infinity": b'{"userId": "alice", "prompt": "hi", "temperature": Infinity}',
    "a control character": b'{"userId": "alice", "prompt": "a\nb"}',
    "an unknown escape": rb'{"userId": "alice", "prompt": "\x41"}',
    "a leading zero": b'{"userId": "alice", "prompt": "hi", "max_tokens": 01}',
    "deep arrays": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep and never closed": b"[" * 500_000,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_body_that_is_not_json_is_refused(api: ApiClient, body: bytes) -> None:
    response = api.post("/v1/chat", body)
    assert status_and_code(response) == (400, "malformed_json")
    assert problem(response)["errors"] == []
    assert all_records() == []


@pytest.mark.parametrize("body", [None, [], [{"userId": ALICE}], "text", "", 7, 0.5, True])
def test_json_that_is_not_an_object_is_refused(api: ApiClient, body: Any) -> None:
    [(field, _)] = field_errors(api.post("/v1/chat", body))
    assert field == ""


def test_a_non_object_body_names_no_field(api: ApiClient) -> None:
    assert problem(api.post("/v1/chat", [1]))["errors"] == [
        {
            "field": "",
            "code": "invalid",
            "detail": "Invalid data. Expected a dictionary, but got list.",
        }
    ]


def test_an_escaped_surrogate_pair_is_one_character(api: ApiClient) -> None:
    response = api.post("/v1/chat", rb'{"userId": "alice", "prompt": "\ud83d\ude00"}')
    assert response.json()["prompt"] == "😀"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (rb"a\ud83d", "a\ufffd"),
        (rb"a\udc00b", "a\ufffdb"),
        (rb"\uDE00\uD83D", "\ufffd\ufffd"),
        (rb"\ud83d\ud83d\ude00", "\ufffd😀"),
        (rb"\ud83d\n", "\ufffd\n"),
        (rb"\\\ud83d", "\\\ufffd"),
        (rb"\\ud83d \ud83d", "\\ud83d \ufffd"),
        (rb"\\ud83d\ude00", "\\ud83d\ufffd"),
        (b"\xed\xa0\xbd \xf0\x9f\x98\x80", "\ufffd 😀"),
    ],
)
def test_half_a_surrogate_pair_is_read_as_a_replacement_character(
    api: ApiClient, written: bytes, read: str
) -> None:
    response = api.post("/v1/chat", b'{"userId": "alice", "prompt": "x%b"}' % written)
    assert response.json()["prompt"] == f"x{read}"
    assert all_records()[0].prompt == f"x{read}"


def test_half_a_surrogate_pair_does_not_make_json_of_other_text(api: ApiClient) -> None:
    response = api.post("/v1/chat", rb'{"userId": "alice", "prompt": "\ud83d" "hi"}')
    assert status_and_code(response) == (400, "malformed_json")


def test_the_last_of_duplicate_fields_wins(api: ApiClient) -> None:
    body = b'{"prompt": "first", "userId": "alice", "prompt": "second", "prompt": "last"}'
    assert api.post("/v1/chat", body).json()["prompt"] == "last"
    body = b'{"userId": "alice", "prompt": "good", "prompt": 7}'
    assert field_errors(api.post("/v1/chat", body)) == [("prompt", "invalid")]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (b"1e308", "max_value"),
        (b"-1e308", "min_value"),
        (b"9" * 15, "max_value"),
        (b"9" * 400, "max_value"),
        (b"-" + b"9" * 30, "min_value"),
    ],
)
@pytest.mark.parametrize("field", ["temperature", "top_p"])
def test_huge_numbers_are_out_of_range(
    api: ApiClient, field: str, number: bytes, code: str
) -> None:
    response = api.post(
        "/v1/chat", b'{"userId":"a","prompt":"b","%b":%b}' % (field.encode(), number)
    )
    if len(number) == 400:  # beyond a float's range
        assert status_and_code(response) == (400, "malformed_json")
    else:
        assert field_errors(response) == [(field, code)]


def test_numbers_beyond_float_range_are_refused(api: ApiClient) -> None:
    for number in (b"9" * 18, b"9" * 30, b"1e400", b"9" * 5000, b"-" + b"9" * 18):
        response = api.post("/v1/chat", b'{"userId":"a","prompt":"b","max_tokens":%b}' % number)
        assert response.status_code == 400
        assert problem(response)["code"] in ("validation_error", "malformed_json")
    assert all_records() == []


def test_a_tiny_number_is_accepted(api: ApiClient) -> None:
    body = b'{"userId": "alice", "prompt": "hi", "temperature": 1e-400}'
    assert api.post("/v1/chat", body).status_code == 200


def test_deep_nesting_in_an_unknown_field_is_ignored(api: ApiClient) -> None:
    deep = b'{"userId": "alice", "prompt": "hi", "unknown": %b}' % (b"[" * 900 + b"]" * 900)
    assert api.post("/v1/chat", deep).status_code == 200
    deep = b'{"userId": "alice", "prompt": %b}' % (b"[" * 900 + b"]" * 900)
    assert field_errors(api.post("/v1/chat", deep)) == [("prompt", "invalid")]


def test_the_first_ten_invalid_members_of_an_object_are_reported(api: ApiClient) -> None:
    errors = problem(api.chat(metadata=dict.fromkeys(map(str, range(16)), 7)))["errors"]
    assert [error["field"] for error in errors] == [f"metadata.{n}" for n in range(10)]


def test_field_names_are_quoted_unchanged(api: ApiClient) -> None:
    for name in ("a.b", "<b>", "non_field_errors", "é🦆", '"', "0"):
        [(field, _)] = field_errors(api.chat(metadata={name: 7}))
        assert field in (f"metadata.{name}", "metadata")


# --- Content types --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/json;",
    ],
)
def test_json_content_types_are_accepted(api: ApiClient, content_type: str) -> None:
    assert api.post("/v1/chat", GOOD, content_type=content_type).status_code == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "text/json",
        "application/jsonp",
        "application/xml",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "nonsense",
        "/",
        "application/json, text/plain",
        "application/*",
        "*/*",
        "é/ü",
        "a" * 5000,
    ],
)
def test_other_content_types_are_refused(api: ApiClient, content_type: str) -> None:
    response = api.post("/v1/chat", GOOD, content_type=content_type)
    assert status_and_code(response) == (415, "unsupported_media_type")
    assert all_records() == []


def test_a_form_is_refused(api: ApiClient) -> None:
    response = api.http.post("/v1/chat", {"userId": ALICE, "prompt": "hi"})
    assert status_and_code(response) == (415, "unsupported_media_type")


def test_latin_1_is_malformed_whatever_the_charset_says(api: ApiClient) -> None:
    body = '{"userId": "alice", "prompt": "olá"}'.encode("latin-1")
    response = api.post("/v1/chat", body, content_type="application/json; charset=latin-1")
    assert status_and_code(response) == (400, "malformed_json")


# --- Size -----------------------------------------------------------------------------------------


def padded(size: int) -> bytes:
    return GOOD + b" " * (size - len(GOOD))


def test_a_body_of_the_maximum_size_is_accepted_and_a_larger_one_refused(api: ApiClient) -> None:
    assert api.post("/v1/chat", padded(10 * 1024 * 1024)).status_code == 200
    response = api.post("/v1/chat", padded(10 * 1024 * 1024 + 1))
    assert status_and_code(response) == (413, "payload_too_large")
    assert problem(response)["detail"] == "The body must not exceed 10485760 bytes."
    assert len(all_records()) == 1


@pytest.mark.parametrize("size", [15_000_000, 30_000_000])
def test_a_much_larger_body_is_refused(api: ApiClient, size: int) -> None:
    assert status_and_code(api.post("/v1/chat", b"x" * size)) == (413, "payload_too_large")


def test_the_maximum_size_is_configurable(
    api: ApiClient, change_settings: Callable[..., None]
) -> None:
    change_settings(MAX_BODY_BYTES=5_000_000)
    assert api.post("/v1/chat", padded(5_000_000)).status_code == 200
    assert status_and_code(api.post("/v1/chat", padded(5_000_001))) == (413, "payload_too_large")


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", " ", "٣"])
def test_an_invalid_content_length_is_a_client_error(api: ApiClient, length: str) -> None:
    response = api.http.generic("POST", "/v1/chat", GOOD, "application/json", CONTENT_LENGTH=length)
    assert 400 <= response.status_code < 500
    assert problem(response)


# --- Compressed -----------------------------------------------------------------------------------


def compressed(api: ApiClient, body: bytes, encoding: str = "gzip") -> Any:
    return api.post("/v1/chat", body, headers={"Content-Encoding": encoding})


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", " gzip "])
def test_a_compressed_body_is_read(api: ApiClient, encoding: str) -> None:
    response = compressed(api, gzip.compress(GOOD), encoding)
    assert (response.status_code, response.json()["prompt"]) == (200, "hi")


def test_a_body_compressed_in_pieces_is_read(api: ApiClient) -> None:
    assert compressed(api, gzip.compress(GOOD[:9]) + gzip.compress(GOOD[9:])).status_code == 200


@pytest.mark.parametrize("encoding", ["", "identity"])
def test_a_body_may_be_declared_uncompressed(api: ApiClient, encoding: str) -> None:
    assert compressed(api, GOOD, encoding).status_code == 200


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "nonsense", "é"])
def test_other_encodings_are_refused(api: ApiClient, encoding: str) -> None:
    response = compressed(api, gzip.compress(GOOD), encoding)
    assert status_and_code(response) == (415, "unsupported_media_type")
    assert "gzip" in problem(response)["detail"]
    assert all_records() == []


@pytest.mark.parametrize(
    "body",
    [GOOD, b"x", gzip.compress(GOOD)[:-9], gzip.compress(GOOD) + b"x", b"\x1f\x8b" + b"\0" * 40],
    ids=["plain", "one byte", "cut", "more", "garbled"],
)
def test_a_body_that_is_not_gzip_is_refused(api: ApiClient, body: bytes) -> None:
    assert status_and_code(compressed(api, body)) == (400, "validation_error")


def test_compressed_text_that_is_not_json_is_malformed(api: ApiClient) -> None:
    response = compressed(api, gzip.compress(b"hello"))
    assert status_and_code(response) == (400, "malformed_json")


def test_the_maximum_size_holds_for_a_decompressed_body(api: ApiClient) -> None:
    maximum = 10 * 1024 * 1024
    assert compressed(api, gzip.compress(padded(maximum))).status_code == 200
    response = compressed(api, gzip.compress(padded(maximum + 1)))
    assert status_and_code(response) == (413, "payload_too_large")


def test_little_of_a_decompression_bomb_is_read(api: ApiClient) -> None:
    bomb = gzip.compress(b" " * 200_000_000, 1)
    tracemalloc.start()
    try:
        response = compressed(api, bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert status_and_code(response) == (413, "payload_too_large")
    assert peak < 60_000_000


# --- Anything at all ------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=6),
    max_leaves=12,
)
FIELDS = (
    "userId", "prompt", "system", "model", "temperature", "top_p", "max_tokens", "stop", "metadata"
)  # fmt: skip
# Some valid fields, so that the body passes the first checks.
requests = st.fixed_dictionaries(
    {"userId": st.just(ALICE) | anything, "prompt": st.just("hi") | st.text() | anything},
    optional={
        "system": st.text() | anything,
        "temperature": st.floats(0, 2) | anything,
        "top_p": st.floats(0, 1) | anything,
        "max_tokens": st.integers(1, 1000) | anything,
        "stop": st.lists(st.text(), max_size=5) | anything,
        "metadata": st.dictionaries(st.text(), st.text(), max_size=3) | anything,
        "model": st.sampled_from(["mock-1", "mock:mock-1"]) | anything,
        "unknown": anything,
    },
)
fuzzed = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@fuzzed
@given(body=requests | anything)
def test_any_json_is_answered_or_refused_with_a_problem(
    api: ApiClient, change_settings: Callable[..., None], body: Any
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=0)
    before = Interaction.objects.count()
    response = api.post("/v1/chat", body)
    assert response.status_code in (200, 400, 413)
    if response.status_code == 200:
        assert response.json()["prompt"] == body["prompt"]
        assert response.json()["userId"] == body["userId"]
    else:
        assert problem(response)["code"] in ("malformed_json", "validation_error")
        assert {error["field"].split(".")[0] for error in problem(response)["errors"]} <= {
            "",
            *FIELDS,
        }
    assert Interaction.objects.count() - before == (response.status_code == 200)


@fuzzed
@given(body=st.binary(max_size=300), content_type=st.sampled_from(["application/json", "text/x"]))
def test_any_bytes_are_answered_or_refused_with_a_problem(
    api: ApiClient, body: bytes, content_type: str
) -> None:
    response = api.post("/v1/chat", body, content_type=content_type)
    assert status_and_code(response) in (
        (400, "malformed_json"),
        (400, "validation_error"),
        (415, "unsupported_media_type"),
    )


@fuzzed
@given(cut=st.integers(0, 200), insert=st.binary(max_size=8))
def test_a_damaged_request_is_answered_or_refused_with_a_problem(
    api: ApiClient, change_settings: Callable[..., None], cut: int, insert: bytes
) -> None:
    change_settings(RATE_LIMIT_PER_MINUTE=0)
    whole = json.dumps({"userId": ALICE, "prompt": "olá 🦆", "stop": ["a"], "top_p": 0.5}).encode()
    response = api.post("/v1/chat", whole[:cut] + insert + whole[cut:])
    assert response.status_code == 200 or status_and_code(response)[0] == 400
