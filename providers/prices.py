"""The list price of an answer, for vendors that report no cost."""

import functools
import importlib
import ipaddress
import threading
from contextlib import suppress
from decimal import Decimal
from types import ModuleType
from urllib.parse import urlsplit

from providers import parsing
from providers.base import Usage


def cost(
    model: str,
    usage: Usage,
    *,
    provider_id: str | None = None,
    provider_api_url: str | None = None,
    cache_write_tokens: int | None = None,
    cache_write_1h_tokens: int | None = None,
    service_tier: str = "",
) -> Decimal | None:
    """Return the list price in US dollars, from the prices bundled with genai-prices.

    The vendor is genai-prices' `provider_id`, or found by `provider_api_url`, also at a regional
    host. The result is None if the vendor, the model, one of its prices or a token count is
    unknown. Tokens read from the cache, written to it, or written for an hour have their own
    prices, and so may a vendor's `service_tier`. Reasoning tokens are priced as output.
    """
    is_private = provider_api_url is not None and _is_private(provider_api_url)
    if is_private or usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    import genai_prices  # here, as the import takes 100 ms at start

    tokens = genai_prices.Usage(
        input_tokens=usage.prompt_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=cache_write_tokens,
        cache_write_1h_tokens=cache_write_1h_tokens,
        output_tokens=usage.completion_tokens,
    )
    try:
        vendor = provider_id or _vendor_at(genai_prices, provider_api_url or "")
        price = genai_prices.calc_price(
            tokens, model, provider_id=vendor, price_context={"service_tier": service_tier}
        )
    except Exception:  # any error of the library: an unknown price must not fail the answer
        return None
    # genai-prices lists some models without prices, and would return 0 for them.
    if price.model_price.input_mtok is None or price.model_price.output_mtok is None:
        return None
    return parsing.usd(price.total_price)


@functools.cache
def load_in_background(provider_api_url: str = "") -> None:
    """Import the price list, once, while the process waits for its first answer.

    A server on the local machine or network needs none.
    """
    if not provider_api_url or not _is_private(provider_api_url):
        arguments = ("genai_prices.data",)  # which genai_prices imports with the first price
        thread = threading.Thread(target=importlib.import_module, args=arguments, daemon=True)
        with suppress(RuntimeError):  # without another thread the first price imports it
            thread.start()


# Hosts of vendors that genai-prices does not list, by suffix.
_MORE_HOSTS = {
    "api.together.ai": "together",
    ".api.cognitive.microsoft.com": "azure",
    ".openai.azure.us": "azure",
}


@functools.cache
def _vendor_at(genai_prices: ModuleType, url: str) -> str:
    """Return genai-prices' id of the vendor at an address. Raises LookupError.

    A region may come before a vendor's host (`eu.api.openai.com`), or within (`api.eu.mistral.ai`).
    """
    host = urlsplit(url).hostname or ""
    for end, vendor in _MORE_HOSTS.items():
        if host.endswith(end):
            return vendor
    first, _, rest = host.partition(".")
    _, _, last = rest.partition(".")
    hosts = [host, rest, f"{first}.{last}"] if "." in last else [host, rest]
    snapshot = genai_prices.data_snapshot.get_snapshot()
    for each in hosts:
        try:
            found = snapshot.find_provider(None, None, url.replace(host, each, 1))
        except LookupError:
            continue
        return str(found.id)
    raise LookupError(url)


@functools.cache
def _is_private(url: str) -> bool:
    """Return whether a server is on the local machine or network, and so has no list price."""
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host
