"""Many records at once: what the maintenance commands ask of a store, beside `InteractionStore`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, Self

from chat.storage.base import InteractionRecord, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which records: created from `since` until just before `before`, of an owner, of a user."""

    since: datetime | None = None
    before: datetime | None = None
    owner: str | None = None
    user: str | None = None

    @property
    def of_one_user(self) -> bool:
        """Whether the stores have a list of them."""
        return self.owner is not None and self.user is not None

    def takes(self, owner: str, user_id: str) -> bool:
        return self.owner in (None, owner) and self.user in (None, user_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What was found, of how many that were looked at, for how many of DynamoDB's read units.

    The cursor leads to the rest, also in another process; None is the end.
    """

    records: tuple[InteractionRecord, ...]
    seen: int
    units: float = 0.0
    cursor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeResult:
    """How many records were deleted, or would be; the rest as in `Batch`."""

    records: int
    seen: int
    cursor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """How many records were new, and how many took the place of a claim or of an earlier try."""

    new: int = 0
    replaced: int = 0

    def __add__(self, other: Self) -> "ImportResult":
        return ImportResult(new=self.new + other.new, replaced=self.replaced + other.replaced)


class BulkStore(Protocol):
    """Where records are kept, in bulk. Any method raises StorageUnavailable when out of reach.

    What is written while it is being read may be seen or not; each record is seen once.
    """

    def expected(self, chosen: Selection) -> int | None:
        """About how many records will be looked at to find these; None is unknown."""

    def scan(self, chosen: Selection, *, limit: int, cursor: str | None = None) -> Batch:
        """Up to `limit` records, from the beginning, or from where a batch ended."""

    def add(self, records: list[InteractionRecord]) -> ImportResult:
        """Write records as they are, and count in the same write those that are settled.

        What is there already is left as it is, unless it is superseded; so doing it again changes
        nothing. Raises PayloadTooLarge, and writes none, for a record that the store cannot keep.
        """

    def purge(
        self, chosen: Selection, *, limit: int, cursor: str | None = None, dry_run: bool = False
    ) -> PurgeResult:
        """Delete up to `limit` records, those that have expired among them; counts of usage stay.

        A dry run deletes nothing.
        """


def supersedes(record: InteractionRecord, status: Status, deadline_at: datetime) -> bool:
    """Whether a record takes the place of one with this status and deadline under the same id.

    A claim makes way for its outcome, and what came to nothing for a later try; an answer stays.
    """
    if status is Status.OK:
        return False
    return _stage(record.deadline_at, record.status) > _stage(deadline_at, status)


def newest_by_id(records: list[InteractionRecord]) -> dict[str, InteractionRecord]:
    """By its id, of each record the one that supersedes the others."""
    found: dict[str, InteractionRecord] = {}
    for record in records:
        other = found.get(record.interaction_id)
        if other is None or supersedes(record, other.status, other.deadline_at):
            found[record.interaction_id] = record
    return found


def _stage(deadline_at: datetime, status: Status) -> tuple[datetime, bool]:
    """Tries of a request are known by their deadlines, of which each has a later one."""
    return deadline_at, status is not Status.PENDING
