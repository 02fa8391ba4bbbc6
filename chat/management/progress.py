"""How long work shows that it goes on."""

import time
from types import TracebackType
from typing import Any, Self

from django.core.management.base import OutputWrapper

EVERY_SECONDS = 5.0


class Progress:
    """A bar on a terminal; anywhere else, in a log say, a line every five seconds.

    `total` is what is to be done, as far as it is known, of which an earlier run did `done`.
    """

    def __init__(
        self, stderr: OutputWrapper, task: str, *, total: int | None, unit: str, done: int = 0
    ) -> None:
        self._stderr = stderr
        self._task = task
        self._total = total
        self._unit = unit
        self._start = self._done = done
        self._began = self._told = time.monotonic()
        self._bar = _bar(task, total, unit, done) if stderr.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int, note: str = "") -> None:
        """So much more was done."""
        self._done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._told >= EVERY_SECONDS:
            self._told = time.monotonic()
            self._stderr.write(self._line(note))

    def _line(self, note: str) -> str:
        rate = (self._done - self._start) / (self._told - self._began)
        of, part, left = "", "", ""
        if self._total and self._done <= self._total:
            of, part = f" of {self._total}", f" ({100 * self._done // self._total} %)"
            left = f", {(self._total - self._done) / rate:.0f} s left" if rate else ""
        note = f", {note}" if note else ""
        return f"{self._task}: {self._done}{of} {self._unit}{part}, {rate:.0f}/s{left}{note}"


def _bar(task: str, total: int | None, unit: str, done: int) -> Any:
    from tqdm import tqdm

    size = unit == "bytes"
    return tqdm(
        desc=task,
        total=total,
        initial=done,
        unit="B" if size else f" {unit}",
        unit_scale=size,
        dynamic_ncols=True,
    )
