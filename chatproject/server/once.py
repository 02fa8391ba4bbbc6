"""Objects that each process makes once, when it first needs them."""

import functools
import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def once_per_process(make: Callable[[], T]) -> Callable[[], T]:
    """Return a function that calls `make` once, for all threads, and once more after a fork."""
    made, making = functools.cache(make), threading.Lock()

    def begin_anew() -> None:
        nonlocal making
        made.cache_clear()
        making = threading.Lock()  # a thread of the parent process may hold the other

    os.register_at_fork(after_in_child=begin_anew)

    def get() -> T:
        with making:
            return made()

    return get
