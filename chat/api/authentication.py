"""Authentication by API key."""

import functools
import hashlib
import hmac

from django.conf import settings
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from chat import api_keys
from chat.callers import ANONYMOUS_CALLER, Caller
from chat.errors import MissingApiKey

# Optional whitespace around a header's value (RFC 9110). A plain `strip()` would also cut bytes of
# UTF-8 keys: WSGI decodes headers as Latin-1, where 0xA0 is a space.
OWS = " \t"


class ApiKeyAuthentication(BaseAuthentication):
    """Read the key from `X-API-Key: …` or `Authorization: Bearer …`.

    With REQUIRE_API_KEY=false keys are ignored.
    """

    def authenticate(self, request: Request) -> tuple[Caller, None]:
        if not settings.REQUIRE_API_KEY:
            # Not even a wrong key is refused: clients of a laptop's server may send any text.
            return ANONYMOUS_CALLER, None
        presented = _presented_key(request)
        if not presented:
            raise MissingApiKey
        return _caller_with_key(presented), None


def _presented_key(request: Request) -> str:
    headers: dict[str, str] = request.META
    if key := headers.get("HTTP_X_API_KEY", "").strip(OWS):
        return key
    scheme, _, token = headers.get("HTTP_AUTHORIZATION", "").partition(" ")
    return token.strip(OWS) if scheme.lower() == "bearer" else ""


def _caller_with_key(presented: str) -> Caller:
    """Return the caller of a configured or managed key. Raises InvalidApiKey."""
    # The header's bytes, which WSGI decoded as Latin-1.
    digest = hashlib.sha256(presented.encode("latin-1", "replace")).digest()
    # Digests have one length, and all are compared: the time reveals nothing about the keys.
    configured = map(_configured_digest, settings.API_KEYS)
    matches = [candidate for candidate in configured if hmac.compare_digest(digest, candidate)]
    if matches:
        return Caller(owner="default", key_id=digest.hex()[:16])
    # Last, because it may read the storage.
    key = api_keys.verify(presented)
    return Caller(owner=key.owner, key_id=key.key_id, key=key)


# Each request compares all configured keys.
@functools.cache
def _configured_digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
