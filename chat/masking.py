"""Texts without the addresses and numbers of people (MASK_PII).

Masked are e-mail addresses, CPFs, card numbers and phone numbers, as far as their form and their
check digits tell them from other text, in a time that grows with the text and no faster. Who
imports this waits for libraries: it is for those alone who mask.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson
from phonenumbers import PhoneNumberMatcher
from stdnum import luhn
from stdnum.br import cpf

# A phone number without a country code is read as one of this country.
REGION = "BR"
# What must stay as it is in a message: ids, and data that is no text.
OPAQUE = frozenset({"id", "tool_call_id", "image_url", "input_audio", "file"})

# Neither digits nor letters may stand before, nor a number whose fraction this would be.
_APART, _WHOLE = r"(?<![0-9A-Za-z+])", r"(?<![0-9][.,])"
# Found to be left alone: no digits in these are a number of anybody's.
_UUID = rf"{_APART}[0-9A-Fa-f]{{8}}(?:-[0-9A-Fa-f]{{4}}){{3}}-[0-9A-Fa-f]{{12}}(?![0-9A-Za-z])"
_DAY, _MONTH = "(?:0[1-9]|[12][0-9]|3[01])", "(?:0[1-9]|1[0-2])"
_DATE = rf"{_APART}(?:[0-9]{{4}}([./-]){_MONTH}\1{_DAY}|{_DAY}([./-]){_MONTH}\2[0-9]{{4}})(?![0-9])"
_TIME = r"(?<![0-9])[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?(?![0-9])"
# The runs are possessive and begin where nothing of theirs stands before: none is read twice.
_EMAIL = r"(?<![\w.%+-])[\w.%+-]++@(?:[\w-]++\.)+[^\W\d_][\w-]+"
_WORDS = re.compile(f"{_DATE}|{_TIME}|{_UUID}|(?P<email>{_EMAIL})")

# What people put between the groups of a number: blanks, dots, and the hyphens of Unicode too.
_GAP = r"[ \xa0.\u2010-\u2013-]"
_THREE = f"[0-9]{{3}}{_GAP}?"
_CPF = rf"(?<![0-9]){_WHOLE}{_THREE}{_THREE}[0-9]{{3}}(?:{_GAP}|/)?[0-9]{{2}}(?![0-9])"
# At least four digits stand together. What begins with 0 or 1 (ISO/IEC 7812: none, and airlines) or
# with 20 is a time rather than a card.
_CARD = r"(?!20)[2-9][0-9]{3}"
_NUMBERS = re.compile(f"(?P<cpf>{_CPF})|{_APART}{_WHOLE}{_CARD}")
# By length, the shortest first: what follows a card may be a number of its own.
_CARDS = [
    re.compile(rf"{_CARD}(?:{_GAP}?[0-9]){{{digits - 4}}}(?![0-9A-Za-z])")
    for digits in range(13, 20)
]


def mask_text(text: str) -> str:
    """The text with `[EMAIL]`, `[CPF]`, `[CARD]` and `[PHONE]` in the place of what they name."""
    return _replaced(text, _words(text), between=_without_numbers)


def mask_value(value: Any) -> Any:
    """Messages, or other values of JSON's types, with their texts masked."""
    match value:
        case str():
            return mask_text(value)
        case list() | tuple():
            return [mask_value(part) for part in value]
        case dict():
            return {name: _member(name, part) for name, part in value.items()}
        case _:
            return value


def _member(name: str, value: Any) -> Any:
    if name in OPAQUE:
        return value
    return (
        _arguments(value) if name == "arguments" and isinstance(value, str) else mask_value(value)
    )


def _arguments(text: str) -> str:
    """Those of a tool's call: JSON, which has to stay JSON."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return mask_text(text)
    without = _mask_tool_arguments(value)
    return text if without == value else orjson.dumps(without).decode()


def _mask_tool_arguments(value: Any) -> Any:
    """Data of a tool's own, in which a number may be a CPF, and a member of any name a text."""
    match value:
        case list():
            return [_mask_tool_arguments(part) for part in value]
        case dict():
            return {name: _mask_tool_arguments(part) for name, part in value.items()}
        case str() | int() if not isinstance(value, bool):
            text = str(value)
            without = mask_text(text)
            return value if without == text else without
        case _:
            return value


Span = tuple[int, int, str]


def _replaced(text: str, spans: Iterable[Span], between: Callable[[str], str] = str) -> str:
    """The text with its spans (start, end, what comes in its place) replaced."""
    parts: list[str] = []
    position = 0
    for start, end, instead in spans:
        parts += [between(text[position:start]), instead]
        position = end
    return "".join([*parts, between(text[position:])])


def _words(text: str) -> Iterator[Span]:
    for found in _WORDS.finditer(text):
        yield found.start(), found.end(), "[EMAIL]" if found["email"] else found[0]


def _without_numbers(text: str) -> str:
    return _replaced(text, _numbers(text), between=_without_phones)


def _numbers(text: str) -> Iterator[Span]:
    position = 0
    while found := _NUMBERS.search(text, position):
        end, instead = _match_cpf_or_card(found)
        position = end or found.start() + 1
        if end:
            yield found.start(), end, instead


def _match_cpf_or_card(found: re.Match[str]) -> tuple[int, str]:
    """Where a CPF or a card ends and what comes in its place; 0 if it is neither after all."""
    if found["cpf"] and cpf.is_valid(_digits(found["cpf"])):
        return found.end(), "[CPF]"
    for pattern in _CARDS:
        card = pattern.match(found.string, found.start())
        if card and luhn.is_valid(_digits(card[0])):
            return card.end(), "[CARD]"
    return 0, ""


def _digits(text: str) -> str:
    return re.sub("[^0-9]", "", text)


def _without_phones(text: str) -> str:
    phones = PhoneNumberMatcher(text, REGION, max_tries=len(text))
    return _replaced(text, ((phone.start, phone.end, "[PHONE]") for phone in phones))
