"""OpenRouter: chat completions of many vendors, with the price in every answer.

https://openrouter.ai/docs/api-reference/overview describes the call,
https://openrouter.ai/docs/api-reference/errors the errors, and
https://openrouter.ai/docs/api-reference/limits the limits.
"""

import re
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

from providers import answer_errors, parsing, prices
from providers.base import Usage
from providers.chat_completions import ChatCompletionsProvider
from providers.completions_answer import Answer
from providers.deadline import Deadline
from providers.errors import ContentFiltered, ProviderError, ProviderOverloaded
from providers.parsing import as_items, error_message, get_path, usd, wait_seconds

# Older errors name the daily limit in their message only.
_DAILY_LIMIT = re.compile(r"per-day|limit_rpd")

# A 403 with one of these in its metadata is about the content, not about permissions.
_MODERATION = {"reasons", "flagged_input", "patterns"}


class OpenRouter(ChatCompletionsProvider):
    name: ClassVar[str] = "openrouter"

    # Without a limit OpenRouter reserves credit for the model's longest answer, and refuses the
    # request with 402 when the account has less.
    default_max_tokens = 8192
    error_code_paths = (
        ("metadata", "error_type"),
        ("error_type",),
        ("availability", "code"),
        ("metadata", "limit_source"),
        ("code",),
        ("http_status",),
    )
    quota_exhausted_codes = ChatCompletionsProvider.quota_exhausted_codes | {
        "openrouter_free_tier_daily"
    }

    def check(self, deadline: Deadline) -> None:
        self._get("key", deadline)  # its list of models needs no key

    def _cost(self, reported: Any, model: str, usage: Usage, tier: str) -> Decimal | None:
        """Return the final price in US dollars; without one the list price.

        With the operator's own key at a vendor (BYOK), `cost` is only OpenRouter's fee, and the
        vendor's bill is added.
        """
        fee = usd(get_path(reported, "cost"))
        if get_path(reported, "is_byok") is not True:
            return self.list_price(model, usage, tier) if fee is None else fee
        bill = usd(get_path(reported, "cost_details", "upstream_inference_cost"))
        return None if fee is None or bill is None else usd(fee + bill)

    def list_price(self, model: str, usage: Usage, tier: str = "") -> Decimal | None:
        return prices.cost(model, usage, provider_id="openrouter", service_tier=tier)

    def _empty_answer_error(self, answer: Answer) -> ProviderError:
        """Return ProviderOverloaded for no answer and no finish reason: the model is starting."""
        if answer.readable and answer.has_no_fields and not answer.finished:
            return ProviderOverloaded("The provider's model is still starting.", reason="no_text")
        return super()._empty_answer_error(answer)

    def _error_for_status(
        self, status: int, headers: Mapping[str, str], error: dict[str, Any], reason: str
    ) -> ProviderError:
        if status == 403 and any(key in _MODERATION for key, _ in as_items(error.get("metadata"))):
            return ContentFiltered(answer_errors.CONTENT_FILTERED, reason=reason)
        hints = _retry_hints(headers, error)
        wait = parsing.retry_after(hints.get("retry-after"))
        if status == 402 and wait is not None:
            message = "The provider's credit is reserved for requests that are still running."
            return ProviderOverloaded(message, reason=reason, retry_after=wait)
        if wait is None and status == 429:
            wait = _seconds_until(hints.get("x-ratelimit-reset"))
        final = (
            self._quota_exhausted(error)
            or get_path(error, "availability", "retryable") is False
            or _DAILY_LIMIT.search(error_message(error.get("message"))) is not None
        )
        return answer_errors.error_for_status(
            status, reason=reason, retry=False if final else None, retry_after=wait
        )


def _retry_hints(headers: Mapping[str, str], error: dict[str, Any]) -> dict[str, Any]:
    """Return the headers, and the ones that OpenRouter puts into the body instead."""
    in_body = as_items(get_path(error, "metadata", "headers"))
    hints = {name.lower(): value for name, value in in_body}
    if (wait := get_path(error, "availability", "retry_after")) is not None:
        hints["retry-after"] = wait
    return hints | dict(headers)


def _seconds_until(epoch_milliseconds: Any) -> float | None:
    """Return the seconds from now to an X-RateLimit-Reset."""
    try:
        return wait_seconds(float(epoch_milliseconds) / 1000 - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
