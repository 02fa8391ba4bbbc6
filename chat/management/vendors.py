"""What commands do with all configured vendors at once, and what they say of their failures."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from django.conf import settings

import providers
from providers.base import Provider
from providers.errors import (
    DeadlineExceeded,
    ModelUnavailable,
    ProviderError,
    ProviderMisconfigured,
    ProviderOverloaded,
)

T = TypeVar("T")

HINTS: tuple[tuple[type[ProviderError], str], ...] = (
    (ModelUnavailable, "see {name}_MODEL: does the vendor have it, under this name?"),
    (ProviderMisconfigured, "see {name}_API_KEY, {name}_BASE_URL and the account's credit"),
    (ProviderOverloaded, "wait, raise the quota, or configure another provider"),
    (DeadlineExceeded, "see REQUEST_TIMEOUT_SECONDS, or choose a faster model"),
    (ProviderError, "see {name}_BASE_URL, the network and the vendor's status page"),
)


def for_each_provider(act: Callable[[Provider], T]) -> Iterator[tuple[str, T]]:
    """What it comes to with each configured provider, as they are done, all at the same time."""
    built = [providers.build(name, options) for name, options in settings.PROVIDERS.items()]
    with ThreadPoolExecutor(len(built)) as pool:
        running = {pool.submit(act, provider): provider.name for provider in built}
        for done in as_completed(running):
            yield running[done], done.result()


def describe_error(error: ProviderError) -> str:
    """The failure in words, with the vendor's own code for it."""
    return f"{error} ({error.reason})" if error.reason else str(error)


def hint(name: str, error: ProviderError) -> str:
    """Where to look."""
    words = next(words for kind, words in HINTS if isinstance(error, kind))
    return words.format(name=name.upper())
