"""Run a function in a forked process."""

import multiprocessing
import warnings
from collections.abc import Callable

from tests.stub_vendor import SOON


def forked(function: Callable[[], object]) -> int | None:
    """Run the function in a fork of this process. Return the exit code, None if it hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the threads of this process
        child = multiprocessing.get_context("fork").Process(target=function, daemon=True)
        child.start()
    child.join(2 * SOON)
    return child.exitcode
