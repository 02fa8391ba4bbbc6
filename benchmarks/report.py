"""Print measurements as tables beside their targets, and write them as JSON."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results.json"

Row = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Target:
    """A figure and its limit, which is an upper one unless `at_least`."""

    name: str
    value: float
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        verdict, sign = "ok" if self.met else "missed", "≥" if self.at_least else "≤"
        comparison = f"{_text(self.value)} {sign} {_text(float(self.limit))} {self.unit}".rstrip()
        return f"  {verdict:7} {self.name}: {comparison}"


@dataclass(frozen=True)
class Table:
    """Rows with the same columns."""

    title: str
    rows: Sequence[Row]
    targets: Sequence[Target] = field(default_factory=list)

    def __str__(self) -> str:
        names = list(self.rows[0])
        lines = [names, *([_text(row[name]) for name in names] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        first, *others = widths
        text = [
            "  ".join([cells[0].ljust(first), *map(str.rjust, cells[1:], others)])
            for cells in lines
        ]
        return "\n".join(
            ["", self.title, "", *(f"  {line}" for line in text), "", *map(str, self.targets)]
        )


@dataclass(frozen=True)
class Options:
    """The seconds of each cell of a table, and the rounds of what is started anew for each."""

    seconds: float
    rounds: int


Part = Callable[[Options], Sequence[Table]]


def publish(parts: Mapping[str, Part], results: Path = RESULTS) -> None:
    """Measure the parts named on the command line, print them, and write them to a file.

    A missed target is printed and is not a failure, since speed depends on the machine and its
    other guests.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("part", nargs="*", help=f"{', '.join(parts)}; default: all")
    parser.add_argument("--seconds", type=float, default=5, help="seconds of each cell under load")
    parser.add_argument(
        "--rounds", type=int, default=9, help="rounds of what is started anew for each"
    )
    parser.add_argument("--json", type=Path, default=results, help="file for the results")
    given = parser.parse_args()
    if unknown := set(given.part) - set(parts):
        parser.error(f"no such part: {', '.join(unknown)}")
    started = time.monotonic()
    measured: dict[str, list[object]] = {}
    missed = 0
    for name in given.part or parts:
        tables = parts[name](Options(given.seconds, given.rounds))
        for table in tables:
            print(table, flush=True)
        missed += sum(not target.met for table in tables for target in table.targets)
        measured[name] = [_as_json(table) for table in tables]
        given.json.write_text(json.dumps({**_machine(), "parts": measured}, indent=1))
    print(f"\n{missed} targets missed; {time.monotonic() - started:.0f} s; {given.json}")


def progress(text: str) -> None:
    """Print what is being measured to standard error."""
    sys.stderr.write(f"{text} …\n")


def _as_json(table: Table) -> object:
    targets = [{**asdict(target), "met": target.met} for target in table.targets]
    return {"title": table.title, "rows": list(table.rows), "targets": targets}


def _machine() -> dict[str, str | int | None]:
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "system": platform.platform(),
    }


def _text(value: str | int | float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else value
