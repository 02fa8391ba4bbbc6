"""Progress of a long command: a bar on a terminal, else a line every five seconds."""

import time
from typing import Any, Self

from django.core.management.base import OutputWrapper

EVERY_SECONDS = 5.0


class Progress:
    """Show how much of `total` is done (None: unknown), `done` of it by an earlier run."""

    def __init__(
        self, stderr: OutputWrapper, task: str, *, total: int | None, unit: str, done: int = 0
    ) -> None:
        self._stderr = stderr
        self._task = task
        self._total = total
        self._unit = unit
        self._start = self._done = done
        self._began = self._reported_at = time.monotonic()
        self._bar = _bar(task, total, unit, done) if stderr.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int, note: str = "") -> None:
        """Add to what is done, and show the note beside it."""
        self._done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._reported_at >= EVERY_SECONDS:
            self._reported_at = time.monotonic()
            self._stderr.write(self._line(note))

    def _line(self, note: str) -> str:
        rate = (self._done - self._start) / (self._reported_at - self._began)
        total, percent, left = "", "", ""
        if self._total and self._done <= self._total:
            total, percent = f" of {self._total}", f" ({100 * self._done // self._total} %)"
            left = f", {(self._total - self._done) / rate:.0f} s left" if rate else ""
        note = f", {note}" if note else ""
        return f"{self._task}: {self._done}{total} {self._unit}{percent}, {rate:.0f}/s{left}{note}"


def _bar(task: str, total: int | None, unit: str, done: int) -> Any:
    from tqdm import tqdm

    is_bytes = unit == "bytes"
    return tqdm(
        desc=task,
        total=total,
        initial=done,
        unit="B" if is_bytes else f" {unit}",
        unit_scale=is_bytes,
        dynamic_ncols=True,
    )
