import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from providers.deadline import Deadline
from tests.stub_vendor import SOON


def test_a_deadline_expires_with_its_time():
    deadline = Deadline(0.05)
    assert (deadline.expired, 0 < deadline.remaining() <= 0.05) == (False, True)
    time.sleep(0.06)
    assert (deadline.expired, deadline.remaining(), deadline.cancelled) == (True, 0, False)


def test_a_cancelled_deadline_has_no_time_left_except_by_the_clock():
    deadline = Deadline(30)
    deadline.cancel()
    assert (deadline.expired, deadline.remaining(), deadline.cancelled) == (True, 0, True)
    assert deadline.remaining_if_not_cancelled() > 29


def test_a_part_ends_with_its_deadline():
    assert 0 < Deadline(1).part().remaining() <= 1


@pytest.mark.parametrize("cancel_part", [False, True])
def test_a_deadline_and_its_parts_are_cancelled_together(cancel_part: bool):
    deadline = Deadline(30)
    part = deadline.part().part()
    (part if cancel_part else deadline).cancel()
    assert deadline.cancelled
    assert part.cancelled


def test_ending_a_part_leaves_the_whole_as_it_is():
    deadline = Deadline(30)
    part = deadline.part()
    part.end_in(0)
    assert (part.expired, deadline.expired) == (True, False)
    part.end_in(60)
    assert part.remaining() == pytest.approx(deadline.remaining(), abs=1)


def test_a_callback_is_called_once_by_the_thread_that_cancels():
    deadline, called = Deadline(30), list[int]()
    with deadline.on_cancel(lambda: called.append(threading.get_ident())):
        assert called == []
        with ThreadPoolExecutor(1) as thread:
            thread.submit(deadline.part().cancel).result()
            other = thread.submit(threading.get_ident).result()
        deadline.cancel()
    assert called == [other]


def test_a_callback_registered_after_the_cancel_is_called_at_once():
    deadline, called = Deadline(30), list[bool]()
    deadline.cancel()
    with deadline.on_cancel(lambda: called.append(True)):
        assert called == [True]


def test_a_callback_is_not_called_after_its_context():
    deadline, called = Deadline(30), list[bool]()
    with deadline.on_cancel(lambda: called.append(True)):
        pass
    deadline.cancel()
    assert called == []


@pytest.mark.parametrize("cancel", [Deadline.cancel, lambda deadline: None])
def test_a_sleep_ends_in_time_or_when_cancelled(cancel: Callable[[Deadline], None]):
    deadline = Deadline(30)
    with ThreadPoolExecutor(1) as thread:
        sleeping = thread.submit(deadline.sleep, 0.3 if cancel is not Deadline.cancel else 30)
        time.sleep(0.1)
        assert sleeping.running()
        cancel(deadline)
        sleeping.result(timeout=SOON)


def test_a_sleep_does_not_outlast_the_deadline():
    with ThreadPoolExecutor(1) as thread:
        thread.submit(Deadline(0.1).sleep, 60).result(timeout=SOON)


def test_a_signal_handler_cancels_through_another_thread():
    """The handler runs in the thread that it interrupts, which may hold the lock."""
    deadline, called = Deadline(30), list[bool]()
    cancels = list[threading.Thread]()

    def handle(*_: object) -> None:
        cancels.append(threading.Thread(target=deadline.cancel))
        cancels[-1].start()

    def interrupt() -> None:
        signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with deadline.on_cancel(interrupt), deadline.on_cancel(lambda: called.append(True)):
            deadline.cancel()
            for cancel in cancels:
                cancel.join(SOON)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (called, len(cancels)) == ([True], 1)


def test_every_callback_is_called_though_others_raise():
    deadline, called = Deadline(30), list[int]()

    def fail() -> None:
        raise LookupError

    with (
        deadline.on_cancel(lambda: called.append(1)),
        deadline.on_cancel(fail),
        deadline.on_cancel(lambda: called.append(2)),
        pytest.raises(LookupError),
    ):
        deadline.cancel()
    assert sorted(called) == [1, 2]
    assert deadline.cancelled


def test_waits_under_a_deadline_and_its_parts_are_announced():
    told: list[float] = []
    deadline = Deadline(30)

    def tell() -> float:
        told.append(time.monotonic())
        return 0.05

    assert deadline.waiting() == float("inf")
    deadline.on_wait(tell)
    deadline.part().sleep(0.18)
    assert len(told) >= 2
    assert told == sorted(told)


def test_a_cancel_ends_an_announced_sleep():
    deadline = Deadline(30)
    deadline.on_wait(lambda: 0.01)
    with ThreadPoolExecutor(1) as pool:
        sleep = pool.submit(deadline.sleep, 30)
        time.sleep(0.05)
        assert not sleep.done()
        deadline.cancel()
        sleep.result(SOON)
