"""The interfaces of a storage backend, and their value types.

`Backend` has four stores: interactions, API keys, usage counters, and records in bulk. Every
method of a store raises `StorageUnavailable` when the storage cannot be reached. Times are aware
and in UTC.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from providers.base import COST_DECIMALS, Usage
from providers.router import Attempt

# A claim that is not settled this long after its deadline counts as aborted.
SETTLE_GRACE = timedelta(seconds=5)

# Without `#`, which separates the owner from what follows it in DynamoDB's keys.
OWNER_PATTERN = r"(?!\.{1,2}\Z)[A-Za-z0-9._:@|+-]+"
# User ids are path segments: a slash would separate, and clients and proxies resolve "." and "..".
USER_ID_PATTERN = r"(?!\.{1,2}\Z)[^/\x00-\x1f\x7f-\x9f]+"
MAX_ID_LENGTH = 128

# The most ids that `get_many` takes: the most keys of DynamoDB's BatchGetItem.
MAX_READ = 100

API_KEY_PREFIX = "sca"


def format_utc(moment: datetime) -> str:
    """Return the moment in ISO 8601 with a fixed width: such strings sort by time.

    `strftime` takes ten times as long.
    """
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def plain_digits(amount: Decimal) -> str:
    """Return the amount without an exponent and trailing zeros: `0.0001`, not `1E-4`."""
    return f"{amount.normalize():f}"


# --- Interactions ---------------------------------------------------------------------------------


class Status(StrEnum):
    PENDING = "pending"
    OK = "ok"
    ERROR = "error"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """The error that the client of an interaction received."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """Digests of an answered conversation, by which a later request continues it.

    `digest` is of the messages and the answer, `answer` of the answer in all its fields, and
    `parameters` of the system text and the parameters.
    """

    digest: str
    answer: str
    parameters: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """The part of a record's messages that earlier records hold."""

    # How many of the record's first messages it does not hold itself.
    messages: int
    # The id of the conversation's first record.
    root: str
    # The ids of up to 20 records before it, oldest first. It continues the last one.
    records: tuple[str, ...]
    # The transcript that the last one must have.
    digest: str
    # The record holds the previous answer itself, because the client changed it.
    own_answer: bool
    # The record holds its parameters and system text itself, because they differ.
    own_parameters: bool
    # When the first of these records expires, in epoch seconds; None means never.
    first_expiry: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionRecord:
    """One interaction: request, answer or error, provider, usage and times.

    A record is claimed as `pending` before a provider is called, and settled with the outcome.
    """

    interaction_id: str
    owner: str
    user_id: str
    prompt: str
    created_at: datetime
    deadline_at: datetime
    conversation_id: str
    # The model and provider that answered; before settlement, those of the preferred route.
    model: str
    provider: str
    request_id: str = ""
    # With an idempotency key: tells whether a repeated key belongs to the same request.
    request_hash: str | None = None
    # The managed API key of the request.
    key_id: str | None = None
    # The record no longer exists from this whole second on; None means never.
    expires_at: datetime | None = None
    previous_interaction_id: str | None = None
    # The ids of the earlier turns that are sent to the model, oldest first.
    ancestors: tuple[str, ...] = ()
    system: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    status: Status = Status.PENDING
    response: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    # The other fields of the assistant's message, in OpenAI's format.
    message: Mapping[str, Any] = field(default_factory=dict)
    # The fields of the answer beside its message.
    extras: Mapping[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    cached: bool = False
    # From the acceptance of the request to its outcome.
    latency_ms: int | None = None
    # Of the attempt that answered, or else of the last one.
    usage: Usage = field(default_factory=Usage)
    error: ErrorInfo | None = None
    attempts: tuple[Attempt, ...] = ()
    # In a record that was read whole: set only if an earlier record is gone, so that its
    # messages are incomplete.
    earlier: Earlier | None = None
    # Set for answers to requests with the whole conversation.
    transcript: Transcript | None = None

    @property
    def spent(self) -> Usage:
        """The usage of all attempts; records of older versions have only that of the last one."""
        known = [attempt.usage for attempt in self.attempts if attempt.usage.known]
        return sum(known[1:], known[0]) if known else self.usage

    @property
    def lacks_content(self) -> bool:
        """Whether the answer was not stored (STORE_CONTENT=false, or it was too large)."""
        return self.status is Status.OK and self.response is None

    @property
    def outcome_id(self) -> tuple[Any, ...]:
        """What two outcomes of a record differ in, even if they are tries of one request."""
        return self.deadline_at, self.status, self.latency_ms

    def status_at(self, now: datetime) -> Status:
        """Return the status; `aborted` for a claim that is past its deadline."""
        if self.status is Status.PENDING and now > self.deadline_at + SETTLE_GRACE:
            return Status.ABORTED
        return self.status

    def supersedes(self, status: Status, deadline_at: datetime) -> bool:
        """Return whether this record replaces one of the same id in an import.

        An outcome replaces its claim, and a later attempt replaces a failed one. Attempts of one
        idempotency key are ordered by their deadlines. An answer is never replaced.
        """
        if status is Status.OK:
            return False
        mine = (self.deadline_at, self.status is not Status.PENDING)
        return mine > (deadline_at, status is not Status.PENDING)


def unexpired(records: Iterable[InteractionRecord]) -> list[InteractionRecord]:
    """Return the records that have not expired."""
    now = datetime.now(UTC)
    return [each for each in records if each.expires_at is None or each.expires_at > now]


class Turn(NamedTuple):
    """An answered record that a request may continue.

    `root`, `records` and `first_expiry` are those of `Earlier` for the records that continue it.
    """

    interaction_id: str
    conversation_id: str
    root: str
    records: tuple[str, ...]
    first_expiry: int | None
    transcript: Transcript


class Page(NamedTuple):
    """Records in list order. `next_cursor` is None on the last page."""

    records: tuple[InteractionRecord, ...]
    next_cursor: str | None = None


class InteractionStore(Protocol):
    """Records by id, by user and by conversation. Expired records are never returned.

    `get` and `get_many` return records whole. Other methods return them as they are kept: without
    the messages that earlier records hold.
    """

    def claim(
        self, record: InteractionRecord, *reservations: "Reservation"
    ) -> InteractionRecord | None:
        """Write a new record and return None; if its id is taken, return the stored record.

        The same write makes the reservations. Raises RecordTooLarge, BudgetSpent.
        """

    def take_over(
        self, record: InteractionRecord, holder: InteractionRecord, *reservations: "Reservation"
    ) -> bool:
        """Replace `holder`, a failed or aborted record, with a new claim.

        Return False, without writing, if the stored record is no longer `holder`. Of several
        concurrent calls one succeeds. Raises BudgetSpent.
        """

    def settle(self, record: InteractionRecord, *reservations: "Reservation") -> bool:
        """Write the outcome of a claim once, and count it; return False if the claim is gone.

        The same write releases the reservations of the claim. A claim is identified by its
        deadline, because a take-over sets another one; what the first claim spent is then counted
        all the same. If the answer is too large, write and count the outcome without it, and raise
        RecordTooLarge.
        """

    def get(self, interaction_id: str) -> InteractionRecord | None:
        """Return the record of any owner, by a consistent read."""

    def get_many(self, interaction_ids: Sequence[str]) -> dict[str, InteractionRecord]:
        """Return those of up to MAX_READ records that exist, by id, by consistent reads."""

    def find_turn(self, digest: str) -> Turn | None:
        """Return the record with this transcript, the last one of several, by consistent reads.

        None if its root is gone, or one of its conversation was deleted by `delete`: its messages
        may then be incomplete.
        """

    def list_by_user(
        self,
        owner: str,
        user_id: str,
        *,
        limit: int,
        cursor: str | None = None,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> Page:
        """Return up to `limit` of a user's records created in [since, before), newest first.

        Raises InvalidCursor for a cursor of another list.
        """

    def list_by_conversation(
        self, owner: str, conversation_id: str, *, limit: int, cursor: str | None = None
    ) -> Page:
        """Return up to `limit` turns of a conversation, oldest first. Raises InvalidCursor."""

    def delete(self, interaction_id: str) -> None:
        """Delete a record, if it exists. Its usage stays counted.

        No record of its conversation is found as a turn any more: some lack its messages now.
        """

    def delete_by_user(self, owner: str, user_id: str, *, limit: int) -> int:
        """Delete about `limit` of a user's records and return how many; 0 when none was left."""

    def check(self) -> None:
        """Check with a minimal read that the storage works."""


# --- API keys -------------------------------------------------------------------------------------


class ApiKey(NamedTuple):
    """A managed API key, without its secret: only keyed digests are stored."""

    key_id: str
    # Requests with the key act for this owner.
    owner: str
    name: str
    digest: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    # Written about once an hour.
    last_used_at: datetime | None = None
    # After a rotation the previous secret stays valid until then.
    previous_digest: str | None = None
    previous_until: datetime | None = None
    # Requests per minute of all users. 0: no limit; None: the service's default for each user.
    rate_limit: int | None = None
    # Of the key as a whole, and of each of its users; None: no budget.
    monthly_budget_usd: Decimal | None = None
    user_monthly_budget_usd: Decimal | None = None
    # Empty: all models of the service.
    allowed_models: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """The visible beginning of the key."""
        return f"{API_KEY_PREFIX}_{self.key_id}"

    @property
    def has_budget(self) -> bool:
        return self.monthly_budget_usd is not None or self.user_monthly_budget_usd is not None

    def status_at(self, now: datetime) -> str:
        """Return `active`, `revoked` or `expired`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"

    def digests_at(self, now: datetime) -> tuple[str, ...]:
        """Return the digests of the valid secrets."""
        if self.previous_digest and self.previous_until and self.previous_until > now:
            return self.digest, self.previous_digest
        return (self.digest,)


class ApiKeyStore(Protocol):
    """Managed API keys."""

    def add(self, key: ApiKey) -> bool:
        """Write a new key; return False, without writing, if its id is taken."""

    def get(self, key_id: str) -> ApiKey | None:
        """Return a key by one consistent read."""

    def replace(self, before: ApiKey, after: ApiKey) -> bool:
        """Overwrite a key; return False if it was rotated or revoked since `before` was read."""

    def touch(self, key_id: str, used_at: datetime) -> None:
        """Write `last_used_at` of a key, if the key exists."""

    def all(self) -> Sequence[ApiKey]:
        """Return all keys, revoked and expired ones included, oldest first."""


# --- Usage ----------------------------------------------------------------------------------------


class CounterKind(StrEnum):
    MODEL = "model"
    USER = "user"
    KEY = "key"
    KEY_USER = "key-user"  # only of keys with a budget for each user


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageCounts:
    """Sums over all attempts of settled records. Unknown tokens and costs add nothing.

    `cost` is in units of the last decimal of a record's cost: 10**-12 US dollars.
    """

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cost: int = 0

    @classmethod
    def of(cls, record: InteractionRecord) -> "UsageCounts":
        usage = record.spent
        return cls(
            requests=1,
            errors=int(record.status is Status.ERROR),
            prompt_tokens=usage.prompt_tokens or 0,
            completion_tokens=usage.completion_tokens or 0,
            total_tokens=usage.total_tokens or 0,
            cost=cost_units(usage.cost_usd or Decimal(0)),
        )

    @property
    def cost_usd(self) -> Decimal:
        return Decimal(self.cost).scaleb(-COST_DECIMALS)

    def __add__(self, other: "UsageCounts") -> "UsageCounts":
        sums = {name: getattr(self, name) + getattr(other, name) for name in COUNT_FIELDS}
        return UsageCounts(**sums)


def cost_units(amount: Decimal) -> int:
    """Return US dollars in units of 10**-12."""
    return round(amount.scaleb(COST_DECIMALS))


class Reservation(NamedTuple):
    """The amount that a request in flight may spend of a monthly budget.

    The budget is of the cost that is counted by `by` under `name`. `limit` and `amount` are in
    units of 10**-12 US dollars. A request is refused when what is spent this month (UTC) and what
    is reserved reach the limit. At `until` an unsettled reservation is free again.
    """

    by: CounterKind
    name: str
    limit: int
    amount: int
    until: datetime


COUNT_FIELDS = tuple(field.name for field in fields(UsageCounts))


def counters_for(
    record: InteractionRecord, reservations: Iterable[Reservation] = ()
) -> list[tuple[CounterKind, str]]:
    """Return the kinds and names of the counters that a record adds to."""
    names = [(CounterKind.MODEL, record.model), (CounterKind.USER, record.user_id)]
    if record.key_id is not None:
        names.append((CounterKind.KEY, record.key_id))
    # A key's own budget names the counter of the key a second time.
    return list(dict.fromkeys([*names, *((each.by, each.name) for each in reservations)]))


def counter_expiry(record: InteractionRecord, by: CounterKind) -> datetime | None:
    """Return when a counter is deleted: of a user with the records, of a budget after its month."""
    if by is CounterKind.KEY_USER:
        # No month is longer, so the counter lives until the month of the budget is over.
        return record.created_at + timedelta(days=32)
    return record.expires_at if by is CounterKind.USER else None


class UserPage(NamedTuple):
    """Counts by user. `next_after` is the last user of this page; None on the last page."""

    users: Mapping[str, UsageCounts]
    next_after: str | None = None


class UsageStore(Protocol):
    """Daily counters, each added to in the very write that settles a record.

    A record counts on the day (UTC) of its acceptance, under its model, its user and its managed
    key. Deleted and expired records stay counted, except by user. A failed request and a retry
    under the same idempotency key are two requests. The cost of a read depends on the names and
    days, not on the number of records. Days are inclusive.
    """

    def daily(
        self, owner: str, by: CounterKind, first: date, last: date
    ) -> dict[tuple[date, str], UsageCounts]:
        """Return the counts by day and name. Use `users` for users, who may be many."""

    def users(
        self, owner: str, first: date, last: date, *, limit: int, after: str = ""
    ) -> UserPage:
        """Return the counts of up to `limit` users, ordered by id, from the first after `after`."""

    def owners(self) -> Sequence[str]:
        """Return the owners with counters; none if the storage cannot list them."""

    def month(self, owner: str, by: CounterKind, name: str, day: date) -> UsageCounts:
        """Return the counts of a name in the month of `day`, by consistent reads."""


# --- Bulk -----------------------------------------------------------------------------------------


class Selection(NamedTuple):
    """Records created in [since, before), of an owner, of a user. None selects all."""

    since: datetime | None = None
    before: datetime | None = None
    owner: str | None = None
    user: str | None = None

    @property
    def of_one_user(self) -> bool:
        """Whether an index lists the selected records."""
        return self.owner is not None and self.user is not None

    def matches(self, owner: str, user_id: str) -> bool:
        return self.owner in (None, owner) and self.user in (None, user_id)


class Batch(NamedTuple):
    """The selected ones of `scanned` records, and DynamoDB's read units that the scan consumed.

    The cursor continues the scan, in another process too; None is the end.
    """

    records: tuple[InteractionRecord, ...]
    scanned: int
    read_units: float = 0.0
    cursor: str | None = None


class PurgeResult(NamedTuple):
    """The number of records deleted, or that a dry run would delete; the rest as in `Batch`."""

    records: int
    scanned: int
    cursor: str | None = None


class ImportResult(NamedTuple):
    """The numbers of new records, and of records that replaced a claim or an earlier attempt."""

    new: int = 0
    replaced: int = 0


class BulkStore(Protocol):
    """Many records at once, for the maintenance commands.

    A record written during a scan may be missed; no record is returned twice. Scanned records are
    whole.
    """

    def estimate(self, selection: Selection) -> int | None:
        """Return about how many records a scan will look at; None if unknown."""

    def scan(self, selection: Selection, *, limit: int, cursor: str | None = None) -> Batch:
        """Look at up to `limit` records, from the beginning or from a cursor."""

    def import_records(self, records: list[InteractionRecord]) -> ImportResult:
        """Write records, and count the settled ones in the same write.

        Messages that stored or imported records before them hold are left out.

        A stored record stays unless the new one supersedes it, so that a repeated import changes
        nothing. Raises RecordTooLarge, and writes none, if one of the records is too large.
        """

    def purge(
        self, selection: Selection, *, limit: int, cursor: str | None = None, dry_run: bool = False
    ) -> PurgeResult:
        """Delete up to `limit` records, expired ones included; usage counters stay."""


def newest_by_id(records: list[InteractionRecord]) -> dict[str, InteractionRecord]:
    """Return, for each id, the record that supersedes the others."""
    found: dict[str, InteractionRecord] = {}
    for record in records:
        other = found.get(record.interaction_id)
        if other is None or record.supersedes(other.status, other.deadline_at):
            found[record.interaction_id] = record
    return found


# --- Backend --------------------------------------------------------------------------------------


class Backend(NamedTuple):
    """The stores of one storage."""

    interactions: InteractionStore
    api_keys: ApiKeyStore
    usage: UsageStore
    bulk: BulkStore
