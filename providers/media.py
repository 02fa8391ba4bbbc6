"""Images, sounds and files in the messages of chat completions."""

import mimetypes
import re
from typing import Any, NamedTuple

from providers.parsing import as_str, get_path

# The fields of content parts that may hold a URL.
URL_FIELDS = {"image_url": "url", "video_url": "url", "file": "file_data"}

_MIME_TYPES = {"image/jpg": "image/jpeg"}  # a common mistake, which vendors refuse


class Media(NamedTuple):
    """Content, in base64."""

    mime_type: str
    data: str


def is_url(address: str) -> bool:
    """Return whether the content is elsewhere, not in a data URL."""
    return address.partition(":")[2].startswith("//")


def inline_media(address: str, filename: str = "") -> Media | None:
    """Return the content of a data URL, or of base64 with a file name; None for anything else."""
    mime_type, data = "", address
    scheme, _, rest = address.partition(":")
    if scheme.lower() == "data":
        head, _, data = rest.partition(",")
        mime_type, _, encoding = head.lower().partition(";")
        # Percent-encoded data is rare, and vendors take base64 alone.
        if not encoding.endswith("base64"):
            return None
    mime_type = _MIME_TYPES.get(mime_type, mime_type) or mime_type_of(filename)
    return Media(mime_type, data) if mime_type and data else None


def mime_type_of(address: str) -> str:
    """Guess the type of a file by its name; empty if unknown."""
    name = re.split(r"[?#]", address, maxsplit=1)[0].rpartition("/")[2]
    return mimetypes.guess_type(name)[0] or ""


def url_field(part: Any) -> str:
    """Return the path of the field in a content part that holds a URL; empty if none does."""
    kind = as_str(get_path(part, "type"))
    field = URL_FIELDS.get(kind, "")
    address = as_str(get_path(part, kind, field)) or as_str(get_path(part, kind))
    return f"{kind}.{field}" if field and is_url(address) else ""
