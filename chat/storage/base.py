"""What is kept of an interaction, and what a store must do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from providers.base import Usage
from providers.router import Attempt

# A claim whose holder has not settled it this long after its own deadline never will be.
SETTLE_GRACE = timedelta(seconds=5)


class Status(StrEnum):
    PENDING = "pending"
    OK = "ok"
    ERROR = "error"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """Why an interaction has no answer, in the words that its client was given."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionRecord:
    """One interaction: what was asked, what came back, from whom, at what cost, or why not.

    A record is claimed as `pending` before a provider is asked. Until then `model` and `provider`
    are those that will be asked; afterwards those that answered. Times are aware and in UTC;
    `latency_ms` is from the acceptance of the request to the outcome. `request_hash`, where the
    request had an idempotency key, tells whether another with the same key is the same request.
    `ancestors` are the ids of the turns before this one that are sent along, the oldest first.
    `key_id` names the managed key that the request came with.
    From `expires_at` on, a whole second, there is no record; None is never.
    """

    interaction_id: str
    owner: str
    user_id: str
    prompt: str
    created_at: datetime
    deadline_at: datetime
    conversation_id: str
    model: str
    provider: str
    request_id: str = ""
    request_hash: str | None = None
    key_id: str | None = None
    expires_at: datetime | None = None
    previous_interaction_id: str | None = None
    ancestors: tuple[str, ...] = ()
    system: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    status: Status = Status.PENDING
    response: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    finish_reason: str | None = None
    cached: bool = False
    latency_ms: int | None = None
    usage: Usage = field(default_factory=Usage)
    error: ErrorInfo | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def lacks_content(self) -> bool:
        """Whether there was an answer, of which the accounting alone was kept."""
        return self.status is Status.OK and self.response is None

    def status_at(self, now: datetime) -> Status:
        """The status as a reader sees it: a claim that outlived its deadline was aborted."""
        if self.status is Status.PENDING and now > self.deadline_at + SETTLE_GRACE:
            return Status.ABORTED
        return self.status


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Records in the order of their list, and the cursor of the next page; None is the end."""

    records: tuple[InteractionRecord, ...]
    next_cursor: str | None = None


class InteractionStore(Protocol):
    """Where records live. Any method raises StorageUnavailable when the store is out of reach.

    What has expired is not there, though it may take a while until it is deleted.
    """

    def claim(self, record: InteractionRecord) -> InteractionRecord | None:
        """Write a new record; where its id is taken, write nothing and return the holder.

        Raises PayloadTooLarge for a record that the store cannot keep.
        """

    def take_over(self, record: InteractionRecord, holder: InteractionRecord) -> bool:
        """Write a new record in the place of one that came to nothing.

        False, and nothing written, when `holder` is no longer what is stored: of several that try,
        one succeeds.
        """

    def settle(self, record: InteractionRecord) -> bool:
        """Write the outcome of this very claim, once; False when it is not there to be settled.

        A claim is known by its deadline: whoever took it over has set another one.
        """

    def get(self, interaction_id: str) -> InteractionRecord | None:
        """The record as last written, whoever owns it."""

    def get_many(self, interaction_ids: Sequence[str]) -> dict[str, InteractionRecord]:
        """Those of up to 100 records that there are, as last written, by their ids."""

    def page(
        self,
        owner: str,
        user_id: str,
        *,
        limit: int,
        cursor: str | None = None,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> Page:
        """Up to `limit` of a user's records, from the newest, or from where a page ended.

        `since` and `before` limit the time of their creation. Raises ValidationFailed for a
        cursor that is none of this user's.
        """

    def conversation(
        self, owner: str, conversation_id: str, *, limit: int, cursor: str | None = None
    ) -> Page:
        """Up to `limit` turns of a conversation, from the oldest, or from where a page ended."""

    def erase(self, owner: str, user_id: str, *, limit: int) -> int:
        """Delete `limit` of a user's records, or a few more; how many. With 0, none is left."""

    def ping(self) -> None:
        """Do the least that proves that records can be read."""
