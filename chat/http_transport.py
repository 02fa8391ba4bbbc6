"""The transport that all calls to vendors and to AWS share."""

import functools

from django.conf import settings

from providers.transport import CurlTransport


@functools.cache
def http_transport() -> CurlTransport:
    """Return the transport with the configured proxies and CAs, made once per process."""
    return CurlTransport(**settings.TRANSPORT_OPTIONS)
