"""Leaving a failing provider alone for a while (a circuit breaker)."""

import threading
import time


class CircuitBreaker:
    """Counts failures in a row; from `threshold` on, the provider rests for `seconds`.

    After that one request may try it: its success ends the rest, its failure starts it anew.
    State is in this process alone, and costs no I/O.
    """

    def __init__(self, threshold: float, seconds: float) -> None:
        self._threshold = threshold
        self._seconds = seconds
        self._lock = threading.Lock()
        self._failures = 0
        self._until = 0.0

    def remaining(self) -> float:
        """Seconds of rest left; 0 when there is none."""
        return max(0.0, self._until - time.monotonic())

    def admits(self, seconds: float) -> bool:
        """Whether this caller may try the provider now, for so many seconds at most."""
        with self._lock:
            if self._failures < self._threshold:
                return True
            if self.remaining():
                return False
            # Whoever comes while this caller tries waits for what comes of it.
            self._until = time.monotonic() + max(seconds, self._seconds)
            return True

    def succeeded(self) -> None:
        with self._lock:
            self._failures = 0
            self._until = 0.0

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            if self._failures >= self._threshold:
                self._rest()

    def _rest(self) -> None:
        self._until = time.monotonic() + self._seconds
