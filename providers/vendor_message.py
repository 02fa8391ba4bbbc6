"""The sentence in a vendor's error body, ready to be shown: one short line, keys masked."""

import re
from collections.abc import Collection
from typing import Any

from providers.parsing import as_list, get_path, identifier, load_json

MAX_CHARACTERS = 500
MAX_SEARCHED = 4000
MAX_DEPTH = 8
MAX_ITEMS = 5
MIN_SECRET = 6  # a shorter one would be found in common words
MASK = "[KEY]"

# Where error objects keep their sentence, the most specific first. OpenRouter hands on the error of
# the vendor behind it as text, in `metadata.raw`.
_FIELDS = (
    *("error", "message", "Message", "msg", "detail", "errors"),
    *("error_description", "description"),
)

_CHARACTERS = r"[A-Za-z0-9_~.+/*…=-]"
_MIXED = rf"(?={_CHARACTERS}*[0-9])(?={_CHARACTERS}*[A-Za-z]){_CHARACTERS}{{7,}}[A-Za-z0-9_*=-]"
_KEYS = (  # re compiles it when it is first used, not at a cold start
    # By the prefixes that vendors give their keys.
    r"(?<![A-Za-z0-9])(?:(?:sk|pk|rk|gsk|xai|csk|fw|r8|pplx|nvapi|tgp|sca|xox[a-z]"
    r"|glpat|GOCSPX|gh[a-z]|github_pat)[_-]"
    # Names also begin so, such as `sess_timeout`; they have no capitals or digits.
    r"|(?:hf|sess)[_-](?=[a-z_-]*[A-Z0-9*…])"
    rf"|AIza|ya29\.|AKIA|ASIA|eyJ){_CHARACTERS}{{5,}}[A-Za-z0-9_*=-]"
    # By the words before it: “Incorrect API key provided: …”, “Bearer …”, “?key=…”.
    r"|(?P<before>(?i:\b(?:api[ _-]?key|bearer|authorization|secret|password|token)\b|\bkey(?==))"
    rf"(?:[\s:='\"`]|\b(?:provided|given|is|was)\b)*+){_MIXED}"
    # By its form: long, letters and digits, without the hyphens of names and UUIDs.
    r"|(?<![A-Za-z0-9])(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{30,}"
)


def vendor_message(body: Any, *, secrets: Collection[str] = ()) -> str:
    """Return the sentence of an error body; empty if there is none.

    It has no control characters and at most MAX_CHARACTERS. Masked are `secrets` and what looks
    like a key. It may still quote the prompt.
    """
    text = _sentence(body, MAX_DEPTH)[:MAX_SEARCHED]
    if not text:
        return ""
    # The longest first: a shorter one may be a part of it.
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= MIN_SECRET:
            text = text.replace(secret, MASK)
    text = "".join(character if character.isprintable() else " " for character in text)
    text = re.sub(_KEYS, lambda found: (found["before"] or "") + MASK, " ".join(text.split()))
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def _sentence(value: Any, depth: int) -> str:
    """Return the first sentence in a JSON value, which may itself be JSON in a string."""
    if not depth:
        return ""
    match value:
        case str():
            inner = load_json(value) if value.lstrip().startswith(("{", "[")) else None
            return _sentence(inner, depth - 1) or value
        case list():
            parts = (_sentence(item, depth - 1) for item in value[:MAX_ITEMS])
            return "; ".join(filter(None, parts))
        case dict():
            raw = _sentence(get_path(value, "metadata", "raw"), depth - 1)
            found = (_sentence(value.get(field), depth - 1) for field in _FIELDS)
            sentence = raw or next(filter(None, found), "")
            return ": ".join(filter(None, (_location(value), sentence)))
        case _:
            return ""


def _location(detail: dict[str, Any]) -> str:
    """Return the path of the field that a detail of FastAPI's is about."""
    steps = [identifier(step) for step in as_list(detail.get("loc"))]
    return ".".join(step for step in steps if step and step != "body")
