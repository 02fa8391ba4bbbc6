"""The caller of a request: its owner, its API key and the limits of that key."""

from typing import NamedTuple

from django.conf import settings

from chat.storage.base import ApiKey


class Caller(NamedTuple):
    """The authenticated caller of a request.

    Records belong to `owner`. Requests are counted by `key_id`. `key` is set for managed keys and
    carries their limits.
    """

    owner: str
    key_id: str
    key: ApiKey | None = None

    @property
    def has_own_rate_limit(self) -> bool:
        """Whether the key has a limit, which all its users share."""
        return self.key is not None and self.key.rate_limit is not None

    @property
    def rate_limit(self) -> int:
        """Requests per minute; 0 means no limit."""
        # 0 of a key means no limit, so only None takes the default.
        own = self.key.rate_limit if self.key else None
        return settings.RATE_LIMIT_PER_MINUTE if own is None else own


# The caller of every request while REQUIRE_API_KEY is false.
ANONYMOUS_CALLER = Caller(owner="default", key_id="anyone")
