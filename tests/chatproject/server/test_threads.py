"""The threads that serve requests: as many as are needed, and few when there is no work."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from chatproject.server import threads
from chatproject.server.threads import ElasticThreadPool
from tests.stub_vendor import SOON

MANY = 30


class Ends:
    """What the pool has called."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.shrunk = threading.Semaphore(0)

    def thread_end(self) -> None:
        self.threads.append(threading.get_ident())


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def pool(ends: Ends) -> Iterator[ElasticThreadPool]:
    made = ElasticThreadPool(MANY, on_thread_end=ends.thread_end, on_shrink=ends.shrunk.release)
    yield made
    made.shutdown()


class Gate:
    """Work that runs until the gate is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.inside = threading.Semaphore(0)

    def wait(self) -> int:
        self.inside.release()
        assert self._open.wait(SOON)
        return threading.get_ident()

    def open(self) -> None:
        self._open.set()


def results(futures: list["Future[Any]"]) -> list[Any]:
    return [future.result(SOON) for future in futures]


def fill(pool: ElasticThreadPool, gate: Gate, count: int = MANY) -> list["Future[Any]"]:
    """Give the pool so much work, and wait until all of it runs."""
    futures = [pool.submit(gate.wait) for _ in range(count)]
    for _ in futures:
        assert gate.inside.acquire(timeout=SOON)
    return futures


def test_concurrent_work_gets_a_thread_each_up_to_the_limit(pool: ElasticThreadPool):
    gate = Gate()
    running = fill(pool, gate)
    assert pool.free == 0
    waiting = pool.submit(threading.get_ident)
    assert not waiting.running()
    gate.open()
    idents = results(running)
    assert len(set(idents)) == MANY
    assert waiting.result(SOON) in idents


def test_one_thread_does_work_that_comes_one_by_one(pool: ElasticThreadPool):
    fill_and_end(pool, 3)
    assert len(set(one_by_one(pool, 20))) == 1


def one_by_one(pool: ElasticThreadPool, count: int) -> Iterator[int]:
    for _ in range(count):
        wait_until(lambda: pool.free == MANY)
        yield pool.submit(threading.get_ident).result(SOON)


def fill_and_end(pool: ElasticThreadPool, count: int) -> None:
    gate = Gate()
    futures = fill(pool, gate, count)
    gate.open()
    results(futures)


def wait_until(condition: Callable[[], bool]) -> None:
    ticks = threading.Event()
    for _ in range(1000):
        if condition():
            return
        ticks.wait(SOON / 1000)
    raise AssertionError("it did not happen")


def test_idle_threads_end(pool: ElasticThreadPool, ends: Ends, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.05)
    fill_and_end(pool, MANY)
    assert ends.shrunk.acquire(timeout=SOON)
    wait_until(lambda: len(set(ends.threads)) == MANY)
    assert pool.submit(int, "1").result(SOON) == 1


def test_no_work_is_lost_while_threads_keep_ending(
    pool: ElasticThreadPool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.0)
    for _ in range(100):
        assert results([pool.submit(int, "1") for _ in range(MANY)]) == [1] * MANY


def test_an_error_is_the_result(pool: ElasticThreadPool):
    with pytest.raises(ValueError, match="invalid literal"):
        pool.submit(int, "one").result(SOON)


def test_if_the_system_refuses_a_thread_others_do_the_work(
    pool: ElasticThreadPool, monkeypatch: pytest.MonkeyPatch
):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    gate = Gate()
    running = fill(pool, gate, 1)
    with monkeypatch.context() as refused:
        refused.setattr(threading.Thread, "start", refuse)
        waiting = pool.submit(int, "1")
    gate.open()
    assert [len(results(running)), waiting.result(SOON)] == [1, 1]


def test_a_pool_that_is_shut_down_ends_its_threads_after_their_work(
    pool: ElasticThreadPool, ends: Ends
):
    fill_and_end(pool, 3)
    gate = Gate()
    running = fill(pool, gate, 1)
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(int, "1")
    gate.open()
    assert len(results(running)) == 1
    wait_until(lambda: len(ends.threads) == 3)
