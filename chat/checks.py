"""System checks: unsafe or unintended configurations, each with a hint."""

from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Info, register


@register("chat")
def check_required_keys_exist(**kwargs: Any) -> list[CheckMessage]:
    """Tell that only managed keys are accepted, if the environment has none.

    Whether there are managed ones is not read: a check must not wait for the storage.
    """
    if settings.REQUIRE_API_KEY and not settings.API_KEYS:
        return [
            # Not a warning: managed keys alone are a sound choice.
            Info(
                "REQUIRE_API_KEY is true and no key is set in the environment: "
                "only managed keys are accepted.",
                hint="Create one with `manage.py create_api_key`, or set API_KEY or API_KEYS.",
                id="chat.I001",
            )
        ]
    return []


@register("chat")
def check_cached_answers_are_stored(**kwargs: Any) -> list[CheckMessage]:
    """Warn of a cache that has nothing to answer with."""
    if settings.ENABLE_CACHE and not settings.STORE_CONTENT:
        return [
            checks.Warning(
                "ENABLE_CACHE is true and STORE_CONTENT is false: no answer is reused, because "
                "none is stored.",
                hint="Set ENABLE_CACHE=false, or STORE_CONTENT=true.",
                id="chat.W001",
            )
        ]
    return []
