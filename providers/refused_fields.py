"""Find the fields of a chat completion that an OpenAI-compatible server does not know.

Its error names them in `param`, in the `loc` of FastAPI's details, or in a sentence. A field whose
value is refused, such as a limit that is too large, is known.
"""

import re
from collections.abc import Iterator
from typing import Any

from providers.parsing import as_list, as_str, error_message, get_path, identifier

TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")
# The fields of a message in which we keep thoughts that a vendor wrote as content.
THOUGHTS = ("reasoning_content", "reasoning_details")
# For these any complaint is enough, because clients cannot set them.
_OWN_PATHS = {"user", "stream_options", "stream_options.include_usage"}

_FIELD = rf"(?:user|stream_options|{'|'.join((*THOUGHTS, *TOKEN_LIMITS))})\b"
_UNKNOWN = (
    r"\b(?:un(?:recogni[sz]ed|known|supported|expected|permitted)(?:_(?:parameter|field|argument))?"
    r"|disallowed|forbidden|extra(?:neous|_forbidden)?|additional|cannot find field"
    r"|not (?:supported|allowed|permitted|recogni[sz]ed|known)"
    r"|not support (?:the )?(?:parameter|field|argument|option))\b(?! values?\b)"
)
# The text that may stand between a field and the complaint about it.
_BETWEEN = (
    r"(?:[\s:,'\"`()\[\]{}<>/\\-]|\b(?:request|body|json|object|arguments?|args?|parameters?|params?"
    r"|fields?|inputs?|keywords?|keys?|propert(?:y|ies)|names?|options?|loc|supplied|provided"
    r"|received|found|in|the|an?|is|are|was|were|on|for|by|with|this|model|currently|no|longer|s)\b)*+"
)
# Compiled when the first server refuses something: it takes 2 ms of a cold start.
_UNKNOWN_FIELDS = (
    # “Unrecognized request arguments supplied: user, stream_options”
    rf"{_UNKNOWN}{_BETWEEN}(\b{_FIELD}(?:['\"`\]]*(?:,| and)\s*['\"`\[]*\w+)*)",
    # “'user' : property is unsupported”
    rf"(?<![\w./-])({_FIELD})(?:\.include_usage\b)?{_BETWEEN}{_UNKNOWN}",
)


def refused_fields(error: dict[str, Any], vendor_message: str) -> set[str]:
    """Return the fields that an error calls unknown, among those that we add.

    `error` is its object, which may be empty, and `vendor_message` the sentence in its body.
    """
    found: set[str] = set()
    for path, sentence in (("", vendor_message), *_complaints(error)):
        if path in _OWN_PATHS:
            found.add(path.partition(".")[0])
        path = next((name for name in THOUGHTS if path.endswith(name)), path)
        for pattern in _UNKNOWN_FIELDS:
            for names in re.findall(pattern, f"{path}: {sentence}", re.IGNORECASE):
                found.update(re.findall(rf"\b{_FIELD}", names))
    return found


def _complaints(error: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the path of each field that an error names, or nothing, and the sentence about it."""
    code, message = identifier(error.get("code")), error_message(error.get("message"))
    yield identifier(error.get("param")), f"{code} {message}"
    details = get_path(error, "message", "detail") or error.get("detail")
    yield "", error_message(details)
    for detail in as_list(details):
        steps = [identifier(step) for step in as_list(get_path(detail, "loc"))]
        path = ".".join(step for step in steps if step != "body")
        yield path, as_str(get_path(detail, "msg")) or as_str(get_path(detail, "type"))
