"""What every store of interactions must do. One class of tests, run against each of them.

class TestThatStore(InteractionStoreContract):
    @pytest.fixture
    def store(self) -> InteractionStore: ...

    @pytest.fixture
    def unreachable_store(self) -> InteractionStore: ...
"""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from chat.storage.base import (
    Earlier,
    ErrorInfo,
    InteractionRecord,
    InteractionStore,
    Page,
    Status,
    Transcript,
)
from chat.storage.errors import InvalidCursor, StorageUnavailable
from providers.base import Usage
from providers.router import Attempt
from tests.factories import ALICE, ANSWERED, FAILED, NOON, PENDING, converse, run_concurrently

ID = PENDING.interaction_id
OTHER_ID = "01998a6e-6f4c-7c3e-9d57-3f1a2b4c5d6f"

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SIGNED = {"google": {"thought_signature": "CpYB/9+kQ=="}}

# Every attribute has a value that is not its default.
FULL = InteractionRecord(
    interaction_id=ID,
    owner="team:blue",
    user_id="auth0|5f7c8ec7@example.org",
    prompt="  Olá, 👩‍👩‍👧‍👦!\r\n\t\u202bمرحبا\u202c e\u0301 \x01 \U0010ffff ",
    created_at=NOON,
    deadline_at=NOON + timedelta(seconds=24, microseconds=1),
    conversation_id=OTHER_ID,
    model="model-1",
    provider="openai",
    request_id="request-1",
    request_hash="0123456789abcdef" * 4,
    key_id="fedcba9876543210",
    expires_at=datetime(2126, 1, 1, tzinfo=UTC),
    previous_interaction_id=OTHER_ID,
    system=" Be brief. ",
    parameters={
        "temperature": 0.1,
        "top_p": 1e-9,
        "max_tokens": 7,
        "stop": ["END", "\n", "🦆"],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, IMAGE]}],
    },
    metadata={"ticket": "7", "": "", "chave ç": "valor 🦆"},
    earlier=Earlier(
        messages=3,
        root=OTHER_ID,
        records=(OTHER_ID,),
        digest="0123456789abcdef" * 2,
        own_answer=True,
        own_parameters=True,
        first_expiry=4_900_000_000,
    ),
)
FULL_ANSWER = replace(
    FULL,
    status=Status.OK,
    model="vendor/model-1:free",
    provider="openrouter",
    response=" Olá! 🦆\n\nComo posso ajudar? \x02 ",
    tool_calls=(
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "find", "arguments": '{"é": "🦆"}'},
            "extra_content": SIGNED,
        },
    ),
    message={
        "reasoning": "🦆? \u202b\x01",
        "reasoning_details": [
            {"type": "reasoning.text", "text": "🦆?", "signature": "EqoB+/==", "index": 0},
            {"type": "reasoning.encrypted", "data": "gAAAA==", "of": [[1, [2.5, None]], {}, []]},
        ],
        "extra_content": SIGNED,
        "images": [IMAGE],
        "refusal": None,
    },
    extras={"logprobs": {"content": [{"token": "Olá", "logprob": -0.5}]}, "citations": [""]},
    finish_reason="content_filter",
    cached=True,
    latency_ms=24_999,
    usage=Usage(
        prompt_tokens=9,
        completion_tokens=41,
        total_tokens=50,
        cached_tokens=4,
        reasoning_tokens=30,
        cost_usd=Decimal("1.234567890123"),
    ),
    attempts=(
        Attempt(provider="openai", model="model-1", outcome="provider_error", latency_ms=5),
        Attempt(provider="openrouter", model="vendor/model-1", outcome="ok", latency_ms=24_900),
    ),
    transcript=Transcript(
        digest="fedcba9876543210" * 2, answer="0123456789abcdef", parameters="fedcba9876543210"
    ),
)

# 240 KB: a page has room for seven of them, and an item of DynamoDB's for one.
LONG = "問" * 80_000

# The second try of PENDING, under the same id.
LATER = replace(
    PENDING,
    created_at=NOON + timedelta(minutes=1),
    deadline_at=NOON + timedelta(minutes=1, seconds=25),
    request_id="request-2",
)
SECOND, MOMENT = timedelta(seconds=1), timedelta(microseconds=1)
FIRST = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)
YESTERDAY = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)


class InteractionStoreContract:
    @pytest.fixture
    def store(self) -> InteractionStore:
        """A store without records."""
        raise NotImplementedError

    @pytest.fixture
    def unreachable_store(self) -> InteractionStore:
        """A store whose database cannot be reached."""
        raise NotImplementedError

    # --- Round trips ------------------------------------------------------------------------------

    @pytest.mark.parametrize("record", [PENDING, FULL], ids=["least", "full"])
    def test_a_claim_is_stored_whole(
        self, store: InteractionStore, record: InteractionRecord
    ) -> None:
        assert store.claim(record) is None
        assert store.get(ID) == record

    @pytest.mark.parametrize(
        ("claim", "outcome"),
        [(PENDING, ANSWERED), (PENDING, FAILED), (FULL, FULL_ANSWER)],
        ids=["answered", "failed", "full"],
    )
    def test_an_outcome_is_kept_whole(
        self, store: InteractionStore, claim: InteractionRecord, outcome: InteractionRecord
    ) -> None:
        store.claim(claim)
        assert store.settle(outcome) is True
        assert store.get(ID) == outcome

    def test_integers_of_64_bits_come_back_as_they_were(self, store: InteractionStore) -> None:
        numbers = [-(2**63), 2**53 + 1, 2**63, 2**64 - 1]
        claim = replace(PENDING, parameters={"messages": [{"role": "user", "ids": numbers}]})
        outcome = replace(ANSWERED, parameters=claim.parameters, message={"ids": numbers})
        store.claim(claim)
        store.settle(outcome)
        kept = store.get(ID)
        assert kept is not None
        assert repr([kept.parameters, kept.message]) == repr([claim.parameters, outcome.message])

    def test_values_come_back_with_the_same_types(self, store: InteractionStore) -> None:
        store.claim(FULL)
        store.settle(FULL_ANSWER)
        kept = store.get(ID)
        assert kept is not None
        for name in InteractionRecord.__slots__:
            assert type(getattr(kept, name)) is type(getattr(FULL_ANSWER, name)), name
        assert type(kept.usage.cost_usd) is Decimal
        assert type(kept.usage.prompt_tokens) is int
        assert type(kept.latency_ms) is int
        assert kept.created_at.utcoffset() == timedelta(0)

    def test_an_answer_without_further_fields_has_none(self, store: InteractionStore) -> None:
        store.claim(PENDING)
        store.settle(replace(ANSWERED, message={}, extras={}))
        kept = store.get(ID)
        assert kept is not None
        assert (kept.message, kept.extras) == ({}, {})

    def test_an_error_without_detail_is_an_error(self, store: InteractionStore) -> None:
        failed = replace(FAILED, error=ErrorInfo(code="internal_error", detail=""))
        store.claim(PENDING)
        store.settle(failed)
        assert store.get(ID) == failed

    def test_an_empty_answer_is_not_an_absent_one(self, store: InteractionStore) -> None:
        empty = replace(ANSWERED, response="", finish_reason="length", system="")
        store.claim(replace(PENDING, system=""))
        store.settle(empty)
        assert store.get(ID) == empty

    def test_zero_tokens_are_not_unknown_tokens(self, store: InteractionStore) -> None:
        free = replace(
            ANSWERED,
            latency_ms=0,
            usage=Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0, cost_usd=Decimal(0)),
        )
        store.claim(PENDING)
        store.settle(free)
        assert store.get(ID) == free

    @pytest.mark.parametrize(
        "cost",
        [
            "0",
            "0.000000000001",
            "0.000104",
            "0.1",
            "0.30",
            "1",
            "10",
            "999.999999999999",
            "1000000",
        ],
    )
    def test_a_cost_is_kept_to_the_last_digit(self, store: InteractionStore, cost: str) -> None:
        store.claim(PENDING)
        store.settle(replace(ANSWERED, usage=Usage(cost_usd=Decimal(cost))))
        kept = store.get(ID)
        assert kept is not None
        assert kept.usage.cost_usd == Decimal(cost)

    def test_large_counts_are_kept(self, store: InteractionStore) -> None:
        usage = Usage(prompt_tokens=2**53, completion_tokens=2**53, total_tokens=2**53)
        store.claim(PENDING)
        store.settle(replace(ANSWERED, usage=usage, latency_ms=900_000))
        kept = store.get(ID)
        assert kept is not None
        assert (kept.usage, kept.latency_ms) == (usage, 900_000)

    def test_long_texts_are_kept(self, store: InteractionStore) -> None:
        prompt, response = "🦆" * 32_000, "é" * 100_000
        store.claim(replace(PENDING, prompt=prompt))
        store.settle(replace(ANSWERED, prompt=prompt, response=response))
        assert store.get(ID) == replace(ANSWERED, prompt=prompt, response=response)

    def test_a_time_is_the_same_moment_whatever_its_zone(self, store: InteractionStore) -> None:
        elsewhere = datetime(2026, 1, 1, 9, 0, 0, 1, timezone(timedelta(hours=-3)))
        store.claim(replace(PENDING, created_at=elsewhere))
        kept = store.get(ID)
        assert kept is not None
        assert kept.created_at == elsewhere
        assert kept.created_at.tzinfo == UTC

    # --- Claims -----------------------------------------------------------------------------------

    @pytest.mark.parametrize("taken", [PENDING, ANSWERED], ids=["pending", "settled"])
    def test_a_taken_id_cannot_be_claimed(
        self, store: InteractionStore, taken: InteractionRecord
    ) -> None:
        store.claim(PENDING)
        if taken is ANSWERED:
            store.settle(ANSWERED)
        assert store.claim(replace(FULL, owner="somebody-else")) == taken
        assert store.get(ID) == taken

    def test_records_do_not_touch_each_other(self, store: InteractionStore) -> None:
        other = replace(PENDING, interaction_id=OTHER_ID, user_id="bob")
        assert store.claim(PENDING) is None
        assert store.claim(other) is None
        assert store.settle(ANSWERED) is True
        assert store.get(OTHER_ID) == other

    def test_one_of_concurrent_claims_succeeds(self, store: InteractionStore) -> None:
        def claim(number: int) -> InteractionRecord | None:
            return store.claim(replace(PENDING, prompt=f"prompt {number}"))

        holders = run_concurrently(20, claim)
        assert holders.count(None) == 1
        winner = replace(PENDING, prompt=f"prompt {holders.index(None)}")
        assert [holder for holder in holders if holder] == [winner] * 19
        assert store.get(ID) == winner

    def test_one_of_concurrent_equal_claims_succeeds(self, store: InteractionStore) -> None:
        assert run_concurrently(20, lambda number: store.claim(PENDING)).count(None) == 1

    # --- Taking over ------------------------------------------------------------------------------

    def test_a_failure_is_replaced_whole(self, store: InteractionStore) -> None:
        store.claim(PENDING)
        store.settle(FAILED)
        assert store.take_over(LATER, FAILED) is True
        assert store.get(ID) == LATER

    def test_a_take_over_replaces_the_whole_claim(self, store: InteractionStore) -> None:
        store.claim(FULL)
        assert store.take_over(LATER, FULL) is True
        assert store.get(ID) == LATER

    def test_a_changed_record_is_not_taken_over(self, store: InteractionStore) -> None:
        store.claim(PENDING)
        store.settle(ANSWERED)
        assert store.take_over(LATER, PENDING) is False
        assert store.take_over(LATER, FAILED) is False
        assert store.get(ID) == ANSWERED

    def test_a_missing_record_is_not_taken_over(self, store: InteractionStore) -> None:
        assert store.take_over(LATER, FAILED) is False
        assert store.get(ID) is None

    def test_one_of_concurrent_take_overs_succeeds(self, store: InteractionStore) -> None:
        store.claim(PENDING)
        store.settle(FAILED)

        def take_over(number: int) -> bool:
            deadline_at = LATER.deadline_at + timedelta(microseconds=number)
            return store.take_over(replace(LATER, deadline_at=deadline_at), FAILED)

        taken = run_concurrently(20, take_over)
        assert sorted(taken) == [False] * 19 + [True]
        kept = store.get(ID)
        assert kept is not None
        assert kept.deadline_at == LATER.deadline_at + timedelta(microseconds=taken.index(True))

    def test_a_claim_that_was_taken_over_cannot_settle(self, store: InteractionStore) -> None:
        store.claim(PENDING)
        store.take_over(LATER, PENDING)
        assert store.settle(ANSWERED) is False
        assert store.get(ID) == LATER
        outcome = replace(ANSWERED, deadline_at=LATER.deadline_at)
        assert store.settle(outcome) is True

    # --- Expiry -----------------------------------------------------------------------------------

    def test_an_expired_value_is_not_found(self, store: InteractionStore) -> None:
        store.claim(replace(PENDING, expires_at=YESTERDAY))
        assert store.get(ID) is None

    def test_a_record_that_expires_tomorrow_is_found(self, store: InteractionStore) -> None:
        record = replace(PENDING, expires_at=YESTERDAY + timedelta(days=2))
        assert store.claim(record) is None
        assert store.get(ID) == record
        assert store.claim(PENDING) == record

    def test_the_id_of_an_expired_record_is_free(self, store: InteractionStore) -> None:
        store.claim(replace(FULL, expires_at=YESTERDAY))
        store.settle(replace(FULL_ANSWER, expires_at=YESTERDAY))
        assert store.claim(PENDING) is None
        assert store.get(ID) == PENDING

    def test_one_of_concurrent_claims_of_an_expired_id_succeeds(
        self, store: InteractionStore
    ) -> None:
        store.claim(replace(PENDING, expires_at=YESTERDAY))
        claimed = run_concurrently(
            20, lambda number: store.claim(replace(PENDING, prompt=f"prompt {number}"))
        )
        assert claimed.count(None) == 1
        winner = replace(PENDING, prompt=f"prompt {claimed.index(None)}")
        assert [holder for holder in claimed if holder] == [winner] * 19

    # --- Outcomes ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("again", [ANSWERED, FAILED], ids=["answered", "failed"])
    def test_an_outcome_is_written_once(
        self, store: InteractionStore, again: InteractionRecord
    ) -> None:
        outcome = replace(ANSWERED, response="the first")
        store.claim(PENDING)
        assert store.settle(outcome) is True
        assert store.settle(again) is False
        assert store.get(ID) == outcome

    def test_one_of_concurrent_outcomes_is_written(self, store: InteractionStore) -> None:
        store.claim(PENDING)

        def settle(number: int) -> bool:
            return store.settle(replace(ANSWERED, response=f"answer {number}"))

        settled = run_concurrently(20, settle)
        assert sorted(settled) == [False] * 19 + [True]
        assert store.get(ID) == replace(ANSWERED, response=f"answer {settled.index(True)}")

    def test_an_unclaimed_record_cannot_be_settled(self, store: InteractionStore) -> None:
        assert store.settle(ANSWERED) is False
        assert store.get(ID) is None

    def test_an_outcome_changes_nothing_of_the_request(self, store: InteractionStore) -> None:
        store.claim(FULL)
        store.settle(replace(FULL_ANSWER, prompt="another", owner="another", user_id="another"))
        assert store.get(ID) == FULL_ANSWER

    def test_a_claim_may_be_settled_after_its_deadline(self, store: InteractionStore) -> None:
        long_ago = NOON - timedelta(days=400)
        store.claim(replace(PENDING, deadline_at=long_ago))
        assert store.settle(replace(ANSWERED, deadline_at=long_ago)) is True

    # --- Reading ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("interaction_id", [OTHER_ID, "not an id", "%", "_" * 36])
    def test_an_unknown_id_has_no_record(
        self, store: InteractionStore, interaction_id: str
    ) -> None:
        store.claim(PENDING)
        assert store.get(interaction_id) is None

    def test_an_empty_store_passes_its_check(self, store: InteractionStore) -> None:
        store.check()

    # --- Out of reach -----------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "call",
        [
            lambda store: store.claim(PENDING),
            lambda store: store.take_over(LATER, FAILED),
            lambda store: store.settle(ANSWERED),
            lambda store: store.get(ID),
            lambda store: store.check(),
        ],
        ids=["claim", "take over", "settle", "get", "ping"],
    )
    def test_an_unreachable_store_raises_storage_unavailable(
        self, unreachable_store: InteractionStore, call: Callable[[InteractionStore], Any]
    ) -> None:
        with pytest.raises(StorageUnavailable):
            call(unreachable_store)

    # --- A user's records ---------------------------------------------------------------------

    def fill(self, store: InteractionStore, count: int, **changes: Any) -> list[str]:
        """The ids of so many new records, the newest first."""
        records = [
            replace(
                PENDING,
                interaction_id=str(uuid4()),
                created_at=NOON + timedelta(seconds=number // 2),
                **changes,
            )
            for number in range(count)
        ]
        for record in records:
            assert store.claim(record) is None
        return [record.interaction_id for record in reversed(records)]

    def all_pages(
        self, store: InteractionStore, user: str, limit: int
    ) -> list[list[InteractionRecord]]:
        pages, cursor = [], None
        while True:
            page = store.list_by_user("default", user, limit=limit, cursor=cursor)
            pages.append(list(page.records))
            cursor = page.next_cursor
            if cursor is None:
                return pages

    def test_a_user_without_records_has_an_empty_page(self, store: InteractionStore) -> None:
        assert store.list_by_user("default", ALICE, limit=10) == Page(records=())

    @pytest.mark.parametrize(
        ("count", "limit", "sizes"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (3, 5, [3])]
    )
    def test_pages_have_each_record_once_and_the_newest_first(
        self, store: InteractionStore, count: int, limit: int, sizes: list[int]
    ) -> None:
        ids = self.fill(store, count)
        self.fill(store, 2, user_id="somebody")
        self.fill(store, 2, owner="somebody")
        pages = self.all_pages(store, ALICE, limit)
        assert [len(page) for page in pages] == sizes
        records = [record for page in pages for record in page]
        assert {record.interaction_id for record in records} == set(ids)
        times = [record.created_at for record in records]
        assert times == sorted(times, reverse=True)

    def test_a_page_has_whole_records(self, store: InteractionStore) -> None:
        store.claim(FULL)
        store.settle(FULL_ANSWER)
        assert store.list_by_user(FULL.owner, FULL.user_id, limit=1).records == (FULL_ANSWER,)

    @pytest.mark.parametrize(
        ("text", "sizes"),
        [("a" * 900_000, [2, 2, 1]), ("é🦆" * 150_000, [2, 2, 1]), ("\x01" * 600_000, [1] * 5)],
        ids=["ASCII", "more bytes than characters", "escaped"],
    )
    def test_a_page_of_long_texts_ends_sooner(
        self, store: InteractionStore, text: str, sizes: list[int]
    ) -> None:
        ids = self.fill(store, 5, prompt=text, conversation_id="talk")
        pages = self.all_pages(store, ALICE, 9)
        assert [len(page) for page in pages] == sizes
        assert {record.interaction_id for page in pages for record in page} == set(ids)
        first = store.list_by_conversation("default", "talk", limit=9)
        rest = store.list_by_conversation("default", "talk", limit=9, cursor=first.next_cursor)
        turns = {turn.interaction_id for page in (first, rest) for turn in page.records}
        assert [len(page.records) for page in (first, rest)] == sizes[:2]
        assert len(turns) == sum(sizes[:2])

    @pytest.mark.parametrize(
        "changes",
        [
            {"response": LONG},
            {"metadata": {"note": LONG}},
            {"error": ErrorInfo(code="provider_error", detail=LONG)},
            {"tool_calls": ({"function": {"name": "f", "arguments": LONG}},)},
            {"message": {"reasoning": LONG}},
        ],
        ids=["response", "metadata", "error", "tool_calls", "message"],
    )
    def test_all_that_is_shown_counts_as_text(
        self, store: InteractionStore, changes: dict[str, Any]
    ) -> None:
        for id_ in self.fill(store, 9, metadata=changes.get("metadata", {})):
            claim = store.get(id_)
            assert claim
            store.settle(replace(claim, status=Status.ERROR, **changes))
        assert len(store.list_by_user("default", ALICE, limit=9).records) == 7

    def test_fields_that_are_not_shown_make_no_page_shorter(self, store: InteractionStore) -> None:
        text = "問" * 400_000
        for id_ in self.fill(store, 3, system=text, parameters={"stop": [text]}):
            claim = store.get(id_)
            assert claim
            store.settle(replace(claim, status=Status.OK, extras={"citations": [text]}))
        assert len(store.list_by_user("default", ALICE, limit=9).records) == 3

    def test_expired_records_are_on_no_page(self, store: InteractionStore) -> None:
        past = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=5)
        ids = self.fill(store, 3)
        self.fill(store, 5, expires_at=past)
        assert sum(map(len, self.all_pages(store, ALICE, 2))) == len(ids)

    @pytest.mark.parametrize(
        "change", [lambda cursor: cursor[:-1] + "x", lambda _: "", lambda _: "x"]
    )
    def test_a_cursor_cannot_be_made_or_changed(
        self, store: InteractionStore, change: Callable[[str], str]
    ) -> None:
        self.fill(store, 3)
        cursor = store.list_by_user("default", ALICE, limit=1).next_cursor
        assert cursor
        with pytest.raises(InvalidCursor):
            store.list_by_user("default", ALICE, limit=1, cursor=change(cursor))

    @pytest.mark.parametrize(("owner", "user"), [("default", "bob"), ("other", ALICE)])
    def test_a_cursor_is_for_one_user(self, store: InteractionStore, owner: str, user: str) -> None:
        self.fill(store, 3)
        cursor = store.list_by_user("default", ALICE, limit=1).next_cursor
        with pytest.raises(InvalidCursor):
            store.list_by_user(owner, user, limit=1, cursor=cursor)

    def test_erasing_deletes_the_records_of_one_user_only(self, store: InteractionStore) -> None:
        self.fill(store, 130)
        others = [*self.fill(store, 2, user_id="somebody"), *self.fill(store, 2, owner="somebody")]
        assert store.delete_by_user("default", ALICE, limit=10) >= 10
        assert store.list_by_user("default", ALICE, limit=10).records
        while store.delete_by_user("default", ALICE, limit=1000):
            pass
        assert store.list_by_user("default", ALICE, limit=10) == Page(records=())
        assert all(store.get(each) for each in others)
        assert store.delete_by_user("default", ALICE, limit=10) == 0

    def test_a_record_is_deleted_and_nothing_else(self, store: InteractionStore) -> None:
        one, other = self.fill(store, 2)
        store.delete(one)
        assert store.get(one) is None
        assert store.get(other)
        store.delete(one)

    def test_a_page_can_be_limited_to_a_time_span(self, store: InteractionStore) -> None:
        self.fill(store, 8)  # two a second
        since, before = NOON + timedelta(seconds=1), NOON + timedelta(seconds=3)
        first = store.list_by_user("default", ALICE, limit=3, since=since, before=before)
        rest = store.list_by_user(
            "default", ALICE, limit=3, since=since, before=before, cursor=first.next_cursor
        )
        seconds = [(r.created_at - NOON).seconds for r in (*first.records, *rest.records)]
        assert (seconds, rest.next_cursor) == ([2, 2, 1, 1], None)
        assert len(store.list_by_user("default", ALICE, limit=9, since=since).records) == 6
        assert len(store.list_by_user("default", ALICE, limit=9, before=since).records) == 2

    @pytest.mark.parametrize(
        ("since", "before", "expected"),
        [
            (timedelta(0), None, [2]),
            (MOMENT, None, []),
            (None, MOMENT, [2, 1, 1, 0, 0]),
            (None, timedelta(0), [1, 1, 0, 0]),
            (None, MOMENT - SECOND, [1, 1, 0, 0]),
            (None, -SECOND, [0, 0]),
            (timedelta(0), MOMENT, [2]),
            (-SECOND, timedelta(0), [1, 1]),
            (timedelta(days=9), None, []),
            (-timedelta(days=9), -timedelta(days=8), []),
        ],
    )
    def test_a_cursor_outside_the_time_span_is_valid(
        self,
        store: InteractionStore,
        since: timedelta | None,
        before: timedelta | None,
        expected: list[int],
    ) -> None:
        """The ends are told as seen from the record that the cursor comes after."""
        self.fill(store, 8)  # two a second
        last, limits = NOON + 2 * SECOND, {"since": since, "before": before}
        time = {name: last + each for name, each in limits.items() if each is not None}
        cursor = store.list_by_user("default", ALICE, limit=3).next_cursor
        found: list[int] = []
        while cursor:
            page = store.list_by_user("default", ALICE, limit=3, cursor=cursor, **time)
            found += [(record.created_at - NOON).seconds for record in page.records]
            cursor = page.next_cursor
        assert found == expected

    @pytest.mark.parametrize(
        ("since", "before", "counts"),
        [
            (FIRST, None, [8, 5]),
            (FIRST, LAST, [8, 5]),
            (LAST, None, [0, 0]),
            (None, FIRST, [0, 0]),
        ],
    )
    def test_a_time_may_be_as_long_as_there_are_times(
        self,
        store: InteractionStore,
        since: datetime | None,
        before: datetime | None,
        counts: list[int],
    ) -> None:
        self.fill(store, 8)
        cursors = [None, store.list_by_user("default", ALICE, limit=3).next_cursor]
        pages = [
            store.list_by_user("default", ALICE, limit=9, cursor=cursor, since=since, before=before)
            for cursor in cursors
        ]
        assert [len(page.records) for page in pages] == counts

    def test_a_conversation_has_its_turns_and_the_oldest_first(
        self, store: InteractionStore
    ) -> None:
        ids = self.fill(store, 5, conversation_id="talk")[::-1]
        self.fill(store, 2, conversation_id="talk", owner="somebody")
        self.fill(store, 2)
        first = store.list_by_conversation("default", "talk", limit=3)
        rest = store.list_by_conversation("default", "talk", limit=3, cursor=first.next_cursor)
        turns = [*first.records, *rest.records]
        assert {turn.interaction_id for turn in turns} == set(ids)
        assert len(turns) == 5
        assert [turn.created_at for turn in turns] == sorted(turn.created_at for turn in turns)
        assert rest.next_cursor is None
        with pytest.raises(InvalidCursor):
            store.list_by_user("default", ALICE, limit=3, cursor=first.next_cursor)

    def test_many_records_are_read_at_once(self, store: InteractionStore) -> None:
        ids = self.fill(store, 100)
        found = store.get_many(ids)
        assert {id_: record.interaction_id for id_, record in found.items()} == {i: i for i in ids}
        assert store.get_many([str(uuid4())]) == {}
        assert store.get_many([]) == {}

    # --- Conversations that are sent whole --------------------------------------------------------

    def test_earlier_messages_are_read_with_a_record(self, store: InteractionStore) -> None:
        turns = converse(store, 45)
        for number in (0, 1, 19, 20, 21, 44):
            assert store.get(turns[number].interaction_id) == turns[number]
        ids = [turn.interaction_id for turn in turns]
        assert store.get_many(ids) == dict(zip(ids, turns, strict=True))

    def test_lists_have_what_a_record_keeps(self, store: InteractionStore) -> None:
        turns = converse(store, 3)
        lists = [
            store.list_by_conversation("default", turns[0].conversation_id, limit=9).records,
            store.list_by_user("default", ALICE, limit=9).records[::-1],
        ]
        for records in lists:
            assert [each.parameters["messages"] for each in records[1:]] == [
                [{"role": "user", "content": f"question {number}"}] for number in (1, 2)
            ]

    def test_a_turn_is_found_by_its_digest(self, store: InteractionStore) -> None:
        turns = converse(store, 2)
        found = [store.find_turn(turn.transcript.digest) for turn in turns if turn.transcript]
        assert [turn and turn.interaction_id for turn in found] == [
            turn.interaction_id for turn in turns
        ]
        assert store.find_turn("0" * 32) is None

    def test_the_newest_of_equal_turns_is_found(self, store: InteractionStore) -> None:
        converse(store, 1)
        [newest] = converse(store, 1, created_at=NOON + timedelta(hours=1))
        assert newest.transcript
        found = store.find_turn(newest.transcript.digest)
        assert found
        assert found.interaction_id == newest.interaction_id

    def test_turns_of_other_users_and_owners_have_other_digests(
        self, store: InteractionStore
    ) -> None:
        turns = [
            *converse(store, 1),
            *converse(store, 1, user_id="bob"),
            *converse(store, 1, owner="team:blue"),
        ]
        assert len({turn.transcript.digest for turn in turns if turn.transcript}) == 3

    @pytest.mark.parametrize("user_id", [ALICE, "bob"])
    def test_a_turn_is_erased_with_its_record(self, store: InteractionStore, user_id: str) -> None:
        [turn] = converse(store, 1)
        assert turn.transcript
        store.delete_by_user("default", user_id, limit=10)
        found = store.find_turn(turn.transcript.digest)
        assert (found is None) == (user_id == ALICE)

    def test_a_turn_expires_with_its_record(self, store: InteractionStore) -> None:
        [turn] = converse(store, 1, expires_at=YESTERDAY)
        assert turn.transcript
        assert store.find_turn(turn.transcript.digest) is None

    def test_the_messages_of_an_expired_record_are_missing(self, store: InteractionStore) -> None:
        soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
        later = soon + timedelta(days=1)
        *_, last = converse(store, 3, root={"expires_at": soon}, expires_at=later)
        while datetime.now(UTC) <= soon:
            time.sleep(0.05)
        found = store.get(last.interaction_id)
        assert found
        assert found.earlier
        assert found.earlier.messages == 2  # its question, and its answer
        assert found.parameters["messages"] == last.parameters["messages"][2:]
        assert last.transcript
        assert store.find_turn(last.transcript.digest) is None

    def test_no_turn_is_found_after_one_of_its_conversation_was_deleted(
        self, store: InteractionStore
    ) -> None:
        turns = converse(store, 3)
        store.delete(turns[1].interaction_id)
        for turn in turns:
            assert turn.transcript
            assert store.find_turn(turn.transcript.digest) is None
        found = store.get(turns[2].interaction_id)
        assert found
        assert found.earlier
        assert found.earlier.messages == 4
