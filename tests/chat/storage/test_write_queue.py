"""Threads that write to SQLite at the same time."""

import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from sqlite3 import Connection
from typing import Any

import pytest
from pytest_django import Settings

from chat.models import Interaction
from chat.storage.base import CounterKind, Reservation
from chat.storage.errors import BudgetSpent, StorageUnavailable
from chat.storage.orm import write_queue
from chat.storage.orm.interactions import OrmInteractionStore
from tests.factories import PENDING

pytestmark = pytest.mark.django_db(transaction=True)

Call = Callable[[], Any]


def claim(number: int, *reservations: Reservation) -> bool:
    record = replace(PENDING, interaction_id=f"{number}")
    return OrmInteractionStore().claim(record, *reservations) is None


def claimed() -> set[str]:
    return set(Interaction.objects.values_list("pk", flat=True))


def waiting(threads: ThreadPoolExecutor, calls: list[Call]) -> list["Future[Any]"]:
    """Start calls that wait for the writer, one after the other."""
    futures = []
    for number, call in enumerate(calls, start=1):
        futures.append(threads.submit(call))
        while len(write_queue._queue) < number:
            time.sleep(0.001)
    return futures


def test_writes_that_wait_share_a_transaction() -> None:
    statements: list[str] = []
    with ThreadPoolExecutor(5) as threads:
        with write_queue.write_queue() as writer:
            claims = waiting(threads, [partial(claim, number) for number in range(5)])
            writer.set_trace_callback(statements.append)
        assert all(each.result(30) for each in claims)
    writer.set_trace_callback(None)
    assert statements.count("COMMIT") == 1
    assert claimed() == set("01234")


def test_a_write_that_fails_does_not_fail_those_beside_it() -> None:
    spent = Reservation(
        by=CounterKind.KEY,
        name="key",
        amount=1,
        limit=0,
        until=datetime.now(UTC) + timedelta(minutes=1),
    )
    with ThreadPoolExecutor(3) as threads:
        with write_queue.write_queue():
            calls = [partial(claim, 0), partial(claim, 1, spent), partial(claim, 2)]
            first, failing, last = waiting(threads, calls)
        assert first.result(30)
        assert last.result(30)
        with pytest.raises(BudgetSpent):
            failing.result(30)
    assert claimed() == set("02")


def test_an_interrupted_thread_has_done_no_write_of_others() -> None:
    def interrupted(connection: Connection) -> None:
        raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as threads:
        with write_queue.write_queue():
            calls: list[Call] = [partial(write_queue.write, interrupted), partial(claim, 0)]
            first, other = waiting(threads, calls)
        with pytest.raises(KeyboardInterrupt):
            first.result(30)
        with pytest.raises(StorageUnavailable):
            other.result(30)
    assert claimed() == set()
    assert claim(0)


def test_a_thread_that_writes_itself_waits_for_those_before_it_only() -> None:
    def look() -> set[str]:
        with write_queue.write_queue():
            return claimed()

    with ThreadPoolExecutor(3) as threads:
        with write_queue.write_queue():
            calls = [partial(claim, 0), look, partial(claim, 1)]
            first, looking, last = waiting(threads, calls)
        assert first.result(30)
        assert looking.result(30) == {"0"}
        assert last.result(30)
    assert claimed() == {"0", "1"}


def test_a_write_that_gives_up_is_not_done(settings: Settings) -> None:
    """Some give up while another thread may be about to do their work."""
    settings.SQLITE_BUSY_TIMEOUT = 0.002

    def attempt(number: int) -> bool:
        time.sleep(random.random() / 500)
        try:
            return claim(number)
        except StorageUnavailable:
            return False

    with ThreadPoolExecutor(16) as threads:
        done = list(threads.map(attempt, range(600)))
    assert claimed() == {f"{number}" for number, stored in enumerate(done) if stored}
    assert claim(600)
