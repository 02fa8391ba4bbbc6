"""A circuit breaker: skip a provider for a while after repeated failures."""

import threading
import time


class Permit:
    """The permission for one call."""


class CircuitBreaker:
    """Open after `threshold` failures in a row, for `reset_timeout` seconds.

    Then one trial call is allowed: success closes the circuit, failure opens it again. After a
    trial without a result, another one is allowed at once. The state belongs to this process and
    costs no I/O.
    """

    def __init__(self, threshold: float, reset_timeout: float) -> None:
        self._threshold = threshold
        self._reset_timeout = reset_timeout
        self.used_up = False  # whether the last failure was a used-up quota
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = 0.0
        self._trial: Permit | None = None  # of the trial call whose result is not yet known

    def remaining(self) -> float:
        """Return the seconds until the next trial call; 0 when calls are allowed."""
        return max(0.0, self._open_until - time.monotonic())

    def allow(self, timeout: float) -> Permit | None:
        """Return a permit if the provider may be called now, for at most `timeout` seconds.

        Release it when the call has ended.
        """
        permit = Permit()
        with self._lock:
            if self._failures < self._threshold:
                return permit
            if self.remaining():
                return None
            # Other callers stay out until the result of this trial call is known.
            self._open_until = time.monotonic() + max(timeout, self._reset_timeout)
            self._trial = permit
            return permit

    def release(self, permit: Permit) -> None:
        """Allow another trial call if this one has ended without a result."""
        with self._lock:
            if permit is self._trial:
                self._trial = None
                self._open_until = 0.0

    def record_success(self) -> None:
        with self._lock:
            self._trial = None
            self._failures = 0
            self._open_until = 0.0

    def record_failure(self, *, used_up: bool = False) -> None:
        with self._lock:
            self._trial = None
            self.used_up = used_up
            self._failures += 1
            if self._failures >= self._threshold:
                self._open_until = time.monotonic() + self._reset_timeout
