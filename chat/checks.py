"""Start-up checks: configurations that are unsafe or may not be meant, each with a hint."""

from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Info, register


@register("chat")
def keys_are_required_and_may_be_missing(**kwargs: Any) -> list[CheckMessage]:
    """Whether there are managed keys, the storage knows; a check does not wait for it."""
    if settings.REQUIRE_API_KEY and not settings.API_KEYS:
        return [
            Info(
                "REQUIRE_API_KEY is true, and there is no key in the environment: "
                "managed keys alone are good.",
                hint="Make one with `manage.py create_api_key`, or set API_KEY or API_KEYS.",
                id="chat.I001",
            )
        ]
    return []


@register("chat")
def no_answers_can_be_cached_that_are_not_kept(**kwargs: Any) -> list[CheckMessage]:
    if settings.ENABLE_CACHE and not settings.STORE_CONTENT:
        return [
            checks.Warning(
                "ENABLE_CACHE is true and STORE_CONTENT is false: no answer is given again, as "
                "none is kept.",
                hint="Set ENABLE_CACHE=false, or STORE_CONTENT=true.",
                id="chat.W001",
            )
        ]
    return []
