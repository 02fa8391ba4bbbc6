"""Threads that start when needed, and end when idle."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any

# Seconds after which an idle thread ends.
IDLE_SECONDS = 10.0

Work = Callable[[], None]


class ElasticThreadPool(Executor):
    """An executor with up to `max_threads` threads, of which few stay when there is no work.

    Work goes to the thread that became idle last, so that the others can end. `on_thread_end` runs
    in each thread before it ends, `on_shrink` when the number of threads has halved.
    """

    def __init__(
        self,
        max_threads: int,
        *,
        on_thread_end: Callable[[], object],
        on_shrink: Callable[[], object],
    ) -> None:
        self._max_threads = max_threads
        self._on_thread_end = on_thread_end
        self._on_shrink = on_shrink
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Work | None]] = []
        self._threads = 0
        self._shrink_at = 0  # half of the most threads since the last call of `on_shrink`
        self._waiting: deque[Work] = deque()
        self._ending = False

    @property
    def free(self) -> int:
        """The number of functions that would begin at once."""
        return self._max_threads - self._threads + len(self._idle)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run the function in an idle thread, else in a new one, else in the next free one.

        If the system refuses a new thread, the work waits for one that is free.
        """
        future: Future[Any] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                _run(future, function, args, kwargs)

        with self._lock:
            if self._ending:
                raise RuntimeError("the pool is shut down")
            if self._idle:
                self._idle.pop().put(work)
                return future
            if self._threads >= self._max_threads:
                self._waiting.append(work)
                return future
            self._threads += 1
            self._shrink_at = max(self._shrink_at, self._threads // 2)
        self._start(work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once they have done all work. They are daemons: nothing waits for them.

        `wait` and `cancel_futures` have no effect.
        """
        with self._lock:
            self._ending = True
            for inbox in self._idle:
                inbox.put(None)
            self._idle.clear()

    def _start(self, work: Work) -> None:
        """Start a thread; if the system refuses, another thread does the work."""
        thread = threading.Thread(target=self._work, args=(work,), name="request", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._threads -= 1
                if self._idle:
                    self._idle.pop().put(work)
                elif self._threads:
                    self._waiting.append(work)
                else:
                    raise

    def _work(self, work: Work | None) -> None:
        inbox: SimpleQueue[Work | None] = SimpleQueue()
        while work:
            work()
            work = None  # its connection is not kept while the thread is idle
            work = self._next(inbox)
        self._on_thread_end()
        with self._lock:
            shrunk = self._threads <= self._shrink_at
            if shrunk:
                self._shrink_at = self._threads // 2
        if shrunk:
            self._on_shrink()

    def _next(self, inbox: "SimpleQueue[Work | None]") -> Work | None:
        """Return the next work; None if the thread shall end."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if self._ending:
                self._threads -= 1
                return None
            self._idle.append(inbox)
        try:
            work = inbox.get(timeout=IDLE_SECONDS)
        except Empty:
            with self._lock:
                if inbox in self._idle:
                    self._idle.remove(inbox)
                    self._threads -= 1
                    return None
            return inbox.get()  # it was given work at the last moment
        return work


def _run(
    future: "Future[Any]",
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    try:
        result = function(*args, **kwargs)
    except BaseException as exc:
        future.set_exception(exc)
    else:
        future.set_result(result)
