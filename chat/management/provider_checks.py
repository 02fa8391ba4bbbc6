"""Call all configured providers at once, and describe their failures."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from django.core.management.base import OutputWrapper

from chat.management.progress import Progress
from chat.model_catalog import configured_providers
from providers.base import Provider
from providers.deadline import Deadline
from providers.errors import (
    AddressUnknown,
    DeadlineExceeded,
    ModelUnavailable,
    ProviderError,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderOverloaded,
    RequestRejected,
)

T = TypeVar("T")

HINTS: tuple[tuple[type[ProviderError], str], ...] = (
    (ModelUnavailable, "see {name}_MODEL: does the vendor have it, under this name?"),
    (AddressUnknown, "see {name}_BASE_URL: it includes the version, as in /v1"),
    (ProviderMisconfigured, "see {name}_API_KEY, {name}_BASE_URL and the account's credit"),
    (ProviderOverloaded, "wait, raise the quota, or configure another provider"),
    (DeadlineExceeded, "see REQUEST_TIMEOUT_SECONDS, or choose a faster model"),
    (RequestRejected, "see {name}_MODEL: the vendor refuses this request to it"),
    (ProviderError, "see {name}_BASE_URL, the network and the vendor's status page"),
)


BEDROCK_MODEL = (
    "see BEDROCK_MODEL and BEDROCK_REGION: does the region have the model? Newer ones are called "
    "by an inference profile, such as us.anthropic.…"
)
BEDROCK_ACCESS = (
    "see AWS's region and credentials, their permissions bedrock:InvokeModel and "
    "bedrock:InvokeModelWithResponseStream on BEDROCK_MODEL, and the account's access to it"
)
# Where a provider has other variables than these.
OWN_HINTS: dict[str, tuple[tuple[type[ProviderError], str], ...]] = {
    "bedrock": (
        (ModelUnavailable, BEDROCK_MODEL),
        (AddressUnknown, "see BEDROCK_REGION and AWS_ENDPOINT_URL_BEDROCK_RUNTIME"),
        (ProviderMisconfigured, BEDROCK_ACCESS),
        (ProviderFailed, "see BEDROCK_REGION, the network and AWS's health dashboard"),
    )
}


def for_each_provider(
    act: Callable[[Provider, Deadline], T], seconds: float, stderr: OutputWrapper, task: str
) -> Iterator[tuple[str, T]]:
    """Call `act` on all configured providers concurrently; yield name and result as each ends.

    Each may take `seconds`. An interrupt cancels them all.
    """
    built = configured_providers()
    progress = Progress(stderr, task, total=len(built), unit="providers")
    with ThreadPoolExecutor(len(built)) as pool, progress:
        deadlines = [Deadline(seconds) for _ in built]
        running = {
            pool.submit(act, provider, deadline): provider.name
            for provider, deadline in zip(built, deadlines, strict=True)
        }
        try:
            for done in as_completed(running):
                progress.update(1)
                yield running[done], done.result()
        except BaseException:
            for deadline in deadlines:  # the pool waits for its threads
                deadline.cancel()
            raise


def describe_error(error: ProviderError) -> str:
    """Return the error's sentence, with the vendor's own code and message."""
    codes = f" ({error.reason})" if error.reason else ""
    message = f" The vendor's message: {error.vendor_message}" if error.vendor_message else ""
    return f"{error}{codes}{message}"


def hint(name: str, error: ProviderError) -> str:
    """Return advice for the operator on the error of the provider `name`."""
    hints = (*OWN_HINTS.get(name, ()), *HINTS)
    text = next(text for kind, text in hints if isinstance(error, kind))
    return text.format(name=name.upper())
