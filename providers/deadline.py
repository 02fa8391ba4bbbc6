"""Deadlines that can be cancelled, shared by all threads that work for one request."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

Callback = Callable[[], object]
# Called before each wait; returns the seconds of waiting after which it must be called again.
WaitCallback = Callable[[], float]


class Waiter(Protocol):
    """Waits in place of `select.poll`, so that its thread can do something else meanwhile."""

    def wait(self, files: Mapping[int, int], seconds: float) -> list[tuple[int, int]]:
        """Wait for events of file descriptors, both as in `select.poll`; none if time is up."""


class Deadline:
    """A point on the monotonic clock by which a request must be done, or cancelled before.

    `seconds` is its full length. A vendor may be silent for at most `idle_seconds` within it.
    Waiting code registers a callback with `on_cancel` instead of polling `cancelled`, and calls
    `waiting` before each wait, so that a stream can first send what it holds back.
    """

    __slots__ = ("_end", "_latest_end", "_shared", "idle_seconds", "seconds")

    def __init__(
        self,
        seconds: float,
        *,
        idle_seconds: float = math.inf,
        _shared: "_Shared | None" = None,
    ) -> None:
        self.seconds = seconds
        self.idle_seconds = idle_seconds
        self._end = self._latest_end = time.monotonic() + seconds
        self._shared = _shared or _Shared()

    def remaining(self) -> float:
        """Return the seconds left: never negative, 0 when cancelled."""
        return 0.0 if self._shared.cancelled else max(0.0, self._end - time.monotonic())

    def remaining_if_not_cancelled(self) -> float:
        """Return the seconds left even if cancelled, for work that a disconnect must not stop."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the time is up or the deadline was cancelled."""
        return self.cancelled or time.monotonic() >= self._end

    @property
    def used_up(self) -> bool:
        """Whether its original time is up, whatever `end_in` says, or it was cancelled."""
        return self.cancelled or time.monotonic() >= self._latest_end

    @property
    def cancelled(self) -> bool:
        return self._shared.cancelled

    def cancel(self) -> None:
        """End all work under this deadline, in all threads.

        Call every callback, then raise the first error of one. A signal handler must cancel from
        another thread, because its own may hold the lock.
        """
        self._shared.cancel()

    def part(self) -> "Deadline":
        """Return a deadline that ends with this one, or earlier by its own `end_in`.

        Cancelling one of the two cancels both.
        """
        left = self.remaining_if_not_cancelled()
        return Deadline(left, idle_seconds=self.idle_seconds, _shared=self._shared)

    def end_in(self, seconds: float) -> None:
        """Move the end to `seconds` from now, earlier or later, but never past the original end."""
        self._end = min(self._latest_end, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        """Sleep, at most until the deadline; a cancel ends the sleep at once."""
        end = min(self._end, time.monotonic() + seconds)
        cancelled = threading.Event()
        with self.on_cancel(cancelled.set):
            while not cancelled.wait(max(0.0, min(self.waiting(), end - time.monotonic()))):
                if time.monotonic() >= end:
                    return

    def on_wait(self, callback: WaitCallback | None) -> None:
        """Set the callback of `waiting`, which runs in the thread that is about to wait."""
        self._shared.on_wait = callback

    def waiting(self) -> float:
        """Announce a wait of this thread. Return the seconds until it must be announced again."""
        callback = self._shared.on_wait
        return math.inf if callback is None else callback()

    @property
    def waiter(self) -> Waiter | None:
        """The waiter for the files of the running call. None: its own thread polls them."""
        return self._shared.waiter

    @waiter.setter
    def waiter(self, waiter: Waiter | None) -> None:
        self._shared.waiter = waiter

    @property
    def announces_waits(self) -> bool:
        """Whether the running call announces its waits by `waiting`, and uses `waiter`."""
        return self._shared.announces_waits

    @announces_waits.setter
    def announces_waits(self, announces: bool) -> None:
        self._shared.announces_waits = announces

    def on_cancel(self, callback: Callback) -> "Registration":
        """Call `callback` once when cancelled, at once if that has happened, within the context.

        The cancelling thread runs it, so it must be short. It never runs after the context's end.
        """
        return Registration(self._shared, callback)


class _Shared:
    """The state that a deadline shares with its parts."""

    __slots__ = ("announces_waits", "callbacks", "cancelled", "lock", "on_wait", "waiter")

    def __init__(self) -> None:
        self.on_wait: WaitCallback | None = None
        self.waiter: Waiter | None = None
        self.announces_waits = False
        self.cancelled = False
        self.callbacks: list[Callback] = []
        self.lock = threading.RLock()  # the garbage collector may end a call in the midst of it

    def cancel(self) -> None:
        errors = []
        with self.lock:
            self.cancelled = True
            while self.callbacks:
                try:
                    # An error of one callback must not keep the others from being called.
                    self.callbacks.pop()()
                except Exception as exc:
                    errors.append(exc)
        if errors:
            raise errors[0]


class Registration:
    """A callback that is registered between the context's start and its end."""

    __slots__ = ("_callback", "_shared")

    def __init__(self, shared: _Shared, callback: Callback) -> None:
        self._shared = shared
        self._callback = callback

    def __enter__(self) -> None:
        shared = self._shared
        with shared.lock:
            if not shared.cancelled:
                shared.callbacks.append(self._callback)
                return
        self._callback()

    def __exit__(self, *exception: object) -> None:
        shared = self._shared
        with shared.lock:
            if self._callback in shared.callbacks:
                shared.callbacks.remove(self._callback)
