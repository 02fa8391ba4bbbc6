"""Start-up checks: configurations that are unsafe or cannot work, each with a hint."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register


@register("chat")
def keys_are_required_and_present(**kwargs: Any) -> list[CheckMessage]:
    if settings.REQUIRE_API_KEY and not settings.API_KEYS:
        return [
            Error(
                "REQUIRE_API_KEY is true, but there is no key: every request would be refused.",
                hint="Set API_KEY, or API_KEYS to a comma-separated list.",
                id="chat.E001",
            )
        ]
    return []
