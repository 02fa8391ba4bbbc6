"""Mask personal data in texts (MASK_PII): e-mail addresses, CPFs, card and phone numbers.

They are recognized by their form and their check digits, in time linear in the text. Import this
module only where it is used: its libraries are slow to import.
"""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from phonenumbers import PhoneNumberMatch, PhoneNumberMatcher
from stdnum import luhn
from stdnum.br import cpf

from providers.base import AnsweredMessage
from providers.deadline import Deadline
from providers.errors import DeadlineExceeded

# The country of phone numbers without a country code.
REGION = "BR"
# Fields of a message that are never masked: data that is not text; and as strings, ids and what
# only a vendor can read. A vendor refuses a conversation in which these are changed.
UNMASKED_FIELDS = frozenset({"image_url", "video_url", "input_audio", "file"})
OPAQUE_FIELDS = frozenset(
    {
        *("id", "tool_call_id", "call_id", "file_id"),
        *("thought_signature", "signature", "encrypted_content", "data", "b64_json"),
    }
)

# A number must not follow a digit or a letter, nor be the fraction of another number.
_APART, _WHOLE = r"(?<![0-9A-Za-z+])", r"(?<![0-9][.,])"
# UUIDs, dates, times, amounts and data URLs are matched to be kept: their digits are not personal
# numbers.
_UUID = rf"{_APART}[0-9A-Fa-f]{{8}}(?:-[0-9A-Fa-f]{{4}}){{3}}-[0-9A-Fa-f]{{12}}(?![0-9A-Za-z])"
_DAY, _MONTH = "(?:0[1-9]|[12][0-9]|3[01])", "(?:0[1-9]|1[0-2])"
_DATE = rf"{_APART}(?:[0-9]{{4}}([./-]){_MONTH}\1{_DAY}|{_DAY}([./-]){_MONTH}\2[0-9]{{4}})(?![0-9])"
_TIME = r"(?<![0-9])[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?(?![0-9])"
_AMOUNT = (
    rf"{_APART}{_WHOLE}[0-9]{{1,3}}(?:(?:\.[0-9]{{3}})+,|(?:,[0-9]{{3}})+\.)[0-9]{{2}}(?![0-9])"
)
_DATA_URL = r"\bdata:[\w.+-]++/[\w.+-]++(?:;[\w.+=-]++)*?;base64,[\w+/=-]*+"
# Possessive runs that cannot start inside themselves: no character is read twice.
_EMAIL = r"(?<![\w.%+-])[\w.%+-]++@(?:[\w-]++\.)+[^\W\d_][\w-]+"
_WORDS = re.compile(f"{_DATA_URL}|{_DATE}|{_TIME}|{_UUID}|{_AMOUNT}|(?P<email>{_EMAIL})")

# Separators between the groups of a number: blanks, dots and hyphens, those of Unicode too.
_GAP = r"[ \xa0.\u2010-\u2013-]"
_THREE = f"[0-9]{{3}}{_GAP}?"
_CPF = rf"(?<![0-9]){_WHOLE}{_THREE}{_THREE}[0-9]{{3}}(?:{_GAP}|/)?[0-9]{{2}}(?![0-9])"
# Four digits come first. Numbers that begin with 0, 1 (no cards, by ISO/IEC 7812) or 20 are more
# often times than cards.
_CARD = r"(?!20)[2-9][0-9]{3}"
_NUMBERS = re.compile(f"(?P<cpf>{_CPF})|{_APART}{_WHOLE}{_CARD}")
# By length, the shortest first, because another number may follow a card.
_CARDS = [
    re.compile(rf"{_CARD}(?:{_GAP}?[0-9]){{{digits - 4}}}(?![0-9A-Za-z])")
    for digits in range(13, 20)
]


# A search lets no other thread run until it finds something, so a long text is searched in pieces
# of about this many characters. They end between two words or lines, where no personal data can be.
PIECE_CHARACTERS = 50_000
_CUT = re.compile(r"[^\W\d_] (?=[^\W\d_])|\n")

# A name of a field that is no personal data.
_HARMLESS_NAME = re.compile("[A-Za-z_]+")

# Masking is all Python, so several threads are no faster, and leave less time for the others.
# The next text waits no longer than this for its turn, because a long one takes seconds.
_turn = threading.Lock()
MAX_TURN_SECONDS = 0.1

_deadline: ContextVar[Deadline | None] = ContextVar("masking_deadline", default=None)


@contextmanager
def masking_until(deadline: Deadline) -> Iterator[None]:
    """Let masking within the context stop at the deadline, which raises DeadlineExceeded."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def _stop_if_late() -> None:
    deadline = _deadline.get()
    if deadline and deadline.expired:
        raise DeadlineExceeded("There was no time to mask the texts of the request.")


def mask_text(text: str) -> str:
    """Replace personal data by `[EMAIL]`, `[CPF]`, `[CARD]` and `[PHONE]`."""
    return "".join(map(_mask_piece, _pieces(text)))


def _mask_piece(piece: str) -> str:
    _stop_if_late()
    has_turn = _turn.acquire(timeout=MAX_TURN_SECONDS)
    try:
        return _replace(piece, _find_words(piece), _mask_numbers)
    finally:
        if has_turn:
            _turn.release()


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while found := _CUT.search(text, start + PIECE_CHARACTERS):
        yield text[start : found.end()]
        start = found.end()
    yield text[start:]


def mask_value(value: Any) -> Any:
    """Mask the texts in messages or other JSON values."""
    match value:
        case str():
            return mask_text(value)
        case list() | tuple():
            return [mask_value(part) for part in value]
        case dict():
            masked = {name: _mask_field(name, part) for name, part in value.items()}
            return value.with_fields(masked) if isinstance(value, AnsweredMessage) else masked
        case _:
            return value


def mask_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Mask names and values."""
    return dict(zip(_masked_names(metadata), map(mask_text, metadata.values()), strict=True))


def _masked_names(names: Iterable[str]) -> Iterator[str]:
    """Yield the names, masked. Those that would be equal get a number."""
    taken: set[str] = set()
    equal: Counter[str] = Counter()
    for name in names:
        own = masked = name if _HARMLESS_NAME.fullmatch(name) else mask_text(name)
        while masked in taken:
            equal[own] += 1
            masked = f"{own} {equal[own] + 1}"
        taken.add(masked)
        yield masked


def _mask_field(name: str, value: Any) -> Any:
    if name in UNMASKED_FIELDS or (name in OPAQUE_FIELDS and isinstance(value, str)):
        return value
    if name == "arguments" and isinstance(value, str):
        return _mask_arguments(value)
    return mask_value(value)


def _mask_arguments(text: str) -> str:
    """Mask the arguments of a tool call: JSON text, which must stay valid JSON."""
    hidden = False  # by a later member with the same name

    def make_object(members: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal hidden
        made = dict(members)
        hidden = hidden or len(made) < len(members)
        return made

    try:
        # Not orjson, which turns integers of more than 64 bits into floats.
        value = json.loads(text, object_pairs_hook=make_object)
        masked = _mask_tool_arguments(value)
        if masked == value and not hidden:
            return text
        layout: dict[str, Any] = {"ensure_ascii": text.isascii(), "separators": (",", ":")}
        written = json.dumps(masked, allow_nan=False, **layout)
        written.encode()  # fails for half a character
        return written
    except (ValueError, RecursionError):
        return mask_text(text)


def _mask_tool_arguments(value: Any) -> Any:
    """Mask a tool's own data: any field may be a text, and a number may be a CPF."""
    match value:
        case list():
            return [_mask_tool_arguments(part) for part in value]
        case dict():
            parts = map(_mask_tool_arguments, value.values())
            return dict(zip(_masked_names(value), parts, strict=True))
        case str() | int() if not isinstance(value, bool):
            text = str(value)
            masked = mask_text(text)
            return value if masked == text else masked
        case _:
            return value


# Start, end, replacement.
Span = tuple[int, int, str]


def _replace(text: str, spans: Iterable[Span], mask_rest: Callable[[str], str] = str) -> str:
    """Replace the spans, and apply `mask_rest` to the text between them."""
    parts: list[str] = []
    position = 0
    for start, end, replacement in spans:
        parts += [mask_rest(text[position:start]), replacement]
        position = end
    return "".join([*parts, mask_rest(text[position:])])


def _find_words(text: str) -> Iterator[Span]:
    for found in _WORDS.finditer(text):
        yield found.start(), found.end(), "[EMAIL]" if found["email"] else found[0]


def _mask_numbers(text: str) -> str:
    return _replace(text, _find_numbers(text), _mask_phones)


def _find_numbers(text: str) -> Iterator[Span]:
    position = 0
    while found := _NUMBERS.search(text, position):
        end, replacement = _match_cpf_or_card(found)
        position = end or found.start() + 1
        if end:
            yield found.start(), end, replacement


def _match_cpf_or_card(found: re.Match[str]) -> tuple[int, str]:
    """Return the end of a CPF or card and its replacement; 0 if the check digits are wrong."""
    if found["cpf"] and cpf.is_valid(_digits(found["cpf"])):
        return found.end(), "[CPF]"
    for pattern in _CARDS:
        card = pattern.match(found.string, found.start())
        if card and luhn.is_valid(_digits(card[0])):
            return card.end(), "[CARD]"
    return 0, ""


def _digits(text: str) -> str:
    return re.sub("[^0-9]", "", text)


class _PhoneNumberMatcher(PhoneNumberMatcher):
    """A matcher that looks at the deadline: a text without words is one piece of any length."""

    def _extract_match(self, candidate: str, offset: int) -> PhoneNumberMatch | None:
        _stop_if_late()
        return super()._extract_match(candidate, offset)


def _mask_phones(text: str) -> str:
    phones = _PhoneNumberMatcher(text, REGION, max_tries=len(text))
    return _replace(text, ((phone.start, phone.end, "[PHONE]") for phone in phones))
