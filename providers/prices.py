"""What an answer cost, for vendors that do not say."""

import functools
import ipaddress
from decimal import Decimal
from urllib.parse import urlsplit

from providers import parsing
from providers.base import Usage


def cost(
    model: str,
    usage: Usage,
    *,
    provider_id: str | None = None,
    provider_api_url: str | None = None,
) -> Decimal | None:
    """The list price in US dollars, from the prices that genai-prices carries with it.

    The vendor is told by its id there, or by its address. None, which is not zero, when the
    vendor, the model, one of its prices or the number of tokens is unknown. Cached tokens have
    their own price; reasoning tokens cost what the rest of the answer costs.
    """
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    if provider_api_url is not None and _has_no_list(provider_api_url):
        return None
    import genai_prices  # an import of 100 ms, which a start does without

    tokens = genai_prices.Usage(
        input_tokens=usage.prompt_tokens,
        cache_read_tokens=usage.cached_tokens,
        output_tokens=usage.completion_tokens,
    )
    try:
        if provider_id is None:
            price = genai_prices.calc_price(tokens, model, provider_api_url=provider_api_url)
        else:
            price = genai_prices.calc_price(tokens, model, provider_id=provider_id)
    except Exception:  # its own errors are of many types, and no answer is lost for want of a price
        return None
    # A model without prices is listed too, and would be free.
    if price.model_price.input_mtok is None or price.model_price.output_mtok is None:
        return None
    return parsing.usd(price.total_price)


@functools.cache
def _has_no_list(url: str) -> bool:
    """Whether a server is on one's own machine or network, where nobody keeps a price list."""
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host
