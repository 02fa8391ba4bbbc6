"""Progress of a long command: a bar on a terminal, else a line every five seconds."""

import time
from dataclasses import dataclass
from typing import Any, Self

from django.core.management.base import OutputWrapper

EVERY_SECONDS = 5.0


@dataclass
class Progress:
    """Show how much of `total` is done (None: unknown), `done` of it by an earlier run."""

    stderr: OutputWrapper
    task: str
    total: int | None = None
    unit: str = "records"
    done: int = 0

    def __post_init__(self) -> None:
        self._start = self.done
        self._began = self._reported_at = time.monotonic()
        self._bar = self._make_bar() if self.stderr.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int, note: str = "") -> None:
        """Add finished work, and show it with the note."""
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._reported_at >= EVERY_SECONDS:
            self._reported_at = time.monotonic()
            self.stderr.write(self._line(note))

    def _line(self, note: str) -> str:
        rate = (self.done - self._start) / (self._reported_at - self._began)
        total, percent, left = "", "", ""
        if self.total and self.done <= self.total:
            total, percent = f" of {self.total}", f" ({100 * self.done // self.total} %)"
            left = f", {(self.total - self.done) / rate:.0f} s left" if rate else ""
        note = f", {note}" if note else ""
        return f"{self.task}: {self.done}{total} {self.unit}{percent}, {rate:.0f}/s{left}{note}"

    def _make_bar(self) -> Any:
        # Imported here: logs and pipes get lines instead, and Lambda does not have it.
        from tqdm import tqdm

        is_bytes = self.unit == "bytes"
        return tqdm(
            desc=self.task,
            total=self.total,
            initial=self.done,
            unit="B" if is_bytes else f" {self.unit}",
            unit_scale=is_bytes,
            dynamic_ncols=True,
        )
