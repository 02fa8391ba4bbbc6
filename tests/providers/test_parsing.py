from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers import parsing


@pytest.mark.parametrize(
    ("value", "path", "found"),
    [
        ({"a": [{"b": 1}]}, ("a", 0, "b"), 1),
        ({"a": [{"b": 1}]}, ("a", 1, "b"), None),
        ({"a": None}, ("a", "b"), None),
        ("text", (0,), None),
        ([], ("a",), None),
        (7, (), 7),
    ],
)
def test_get_path_returns_none_for_a_missing_step(value: Any, path: Any, found: Any):
    assert parsing.get_path(value, *path) == found


@given(st.text(st.characters()))
def test_clean_text_replaces_only_lone_surrogates_and_nuls(text: str):
    clean = parsing.clean_text(text)
    assert clean.encode("utf-8").decode("utf-8") == clean
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert clean == text.replace("\0", "\ufffd")


def test_surrogate_pairs_are_joined():
    assert parsing.clean_text("\ud83e\udd86 \udd86\ud83e") == "🦆 \ufffd\ufffd"


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("messages[0].content", "messages[0].content"),
        ("x" * 64, "x" * 64),
        (429, "429"),
        (-1, "-1"),
        ("x" * 65, ""),
        ("two words", ""),
        ("line\n", ""),
        ("é", ""),
        ("", ""),
        (True, ""),
        (2**53, ""),
        (1.5, ""),
        (None, ""),
        (["x"], ""),
    ],
)
def test_prose_is_not_an_identifier(value: Any, label: str):
    assert parsing.identifier(value) == label


def test_a_log_reason_has_no_duplicates():
    assert parsing.log_reason("HTTP", 429, "429", None, "a b", "slow_down") == "HTTP 429 slow_down"


@given(st.decimals() | st.integers() | st.floats() | st.text() | st.booleans())
def test_usd_returns_storable_amounts(value: Any):
    amount = parsing.usd(value)
    assert amount is None or (
        0 <= amount <= parsing.MAX_COST_USD and amount == round(amount, 12) and amount.is_finite()
    )


def test_usd_keeps_the_amount():
    assert parsing.usd(Decimal("0.000000000001")) == Decimal("0.000000000001")
    assert str(parsing.usd(Decimal("-0"))) == "0"


@given(st.text(st.characters(codec="latin-1")) | st.integers() | st.floats() | st.none())
def test_retry_after_is_within_a_day_or_none(value: Any):
    wait = parsing.retry_after(value)
    assert wait is None or 0 <= wait <= 86_400
