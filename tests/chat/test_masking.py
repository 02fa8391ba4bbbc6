"""What MASK_PII recognises, and what it leaves alone."""

import json
import re
import threading
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stdnum import luhn
from stdnum.br import cpf

from chat import masking
from chat.masking import mask_text, mask_value, masking_until
from providers.deadline import Deadline
from providers.errors import DeadlineExceeded

untimed = settings(deadline=None)  # what is imported for the first example takes its time

# Text that says nothing of anybody: no digits, and no @.
words = st.text(st.characters(codec="utf-8", categories=("Ll", "Lu", "Zs", "Po")), max_size=20).map(
    lambda text: text.replace("@", "").replace(".", "").replace(",", "")
)


@st.composite
def cpfs(draw: st.DrawFn) -> str:
    """A CPF with the check digits that it has to have, written in one of the usual ways."""
    base = draw(st.integers(1, 999_999_999).map("{:09}".format))
    digits = next(number for n in range(100) if cpf.is_valid(number := f"{base}{n:02}"))
    shape = draw(st.sampled_from(["{}.{}.{}-{}", "{}{}{}{}", "{}{}{}-{}", "{} {} {} {}"]))
    return shape.format(digits[:3], digits[3:6], digits[6:9], digits[9:])


@st.composite
def cards(draw: st.DrawFn) -> str:
    """A card number: 13 to 19 digits in one piece, or up to 16 in groups of four."""
    separator = draw(st.sampled_from(["", " ", "-"]))
    longest = 14 if separator else 17
    body = draw(st.from_regex(rf"\A(?!20)[2-9][0-9]{{11,{longest}}}\Z"))
    digits = body + luhn.calc_check_digit(body)
    return separator.join(re.findall(r"\d{1,4}", digits))


@untimed
@given(words, cpfs(), words)
def test_a_cpf_is_masked(before: str, number: str, after: str) -> None:
    assert mask_text(f"{before} {number} {after}") == f"{before} [CPF] {after}"


@untimed
@given(cpfs(), st.integers(1, 9))
def test_a_number_with_wrong_check_digits_is_no_cpf(number: str, by: int) -> None:
    wrong = number[:-1] + str((int(number[-1]) + by) % 10)
    assert "[CPF]" not in mask_text(wrong)


@untimed
@given(words, cards(), words)
def test_a_card_is_masked(before: str, number: str, after: str) -> None:
    assert mask_text(f"{before} {number} {after}") == f"{before} [CARD] {after}"


@pytest.mark.parametrize("digits", [14, 15, 16, 17, 18, 19])
def test_a_number_with_a_wrong_check_digit_is_no_card(digits: int) -> None:
    number = "9" * (digits - 1)
    wrong = str((int(luhn.calc_check_digit(number)) + 1) % 10)
    assert mask_text(number + wrong) == number + wrong


@untimed
@given(st.uuids())
@example(UUID("12345678-1234-1234-1234-123456789012"))
@example(UUID("00000000-4111-1111-1111-111100000000"))
@example(UUID("11912345-6789-4999-8999-119123456789"))
def test_ids_are_left_alone(id_: UUID) -> None:
    assert mask_text(f"id={id_}, {id_}") == f"id={id_}, {id_}"


@untimed
@given(st.datetimes())
def test_dates_and_times_are_left_alone(moment: Any) -> None:
    for text in (moment.isoformat(), f"{moment:%d/%m/%Y %H:%M}", f"{moment:%d.%m.%Y}"):
        assert mask_text(text) == text


@untimed
@example(30_000_000_00)  # its digits before the cents are a phone number
@given(st.integers(0, 99_999_999_99))
def test_prices_are_left_alone(cents: int) -> None:
    dollars = f"{cents / 100:,.2f}"
    swapped = dollars.translate(str.maketrans(",.", ".,"))
    assert mask_text(f"US$ {dollars}") == f"US$ {dollars}"
    assert mask_text(f"R$ {swapped}") == f"R$ {swapped}"


@pytest.mark.parametrize(
    "text",
    [
        "Pedido 20261125001, protocolo 123456789012, lote 7.",
        "1795348345 1795613561692 1795613561692004",
        "3.1415926535897932 e 2.7182818284590452",
        "192.168.0.1, 10.0.0.255:8080, v18.2.0, react@18.2.0",
        "2020 2021 2022 2023 2024, 20260101120000",
        "CNPJ 11.222.333/0001-81",
        "12345678901234567890",
        "a@b, @ana, ana@, me@localhost",
        "ligue 190",
        "",
    ],
)
def test_other_numbers_are_left_alone(text: str) -> None:
    assert mask_text(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ana.silva+x@exemplo.com.br.", "[EMAIL]."),
        ("<josé@exemplo.com>;'x@y.co'", "<[EMAIL]>;'[EMAIL]'"),
        ("de a_b@c-d.example para b@c.io", "de [EMAIL] para [EMAIL]"),
        ("+55 11 91234-5678", "[PHONE]"),
        ("(11) 91234-5678 ou (11) 9 1234-5678", "[PHONE] ou [PHONE]"),
        ("11912345678, 11 2345-6789", "[PHONE], [PHONE]"),
        ("0800 123 4567", "[PHONE]"),
        ("tel:+14155552671, +1 (415) 555-2671", "tel:[PHONE], [PHONE]"),
        ("CPF52998224725", "CPF[CPF]"),
        ("4111 1111 1111 1111 123", "[CARD] 123"),
        ("3782 822463 10005", "[CARD]"),
        ("4111 1111 1111 1111 5500 0000 0000 0004", "[CARD] [CARD]"),
        ("52998224725 4111111111111111 11 91234-5678", "[CPF] [CARD] [PHONE]"),
        ("4111111111111111@example.com", "[EMAIL]"),
    ],
)
def test_common_spellings_are_masked(text: str, expected: str) -> None:
    assert mask_text(text) == expected


@untimed
@given(
    st.lists(
        cpfs()
        | cards()
        | st.sampled_from(
            ["a@b.co", "+55 11 91234-5678", "(11) 2345-6789", "[", "]", " ", "-", "."]
        )
        | st.text("0123456789 .-+()@ab", max_size=8)
    ).map(" ".join)
)
def test_masking_twice_changes_nothing(text: str) -> None:
    once = mask_text(text)
    assert mask_text(once) == once


HOSTILE = [
    "1",
    "4",
    "4 ",
    "4111 ",
    "529.982.247-26 ",
    "a@",
    "a.",
    "@",
    "a@b.",
    "+",
    "(",
    "1-",
    "0a-",
    "data:",
    "data:a/a;",
    "data:a/a;b;base64",
    ";base64",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_masking_a_hostile_text_comes_to_an_end(piece: str) -> None:
    """Each piece is one on which a pattern that tries again and again would take hours."""
    text = piece * (10_000 // len(piece))
    assert mask_text(text) == text


def test_masking_a_mebibyte_of_digits_comes_to_an_end() -> None:
    assert mask_text("1" * 2**20) == "1" * 2**20


# The second one has no place to cut it.
@pytest.mark.parametrize("text", ["of 11 98765-432 or\n" * 50_000, "/1" * 500_000])
def test_masking_ends_with_its_deadline(text: str) -> None:
    deadline = Deadline(60)
    timer = threading.Timer(0.2, deadline.cancel)
    timer.start()
    with masking_until(deadline), pytest.raises(DeadlineExceeded):
        mask_text(text)
    timer.join()


def test_messages_are_masked_where_they_hold_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,a@b.co"}}
    call = {
        "id": "529.982.247-25",
        "type": "function",
        "function": {
            "name": "find",
            "arguments": '{"id": 52998224725, "who": "a@b.co", "n": 7, "all": true}',
        },
    }
    assert mask_value(
        [
            {"role": "user", "content": "a@b.co"},
            {"role": "user", "content": [{"type": "text", "text": "a@b.co"}, image]},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "529.982.247-25", "content": "529.982.247-25"},
        ]
    ) == [
        {"role": "user", "content": "[EMAIL]"},
        {"role": "user", "content": [{"type": "text", "text": "[EMAIL]"}, image]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    **call,
                    "function": {
                        "name": "find",
                        "arguments": '{"id":"[CPF]","who":"[EMAIL]","n":7,"all":true}',
                    },
                }
            ],
        },
        {"role": "tool", "tool_call_id": "529.982.247-25", "content": "[CPF]"},
    ]


# Digits that would be masked as a text's: a CPF with its points, and a card's.
OPAQUE = "529.982.247-25/4111111111111111+CpYB=="


@pytest.mark.parametrize(
    "name",
    [
        *("thought_signature", "signature", "data", "encrypted_content"),
        *("id", "tool_call_id", "call_id", "file_id", "b64_json"),
    ],
)
def test_opaque_values_stay_byte_for_byte(name: str) -> None:
    message = {
        "extra_content": {"google": {name: OPAQUE}},
        "reasoning_details": [{"type": "reasoning.text", "text": "a@b.co", name: OPAQUE}],
    }
    assert mask_value(message) == {
        "extra_content": {"google": {name: OPAQUE}},
        "reasoning_details": [{"type": "reasoning.text", "text": "[EMAIL]", name: OPAQUE}],
    }


def test_an_object_in_a_binary_field_is_masked() -> None:
    schema = {"properties": {"data": {"description": "Not a@b.co"}}}
    assert mask_value(schema) == {"properties": {"data": {"description": "Not [EMAIL]"}}}


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,4111111111111111+11912345678/52998224725==",
        "data:text/plain;charset=utf-8;base64,NTI5OTgyMjQ3MjU=52998224725",
    ],
)
def test_data_urls_stay_byte_for_byte(url: str) -> None:
    assert mask_value({"url": url, "content": f"![a@b.co]({url}) a@b.co"}) == {
        "url": url,
        "content": f"![[EMAIL]]({url}) [EMAIL]",
    }


@pytest.mark.parametrize("text", ["data: ", "data:text/plain,", "data:a/b;base64 "])
def test_text_that_only_resembles_a_data_url_is_masked(text: str) -> None:
    assert mask_text(f"{text}529.982.247-25") == f"{text}[CPF]"


def test_invalid_json_arguments_are_masked_as_text() -> None:
    calls = [{"function": {"arguments": '{"who": "a@b.co'}}]
    assert mask_value(calls) == [{"function": {"arguments": '{"who": "[EMAIL]'}}]


def masked_arguments(text: str) -> Any:
    [call] = mask_value([{"function": {"arguments": text}}])
    return call["function"]["arguments"]


@pytest.mark.parametrize("depth", [300, 1000])
def test_arguments_nested_deeply_are_masked(depth: int) -> None:
    arguments = '{"who": "%s", "deep": ' + "[" * depth + "]" * depth + "}"
    masked = masked_arguments(arguments % "a@b.co")
    assert masked.replace(" ", "") == (arguments % "[EMAIL]").replace(" ", "")


def test_names_in_arguments_are_masked_and_all_else_stays() -> None:
    arguments = '{"%s":{"%s":["ação",12345678901234567890123,1.5,null]}}'
    asked = arguments % ("ana@a.com.br", "cpf")
    assert masked_arguments(asked) == arguments % ("[EMAIL]", "cpf")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('{"to": "a@b.co", "to": "x", "id": 52998224725}', '{"to":"x","id":"[CPF]"}'),
        ('{"to": "a@b.co", "to": "x"}', '{"to":"x"}'),
        (
            '{"a@b.co": 1, "c@d.co": 2, "id": 52998224725}',
            '{"[EMAIL]":1,"[EMAIL] 2":2,"id":"[CPF]"}',
        ),
        ('{"half": "\\ud800", "id": 52998224725}', '{"half":"\\ud800","id":"[CPF]"}'),
        ('{"n": 1e999, "to": "a@b.co"}', '{"n": 1e999, "to": "[EMAIL]"}'),
    ],
)
def test_odd_arguments_are_masked_and_stay_json(text: str, masked: str) -> None:
    assert masked_arguments(text) == masked
    json.loads(masked)


def test_a_long_text_is_masked_alike_wherever_it_is_cut(monkeypatch: pytest.MonkeyPatch):
    numbers = ["123.456.789-09", "4111 1111 1111 1111", "+55 11 91234-5678", "529 982 247 25"]
    parts = [
        f"word ends with {number} or {index}@example.com goes"
        for index, number in enumerate(numbers * 3)
    ]
    text = " on and ".join(parts) + "\n" + "\n".join(numbers)
    whole = mask_text(text)
    for characters in range(1, 120):
        monkeypatch.setattr(masking, "PIECE_CHARACTERS", characters)
        assert mask_text(text) == whole
