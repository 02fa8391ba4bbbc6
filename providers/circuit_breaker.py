"""A circuit breaker: skip a provider for a while after repeated failures."""

import threading
import time


class CircuitBreaker:
    """Open after `threshold` failures in a row, for `reset_timeout` seconds.

    Then one trial call is allowed: success closes the circuit, failure opens it again. The state
    belongs to this process and costs no I/O.
    """

    def __init__(self, threshold: float, reset_timeout: float) -> None:
        self._threshold = threshold
        self._reset_timeout = reset_timeout
        self.used_up = False  # whether the last failure was a used-up quota
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = 0.0

    def remaining(self) -> float:
        """Return the seconds until the next trial call; 0 when calls are allowed."""
        return max(0.0, self._open_until - time.monotonic())

    def allow(self, timeout: float) -> bool:
        """Return whether the provider may be called now, for at most `timeout` seconds."""
        with self._lock:
            if self._failures < self._threshold:
                return True
            if self.remaining():
                return False
            # Other callers stay out until the result of this trial call is known.
            self._open_until = time.monotonic() + max(timeout, self._reset_timeout)
            return True

    def record_success(self) -> None:
        with self._lock:
            self._failures = 0
            self._open_until = 0.0

    def record_failure(self, *, used_up: bool = False) -> None:
        with self._lock:
            self.used_up = used_up
            self._failures += 1
            if self._failures >= self._threshold:
                self._open_until = time.monotonic() + self._reset_timeout
