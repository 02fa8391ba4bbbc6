"""The errors that a provider raises.

ProviderError
 ├── RequestRejected         the vendor refuses the request itself
 ├── ContentFiltered         the vendor's safety filter refuses the content
 ├── ProviderMisconfigured   the key, the account's credit or the base URL is wrong; falls back
 │    ├── ModelUnavailable   the vendor does not have the model; falls back
 │    └── AddressUnknown     a server answers that does not know the address; falls back
 ├── ProviderFailed          unreachable, broken, or an unusable answer; retried, falls back
 │    ├── EmptyAnswer        retried once
 │    └── MalformedAnswer
 ├── ProviderOverloaded      rate limit, quota or overload; retried, falls back
 └── DeadlineExceeded        the request's time is used up
      └── VendorSilent       the vendor was silent for too long; falls back
"""

from typing import ClassVar


class ProviderError(Exception):
    """The reason why a provider gave no answer. The message is ours, and clients may see it."""

    code: ClassVar[str]
    # Allow up to `max_retries` further calls to the same provider.
    retry: bool = False
    max_retries: ClassVar[int] = 2
    # Allow a call to the next provider.
    fallback: bool = False

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        retry: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        # For the log: the vendor's HTTP status and error codes.
        self.reason = reason
        # The vendor's sentence, keys masked. It can repeat the prompt or name the account, so
        # clients see it only from RequestRejected.
        self.vendor_message = ""
        # The vendor's hint, in seconds.
        self.retry_after = retry_after
        if retry is not None:
            self.retry = retry


class RequestRejected(ProviderError):
    """The request is refused. With `retry`, only a field that we added is, and is then left out."""

    code = "provider_rejected"
    max_retries = 3
    # The field of the request that an OpenAI-compatible vendor names.
    param = ""


class ContentFiltered(ProviderError):
    code = "content_filtered"


# A retry would get the same answer, and another vendor has another key.
class ProviderMisconfigured(ProviderError):
    code = "provider_error"
    fallback = True


class ModelUnavailable(ProviderMisconfigured):
    pass


class AddressUnknown(ProviderMisconfigured):
    pass


class ProviderFailed(ProviderError):
    code = "provider_error"
    retry = True
    fallback = True


class EmptyAnswer(ProviderFailed):
    """An answer without content. A second try mostly returns some."""

    max_retries = 1


class MalformedAnswer(ProviderFailed):
    """The vendor reports that the model's answer is malformed. A prompt can cause it."""


# The next vendor has a quota of its own.
class ProviderOverloaded(ProviderError):
    code = "provider_unavailable"
    retry = True
    fallback = True


# No fallback: the deadline is of the whole request, so no time is left for another vendor.
class DeadlineExceeded(ProviderError):
    code = "provider_timeout"


class VendorSilent(DeadlineExceeded):
    """The vendor sent nothing for the deadline's `idle_seconds`; another one may be faster."""

    fallback = True
