"""What is kept of a managed API key, and what a store of keys must do."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

PREFIX = "sca"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key without its secret, of which only keyed digests are kept.

    Requests with it act for `owner`. After a rotation the secret before it goes on being good
    until `previous_until`. None is: never, for times; the service's own, for the rate limit (per
    minute; 0 is no limit); none, for the budget. No `allowed_models` are all that the service
    allows. `last_used_at` is coarse: written at most about once an hour. Times are aware.
    """

    key_id: str
    owner: str
    name: str
    digest: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    previous_digest: str | None = None
    previous_until: datetime | None = None
    rate_limit: int | None = None
    monthly_budget_usd: Decimal | None = None
    allowed_models: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """How the key begins, by which people know it."""
        return f"{PREFIX}_{self.key_id}"

    def status_at(self, now: datetime) -> str:
        """`active`, `revoked` or `expired`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"

    def digests_at(self, now: datetime) -> tuple[str, ...]:
        """The digests of the secrets that are good."""
        if self.previous_digest and self.previous_until and self.previous_until > now:
            return self.digest, self.previous_digest
        return (self.digest,)


class ApiKeyStore(Protocol):
    """Where keys live. Any method raises StorageUnavailable when the store is out of reach."""

    def add(self, key: ApiKey) -> bool:
        """Write a new key; False, and nothing written, when its id is taken."""

    def get(self, key_id: str) -> ApiKey | None:
        """The key as last written: one consistent read by primary key."""

    def replace(self, before: ApiKey, after: ApiKey) -> bool:
        """Write a key in the place of itself.

        False, and nothing written, when it was rotated or revoked since `before` was read.
        """

    def touch(self, key_id: str, used_at: datetime) -> None:
        """Note when a key was last used, if it is there."""

    def all(self) -> Sequence[ApiKey]:
        """All keys, whatever became of them, the oldest first."""
