"""API keys -> Caller."""

import functools
import hashlib
import hmac
from dataclasses import dataclass

from django.conf import settings
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from chat import api_keys
from chat.errors import MissingApiKey
from chat.storage.api_keys import ApiKey

# Nothing else may be trimmed: a byte of a key in UTF-8 may be a space in Latin-1.
OWS = " \t"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks. Records belong to the owner; requests are counted by key.

    `key` is there for a managed one, with what it may.
    """

    owner: str
    key_id: str
    key: ApiKey | None = None

    @property
    def rate_limit(self) -> int:
        """Requests per minute; 0 is no limit."""
        own = self.key.rate_limit if self.key else None
        return settings.RATE_LIMIT_PER_MINUTE if own is None else own


ANONYMOUS_CALLER = Caller(owner="default", key_id="anyone")


class ApiKeyAuthentication(BaseAuthentication):
    """`X-API-Key: …` or `Authorization: Bearer …`; with REQUIRE_API_KEY=false, keys are ignored."""

    def authenticate(self, request: Request) -> tuple[Caller, None]:
        if not settings.REQUIRE_API_KEY:
            return ANONYMOUS_CALLER, None
        presented = _presented_key(request)
        if not presented:
            raise MissingApiKey
        return _caller(presented), None


def _presented_key(request: Request) -> str:
    if key := request.headers.get("X-API-Key", "").strip(OWS):
        return key
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip(OWS) if scheme.lower() == "bearer" else ""


def _caller(presented: str) -> Caller:
    # Digests have one length, and each is compared: the time taken tells nothing about the keys.
    # WSGI hands a header's bytes over as Latin-1.
    digest = hashlib.sha256(presented.encode("latin-1", "replace")).digest()
    matches = [
        candidate
        for key in settings.API_KEYS
        if hmac.compare_digest(digest, candidate := _digest(key))
    ]
    if matches:
        return Caller(owner="default", key_id=matches[0].hex()[:16])
    key = api_keys.verify(presented)
    return Caller(owner=key.owner, key_id=key.key_id, key=key)


@functools.cache
def _digest(key: str) -> bytes:
    """The digest of a configured key, made once."""
    return hashlib.sha256(key.encode()).digest()
