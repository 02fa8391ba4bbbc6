"""OpenRouter: OpenAI's chat completions in front of many vendors, with a price in every answer.

https://openrouter.ai/docs/api-reference/overview describes the call,
https://openrouter.ai/docs/api-reference/errors the errors, and
https://openrouter.ai/docs/api-reference/limits the limits.
"""

import re
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

from providers import parsing
from providers.base import Deadline, Usage
from providers.errors import ContentFiltered, ProviderError, ProviderOverloaded
from providers.openai import OpenAI

# Older errors name the daily limit in their message only.
_DAILY = re.compile(r"per-day|limit_rpd")

# A 403 whose metadata has one of these is about the content, not about our rights.
_MODERATION = {"reasons", "flagged_input", "patterns"}


class OpenRouter(OpenAI):
    name: ClassVar[str] = "openrouter"

    label_paths = (
        ("metadata", "error_type"),
        ("error_type",),
        ("availability", "code"),
        ("metadata", "limit_source"),
        ("code",),
        ("http_status",),
    )
    spent = OpenAI.spent | {"openrouter_free_tier_daily"}

    # Without a limit OpenRouter reckons with the longest answer the model can give, and refuses
    # the request with 402 when the account could not pay for that one.
    DEFAULT_MAX_TOKENS = 8192

    def check(self, deadline: Deadline) -> None:
        self._get("key", deadline)  # its list of models is open to all

    def _cost(self, reported: Any, model: str, usage: Usage) -> Decimal | None:
        """The final price in US dollars. Where the operator's own key with a vendor was used,
        `cost` is only OpenRouter's fee, and the vendor's bill comes on top."""
        fee = parsing.usd(parsing.get_path(reported, "cost"))
        if parsing.get_path(reported, "is_byok") is not True:
            return fee
        bill = parsing.usd(parsing.get_path(reported, "cost_details", "upstream_inference_cost"))
        return None if fee is None or bill is None else parsing.usd(fee + bill)

    def _empty(self, choices: Any) -> ProviderError:
        """Nothing at all, without a reason to finish, comes from a model that is starting."""
        choice = parsing.get_path(choices, 0)
        unfinished = isinstance(choice, dict) and choice.get("finish_reason") is None
        if choices == [] or (unfinished and not parsing.get_path(choice, "message", "tool_calls")):
            return ProviderOverloaded("The provider's model is still starting.", reason="no_text")
        return super()._empty(choices)

    def _by_status(
        self, status: int, headers: Mapping[str, str], error: dict[str, Any], reason: str
    ) -> ProviderError:
        metadata = error.get("metadata")
        if status == 403 and isinstance(metadata, dict) and not _MODERATION.isdisjoint(metadata):
            return ContentFiltered(parsing.CONTENT_FILTERED, reason=reason)
        hints = _hints(headers, error)
        wait = parsing.retry_after(hints.get("retry-after"))
        if status == 402 and wait is not None:
            message = "The provider's credit is held by requests that are still running."
            return ProviderOverloaded(message, reason=reason, retry_after=wait)
        if wait is None and status == 429:
            wait = _until(hints.get("x-ratelimit-reset"))
        final = (
            not self.spent.isdisjoint(self._labels(error))
            or parsing.get_path(error, "availability", "retryable") is False
            or _DAILY.search(parsing.message(error.get("message"))) is not None
        )
        return parsing.error_for_status(
            status, reason=reason, retry=False if final else None, retry_after=wait
        )


def _hints(headers: Mapping[str, str], error: dict[str, Any]) -> dict[str, Any]:
    """The headers, with those that OpenRouter left in the body: some come only there."""
    in_body = parsing.get_path(error, "metadata", "headers")
    hints = {name.lower(): value for name, value in parsing.as_items(in_body)}
    if (wait := parsing.get_path(error, "availability", "retry_after")) is not None:
        hints["retry-after"] = wait
    return hints | dict(headers)


def _until(epoch_milliseconds: Any) -> float | None:
    """Seconds from now to X-RateLimit-Reset."""
    try:
        return parsing.wait_seconds(float(epoch_milliseconds) / 1000 - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
