"""Deadlines that can be cancelled, shared by all threads that work for one request."""

import math
import threading
import time
from collections.abc import Callable

Callback = Callable[[], object]


class Deadline:
    """A point on the monotonic clock by which a request must be done, or cancelled before.

    A vendor may be silent for at most `idle_seconds` within it. Waiting code registers a callback
    with `on_cancel` instead of looking at `cancelled` periodically.
    """

    __slots__ = ("_cancellation", "_end", "_latest_end", "idle_seconds")

    def __init__(
        self,
        seconds: float,
        *,
        idle_seconds: float = math.inf,
        _cancellation: "_Cancellation | None" = None,
    ) -> None:
        self.idle_seconds = idle_seconds
        self._end = self._latest_end = time.monotonic() + seconds
        self._cancellation = _cancellation or _Cancellation()

    def remaining(self) -> float:
        """Return the seconds left: never negative, 0 when cancelled."""
        return 0.0 if self.cancelled else self.remaining_if_not_cancelled()

    def remaining_if_not_cancelled(self) -> float:
        """Return the seconds left on the clock, for work that a disconnect must not stop."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the time is up or the deadline was cancelled."""
        return self.cancelled or time.monotonic() >= self._end

    @property
    def cancelled(self) -> bool:
        return self._cancellation.cancelled

    def cancel(self) -> None:
        """End all work under this deadline, in all threads.

        Call every callback, then raise the first error of one. A signal handler must cancel from
        another thread, because its own may hold the lock.
        """
        self._cancellation.cancel()

    def part(self) -> "Deadline":
        """Return a deadline that ends with this one, and can be shortened on its own.

        Cancelling one of the two cancels both.
        """
        left = self.remaining_if_not_cancelled()
        return Deadline(left, idle_seconds=self.idle_seconds, _cancellation=self._cancellation)

    def shorten(self, seconds: float) -> None:
        """Move the end to `seconds` from now, if that is earlier."""
        self._end = min(self._end, time.monotonic() + seconds)

    def end_in(self, seconds: float) -> None:
        """Move the end to `seconds` from now, also a second time, but not past the first end."""
        self._end = min(self._latest_end, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        """Sleep, at most until the deadline; a cancel ends the sleep at once."""
        cancelled = threading.Event()
        with self.on_cancel(cancelled.set):
            cancelled.wait(min(seconds, self.remaining()))

    def on_cancel(self, callback: Callback) -> "Registration":
        """Call `callback` once when cancelled, at once if that has happened, within the context.

        The cancelling thread runs it, so it must be short. It never runs after the context's end.
        """
        return Registration(self._cancellation, callback)


class _Cancellation:
    """The cancelled state that a deadline shares with its parts."""

    __slots__ = ("callbacks", "cancelled", "lock")

    def __init__(self) -> None:
        self.cancelled = False
        self.callbacks: list[Callback] = []
        self.lock = threading.Lock()

    def cancel(self) -> None:
        errors = []
        with self.lock:
            self.cancelled = True
            while self.callbacks:
                try:
                    self.callbacks.pop()()
                except Exception as exc:
                    errors.append(exc)
        if errors:
            raise errors[0]


class Registration:
    """A callback that is registered between the context's start and its end."""

    __slots__ = ("_callback", "_cancellation")

    def __init__(self, cancellation: _Cancellation, callback: Callback) -> None:
        self._cancellation = cancellation
        self._callback = callback

    def __enter__(self) -> None:
        cancellation = self._cancellation
        with cancellation.lock:
            if not cancellation.cancelled:
                cancellation.callbacks.append(self._callback)
                return
        self._callback()

    def __exit__(self, *exception: object) -> None:
        cancellation = self._cancellation
        with cancellation.lock:
            if self._callback in cancellation.callbacks:
                cancellation.callbacks.remove(self._callback)
