"""Threads that write to SQLite at the same time."""

import ctypes
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from signal import SIGINT, pthread_kill
from sqlite3 import Connection, connect
from threading import Event, Timer, current_thread, get_ident, main_thread
from typing import Any

import pytest
from django.db import connection, connections
from greenlet import GreenletExit
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


def test_a_write_just_after_one_of_another_thread_waits_for_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(write_queue, "GROUP_SECONDS", 0.5)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(claim, 0).result(30)
    begun = time.monotonic()
    assert claim(1)
    assert time.monotonic() - begun >= 0.5
    begun = time.monotonic()
    assert claim(2)  # of the same thread
    assert time.monotonic() - begun < 0.5


def test_a_write_that_waits_for_more_shares_its_transaction_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(write_queue, "GROUP_SECONDS", 1.0)
    statements: list[str] = []
    with write_queue.write_queue() as writer:
        writer.set_trace_callback(statements.append)
    with ThreadPoolExecutor(4) as threads:
        claims = [threads.submit(claim, number) for number in range(4)]
        assert all(each.result(30) for each in claims)
    writer.set_trace_callback(None)
    assert statements.count("COMMIT") <= 2  # the first may not wait
    assert claimed() == set("0123")


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


def raise_in(thread: int, error: type[BaseException]) -> None:
    """Raise an error in a thread, once the call that it waits in returns."""
    assert (
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
        == 1
    )


@pytest.mark.parametrize("seconds", [0.5, 30.0], ids=["out of time", "woken"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GreenletExit])
@pytest.mark.parametrize("kind", ["shared", "own"])
def test_an_interrupted_thread_that_waits_does_not_stop_the_queue(
    settings: Settings, kind: str, error: type[BaseException], seconds: float
) -> None:
    idents: list[int] = []

    def wait() -> None:
        idents.append(get_ident())
        if kind == "shared":
            claim(0)
        else:
            with write_queue.write_queue():
                pass

    settings.SQLITE_BUSY_TIMEOUT = seconds
    with ThreadPoolExecutor(1) as threads:
        with write_queue.write_queue():
            [interrupted] = waiting(threads, [wait])
            raise_in(idents[0], error)
            if seconds < 1:
                while write_queue._queue:
                    time.sleep(0.001)
        with pytest.raises(error):
            interrupted.result(30)
    settings.SQLITE_BUSY_TIMEOUT = 1.0
    assert claim(1)
    assert not write_queue._queue


def test_a_leader_interrupted_while_it_waits_for_another_process_passes_on() -> None:
    idents: list[int] = []

    def lead() -> bool:
        idents.append(get_ident())
        return claim(0)

    with closing(connect(connection.settings_dict["NAME"])) as other, ThreadPoolExecutor(2) as pool:
        other.execute("BEGIN IMMEDIATE")
        leading = pool.submit(lead)
        while not write_queue._writing.locked():
            time.sleep(0.001)
        [following] = waiting(pool, [partial(claim, 1)])
        raise_in(idents[0], KeyboardInterrupt)
        other.rollback()
        with pytest.raises(KeyboardInterrupt):
            leading.result(30)
        assert following.result(30)
    assert claimed() == {"1"}


@pytest.mark.skipif(current_thread() is not main_thread(), reason="signals reach the main thread")
def test_a_signal_in_the_queue_does_not_stop_it() -> None:
    taken, done = Event(), Event()

    def hold() -> None:
        with write_queue.write_queue():
            taken.set()
            while not write_queue._queue:
                time.sleep(0.001)
            pthread_kill(main_thread().ident or 0, SIGINT)
            done.wait(30)

    with ThreadPoolExecutor(2) as threads:
        holding = threads.submit(hold)
        taken.wait(30)
        with pytest.raises(KeyboardInterrupt):
            claim(0)
        later = threads.submit(claim, 1)
        done.set()
        holding.result(30)
        assert later.result(30)
    assert claimed() == {"1"}


def test_a_write_within_another_of_its_thread_is_refused_at_once(settings: Settings) -> None:
    """As of a stream that the garbage collector ends. Waiting would be in vain."""
    settings.SQLITE_BUSY_TIMEOUT = 600

    def outer(connection: Connection) -> None:
        with pytest.raises(StorageUnavailable):
            claim(0)

    write_queue.write(outer)
    with write_queue.write_queue(), pytest.raises(StorageUnavailable):
        claim(0)
    assert claim(1)
    assert claimed() == {"1"}


def test_a_write_without_a_wait_is_done_or_refused_at_once(settings: Settings) -> None:
    settings.SQLITE_BUSY_TIMEOUT = 600

    def count(connection: Connection) -> int:
        return len(connection.execute("SELECT 1").fetchall())

    def refused() -> None:
        with pytest.raises(StorageUnavailable):
            write_queue.write(count, wait=False)

    with ThreadPoolExecutor(1) as threads:
        with write_queue.write_queue():
            threads.submit(refused).result(30)
        assert threads.submit(write_queue.write, count, wait=False).result(30) == 1
        with closing(connect(connection.settings_dict["NAME"])) as other:
            other.execute("BEGIN IMMEDIATE")
            threads.submit(refused).result(30)


def test_a_forked_process_begins_with_an_empty_queue() -> None:
    """The child has the lock and the queue of its parent, but not the threads that hold them."""
    with ThreadPoolExecutor(2) as threads:
        taken, done = Event(), Event()

        def hold() -> None:
            with write_queue.write_queue():
                taken.set()
                done.wait(30)

        threads.submit(hold)
        taken.wait(30)
        [other] = waiting(threads, [partial(claim, 0)])
        child = os.fork()
        if not child:
            connections.close_all()  # as servers do
            Timer(20, os._exit, [3]).start()
            os._exit(0 if not write_queue._queue and written_in_child() else 1)
        done.set()
        _, status = os.waitpid(child, 0)
        assert other.result(30)
    assert os.waitstatus_to_exitcode(status) == 0
    assert claimed() == {"0", "1"}


def written_in_child() -> bool:
    try:
        return claim(1)
    except BaseException:
        return False


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
