"""The store on SQLite."""

import gc
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from django.db import connection, transaction
from pytest_django import Settings

from chat.models import CacheEntry, Interaction
from chat.storage import backend
from chat.storage.base import InteractionStore, Status
from chat.storage.errors import StorageUnavailable
from chat.storage.orm import interactions
from chat.storage.orm.cache import OrmCache
from chat.storage.orm.interactions import OrmInteractionStore
from chat.storage.orm.write_queue import write_queue
from chat.storage.time_limit import storage_deadline
from providers.deadline import Deadline
from tests.chat.storage.contract import OTHER_ID, YESTERDAY, InteractionStoreContract
from tests.factories import ALICE, ANSWERED, PENDING, Clock, store_record


class TestOrmStore(InteractionStoreContract):
    @pytest.fixture
    def store(self, transactional_db: None) -> InteractionStore:
        return OrmInteractionStore()

    @pytest.fixture
    def unreachable_store(self, unreachable_database: None) -> InteractionStore:
        return OrmInteractionStore()


def test_a_database_without_tables_is_unavailable(
    unreachable_database: None, tmp_path: Path
) -> None:
    connection.settings_dict["NAME"] = str(tmp_path / "empty.db")
    for call in (OrmInteractionStore().check, lambda: OrmInteractionStore().claim(PENDING)):
        with pytest.raises(StorageUnavailable):
            call()


# Django lets go of a connection that it could not set up without closing it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_invalid_database_file_is_unavailable(
    unreachable_database: None, tmp_path: Path
) -> None:
    (tmp_path / "letter.db").write_text("Dear Sir or Madam, " * 100)
    connection.settings_dict["NAME"] = str(tmp_path / "letter.db")
    with pytest.raises(StorageUnavailable):
        OrmInteractionStore().check()
    gc.collect()


def test_writing_threads_share_one_connection(transactional_db: None) -> None:
    store = OrmInteractionStore()

    def claim(number: int) -> bool:
        record = replace(PENDING, interaction_id=f"{number}", owner=f"owner-{number}")
        return store.claim(record) is None and connection.connection is None

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(claim, range(20)))
    assert Interaction.objects.count() == 20


def test_a_write_in_a_transaction_is_part_of_it(transactional_db: None) -> None:
    with transaction.atomic():
        assert OrmInteractionStore().claim(PENDING) is None
        transaction.set_rollback(True)
    assert not Interaction.objects.exists()


def test_after_a_failure_the_next_writer_reconnects(transactional_db: None) -> None:
    store = OrmInteractionStore()
    store.claim(PENDING)
    with write_queue() as writer:
        writer.execute("PRAGMA query_only = true")
    with pytest.raises(StorageUnavailable):
        store.claim(replace(PENDING, interaction_id=OTHER_ID))
    assert store.claim(replace(PENDING, interaction_id=OTHER_ID)) is None


@contextmanager
def locked() -> Iterator[None]:
    """Hold the lock to write, as another process may."""
    with closing(sqlite3.connect(connection.settings_dict["NAME"])) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def queued(seconds: float = 30.0) -> Iterator[None]:
    """Hold the place of this process's writer, as another thread may."""
    taken, done = Event(), Event()

    def hold() -> None:
        with write_queue():
            taken.set()
            done.wait(seconds)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(hold)
        taken.wait(30)
        yield
        done.set()


@pytest.mark.parametrize("busy", [locked, queued])
def test_a_request_waits_for_a_busy_writer_within_its_deadline(
    transactional_db: None,
    settings: Settings,
    busy: Callable[[], AbstractContextManager[None]],
) -> None:
    settings.SQLITE_BUSY_TIMEOUT = 0.1
    connection.ensure_connection()
    store = OrmInteractionStore()

    def claim() -> bool:
        with storage_deadline(Deadline(60)):
            return store.claim(PENDING) is None

    with ThreadPoolExecutor(1) as thread:
        with busy():
            with pytest.raises(StorageUnavailable):
                store.claim(PENDING)
            waiting = thread.submit(claim)
            time.sleep(0.3)
            assert not waiting.done()
        assert waiting.result(timeout=30)


@pytest.mark.parametrize("busy", [locked, queued])
def test_a_request_waits_for_the_writer_for_a_tenth_of_its_time(
    transactional_db: None, busy: Callable[[], AbstractContextManager[None]]
) -> None:
    connection.ensure_connection()
    deadline = Deadline(20)
    with (
        busy(),
        storage_deadline(deadline),
        pytest.raises(StorageUnavailable, match="busy with other writes"),
    ):
        OrmInteractionStore().claim(PENDING)
    assert deadline.remaining() > 10


@pytest.mark.parametrize("busy", [locked, queued])
def test_the_writes_of_a_request_share_the_time_to_wait_for_the_writer(
    transactional_db: None, busy: Callable[[], AbstractContextManager[None]]
) -> None:
    connection.ensure_connection()
    deadline = Deadline(20)
    with busy(), storage_deadline(deadline):
        for _ in range(6):
            with pytest.raises(StorageUnavailable):
                OrmInteractionStore().claim(PENDING)
    assert deadline.remaining() > 10


@pytest.mark.parametrize(
    "delete",
    [
        lambda store: store.delete(OTHER_ID),
        lambda store: store.delete_by_user("owner", "user", limit=1),
    ],
    ids=["one", "all"],
)
def test_a_deletion_waits_for_the_writer_for_a_tenth_of_its_time(
    transactional_db: None, delete: Callable[[InteractionStore], object]
) -> None:
    deadline = Deadline(10)
    with locked(), storage_deadline(deadline), pytest.raises(StorageUnavailable):
        delete(OrmInteractionStore())
    assert deadline.remaining() > 6


@pytest.mark.parametrize("busy", [locked, queued])
def test_a_narrower_limit_keeps_to_the_request_s(
    transactional_db: None, busy: Callable[[], AbstractContextManager[None]]
) -> None:
    connection.ensure_connection()
    deadline = Deadline(20)
    with busy(), storage_deadline(deadline):
        for _ in range(12):
            with (
                storage_deadline(Deadline(10), narrow=True),
                pytest.raises(StorageUnavailable, match="busy with other writes"),
            ):
                OrmInteractionStore().claim(PENDING)
    assert deadline.remaining() > 10


def test_a_claim_does_not_wait_to_delete_what_has_expired(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(1000.0)
    monkeypatch.setattr(interactions, "time", clock)
    store = OrmInteractionStore()
    clock.now += 61
    deadline = Deadline(20)
    with locked(), storage_deadline(deadline), pytest.raises(StorageUnavailable):
        store.claim(PENDING)
    assert deadline.remaining() > 16


def test_a_claim_succeeds_even_if_what_has_expired_cannot_be_deleted(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(1000.0)
    monkeypatch.setattr(interactions, "time", clock)
    store = OrmInteractionStore()
    store.claim(replace(PENDING, expires_at=YESTERDAY))
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TRIGGER broken BEFORE DELETE ON chat_interaction"
            " BEGIN SELECT RAISE(FAIL, 'broken'); END"
        )
    try:
        clock.now += 61
        assert store.claim(replace(PENDING, interaction_id=OTHER_ID)) is None
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER broken")
    assert Interaction.objects.count() == 2


def test_a_turn_and_the_lock_share_one_time_limit(
    transactional_db: None, settings: Settings
) -> None:
    settings.SQLITE_BUSY_TIMEOUT = 1.0
    with queued(seconds=0.8), locked():
        begun = time.monotonic()
        with pytest.raises(StorageUnavailable):
            OrmInteractionStore().delete_by_user("owner", "user", limit=10)
        assert time.monotonic() - begun < 1.6


def test_a_busy_writer_is_not_disconnected(transactional_db: None, settings: Settings) -> None:
    settings.SQLITE_BUSY_TIMEOUT = 0.1
    with write_queue() as writer:
        pass
    with locked(), pytest.raises(StorageUnavailable):
        OrmInteractionStore().claim(PENDING)
    with write_queue() as later:
        assert later is writer


def test_expired_records_are_deleted_a_minute_later(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(1000.0)
    monkeypatch.setattr(interactions, "time", clock)
    store = OrmInteractionStore()
    store.claim(replace(PENDING, expires_at=YESTERDAY))
    OrmCache("", {}).set_many({"old": 1}, timeout=-1)
    OrmCache("", {}).set_many({"new": 1}, timeout=1000)
    clock.now += 61
    store.claim(replace(PENDING, interaction_id=OTHER_ID))
    assert [row.interaction_id for row in Interaction.objects.all()] == [OTHER_ID]
    assert [entry.key for entry in CacheEntry.objects.all()] == [":1:new"]


@pytest.mark.parametrize("status", ["weird", "", "OK"])
def test_a_row_with_an_unknown_status_is_aborted(db: None, status: str) -> None:
    store_record(ANSWERED)
    Interaction.objects.update(status=status)
    [record] = OrmInteractionStore().list_by_user("default", ALICE, limit=2).records
    assert record.status is Status.ABORTED
    assert record == replace(ANSWERED, status=Status.ABORTED)
    assert backend().bulk.import_records([ANSWERED]).new == 0
