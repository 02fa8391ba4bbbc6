"""Read the usage of OpenAI-compatible vendors, whose counts include different things."""

from decimal import Decimal
from typing import Any

from providers import parsing
from providers.base import Usage
from providers.clean_values import clean_value
from providers.parsing import as_items, clean_text, first_known, get_path, token_count, usd

# Where vendors write other counts, as OpenAI does. Those that `Usage` has are not repeated.
_DETAILS = {
    "prompt_tokens_details": "cached_tokens",
    "completion_tokens_details": "reasoning_tokens",
}
# xAI's unit of cost: https://docs.x.ai/docs/models
TICKS_PER_USD = 10**10


def tokens(reported: Any) -> Usage:
    """Return the tokens of a `usage` object.

    Some vendors leave the cached tokens out of `prompt_tokens` (Anthropic), or the thoughts out of
    `completion_tokens` (xAI, Google). The total is then larger than the sum of the two.
    """
    prompt = token_count(get_path(reported, "prompt_tokens"))
    answer = token_count(get_path(reported, "completion_tokens"))
    total = token_count(get_path(reported, "total_tokens"))
    cached = _cached(reported)
    thoughts = token_count(get_path(reported, "completion_tokens_details", "reasoning_tokens"))
    if prompt is not None and answer is not None:
        missing = max(0, (total or 0) - prompt - answer)
        apart = _cached_apart(reported, prompt, missing, cached or 0, thoughts or 0)
        prompt, answer = prompt + apart, answer + max(0, missing - apart)
    summed = parsing.sum_tokens((prompt, answer))
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=answer,
        total_tokens=summed if total is None or (summed or 0) > total else total,
        cached_tokens=cached,
        reasoning_tokens=thoughts,
    )


def details(reported: Any) -> dict[str, dict[str, Any]]:
    """Return the details of a `usage` object that `Usage` does not have, such as `audio_tokens`."""
    found = {
        name: {
            clean_text(field): clean_value(value)
            for field, value in as_items(get_path(reported, name))
            if value is not None and field != known
        }
        for name, known in _DETAILS.items()
    }
    return {name: values for name, values in found.items() if values}


def cost(reported: Any) -> Decimal | None:
    """Return the cost in US dollars in a `usage` object; None without one."""
    ticks = token_count(get_path(reported, "cost_in_usd_ticks"))
    if ticks is not None:
        return usd(Decimal(ticks) / TICKS_PER_USD)
    reports = (
        get_path(reported, "cost"),  # OpenRouter, and gateways that follow it
        get_path(reported, "cost", "total_cost"),  # Perplexity
        get_path(reported, "estimated_cost"),  # DeepInfra
    )
    return first_known(map(usd, reports))


def _cached_apart(reported: Any, prompt: int, missing: int, cached: int, thoughts: int) -> int:
    """Return the tokens read from and written to the cache, if `prompt` does not include them.

    `missing` tokens are in the total only.
    """
    apart = cached + (token_count(get_path(reported, "cache_creation_input_tokens")) or 0)
    shown_by_total = missing in (apart, apart + thoughts) and missing != thoughts
    return apart if cached > prompt or shown_by_total else 0


def _cached(reported: Any) -> int | None:
    """Return the tokens read from the cache, as OpenAI, Anthropic or DeepSeek name them."""
    places = (
        ("prompt_tokens_details", "cached_tokens"),
        ("cache_read_input_tokens",),
        ("prompt_cache_hit_tokens",),
    )
    return first_known(token_count(get_path(reported, *place)) for place in places)
