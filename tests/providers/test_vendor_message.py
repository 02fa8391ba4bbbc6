"""The sentence of a vendor's error body, whatever its shape, and what is masked in it."""

from typing import Any

import pytest

from providers.vendor_message import MAX_CHARACTERS, vendor_message

RAW = '{"error":{"message":"messages.3: no tool_result"}}'


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"error": {"message": "Too hot.", "code": 400}}, "Too hot."),
        ([{"error": {"message": "Too hot.", "status": "INVALID_ARGUMENT"}}], "Too hot."),
        ({"error": "Too hot."}, "Too hot."),
        ({"object": "error", "message": "Too hot.", "type": "BadRequestError"}, "Too hot."),
        ({"detail": "Too hot."}, "Too hot."),
        (
            {"detail": [{"loc": ["body", "messages", 3, "role"], "msg": "Too hot.", "input": "x"}]},
            "messages.3.role: Too hot.",
        ),
        (
            {"object": "error", "message": {"detail": [{"loc": ["user"], "msg": "No."}] * 2}},
            "user: No.; user: No.",
        ),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": RAW}}}, RAW[21:-3]),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": "No."}}}, "No."),
        ({"error": {"message": RAW}}, RAW[21:-3]),
        ({"error": {"message": "{curly} braces"}}, "{curly} braces"),
        ({"errors": [{"message": "No."}]}, "No."),
        ("Too hot.", "Too hot."),
        ({"error": {"code": 400}, "message": {"content": "an answer"}}, ""),
        ({"error": {"message": ["a", {"b": "c"}, None, 7]}}, "a"),
        ({"error": True}, ""),
        ({}, ""),
        (None, ""),
        (7, ""),
    ],
)
def test_the_sentence_is_found_in_any_known_shape(body: Any, sentence: str) -> None:
    assert vendor_message(body) == sentence


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Incorrect API key provided: sk-proj-abc***wxyz.", "Incorrect API key provided: [KEY]."),
        ("Key AIzaSyD-1234567 is blocked", "Key [KEY] is blocked"),
        ("Bearer abcdef1234567 expired", "Bearer [KEY] expired"),
        ('token="abc12345xyz"', 'token="[KEY]"'),
        ("GET https://vendor.example/?key=abc12345", "GET https://vendor.example/?key=[KEY]"),
        ("key 0123456789abcdef0123456789abcdef", "key [KEY]"),
        ("sess-AbCd1234Ef, GOCSPX-abc-DEF_12 refused", "[KEY], [KEY] refused"),
        ("xoxb-123456-abcDEF or glpat-abcdef123", "[KEY] or [KEY]"),
        ("hf_abcdefghIJKLmnop and hf_***wxyz failed", "[KEY] and [KEY] failed"),
        ("Our own: correct horse battery", "Our own: [KEY]"),
    ],
)
def test_text_that_looks_like_a_key_is_masked(text: str, shown: str) -> None:
    secrets = {"correct horse battery", "correct horse", "Our"}
    assert vendor_message({"error": {"message": text}}, secrets=secrets) == shown


@pytest.mark.parametrize(
    "text",
    [
        "messages[3]: tool_call_id call_abcdefghijklmnopqrstuvw1 has no answer",
        "claude-sonnet-4-5-20250929 and gpt-4o-mini-2024-07-18 are not in asia-northeast1",
        "The token count (250000) exceeds the token limit.",
        "Unexpected token '<' in risk-averse, desk-bound task_manager_v2",
        "Unknown field sess_timeout_seconds=30 or hf_hub_download_timeout",
        "Request 0190a5c2-7d1e-7c3e-9d57-3f1a2b4c5d6e: Olá! 🦆",
    ],
)
def test_other_words_are_left_alone(text: str) -> None:
    assert vendor_message({"error": {"message": text}}) == text


def test_a_message_is_one_line_without_control_characters() -> None:
    message = " a\x1b[31m\r\n\nb\u202ec\ud800d\0 "
    assert vendor_message({"error": {"message": message}}) == "a [31m b c d"


def test_a_long_message_is_cut() -> None:
    cut = vendor_message({"error": {"message": "word " * 1000}})
    assert (len(cut), cut[-1]) == (MAX_CHARACTERS, "…")
    assert len(vendor_message({"error": {"message": "a" * MAX_CHARACTERS}})) == MAX_CHARACTERS


@pytest.mark.parametrize("piece", ["key=", "sk_", "a1", "token ", "[", '{"error":"', "\\"])
def test_a_long_hostile_message_is_read_to_its_end(piece: str) -> None:
    assert len(vendor_message({"error": {"message": piece * 100_000}})) <= MAX_CHARACTERS


def test_a_deep_body_has_no_sentence() -> None:
    body: Any = "No."
    for _ in range(500):
        body = {"error": body}
    assert vendor_message(body) == ""
